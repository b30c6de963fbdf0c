// SPDX-License-Identifier: Apache-2.0
// Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245):
//   out = Wo attention(rope(norm(h Wq^T + bq)), rope(norm(h Wk^T + bk)), h Wv^T + bv)
// with the biases and the norms over heads where the model has them.
#include "gradus/base/error.hpp"
#include "parts.hpp"
#include "rotary.hpp"

namespace gradus {
namespace {

constexpr Transpose kNo = Transpose::no, kYes = Transpose::yes;

/// What a layer keeps; nh, nkv are this rank's.
struct Kept {
    Tensor q_raw, k_raw, q_inv_rms, k_inv_rms;  ///< before the q/k norm; null without it
    Tensor q, k, v;                             ///< after norm and rotation
    Tensor attention, lse;                      ///< [T, nh D], [T, nh]
};

class GroupedQueryAttention final : public Attention {
  public:
    GroupedQueryAttention(const PartContext& context, std::size_t slots);
    void forward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor out,
                 const Packing& packing, const PagedCache* cache, Tensor cache_slot) override;
    void decode(const BlockWeights& w, Tensor h, Tensor out, const DecodeRows& rows,
                const PagedCache& cache) override;
    void backward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out, Tensor d_h,
                  const Packing& packing) override;
    void backward_weights(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out) override;

  private:
    Kept make_kept(Phase phase) const;
    void project(const BlockWeights& w, Kept& a, Tensor h, Tensor positions);
    /// Backward of y = norm(x W^T + b) for q or k: d_y -> gradient by x W^T + b, in place.
    void norm_backward(Parameter& weight, Tensor d_y, Tensor raw, Tensor inv_rms, std::int64_t heads);
    std::int64_t columns() const { return (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim; }
    Shape of_q(std::int64_t t) const { return {t, shape_.heads, shape_.head_dim}; }
    Shape of_k(std::int64_t t) const { return {t, shape_.kv_heads, shape_.head_dim}; }

    PartContext context_;
    Ops& ops_;
    bool normalized_;
    float eps_;
    AttentionShape shape_;
    RotaryForm form_;
    Tensor inv_freq_, packed_;
    std::vector<Kept> kept_;
    Tensor d_q_, d_k_, d_v_, d_attention_, d_qk_weight_;
};

GroupedQueryAttention::GroupedQueryAttention(const PartContext& context, std::size_t slots)
    : context_(context),
      ops_(context.ops),
      normalized_(context.config.qk_norm),
      eps_(static_cast<float>(context.config.norm_eps)),
      shape_{.heads = context.config.heads / context.grid.tensor_size(),
             .kv_heads = context.config.kv_heads / context.grid.tensor_size(),
             .head_dim = context.config.head_dim,
             .scale = attention_scale(context.config)},
      form_{.interleaved = context.config.rope_interleaved, .scale = rotary_scale(context.config)} {
    const std::int64_t d = shape_.head_dim, tokens = context.tokens;
    for (std::size_t i = 0; i < slots; ++i) kept_.push_back(make_kept(phase_of_slot(i)));
    packed_ = context.take(kScratchMemory, {tokens, columns()});
    inv_freq_ = context.take_rotary_frequencies();
    if (!context.train) return;
    const auto take = [&](Shape shape) { return context.take(kScratchMemory, shape, Phase::training); };
    d_q_ = take({tokens, shape_.heads * d});
    d_k_ = take({tokens, shape_.kv_heads * d});
    d_v_ = take({tokens, shape_.kv_heads * d});
    d_attention_ = take({tokens, shape_.heads * d});
    d_qk_weight_ = context.take_f32(kScratchMemory, {d});
}

Kept GroupedQueryAttention::make_kept(Phase phase) const {
    const std::int64_t nh = shape_.heads, nkv = shape_.kv_heads, d = shape_.head_dim;
    const auto take = [&](std::int64_t columns) {
        return context_.take(kKeptMemory, {context_.tokens, columns}, phase);
    };
    Kept a;
    if (normalized_) {
        a.q_raw = take(nh * d);
        a.k_raw = take(nkv * d);
        a.q_inv_rms = context_.take_f32(kKeptMemory, {context_.tokens, nh}, phase);
        a.k_inv_rms = context_.take_f32(kKeptMemory, {context_.tokens, nkv}, phase);
    }
    a.q = take(nh * d);
    a.k = take(nkv * d);
    a.v = take(nkv * d);
    a.attention = take(nh * d);
    a.lse = context_.take_f32(kKeptMemory, {context_.tokens, nh}, phase);
    return a;
}

void GroupedQueryAttention::project(const BlockWeights& w, Kept& a, Tensor h, Tensor positions) {
    const std::int64_t t = h.dim(0), d = shape_.head_dim;
    const Tensor packed = packed_.rows(0, t);
    const Tensor q = a.q.rows(0, t), k = a.k.rows(0, t), v = a.v.rows(0, t);
    ops_.gemm(packed, h, kNo, w.qkv.value, kYes, 1, 0);
    if (!normalized_) {
        ops_.split_heads(q.as(of_q(t)), k.as(of_k(t)), v.as(of_k(t)), packed, w.qkv_bias.value,
                         positions, inv_freq_, form_);
        return;
    }
    ops_.split_heads(a.q_raw.as(of_q(t)), a.k_raw.as(of_k(t)), v.as(of_k(t)), packed,
                     w.qkv_bias.value, positions, {}, form_);
    const auto normalize = [&](Tensor out, Tensor raw, Tensor inv, const Parameter& weight,
                               std::int64_t n) {
        ops_.rms_norm(out.as({t * n, d}), inv.as({t * n}), raw.as({t * n, d}), weight.value, eps_);
    };
    normalize(q, a.q_raw, a.q_inv_rms, *w.q_norm, shape_.heads);
    normalize(k, a.k_raw, a.k_inv_rms, *w.k_norm, shape_.kv_heads);
    ops_.rope(q.as(of_q(t)), positions, inv_freq_, form_, 1);
    ops_.rope(k.as(of_k(t)), positions, inv_freq_, form_, 1);
}

void GroupedQueryAttention::forward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor out,
                                    const Packing& packing, const PagedCache* cache,
                                    Tensor cache_slot) {
    const std::int64_t t = h.dim(0);
    Kept& a = kept_[slot];
    project(w, a, h, packing.positions);
    const Tensor k = a.k.as(of_k(t)), v = a.v.as(of_k(t));
    if (cache != nullptr) ops_.kv_store(*cache, k, v, cache_slot);
    ops_.attention(a.attention.as(of_q(t)), a.lse.rows(0, t), a.q.as(of_q(t)), k, v, packing, shape_);
    ops_.gemm(out, a.attention.rows(0, t), kNo, w.o->value, kYes, 1, 0);
}

void GroupedQueryAttention::decode(const BlockWeights& w, Tensor h, Tensor out,
                                   const DecodeRows& rows, const PagedCache& cache) {
    const std::int64_t t = h.dim(0);
    Kept& a = kept_[0];
    project(w, a, h, rows.positions);
    ops_.kv_store(cache, a.k.as(of_k(t)), a.v.as(of_k(t)), rows.slot);
    ops_.attention_decode(a.attention.as(of_q(t)), a.q.as(of_q(t)), cache, rows.page_table,
                          rows.lengths, shape_);
    ops_.gemm(out, a.attention.rows(0, t), kNo, w.o->value, kYes, 1, 0);
}

void GroupedQueryAttention::norm_backward(Parameter& weight, Tensor d_y, Tensor raw, Tensor inv_rms,
                                          std::int64_t heads) {
    const std::int64_t t = d_y.dim(0), d = shape_.head_dim;
    // All heads of all tensor ranks share the weight: its gradient is summed over them.
    ops_.fill(d_qk_weight_, 0);
    const Tensor flat = d_y.as({t * heads, d});
    ops_.rms_norm_backward(flat, d_qk_weight_, flat, raw.as({t * heads, d}), weight.value,
                           inv_rms.as({t * heads}), false);
    context_.sum_over_tensor_ranks(d_qk_weight_);
    ops_.add(weight.grad, d_qk_weight_);
}

void GroupedQueryAttention::backward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out,
                                     Tensor d_h, const Packing& packing) {
    const std::int64_t t = h.dim(0);
    Kept& a = kept_[slot];
    const Tensor heads = a.attention.rows(0, t), d_heads = d_attention_.rows(0, t);
    ops_.gemm(d_heads, d_out, kNo, w.o->value, kNo, 1, 0);
    const Tensor d_q = d_q_.rows(0, t), d_k = d_k_.rows(0, t), d_v = d_v_.rows(0, t);
    ops_.attention_backward(d_q.as(of_q(t)), d_k.as(of_k(t)), d_v.as(of_k(t)), d_heads.as(of_q(t)),
                            a.q.as(of_q(t)), a.k.as(of_k(t)), a.v.as(of_k(t)), heads.as(of_q(t)),
                            a.lse.rows(0, t), packing, shape_);
    if (normalized_) {
        ops_.rope(d_q.as(of_q(t)), packing.positions, inv_freq_, form_, -1);
        ops_.rope(d_k.as(of_k(t)), packing.positions, inv_freq_, form_, -1);
        norm_backward(*w.q_norm, d_q, a.q_raw, a.q_inv_rms, shape_.heads);
        norm_backward(*w.k_norm, d_k, a.k_raw, a.k_inv_rms, shape_.kv_heads);
    }
    const Tensor d_packed = packed_.rows(0, t);
    ops_.merge_heads(d_packed, d_q.as(of_q(t)), d_k.as(of_k(t)), d_v.as(of_k(t)), packing.positions,
                     normalized_ ? Tensor{} : inv_freq_, form_);
    ops_.gemm(d_h, d_packed, kNo, w.qkv.value, kNo, 1, 0);
}

void GroupedQueryAttention::backward_weights(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out) {
    const std::int64_t t = h.dim(0);
    const Tensor d_packed = packed_.rows(0, t);
    ops_.gemm(w.o->grad, d_out, kYes, kept_[slot].attention.rows(0, t), kNo, 1, 1);
    if (w.qkv_bias.grad) ops_.add_bias_backward(w.qkv_bias.grad, d_packed);
    ops_.gemm(w.qkv.grad, d_packed, kYes, h, kNo, 1, 1);
}

}  // namespace

std::unique_ptr<Attention> make_attention(const PartContext& context, std::size_t slots) {
    return std::make_unique<GroupedQueryAttention>(context, slots);
}

}  // namespace gradus
