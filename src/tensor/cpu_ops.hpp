// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gradus/tensor/ops.hpp"

namespace gradus::cpu {

/// Ops on one core: float32, CBLAS for products, loops for the rest. One source file a concern.
class CpuOps final : public Ops {
  public:
    CpuOps(const OpsLimits& limits, Arena& arena);
    const char* name() const override { return "cpu"; }
    bool on_host() const override { return true; }
    std::int64_t recorded_rows(std::int64_t rows) const override { return rows; }

    // cpu_ops_host.cpp
    void upload(Tensor to, const void* from) override;
    void download(void* to, Tensor from) override;
    std::unique_ptr<Recording> record(std::function<void()> work) override;
    void all_reduce(Communicator& group, Tensor x, Reduce op) override;
    void start_sum(Communicator& group, Tensor x) override { all_reduce(group, x, Reduce::sum); }
    void start_block_sums(Communicator& group, std::span<const BlockedTensor> all) override;
    void finish_sums() override {}
    void all_gather_blocks(Communicator& group, std::span<const BlockedTensor> all) override;
    void all_to_all(Communicator& group, Tensor send, std::span<const std::int64_t> send_offsets,
                    Tensor recv, std::span<const std::int64_t> recv_offsets) override;
    void fill_normal(Tensor x, const NormalFill& fill) override;

    // cpu_ops_dense.cpp
    void gemm(Tensor c, Tensor a, Transpose ta, Tensor b, Transpose tb, float alpha,
              float beta) override;
    void add_bias(Tensor x, Tensor bias) override;
    void add_bias_backward(Tensor d_bias, Tensor d_out) override;
    void head_gemm(Tensor out, Tensor in, Tensor weight, const HeadProduct& product) override;
    void fill(Tensor x, float value) override;
    void copy(Tensor out, Tensor in) override;
    void add(Tensor x, Tensor y) override;
    void scale(Tensor x, float factor) override;
    void gather_rows(Tensor out, Tensor in, Tensor index) override;
    void scatter_add_rows(Tensor out, Tensor in, Tensor index) override;
    void embedding(Tensor out, Tensor table, Tensor tokens, std::int64_t offset) override;
    void embedding_backward(Tensor d_table, Tensor d_out, Tensor tokens,
                            std::int64_t offset) override;

    // cpu_ops_block.cpp
    void rms_norm(Tensor out, Tensor inv_rms, Tensor x, Tensor weight, float eps) override;
    void add_rms_norm(Tensor out, Tensor inv_rms, Tensor sum, Tensor x, Tensor delta, Tensor weight,
                      float eps) override;
    void rms_norm_backward(Tensor d_x, Tensor d_weight, Tensor d_out, Tensor x, Tensor weight,
                           Tensor inv_rms, bool accumulate) override;
    void rope(Tensor x, Tensor positions, Tensor inv_freq, const RotaryForm& form,
              float sign) override;
    void split_heads(Tensor q, Tensor k, Tensor v, Tensor packed, Tensor bias, Tensor positions,
                     Tensor inv_freq, const RotaryForm& form) override;
    void merge_heads(Tensor packed, Tensor d_q, Tensor d_k, Tensor d_v, Tensor positions,
                     Tensor inv_freq, const RotaryForm& form) override;
    void swiglu(Tensor out, Tensor gate, Tensor up) override;
    void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor product, Tensor d_out, Tensor gate,
                         Tensor up) override;

    // cpu_ops_rows.cpp
    void copy_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                      std::int64_t width) override;
    void sum_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                     std::int64_t width) override;
    void scale_rows(Tensor x, Tensor factor) override;
    void row_dots(Tensor out, Tensor a, Tensor b) override;
    void sum_rows(Tensor out, Tensor in, Tensor place, bool accumulate) override;

    // cpu_ops_experts.cpp
    void expert_gemm(Tensor out, Tensor in, Tensor weight, Transpose transpose,
                     std::span<const std::int64_t> rows, float beta) override;
    void expert_gemm_backward(Tensor d_weight, Tensor d_out, Tensor in,
                              std::span<const std::int64_t> rows) override;
    void route(Tensor scores, Tensor chosen, Tensor weights, Tensor logits, Tensor bias,
               const RouterShape& shape) override;
    void route_backward(Tensor d_logits, Tensor d_weights, Tensor d_scores, Tensor scores,
                        Tensor chosen, const RouterShape& shape) override;
    void route_balance(Tensor loss, Tensor d_scores, Tensor scores, const Packing& packing,
                       const RouterShape& shape, float coef) override;
    void sort_by_expert(Tensor order, Tensor source, Tensor place, Tensor rows,
                        Tensor chosen) override;

    // cpu_ops_attention.cpp
    void attention(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const Packing& packing,
                   const AttentionShape& shape) override;
    void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k,
                            Tensor v, Tensor out, Tensor lse, const Packing& packing,
                            const AttentionShape& shape) override;

    // cpu_ops_decode.cpp
    void kv_store(const PagedCache& cache, Tensor k, Tensor v, Tensor slot) override;
    void kv_copy_pages(const PagedCache& cache, Tensor from, Tensor to) override;
    void attention_decode(Tensor out, Tensor q, const PagedCache& cache, Tensor page_table,
                          Tensor lengths, const AttentionShape& shape) override;

    // cpu_ops_head.cpp
    void head_max(Tensor row_max, Tensor logits, float inv_temperature) override;
    void head_sums(Tensor sums, Tensor logits, Tensor row_max, Tensor targets, std::int64_t offset,
                   float inv_temperature) override;
    void head_statistics(Tensor row_max, Tensor sums, Tensor logits, Tensor targets,
                         float inv_temperature) override;
    void head_finish(Tensor log_prob, Tensor entropy, Tensor sums) override;
    void head_backward(Tensor d_logits, Tensor logits, Tensor row_max, Tensor sums, Tensor targets,
                       Tensor d_log_prob, Tensor d_entropy, std::int64_t offset,
                       float inv_temperature) override;

    // cpu_ops_sample.cpp
    void sample(Tensor tokens, Tensor log_probs, Tensor logits, Tensor bits,
                const SamplingOptions& options) override;

    // cpu_ops_optim.cpp
    void sum_squares(Tensor result, Tensor x) override;
    void adamw(Tensor param, Tensor weight, Tensor grad, Tensor m, Tensor v,
               const AdamWStep& step) override;

    void synchronize() override {}

  private:
    /// cos and sin of position p are row p of angles_: [max_length + 1, 2, D / 2], valid for rows
    /// below angle_rows_ and for the frequencies in frequencies_; the last row is scratch.
    void extend_angles(std::int64_t rows, Tensor inv_freq);

    OpsLimits limits_;
    Tensor scores_;       ///< two blocks of attention scores
    Tensor angles_;
    Tensor frequencies_;  ///< f32 [max_head_dim / 2]
    std::int64_t angle_rows_ = 0;
    std::int64_t angle_half_ = 0;
};

/// Rows of scores that are computed at once; a sequence up to kWhole is one block.
constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kWhole = 96;

}  // namespace gradus::cpu
