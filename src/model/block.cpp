// SPDX-License-Identifier: Apache-2.0
// A decoder block (Touvron et al. 2023, arXiv 2302.13971, section 2.2), forward and backward. Norm
// outputs are cheap and computed anew in the backward pass.
#include "block.hpp"

#include <algorithm>

#include "gradus/base/error.hpp"

namespace gradus {

BlockWeights find_block_weights(const ModelConfig& c, ParameterSet& parameters, std::int64_t layer) {
    const std::string block = fmt::format("model.layers.{}.", layer);
    const auto get = [&](const char* name) { return &parameters.at(block + name); };
    BlockWeights w;
    w.norm1 = get("input_layernorm.weight");
    w.norm2 = get("post_attention_layernorm.weight");
    w.o = get("self_attn.o_proj.weight");
    if (c.is_latent()) {
        if (c.latent.q_rank > 0) {
            w.q_a = get("self_attn.q_a_proj.weight");
            w.q_a_norm = get("self_attn.q_a_layernorm.weight");
            w.q_b = get("self_attn.q_b_proj.weight");
        } else {
            w.q = get("self_attn.q_proj.weight");
        }
        w.kv_a = get("self_attn.kv_a_proj_with_mqa.weight");
        w.kv_a_norm = get("self_attn.kv_a_layernorm.weight");
        w.kv_b = get("self_attn.kv_b_proj.weight");
    } else {
        w.q = get("self_attn.q_proj.weight");
        w.k = get("self_attn.k_proj.weight");
        w.v = get("self_attn.v_proj.weight");
        if (c.qkv_bias) {
            w.q_bias = get("self_attn.q_proj.bias");
            w.k_bias = get("self_attn.k_proj.bias");
            w.v_bias = get("self_attn.v_proj.bias");
        }
        if (c.qk_norm) {
            w.q_norm = get("self_attn.q_norm.weight");
            w.k_norm = get("self_attn.k_norm.weight");
        }
    }
    const auto mlp = [&](const std::string& name) -> MlpWeights {
        const auto part = [&](const char* which) { return &parameters.at(block + name + which); };
        return {part("gate_proj.weight"), part("up_proj.weight"), part("down_proj.weight")};
    };
    if (!c.is_moe(layer)) {
        w.mlp = mlp("mlp.");
        return w;
    }
    w.experts = mlp("mlp.experts.");
    if (c.moe.shared > 0) w.shared = mlp("mlp.shared_experts.");
    w.router = get("mlp.gate.weight");
    if (c.moe.bias) w.router_bias = get("mlp.gate.e_score_correction_bias");
    return w;
}

Blocks::Blocks(const PartContext& context, std::int64_t layers, bool every_layer)
    : context_(context), ops_(context.ops), eps_(static_cast<float>(context.config.norm_eps)) {
    const ModelConfig& c = context.config;
    std::size_t dense = 0, moe = 0;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        LayerSlots s{.moe = c.is_moe(layer)};
        std::size_t& count = s.moe ? moe : dense;
        if (every_layer) {
            s.block = static_cast<std::size_t>(layer);
            s.feed = count;
        }
        ++count;
        slots_.push_back(s);
    }
    const auto kept = [&](std::size_t n) { return every_layer ? n : std::min<std::size_t>(n, 1); };
    const auto count = kept(static_cast<std::size_t>(layers));
    attention_ = c.is_latent() ? make_latent_attention(context, count) : make_attention(context, count);
    for (std::size_t i = 0; i < count; ++i)
        mid_.push_back(context.take(kKeptMemory, {context.tokens, c.hidden}));
    if (dense > 0)
        mlp_ = make_mlp(context, kept(dense), c.intermediate / context.grid.tensor_size(),
                        [](const BlockWeights& w) -> const MlpWeights& { return w.mlp; });
    if (moe > 0) experts_ = make_experts(context, kept(moe));
    norm_ = context.take(kScratchMemory, {context.tokens, c.hidden});
    inv_rms_ = context.take(kScratchMemory, {context.tokens});
    projection_ = context.take(kScratchMemory, {context.tokens, c.hidden});
}

Tensor Blocks::normalize(Tensor x, const Parameter& weight) {
    const Tensor h = norm_.rows(0, x.dim(0));
    ops_.rms_norm(h, inv_rms_.rows(0, x.dim(0)), x, weight.value, eps_);
    return h;
}

void Blocks::add_attention(Tensor x, Tensor mid) {
    const Tensor out = projection_.rows(0, x.dim(0));
    context_.sum_over_tensor_ranks(out);
    ops_.copy(mid, x);
    ops_.add(mid, out);
}

void Blocks::feed_forward(const BlockWeights& w, std::int64_t layer, Tensor out) {
    const LayerSlots& s = slots(layer);
    const Tensor mid = mid_[s.block].rows(0, out.dim(0)), sum = projection_.rows(0, out.dim(0));
    feed(layer).prepare(w, s.feed, normalize(mid, *w.norm2));
    feed(layer).finish(w, s.feed, sum);
    context_.sum_over_tensor_ranks(sum);
    ops_.copy(out, mid);
    ops_.add(out, sum);
}

void Blocks::forward(const BlockWeights& w, std::int64_t layer, Tensor x, Tensor out,
                     const Packing& packing, const PagedCache* cache, Tensor slot) {
    const LayerSlots& s = slots(layer);
    const std::int64_t t = x.dim(0);
    attention_->forward(w, s.block, normalize(x, *w.norm1), projection_.rows(0, t), packing, cache,
                        slot);
    add_attention(x, mid_[s.block].rows(0, t));
    feed_forward(w, layer, out);
}

void Blocks::recompute(const BlockWeights& w, std::int64_t layer, Tensor x, const Packing& packing) {
    const LayerSlots& s = slots(layer);
    const std::int64_t t = x.dim(0);
    const Tensor mid = mid_[s.block].rows(0, t);
    attention_->forward(w, s.block, normalize(x, *w.norm1), projection_.rows(0, t), packing, nullptr,
                        {});
    add_attention(x, mid);
    feed(layer).prepare(w, s.feed, normalize(mid, *w.norm2));
}

void Blocks::decode(const BlockWeights& w, std::int64_t layer, Tensor x, const DecodeRows& rows,
                    const PagedCache& cache) {
    attention_->decode(w, normalize(x, *w.norm1), projection_.rows(0, x.dim(0)), rows, cache);
    add_attention(x, mid_[slots(layer).block].rows(0, x.dim(0)));
    feed_forward(w, layer, x);
}

/// projection_ holds this rank's part of the gradient by norm(x): it goes through the norm to d_x.
void Blocks::through_norm(Tensor d_x, Tensor x, Parameter& weight) {
    const Tensor d_h = projection_.rows(0, x.dim(0));
    context_.sum_over_tensor_ranks(d_h);
    ops_.rms_norm_backward(d_h, weight.grad, d_h, x, weight.value, inv_rms_.rows(0, x.dim(0)));
    ops_.add(d_x, d_h);
}

void Blocks::backward(const BlockWeights& w, std::int64_t layer, Tensor x, Tensor d_x,
                      const Packing& packing) {
    const LayerSlots& s = slots(layer);
    const Tensor mid = mid_[s.block].rows(0, x.dim(0)), d_h = projection_.rows(0, x.dim(0));
    feed(layer).backward(w, s.feed, normalize(mid, *w.norm2), d_x, d_h, packing);
    through_norm(d_x, mid, *w.norm2);
    attention_->backward(w, s.block, normalize(x, *w.norm1), d_x, d_h, packing);
    through_norm(d_x, x, *w.norm1);
}

}  // namespace gradus
