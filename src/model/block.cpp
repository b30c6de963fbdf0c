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
        w.qkv = join({w.q, w.k, w.v});
        if (c.qkv_bias) w.qkv_bias = join({w.q_bias, w.k_bias, w.v_bias});
    }
    const auto mlp = [&](const std::string& name) -> MlpWeights {
        const auto part = [&](const char* which) { return &parameters.at(block + name + which); };
        return {part("gate_proj.weight"), part("up_proj.weight"), part("down_proj.weight"), {}};
    };
    const auto joined_mlp = [&](const std::string& name) {
        MlpWeights weights = mlp(name);
        weights.gate_up = join({weights.gate, weights.up});
        return weights;
    };
    if (!c.is_moe(layer)) {
        w.mlp = joined_mlp("mlp.");
        return w;
    }
    w.experts = mlp("mlp.experts.");
    if (c.moe.shared > 0) w.shared = joined_mlp("mlp.shared_experts.");
    w.router = get("mlp.gate.weight");
    if (c.moe.bias) w.router_bias = get("mlp.gate.e_score_correction_bias");
    return w;
}

Blocks::Blocks(const PartContext& context, std::int64_t layers, Recompute recompute)
    : context_(context), ops_(context.ops), eps_(static_cast<float>(context.config.norm_eps)) {
    const ModelConfig& c = context.config;
    const bool keeps_attention = context.train && recompute == Recompute::none;
    const bool keeps_feed = context.train && recompute != Recompute::block;
    std::size_t dense = 0, moe = 0;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        LayerSlots s{.moe = c.is_moe(layer)};
        std::size_t& count = s.moe ? moe : dense;
        if (keeps_attention) s.attention = static_cast<std::size_t>(layer);
        if (keeps_feed) {
            s.mid = static_cast<std::size_t>(layer);
            s.feed = count;
        }
        ++count;
        slots_.push_back(s);
    }
    const auto kept = [](bool keeps, std::size_t n) { return keeps ? n : std::min<std::size_t>(n, 1); };
    const std::size_t all = slots_.size();
    attention_ = c.is_latent() ? make_latent_attention(context, kept(keeps_attention, all))
                               : make_attention(context, kept(keeps_attention, all));
    for (std::size_t i = 0; i < kept(keeps_feed, all); ++i)
        mid_.push_back(context.take(kKeptMemory, {context.tokens, c.hidden}, phase_of_slot(i)));
    if (dense > 0)
        mlp_ = make_mlp(context, kept(keeps_feed, dense), c.intermediate / context.grid.tensor_size(),
                        [](const BlockWeights& w) -> const MlpWeights& { return w.mlp; });
    if (moe > 0) experts_ = make_experts(context, kept(keeps_feed, moe));
    norm_ = context.take(kScratchMemory, {context.tokens, c.hidden});
    inv_rms_ = context.take_f32(kScratchMemory, {context.tokens});
    projection_ = context.take(kScratchMemory, {context.tokens, c.hidden});
}

Tensor Blocks::normalize(Tensor x, const Parameter& weight) {
    const Tensor h = norm_.rows(0, x.dim(0));
    ops_.rms_norm(h, inv_rms_.rows(0, x.dim(0)), x, weight.value, eps_);
    return h;
}

Tensor Blocks::add_and_normalize(Tensor sum, Tensor x, const NextNorm& next) {
    const std::int64_t t = x.dim(0);
    const Tensor delta = projection_.rows(0, t), out = (next.out ? next.out : norm_).rows(0, t);
    context_.sum_over_tensor_ranks(delta);
    ops_.add_rms_norm(out, (next.out ? next.inv_rms : inv_rms_).rows(0, t), sum, x, delta,
                      next.weight->value, eps_);
    return out;
}

void Blocks::begin(const BlockWeights& w, Tensor x) { normalize(x, *w.norm1); }

void Blocks::feed_forward(const BlockWeights& w, const LayerSlots& s, Tensor mid, Tensor h, Tensor out,
                          const NextNorm& next) {
    feed(s).prepare(w, s.feed, h);
    feed(s).finish(w, s.feed, projection_.rows(0, out.dim(0)));
    add_and_normalize(out, mid, next);
}

void Blocks::forward(const BlockWeights& w, std::int64_t layer, Tensor x, Tensor out,
                     const NextNorm& next, const Packing& packing, const PagedCache* cache,
                     Tensor slot, bool keep) {
    const LayerSlots s = keep ? slots(layer) : first_slots(layer);
    const std::int64_t t = x.dim(0);
    const Tensor mid = mid_[s.mid].rows(0, t);
    attention_->forward(w, s.attention, norm_.rows(0, t), projection_.rows(0, t), packing, cache, slot);
    const Tensor h = add_and_normalize(mid, x, {.weight = w.norm2});
    feed_forward(w, s, mid, h, out, next);
}

void Blocks::decode(const BlockWeights& w, std::int64_t layer, Tensor x, const NextNorm& next,
                    const DecodeRows& rows, const PagedCache& cache) {
    const std::int64_t t = x.dim(0);
    attention_->decode(w, norm_.rows(0, t), projection_.rows(0, t), rows, cache);
    const Tensor h = add_and_normalize(x, x, {.weight = w.norm2});
    feed_forward(w, first_slots(layer), x, h, x, next);
}

void Blocks::recompute(const BlockWeights& w, std::int64_t layer, Tensor x, const Packing& packing,
                       Recompute what) {
    if (what == Recompute::none) return;
    const LayerSlots& s = slots(layer);
    const std::int64_t t = x.dim(0);
    const Tensor mid = mid_[s.mid].rows(0, t);
    attention_->forward(w, s.attention, normalize(x, *w.norm1), projection_.rows(0, t), packing,
                        nullptr, {});
    if (what == Recompute::attention) return;
    feed(s).prepare(w, s.feed, add_and_normalize(mid, x, {.weight = w.norm2}));
}

/// projection_ holds this rank's part of the gradient by norm(x), whose sum was started: it goes through the norm to d_x.
void Blocks::through_norm(Tensor d_x, Tensor x, Parameter& weight) {
    const Tensor d_h = projection_.rows(0, x.dim(0));
    context_.finish_sum_over_tensor_ranks();
    ops_.rms_norm_backward(d_x, weight.grad, d_h, x, weight.value, inv_rms_.rows(0, x.dim(0)), true);
}

void Blocks::backward(const BlockWeights& w, std::int64_t layer, Tensor x, Tensor d_x,
                      const Packing& packing) {
    const LayerSlots& s = slots(layer);
    const Tensor mid = mid_[s.mid].rows(0, x.dim(0)), d_h = projection_.rows(0, x.dim(0));
    const auto part = [&](auto& of, std::size_t slot, Tensor input, Parameter& norm) {
        const Tensor h = normalize(input, norm);
        of.backward(w, slot, h, d_x, d_h, packing);
        context_.start_sum_over_tensor_ranks(d_h);
        of.backward_weights(w, slot, h, d_x);
        through_norm(d_x, input, norm);
    };
    part(feed(s), s.feed, mid, *w.norm2);
    part(*attention_, s.attention, x, *w.norm1);
}

}  // namespace gradus
