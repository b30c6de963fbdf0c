// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <memory>
#include <optional>

#include "collectives.hpp"
#include "context.hpp"
#include "cudnn_attention.hpp"
#include "expert_products.hpp"
#include "gradus/tensor/backend.hpp"
#include "matmul.hpp"

namespace gradus::cuda {

/// Pieces of page-locked memory through which the host's arrays go to the device, so that the host need
/// not wait for the copy.
class UploadRing {
  public:
    explicit UploadRing(Device& pinned);
    ~UploadRing();
    void upload(cudaStream_t stream, void* to, const void* from, std::int64_t bytes);
    static constexpr std::int64_t kPiece = std::int64_t{1} << 20;

  private:
    static constexpr int kPieces = 16;
    Device& pinned_;
    char* memory_;
    std::array<cudaEvent_t, kPieces> free_{};
    int piece_ = 0;
    std::int64_t used_ = 0;
};

/// Ops on a GPU: one stream, one workspace. Kernels are free functions (kernels.hpp); here is what waits,
/// what libraries do, and what chooses between them.
class CudaOps final : public Ops {
  public:
    CudaOps(const OpsLimits& limits, Arena& arena, CudaDevice* device, const CudaOptions& options);
    ~CudaOps() override;
    const char* name() const override { return "cuda"; }
    bool on_host() const override { return false; }
    std::int64_t recorded_rows(std::int64_t rows) const override;

    void upload(Tensor to, const void* from) override;
    void download(void* to, Tensor from) override;
    std::unique_ptr<Recording> record(std::function<void()> work) override;
    void all_reduce(Communicator& group, Tensor x, Reduce op) override;
    void start_sum(Communicator& group, Tensor x) override;
    void start_block_sums(Communicator& group, std::span<const BlockedTensor> all) override;
    void finish_sums() override;
    void all_gather_blocks(Communicator& group, std::span<const BlockedTensor> all) override;
    void all_to_all(Communicator& group, Tensor send, std::span<const std::int64_t> send_offsets,
                    Tensor recv, std::span<const std::int64_t> recv_offsets) override;
    void synchronize() override;
    std::string report() const override;

    void gemm(Tensor c, Tensor a, Transpose ta, Tensor b, Transpose tb, float alpha,
              float beta) override;
    void head_gemm(Tensor out, Tensor in, Tensor weight, const HeadProduct& product) override;
    void expert_gemm(Tensor out, Tensor in, Tensor weight, Transpose transpose,
                     std::span<const std::int64_t> rows, float beta) override;
    void expert_gemm_backward(Tensor d_weight, Tensor d_out, Tensor in,
                              std::span<const std::int64_t> rows) override;
    void attention(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const Packing& packing,
                   const AttentionShape& shape) override;
    void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k,
                            Tensor v, Tensor out, Tensor lse, const Packing& packing,
                            const AttentionShape& shape) override;

    void add_bias(Tensor x, Tensor bias) override;
    void add_bias_backward(Tensor d_bias, Tensor d_out) override;
    void fill(Tensor x, float value) override;
    void copy(Tensor out, Tensor in) override;
    void fill_normal(Tensor x, const NormalFill& fill) override;
    void add(Tensor x, Tensor y) override;
    void scale(Tensor x, float factor) override;
    void gather_rows(Tensor out, Tensor in, Tensor index) override;
    void scatter_add_rows(Tensor out, Tensor in, Tensor index) override;
    void copy_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                      std::int64_t width) override;
    void sum_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                     std::int64_t width) override;
    void scale_rows(Tensor x, Tensor factor) override;
    void row_dots(Tensor out, Tensor a, Tensor b) override;
    void sum_rows(Tensor out, Tensor in, Tensor place, bool accumulate) override;
    void embedding(Tensor out, Tensor table, Tensor tokens, std::int64_t offset) override;
    void embedding_backward(Tensor d_table, Tensor d_out, Tensor tokens,
                            std::int64_t offset) override;
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
    void route(Tensor scores, Tensor chosen, Tensor weights, Tensor logits, Tensor bias,
               const RouterShape& shape) override;
    void route_backward(Tensor d_logits, Tensor d_weights, Tensor d_scores, Tensor scores,
                        Tensor chosen, const RouterShape& shape) override;
    void route_balance(Tensor loss, Tensor d_scores, Tensor scores, const Packing& packing,
                       const RouterShape& shape, float coef) override;
    void sort_by_expert(Tensor order, Tensor source, Tensor place, Tensor rows,
                        Tensor chosen) override;
    void kv_store(const PagedCache& cache, Tensor k, Tensor v, Tensor slot) override;
    void kv_copy_pages(const PagedCache& cache, Tensor from, Tensor to) override;
    void attention_decode(Tensor out, Tensor q, const PagedCache& cache, Tensor page_table,
                          Tensor lengths, const AttentionShape& shape) override;
    void head_max(Tensor row_max, Tensor logits, float inv_temperature) override;
    void head_sums(Tensor sums, Tensor logits, Tensor row_max, Tensor targets, std::int64_t offset,
                   float inv_temperature) override;
    void head_statistics(Tensor row_max, Tensor sums, Tensor logits, Tensor targets,
                         float inv_temperature) override;
    void head_finish(Tensor log_prob, Tensor entropy, Tensor sums) override;
    void head_backward(Tensor d_logits, Tensor logits, Tensor row_max, Tensor sums, Tensor targets,
                       Tensor d_log_prob, Tensor d_entropy, std::int64_t offset,
                       float inv_temperature) override;
    void sample(Tensor tokens, Tensor log_probs, Tensor logits, Tensor bits,
                const SamplingOptions& options) override;
    void sum_squares(Tensor result, Tensor x) override;
    void adamw(Tensor param, Tensor weight, Tensor grad, Tensor m, Tensor v,
               const AdamWStep& step) override;

  private:
    /// Waits for the stream; throws where a collective has failed or takes too long.
    void wait();
    /// Whether device data goes to other ranks through the host: where GPUs are shared.
    bool is_staged() const { return shared_; }

    CudaOptions options_;
    bool shared_ = false;
    Tensor workspace_, product_workspace_;
    Context context_;
    std::optional<UploadRing> ring_;
    void* landing_ = nullptr;  ///< page-locked, UploadRing::kPiece: small downloads
    Device* pinned_ = nullptr;
    std::unique_ptr<Matmul> matmul_;
    std::unique_ptr<ExpertProducts> experts_;
    std::unique_ptr<CudnnAttention> cudnn_;
    std::unique_ptr<Collectives> collectives_;
};

}  // namespace gradus::cuda
