// SPDX-License-Identifier: Apache-2.0
// Operations of a GPU with a workspace of their own, and where asked for a wait after each, so that tests
// may treat tensors as the host's memory.
#pragma once

#include <exception>

#include "gradus/tensor/backend.hpp"

namespace gradus::test {

class WaitingOps final : public Ops {
  public:
    WaitingOps(const OpsLimits& limits, CudaDevice& device, bool waits)
        : workspace_(&device), ops_(make_cuda_ops(limits, workspace_, &device, {})), waits_(waits) {}
    // Memory that work in flight uses is given back after this.
    ~WaitingOps() override {
        try {
            ops_->synchronize();
        } catch (const std::exception&) {  // of an operation that failed; the test was told
        }
    }

    const char* name() const override { return ops_->name(); }
    bool on_host() const override { return ops_->on_host(); }
    std::int64_t recorded_rows(std::int64_t rows) const override { return ops_->recorded_rows(rows); }
    std::string report() const override { return ops_->report(); }
    void download(void* to, Tensor from) override { ops_->download(to, from); }
    void synchronize() override { ops_->synchronize(); }
    /// Work that is being recorded must not wait.
    std::unique_ptr<Recording> record(std::function<void()> work) override {
        const bool waits = waits_;
        waits_ = false;
        auto recording = ops_->record(std::move(work));
        waits_ = waits;
        wait();
        return recording;
    }

    void upload(Tensor to, const void* from) override {
        ops_->upload(to, from);
        wait();
    }
    void all_reduce(Communicator& group, Tensor x, Reduce op) override {
        ops_->all_reduce(group, x, op);
        wait();
    }
    void start_sum(Communicator& group, Tensor x) override {
        ops_->start_sum(group, x);
        wait();
    }
    void start_block_sums(Communicator& group, std::span<const BlockedTensor> all) override {
        ops_->start_block_sums(group, all);
        wait();
    }
    void finish_sums() override {
        ops_->finish_sums();
        wait();
    }
    void all_gather_blocks(Communicator& group, std::span<const BlockedTensor> all) override {
        ops_->all_gather_blocks(group, all);
        wait();
    }
    void all_to_all(Communicator& group, Tensor send, std::span<const std::int64_t> send_offsets,
                    Tensor recv, std::span<const std::int64_t> recv_offsets) override {
        ops_->all_to_all(group, send, send_offsets, recv, recv_offsets);
        wait();
    }
    void gemm(Tensor c, Tensor a, Transpose ta, Tensor b, Transpose tb, float alpha,
              float beta) override {
        ops_->gemm(c, a, ta, b, tb, alpha, beta);
        wait();
    }
    void add_bias(Tensor x, Tensor bias) override {
        ops_->add_bias(x, bias);
        wait();
    }
    void add_bias_backward(Tensor d_bias, Tensor d_out) override {
        ops_->add_bias_backward(d_bias, d_out);
        wait();
    }
    void head_gemm(Tensor out, Tensor in, Tensor weight, const HeadProduct& product) override {
        ops_->head_gemm(out, in, weight, product);
        wait();
    }
    void expert_gemm(Tensor out, Tensor in, Tensor weight, Transpose transpose,
                     std::span<const std::int64_t> rows, float beta) override {
        ops_->expert_gemm(out, in, weight, transpose, rows, beta);
        wait();
    }
    void expert_gemm_backward(Tensor d_weight, Tensor d_out, Tensor in,
                              std::span<const std::int64_t> rows) override {
        ops_->expert_gemm_backward(d_weight, d_out, in, rows);
        wait();
    }
    void fill(Tensor x, float value) override {
        ops_->fill(x, value);
        wait();
    }
    void copy(Tensor out, Tensor in) override {
        ops_->copy(out, in);
        wait();
    }
    void fill_normal(Tensor x, const NormalFill& fill) override {
        ops_->fill_normal(x, fill);
        wait();
    }
    void add(Tensor x, Tensor y) override {
        ops_->add(x, y);
        wait();
    }
    void scale(Tensor x, float factor) override {
        ops_->scale(x, factor);
        wait();
    }
    void gather_rows(Tensor out, Tensor in, Tensor index) override {
        ops_->gather_rows(out, in, index);
        wait();
    }
    void scatter_add_rows(Tensor out, Tensor in, Tensor index) override {
        ops_->scatter_add_rows(out, in, index);
        wait();
    }
    void copy_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                      std::int64_t width) override {
        ops_->copy_columns(out, out_begin, in, in_begin, width);
        wait();
    }
    void sum_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                     std::int64_t width) override {
        ops_->sum_columns(out, out_begin, in, in_begin, width);
        wait();
    }
    void scale_rows(Tensor x, Tensor factor) override {
        ops_->scale_rows(x, factor);
        wait();
    }
    void row_dots(Tensor out, Tensor a, Tensor b) override {
        ops_->row_dots(out, a, b);
        wait();
    }
    void sum_rows(Tensor out, Tensor in, Tensor place, bool accumulate) override {
        ops_->sum_rows(out, in, place, accumulate);
        wait();
    }
    void embedding(Tensor out, Tensor table, Tensor tokens, std::int64_t offset) override {
        ops_->embedding(out, table, tokens, offset);
        wait();
    }
    void embedding_backward(Tensor d_table, Tensor d_out, Tensor tokens, std::int64_t offset) override {
        ops_->embedding_backward(d_table, d_out, tokens, offset);
        wait();
    }
    void rms_norm(Tensor out, Tensor inv_rms, Tensor x, Tensor weight, float eps) override {
        ops_->rms_norm(out, inv_rms, x, weight, eps);
        wait();
    }
    void add_rms_norm(Tensor out, Tensor inv_rms, Tensor sum, Tensor x, Tensor delta, Tensor weight,
                      float eps) override {
        ops_->add_rms_norm(out, inv_rms, sum, x, delta, weight, eps);
        wait();
    }
    void rms_norm_backward(Tensor d_x, Tensor d_weight, Tensor d_out, Tensor x, Tensor weight,
                           Tensor inv_rms, bool accumulate) override {
        ops_->rms_norm_backward(d_x, d_weight, d_out, x, weight, inv_rms, accumulate);
        wait();
    }
    void rope(Tensor x, Tensor positions, Tensor inv_freq, const RotaryForm& form,
              float sign) override {
        ops_->rope(x, positions, inv_freq, form, sign);
        wait();
    }
    void split_heads(Tensor q, Tensor k, Tensor v, Tensor packed, Tensor bias, Tensor positions,
                     Tensor inv_freq, const RotaryForm& form) override {
        ops_->split_heads(q, k, v, packed, bias, positions, inv_freq, form);
        wait();
    }
    void merge_heads(Tensor packed, Tensor d_q, Tensor d_k, Tensor d_v, Tensor positions,
                     Tensor inv_freq, const RotaryForm& form) override {
        ops_->merge_heads(packed, d_q, d_k, d_v, positions, inv_freq, form);
        wait();
    }
    void swiglu(Tensor out, Tensor gate, Tensor up) override {
        ops_->swiglu(out, gate, up);
        wait();
    }
    void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor product, Tensor d_out, Tensor gate,
                         Tensor up) override {
        ops_->swiglu_backward(d_gate, d_up, product, d_out, gate, up);
        wait();
    }
    void route(Tensor scores, Tensor chosen, Tensor weights, Tensor logits, Tensor bias,
               const RouterShape& shape) override {
        ops_->route(scores, chosen, weights, logits, bias, shape);
        wait();
    }
    void route_backward(Tensor d_logits, Tensor d_weights, Tensor d_scores, Tensor scores,
                        Tensor chosen, const RouterShape& shape) override {
        ops_->route_backward(d_logits, d_weights, d_scores, scores, chosen, shape);
        wait();
    }
    void route_balance(Tensor loss, Tensor d_scores, Tensor scores, const Packing& packing,
                       const RouterShape& shape, float coef) override {
        ops_->route_balance(loss, d_scores, scores, packing, shape, coef);
        wait();
    }
    void sort_by_expert(Tensor order, Tensor source, Tensor place, Tensor rows,
                        Tensor chosen) override {
        ops_->sort_by_expert(order, source, place, rows, chosen);
        wait();
    }
    void attention(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const Packing& packing,
                   const AttentionShape& shape) override {
        ops_->attention(out, lse, q, k, v, packing, shape);
        wait();
    }
    void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k,
                            Tensor v, Tensor out, Tensor lse, const Packing& packing,
                            const AttentionShape& shape) override {
        ops_->attention_backward(d_q, d_k, d_v, d_out, q, k, v, out, lse, packing, shape);
        wait();
    }
    void kv_store(const PagedCache& cache, Tensor k, Tensor v, Tensor slot) override {
        ops_->kv_store(cache, k, v, slot);
        wait();
    }
    void kv_copy_pages(const PagedCache& cache, Tensor from, Tensor to) override {
        ops_->kv_copy_pages(cache, from, to);
        wait();
    }
    void attention_decode(Tensor out, Tensor q, const PagedCache& cache, Tensor page_table,
                          Tensor lengths, const AttentionShape& shape) override {
        ops_->attention_decode(out, q, cache, page_table, lengths, shape);
        wait();
    }
    void head_max(Tensor row_max, Tensor logits, float inv_temperature) override {
        ops_->head_max(row_max, logits, inv_temperature);
        wait();
    }
    void head_sums(Tensor sums, Tensor logits, Tensor row_max, Tensor targets, std::int64_t offset,
                   float inv_temperature) override {
        ops_->head_sums(sums, logits, row_max, targets, offset, inv_temperature);
        wait();
    }
    void head_statistics(Tensor row_max, Tensor sums, Tensor logits, Tensor targets,
                         float inv_temperature) override {
        ops_->head_statistics(row_max, sums, logits, targets, inv_temperature);
        wait();
    }
    void head_finish(Tensor log_prob, Tensor entropy, Tensor sums) override {
        ops_->head_finish(log_prob, entropy, sums);
        wait();
    }
    void head_backward(Tensor d_logits, Tensor logits, Tensor row_max, Tensor sums, Tensor targets,
                       Tensor d_log_prob, Tensor d_entropy, std::int64_t offset,
                       float inv_temperature) override {
        ops_->head_backward(d_logits, logits, row_max, sums, targets, d_log_prob, d_entropy, offset,
                            inv_temperature);
        wait();
    }
    void sample(Tensor tokens, Tensor log_probs, Tensor logits, Tensor bits,
                const SamplingOptions& options) override {
        ops_->sample(tokens, log_probs, logits, bits, options);
        wait();
    }
    void sum_squares(Tensor result, Tensor x) override {
        ops_->sum_squares(result, x);
        wait();
    }
    void adamw(Tensor param, Tensor weight, Tensor grad, Tensor m, Tensor v,
               const AdamWStep& step) override {
        ops_->adamw(param, weight, grad, m, v, step);
        wait();
    }

  private:
    void wait() {
        if (waits_) ops_->synchronize();
    }
    Arena workspace_;  ///< before ops_, which uses it
    std::unique_ptr<Ops> ops_;
    bool waits_;
};

}  // namespace gradus::test
