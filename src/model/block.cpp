// SPDX-License-Identifier: Apache-2.0
// A decoder block (Touvron et al. 2023, arXiv 2302.13971, section 2.2), forward and backward:
//   m = x + Wo attention(rope(norm(x) Wq^T), rope(norm(x) Wk^T), norm(x) Wv^T)
//   y = m + Wd (silu(norm(m) Wg^T) * (norm(m) Wu^T))
// Norm outputs and the product in the MLP are cheap and computed anew in the backward pass.
#include "block.hpp"

#include <cmath>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

constexpr Transpose kNo = Transpose::no, kYes = Transpose::yes;

}  // namespace

BlockActivations::BlockActivations(const ModelConfig& c, int tensor_size, std::int64_t tokens,
                                   Arena& arena, const std::string& name) {
    const std::int64_t nh = c.heads / tensor_size, nkv = c.kv_heads / tensor_size;
    const std::int64_t width = c.intermediate / tensor_size;
    auto take = [&](std::int64_t columns) {
        return arena.take(name, DType::f32, {tokens, columns});
    };
    if (c.qk_norm) {
        q_raw = take(nh * c.head_dim);
        k_raw = take(nkv * c.head_dim);
        q_inv_rms = take(nh);
        k_inv_rms = take(nkv);
    }
    q = take(nh * c.head_dim);
    k = take(nkv * c.head_dim);
    v = take(nkv * c.head_dim);
    attention = take(nh * c.head_dim);
    lse = take(nh);
    mid = take(c.hidden);
    gate = take(width);
    up = take(width);
}

Block::Block(const ModelConfig& config, const Grid& grid, Ops& ops, Arena& arena,
             std::int64_t tokens, std::int64_t max_length, bool train)
    : config_(config),
      grid_(grid),
      ops_(ops),
      shape_{.heads = config.heads / grid.tensor_size(),
             .kv_heads = config.kv_heads / grid.tensor_size(),
             .head_dim = config.head_dim,
             .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config.head_dim)))},
      eps_(static_cast<float>(config.norm_eps)) {
    const std::int64_t width = config.intermediate / grid.tensor_size(), d = config.head_dim;
    auto take = [&](Shape shape) { return arena.take("activations.scratch", DType::f32, shape); };
    inv_freq_ = take({d / 2});
    if (inv_freq_)
        for (std::int64_t i = 0; i < d / 2; ++i)
            inv_freq_.f32()[i] = static_cast<float>(
                std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d)));
    norm_ = take({tokens, config.hidden});
    inv_rms_ = take({tokens});
    projection_ = take({tokens, config.hidden});
    mlp_ = take({tokens, width});
    if (!train) return;
    d_mlp_ = take({tokens, width});
    d_q_ = take({tokens, shape_.heads * d});
    d_k_ = take({tokens, shape_.kv_heads * d});
    d_v_ = take({tokens, shape_.kv_heads * d});
    d_attention_ = take({tokens, shape_.heads * d});
    d_qk_weight_ = take({d});
}

void Block::sum_over_tensor_ranks(Tensor x) {
    if (grid_.tensor_size() > 1) grid_.tensor().all_reduce(x.floats(), Reduce::sum);
}

void Block::project_qkv(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor positions) {
    const std::int64_t t = x.dim(0), d = shape_.head_dim;
    const Tensor h = norm_.rows(0, t);
    ops_.rms_norm(h, inv_rms_.rows(0, t), x, w.norm1->value, eps_);
    auto project = [&](Tensor out, const Parameter& weight, const Parameter* bias) {
        ops_.gemm(out, h, kNo, weight.value, kYes, 1, 0);
        if (bias != nullptr) ops_.add_bias(out, bias->value);
    };
    const Tensor q = a.q.rows(0, t), k = a.k.rows(0, t), v = a.v.rows(0, t);
    project(config_.qk_norm ? a.q_raw.rows(0, t) : q, *w.q, w.q_bias);
    project(config_.qk_norm ? a.k_raw.rows(0, t) : k, *w.k, w.k_bias);
    project(v, *w.v, w.v_bias);
    auto normalize = [&](Tensor out, Tensor raw, Tensor inv, const Parameter& weight, std::int64_t n) {
        ops_.rms_norm(out.as({t * n, d}), inv.as({t * n}), raw.as({t * n, d}), weight.value, eps_);
    };
    if (config_.qk_norm) {
        normalize(q, a.q_raw, a.q_inv_rms, *w.q_norm, shape_.heads);
        normalize(k, a.k_raw, a.k_inv_rms, *w.k_norm, shape_.kv_heads);
    }
    ops_.rope(q.as({t, shape_.heads, d}), positions, inv_freq_, 1);
    ops_.rope(k.as({t, shape_.kv_heads, d}), positions, inv_freq_, 1);
}

void Block::finish_attention(const BlockWeights& w, BlockActivations& a, Tensor x) {
    const std::int64_t t = x.dim(0);
    const Tensor out = projection_.rows(0, t), mid = a.mid.rows(0, t);
    ops_.gemm(out, a.attention.rows(0, t), kNo, w.o->value, kYes, 1, 0);
    sum_over_tensor_ranks(out);
    ops_.copy(mid, x);
    ops_.add(mid, out);
}

void Block::gate_and_up(const BlockWeights& w, BlockActivations& a, std::int64_t t) {
    const Tensor h = norm_.rows(0, t);
    ops_.rms_norm(h, inv_rms_.rows(0, t), a.mid.rows(0, t), w.norm2->value, eps_);
    ops_.gemm(a.gate.rows(0, t), h, kNo, w.gate->value, kYes, 1, 0);
    ops_.gemm(a.up.rows(0, t), h, kNo, w.up->value, kYes, 1, 0);
}

void Block::mlp(const BlockWeights& w, BlockActivations& a, Tensor out) {
    const std::int64_t t = out.dim(0);
    gate_and_up(w, a, t);
    const Tensor mid = a.mid.rows(0, t), product = mlp_.rows(0, t);
    ops_.swiglu(product, a.gate.rows(0, t), a.up.rows(0, t));
    const Tensor projection = projection_.rows(0, t);
    ops_.gemm(projection, product, kNo, w.down->value, kYes, 1, 0);
    sum_over_tensor_ranks(projection);
    ops_.copy(out, mid);
    ops_.add(out, projection);
}

void Block::attend(const BlockWeights& w, BlockActivations& a, Tensor x, const PackedTokens& batch,
                   const PagedCache* cache, Tensor slot) {
    const std::int64_t t = x.dim(0), d = shape_.head_dim;
    project_qkv(w, a, x, batch.packing.positions);
    const Tensor k = a.k.as({t, shape_.kv_heads, d}), v = a.v.as({t, shape_.kv_heads, d});
    if (cache != nullptr) ops_.kv_store(*cache, k, v, slot);
    ops_.attention(a.attention.as({t, shape_.heads, d}), a.lse.rows(0, t),
                   a.q.as({t, shape_.heads, d}), k, v, batch.packing, shape_);
    finish_attention(w, a, x);
}

void Block::forward(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor out,
                    const PackedTokens& batch, const PagedCache* cache, Tensor slot) {
    attend(w, a, x, batch, cache, slot);
    mlp(w, a, out);
}

void Block::recompute(const BlockWeights& w, BlockActivations& a, Tensor x,
                      const PackedTokens& batch) {
    attend(w, a, x, batch, nullptr, {});
    gate_and_up(w, a, x.dim(0));
}

void Block::decode(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor positions,
                   Tensor slot, Tensor page_table, Tensor lengths, const PagedCache& cache) {
    const std::int64_t rows = x.dim(0), d = shape_.head_dim;
    project_qkv(w, a, x, positions);
    ops_.kv_store(cache, a.k.as({rows, shape_.kv_heads, d}), a.v.as({rows, shape_.kv_heads, d}), slot);
    ops_.attention_decode(a.attention.as({rows, shape_.heads, d}), a.q.as({rows, shape_.heads, d}),
                          cache, page_table, lengths, shape_);
    finish_attention(w, a, x);
    mlp(w, a, x);
}

void Block::mlp_backward(const BlockWeights& w, BlockActivations& a, Tensor d_x) {
    const std::int64_t t = d_x.dim(0);
    const Tensor mid = a.mid.rows(0, t), h = norm_.rows(0, t), inv = inv_rms_.rows(0, t);
    const Tensor gate = a.gate.rows(0, t), up = a.up.rows(0, t);
    const Tensor product = mlp_.rows(0, t), d_product = d_mlp_.rows(0, t);
    ops_.swiglu(product, gate, up);
    ops_.gemm(w.down->grad, d_x, kYes, product, kNo, 1, 1);
    ops_.gemm(d_product, d_x, kNo, w.down->value, kNo, 1, 0);
    ops_.swiglu_backward(gate, up, d_product, gate, up);  // now gradients
    ops_.rms_norm(h, inv, mid, w.norm2->value, eps_);
    ops_.gemm(w.gate->grad, gate, kYes, h, kNo, 1, 1);
    ops_.gemm(w.up->grad, up, kYes, h, kNo, 1, 1);
    const Tensor d_h = projection_.rows(0, t);
    ops_.gemm(d_h, gate, kNo, w.gate->value, kNo, 1, 0);
    ops_.gemm(d_h, up, kNo, w.up->value, kNo, 1, 1);
    sum_over_tensor_ranks(d_h);
    ops_.rms_norm_backward(d_h, w.norm2->grad, d_h, mid, w.norm2->value, inv);
    ops_.add(d_x, d_h);
}

void Block::qk_norm_backward(Parameter& weight, Tensor d_y, Tensor raw, Tensor inv_rms,
                             std::int64_t heads) {
    const std::int64_t t = d_y.dim(0), d = shape_.head_dim;
    // All heads of all tensor ranks share the weight: its gradient is summed over them.
    ops_.fill(d_qk_weight_, 0);
    const Tensor flat = d_y.as({t * heads, d});
    ops_.rms_norm_backward(flat, d_qk_weight_, flat, raw.as({t * heads, d}), weight.value,
                           inv_rms.as({t * heads}));
    sum_over_tensor_ranks(d_qk_weight_);
    ops_.add(weight.grad, d_qk_weight_);
}

void Block::attention_backward(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor d_x,
                               const PackedTokens& batch) {
    const std::int64_t t = d_x.dim(0), d = shape_.head_dim;
    const Shape of_q{t, shape_.heads, d}, of_k{t, shape_.kv_heads, d};
    const Tensor out = a.attention.rows(0, t), d_out = d_attention_.rows(0, t);
    ops_.gemm(w.o->grad, d_x, kYes, out, kNo, 1, 1);
    ops_.gemm(d_out, d_x, kNo, w.o->value, kNo, 1, 0);
    const Tensor d_q = d_q_.rows(0, t), d_k = d_k_.rows(0, t), d_v = d_v_.rows(0, t);
    ops_.attention_backward(d_q.as(of_q), d_k.as(of_k), d_v.as(of_k), d_out.as(of_q), a.q.as(of_q),
                            a.k.as(of_k), a.v.as(of_k), out.as(of_q), a.lse.rows(0, t),
                            batch.packing, shape_);
    ops_.rope(d_q.as(of_q), batch.packing.positions, inv_freq_, -1);
    ops_.rope(d_k.as(of_k), batch.packing.positions, inv_freq_, -1);
    if (config_.qk_norm) {
        qk_norm_backward(*w.q_norm, d_q, a.q_raw, a.q_inv_rms, shape_.heads);
        qk_norm_backward(*w.k_norm, d_k, a.k_raw, a.k_inv_rms, shape_.kv_heads);
    }
    const Tensor h = norm_.rows(0, t), inv = inv_rms_.rows(0, t), d_h = projection_.rows(0, t);
    ops_.rms_norm(h, inv, x, w.norm1->value, eps_);
    auto through = [&](Tensor d_y, Parameter& weight, Parameter* bias, float beta) {
        if (bias != nullptr) ops_.add_bias_backward(bias->grad, d_y);
        ops_.gemm(weight.grad, d_y, kYes, h, kNo, 1, 1);
        ops_.gemm(d_h, d_y, kNo, weight.value, kNo, 1, beta);
    };
    through(d_q, *w.q, w.q_bias, 0);
    through(d_k, *w.k, w.k_bias, 1);
    through(d_v, *w.v, w.v_bias, 1);
    sum_over_tensor_ranks(d_h);
    ops_.rms_norm_backward(d_h, w.norm1->grad, d_h, x, w.norm1->value, inv);
    ops_.add(d_x, d_h);
}

void Block::backward(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor d_x,
                     const PackedTokens& batch) {
    mlp_backward(w, a, d_x);
    attention_backward(w, a, x, d_x, batch);
}

}  // namespace gradus
