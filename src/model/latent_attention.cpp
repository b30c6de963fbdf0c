// SPDX-License-Identifier: Apache-2.0
// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1.2 and appendix C):
//   q = Wqb norm(Wqa h), or Wq h;  [c, r] = Wkva h;  [k_nope, v] = Wkvb norm(c) a head
//   key = [k_nope, rope(r)], r shared by all heads;  out = Wo attention(q, key, v)
// Decoding caches [norm(c), rope(r)] alone and absorbs Wkvb into query and output: with Wkvb = [Uk, Uv]
// a head, q_nope k_nope = (q_nope Uk) c, so that all heads attend to one key of kv_rank + rope_dim
// numbers whose first kv_rank are also the value, and Uv maps the result.
#include "gradus/base/error.hpp"
#include "parts.hpp"
#include "rotary.hpp"

namespace gradus {
namespace {

constexpr Transpose kNo = Transpose::no, kYes = Transpose::yes;

struct Kept {
    Tensor q_a, q_inv_rms;     ///< [T, q_rank] before its norm; null without it
    Tensor kv_a, kv_inv_rms;   ///< [T, kv_rank + rope_dim] before norm and rotation
    Tensor q, k, v;            ///< [T, nh D], [T, nh D], [T, nh Dv]
    Tensor heads, lse;         ///< [T, nh Dv], [T, nh]
};

class MultiHeadLatentAttention final : public Attention {
  public:
    MultiHeadLatentAttention(const PartContext& context, std::size_t slots);
    void forward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor out,
                 const Packing& packing, const PagedCache* cache, Tensor cache_slot) override;
    void decode(const BlockWeights& w, Tensor h, Tensor out, const DecodeRows& rows,
                const PagedCache& cache) override;
    void backward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out, Tensor d_h,
                  const Packing& packing) override;
    void backward_weights(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out) override;

  private:
    Kept make_kept(Phase phase) const;
    void project_queries(const BlockWeights& w, Kept& a, Tensor h, Tensor positions);
    /// kv_a, and from it latent_ and rope_key_.
    void project_latent(const BlockWeights& w, Kept& a, Tensor h, Tensor positions);
    void read_latent(const BlockWeights& w, Kept& a, std::int64_t t);
    /// [norm(c), rope(r)] of each token, [T, 1, kv_rank + rope_dim].
    Tensor cache_rows(std::int64_t t);
    void expand_keys(const BlockWeights& w, Kept& a, std::int64_t t);
    void queries_backward(const BlockWeights& w, Kept& a, Tensor h, Tensor d_q, Tensor d_h);
    void keys_backward(const BlockWeights& w, Kept& a, Tensor h, Tensor d_h, Tensor positions);
    /// Every tensor rank holds the whole of this product's gradient: one of them adds it.
    bool adds_whole() const { return context_.grid.tensor_rank() == 0; }
    Shape of_q(std::int64_t t) const { return {t, shape_.heads, shape_.head_dim}; }
    Shape of_v(std::int64_t t) const { return {t, shape_.heads, latent_.value_dim}; }
    Shape of_kv(std::int64_t t) const {
        return {t, shape_.heads, latent_.nope_dim + latent_.value_dim};
    }
    std::int64_t cache_dim() const { return latent_.kv_rank + latent_.rope_dim; }

    PartContext context_;
    Ops& ops_;
    LatentAttention latent_;
    float eps_;
    AttentionShape shape_, absorbed_;
    RotaryForm query_form_, key_form_;
    Tensor inv_freq_;
    std::vector<Kept> kept_;
    Tensor q_norm_, latent_raw_, latent_values_, rope_key_, kv_, cache_rows_;
    Tensor absorbed_q_, absorbed_out_;
    Tensor d_q_, d_k_, d_v_, d_heads_, d_q_norm_, d_latent_, d_rope_key_, d_kv_a_;
};

MultiHeadLatentAttention::MultiHeadLatentAttention(const PartContext& context, std::size_t slots)
    : context_(context),
      ops_(context.ops),
      latent_(context.config.latent),
      eps_(static_cast<float>(context.config.norm_eps)) {
    const ModelConfig& c = context.config;
    const std::int64_t nh = c.heads / context.grid.tensor_size(), tokens = context.tokens;
    shape_ = {.heads = nh,
              .kv_heads = nh,
              .head_dim = c.head_dim,
              .scale = attention_scale(c),
              .value_dim = latent_.value_dim};
    absorbed_ = {.heads = nh,
                 .kv_heads = 1,
                 .head_dim = cache_dim(),
                 .scale = shape_.scale,
                 .value_dim = latent_.kv_rank};
    key_form_ = {.interleaved = c.rope_interleaved, .scale = rotary_scale(c)};
    query_form_ = key_form_;
    query_form_.begin = latent_.nope_dim;
    for (std::size_t i = 0; i < slots; ++i) kept_.push_back(make_kept(phase_of_slot(i)));
    Phase phase = Phase::always;
    const auto take = [&](std::int64_t rows, std::int64_t columns) {
        return context.take(kScratchMemory, {rows, columns}, phase);
    };
    inv_freq_ = context.take_rotary_frequencies();
    if (latent_.q_rank > 0) q_norm_ = take(tokens, latent_.q_rank);
    latent_raw_ = take(tokens, latent_.kv_rank);
    latent_values_ = take(tokens, latent_.kv_rank);
    rope_key_ = take(tokens, latent_.rope_dim);
    kv_ = take(tokens, of_kv(1).elements());
    cache_rows_ = take(tokens, cache_dim());
    absorbed_q_ = take(context.decode_rows, nh * cache_dim());
    absorbed_out_ = take(context.decode_rows, nh * latent_.kv_rank);
    if (!context.train) return;
    phase = Phase::training;
    d_q_ = take(tokens, of_q(1).elements());
    d_k_ = take(tokens, of_q(1).elements());
    d_v_ = take(tokens, of_v(1).elements());
    d_heads_ = take(tokens, of_v(1).elements());
    if (latent_.q_rank > 0) d_q_norm_ = take(tokens, latent_.q_rank);
    d_latent_ = take(tokens, latent_.kv_rank);
    d_rope_key_ = take(tokens, latent_.rope_dim);
    d_kv_a_ = take(tokens, cache_dim());
}

Kept MultiHeadLatentAttention::make_kept(Phase phase) const {
    const auto take = [&](std::int64_t columns) {
        return context_.take(kKeptMemory, {context_.tokens, columns}, phase);
    };
    Kept a;
    if (latent_.q_rank > 0) {
        a.q_a = take(latent_.q_rank);
        a.q_inv_rms = context_.take_f32(kKeptMemory, {context_.tokens}, phase);
    }
    a.kv_a = take(cache_dim());
    a.kv_inv_rms = context_.take_f32(kKeptMemory, {context_.tokens}, phase);
    a.q = take(of_q(1).elements());
    a.k = take(of_q(1).elements());
    a.v = take(of_v(1).elements());
    a.heads = take(of_v(1).elements());
    a.lse = context_.take_f32(kKeptMemory, {context_.tokens, shape_.heads}, phase);
    return a;
}

void MultiHeadLatentAttention::project_queries(const BlockWeights& w, Kept& a, Tensor h,
                                               Tensor positions) {
    const std::int64_t t = h.dim(0);
    const Tensor q = a.q.rows(0, t);
    if (latent_.q_rank > 0) {
        const Tensor raw = a.q_a.rows(0, t), normed = q_norm_.rows(0, t);
        ops_.gemm(raw, h, kNo, w.q_a->value, kYes, 1, 0);
        ops_.rms_norm(normed, a.q_inv_rms.as({t}), raw, w.q_a_norm->value, eps_);
        ops_.gemm(q, normed, kNo, w.q_b->value, kYes, 1, 0);
    } else {
        ops_.gemm(q, h, kNo, w.q->value, kYes, 1, 0);
    }
    ops_.rope(q.as(of_q(t)), positions, inv_freq_, query_form_, 1);
}

void MultiHeadLatentAttention::read_latent(const BlockWeights& w, Kept& a, std::int64_t t) {
    const Tensor raw = latent_raw_.rows(0, t);
    ops_.copy_columns(raw, 0, a.kv_a.rows(0, t), 0, latent_.kv_rank);
    ops_.rms_norm(latent_values_.rows(0, t), a.kv_inv_rms.as({t}), raw, w.kv_a_norm->value, eps_);
}

void MultiHeadLatentAttention::project_latent(const BlockWeights& w, Kept& a, Tensor h,
                                              Tensor positions) {
    const std::int64_t t = h.dim(0);
    const Tensor kv_a = a.kv_a.rows(0, t), key = rope_key_.rows(0, t);
    ops_.gemm(kv_a, h, kNo, w.kv_a->value, kYes, 1, 0);
    read_latent(w, a, t);
    ops_.copy_columns(key, 0, kv_a, latent_.kv_rank, latent_.rope_dim);
    ops_.rope(key.as({t, 1, latent_.rope_dim}), positions, inv_freq_, key_form_, 1);
}

Tensor MultiHeadLatentAttention::cache_rows(std::int64_t t) {
    const Tensor rows = cache_rows_.rows(0, t);
    ops_.copy_columns(rows, 0, latent_values_.rows(0, t), 0, latent_.kv_rank);
    ops_.copy_columns(rows, latent_.kv_rank, rope_key_.rows(0, t), 0, latent_.rope_dim);
    return rows.as({t, 1, cache_dim()});
}

void MultiHeadLatentAttention::expand_keys(const BlockWeights& w, Kept& a, std::int64_t t) {
    const Tensor kv = kv_.rows(0, t);
    ops_.gemm(kv, latent_values_.rows(0, t), kNo, w.kv_b->value, kYes, 1, 0);
    const Tensor k = a.k.as(of_q(t)), v = a.v.as(of_v(t)), heads = kv.as(of_kv(t));
    ops_.copy_columns(k, 0, heads, 0, latent_.nope_dim);
    ops_.copy_columns(k, latent_.nope_dim, rope_key_.rows(0, t), 0, latent_.rope_dim);
    ops_.copy_columns(v, 0, heads, latent_.nope_dim, latent_.value_dim);
}

void MultiHeadLatentAttention::forward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor out,
                                       const Packing& packing, const PagedCache* cache,
                                       Tensor cache_slot) {
    const std::int64_t t = h.dim(0);
    Kept& a = kept_[slot];
    project_queries(w, a, h, packing.positions);
    project_latent(w, a, h, packing.positions);
    if (cache != nullptr) ops_.kv_store(*cache, cache_rows(t), {}, cache_slot);
    expand_keys(w, a, t);
    ops_.attention(a.heads.as(of_v(t)), a.lse.rows(0, t), a.q.as(of_q(t)), a.k.as(of_q(t)),
                   a.v.as(of_v(t)), packing, shape_);
    ops_.gemm(out, a.heads.rows(0, t), kNo, w.o->value, kYes, 1, 0);
}

void MultiHeadLatentAttention::decode(const BlockWeights& w, Tensor h, Tensor out,
                                      const DecodeRows& rows, const PagedCache& cache) {
    const std::int64_t t = h.dim(0);
    Kept& a = kept_[0];
    project_queries(w, a, h, rows.positions);
    project_latent(w, a, h, rows.positions);
    ops_.kv_store(cache, cache_rows(t), {}, rows.slot);
    const Tensor q = a.q.as(of_q(t)), long_q = absorbed_q_.as({t, shape_.heads, cache_dim()});
    const Tensor up = w.kv_b->value.as({shape_.heads, of_kv(1)[2], latent_.kv_rank});
    ops_.head_gemm(long_q, q, up, {.rows = latent_.nope_dim});
    ops_.copy_columns(long_q, latent_.kv_rank, q, latent_.nope_dim, latent_.rope_dim);
    const Tensor mixed = absorbed_out_.as({t, shape_.heads, latent_.kv_rank});
    ops_.attention_decode(mixed, long_q, cache, rows.page_table, rows.lengths, absorbed_);
    ops_.head_gemm(a.heads.as(of_v(t)), mixed, up,
                   {.row = latent_.nope_dim, .rows = latent_.value_dim, .transpose = kYes});
    ops_.gemm(out, a.heads.rows(0, t), kNo, w.o->value, kYes, 1, 0);
}

void MultiHeadLatentAttention::queries_backward(const BlockWeights& w, Kept& a, Tensor h, Tensor d_q,
                                                Tensor d_h) {
    if (latent_.q_rank == 0) {
        ops_.gemm(w.q->grad, d_q, kYes, h, kNo, 1, 1);
        ops_.gemm(d_h, d_q, kNo, w.q->value, kNo, 1, 0);
        return;
    }
    const std::int64_t t = h.dim(0);
    const Tensor raw = a.q_a.rows(0, t), normed = q_norm_.rows(0, t), d = d_q_norm_.rows(0, t);
    const Tensor inv_rms = a.q_inv_rms.as({t});
    ops_.rms_norm(normed, inv_rms, raw, w.q_a_norm->value, eps_);
    ops_.gemm(w.q_b->grad, d_q, kYes, normed, kNo, 1, 1);
    ops_.gemm(d, d_q, kNo, w.q_b->value, kNo, 1, 0);
    context_.sum_over_tensor_ranks(d);
    ops_.rms_norm_backward(d, w.q_a_norm->grad, d, raw, w.q_a_norm->value, inv_rms, false);
    ops_.gemm(w.q_a->grad, d, kYes, h, kNo, 1, 1);
    if (adds_whole())
        ops_.gemm(d_h, d, kNo, w.q_a->value, kNo, 1, 0);
    else
        ops_.fill(d_h, 0);
}

/// From d_k_ and d_v_.
void MultiHeadLatentAttention::keys_backward(const BlockWeights& w, Kept& a, Tensor h, Tensor d_h,
                                             Tensor positions) {
    const std::int64_t t = h.dim(0);
    const Tensor d_k = d_k_.as(of_q(t)), d_kv = kv_.rows(0, t), heads = d_kv.as(of_kv(t));
    const Tensor d_latent = d_latent_.rows(0, t), d_key = d_rope_key_.rows(0, t);
    ops_.copy_columns(heads, 0, d_k, 0, latent_.nope_dim);
    ops_.copy_columns(heads, latent_.nope_dim, d_v_.as(of_v(t)), 0, latent_.value_dim);
    ops_.sum_columns(d_key, 0, d_k, latent_.nope_dim, latent_.rope_dim);
    read_latent(w, a, t);
    ops_.gemm(w.kv_b->grad, d_kv, kYes, latent_values_.rows(0, t), kNo, 1, 1);
    ops_.gemm(d_latent, d_kv, kNo, w.kv_b->value, kNo, 1, 0);
    context_.sum_over_tensor_ranks(d_latent);
    context_.sum_over_tensor_ranks(d_key);
    ops_.rope(d_key.as({t, 1, latent_.rope_dim}), positions, inv_freq_, key_form_, -1);
    ops_.rms_norm_backward(d_latent, w.kv_a_norm->grad, d_latent, latent_raw_.rows(0, t),
                           w.kv_a_norm->value, a.kv_inv_rms.as({t}), false);
    const Tensor d_kv_a = d_kv_a_.rows(0, t);
    ops_.copy_columns(d_kv_a, 0, d_latent, 0, latent_.kv_rank);
    ops_.copy_columns(d_kv_a, latent_.kv_rank, d_key, 0, latent_.rope_dim);
    ops_.gemm(w.kv_a->grad, d_kv_a, kYes, h, kNo, 1, 1);
    if (adds_whole()) ops_.gemm(d_h, d_kv_a, kNo, w.kv_a->value, kNo, 1, 1);
}

void MultiHeadLatentAttention::backward(const BlockWeights& w, std::size_t slot, Tensor h,
                                        Tensor d_out, Tensor d_h, const Packing& packing) {
    const std::int64_t t = h.dim(0);
    Kept& a = kept_[slot];
    const Tensor heads = a.heads.rows(0, t), d_heads = d_heads_.rows(0, t);
    ops_.gemm(d_heads, d_out, kNo, w.o->value, kNo, 1, 0);
    const Tensor d_q = d_q_.rows(0, t);
    ops_.attention_backward(d_q.as(of_q(t)), d_k_.as(of_q(t)), d_v_.as(of_v(t)),
                            d_heads.as(of_v(t)), a.q.as(of_q(t)), a.k.as(of_q(t)), a.v.as(of_v(t)),
                            heads.as(of_v(t)), a.lse.rows(0, t), packing, shape_);
    ops_.rope(d_q.as(of_q(t)), packing.positions, inv_freq_, query_form_, -1);
    queries_backward(w, a, h, d_q, d_h);
    keys_backward(w, a, h, d_h, packing.positions);
}

void MultiHeadLatentAttention::backward_weights(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out) {
    ops_.gemm(w.o->grad, d_out, kYes, kept_[slot].heads.rows(0, h.dim(0)), kNo, 1, 1);
}

}  // namespace

std::unique_ptr<Attention> make_latent_attention(const PartContext& context, std::size_t slots) {
    return std::make_unique<MultiHeadLatentAttention>(context, slots);
}

}  // namespace gradus
