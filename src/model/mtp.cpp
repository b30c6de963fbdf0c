// SPDX-License-Identifier: Apache-2.0
#include "mtp.hpp"

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

constexpr Transpose kNo = Transpose::no, kYes = Transpose::yes;

}  // namespace

MtpWeights find_mtp_weights(ParameterSet& parameters, std::int64_t layer) {
    const auto get = [&](const char* name) {
        return &parameters.at(fmt::format("model.layers.{}.{}", layer, name));
    };
    return {.embedding_norm = get("enorm.weight"),
            .hidden_norm = get("hnorm.weight"),
            .projection = get("eh_proj.weight"),
            .norm = get("shared_head.norm.weight")};
}

MtpModule::MtpModule(const PartContext& context)
    : ops_(context.ops),
      width_(context.config.hidden),
      layer_(context.config.layers),
      eps_(static_cast<float>(context.config.norm_eps)) {
    const auto take = [&](Shape shape) { return context.take("activations.mtp", shape); };
    const std::int64_t tokens = context.tokens;
    for (Tensor* t : {&embedding_, &half_, &in_, &out_, &normed_}) *t = take({tokens, width_});
    joined_ = take({tokens, 2 * width_});
    for (Tensor* t : {&embedding_inv_rms_, &hidden_inv_rms_, &inv_rms_})
        *t = context.take_f32("activations.mtp", {tokens});
    if (!context.train) return;
    d_in_ = take({tokens, width_});
    d_joined_ = take({tokens, 2 * width_});
}

Tensor MtpModule::forward(const MtpWeights& w, const BlockWeights& block, Blocks& blocks,
                          Tensor hidden, const Packing& packing) {
    const std::int64_t t = hidden.dim(0);
    const Tensor joined = joined_.rows(0, t), half = half_.rows(0, t);
    ops_.rms_norm(half, embedding_inv_rms_.rows(0, t), embedding(t), w.embedding_norm->value, eps_);
    ops_.copy_columns(joined, 0, half, 0, width_);
    ops_.rms_norm(half, hidden_inv_rms_.rows(0, t), hidden, w.hidden_norm->value, eps_);
    ops_.copy_columns(joined, width_, half, 0, width_);
    const Tensor in = in_.rows(0, t), out = out_.rows(0, t), normed = normed_.rows(0, t);
    ops_.gemm(in, joined, kNo, w.projection->value, kYes, 1, 0);
    blocks.begin(block, in);
    blocks.forward(block, layer_, in, out, {.weight = w.norm, .out = normed_, .inv_rms = inv_rms_},
                   packing, nullptr, {}, true);
    return normed;
}

Tensor MtpModule::backward(const MtpWeights& w, const BlockWeights& block, Blocks& blocks,
                           Tensor hidden, const Packing& packing, Recompute again, Tensor d_out,
                           Tensor d_hidden) {
    const std::int64_t t = hidden.dim(0);
    const Tensor in = in_.rows(0, t), d_in = d_in_.rows(0, t), half = half_.rows(0, t);
    const Tensor joined = joined_.rows(0, t), d_joined = d_joined_.rows(0, t);
    ops_.rms_norm_backward(d_in, w.norm->grad, d_out, out_.rows(0, t), w.norm->value,
                           inv_rms_.rows(0, t), false);
    blocks.recompute(block, layer_, in, packing, again);
    blocks.backward(block, layer_, in, d_in, packing);
    ops_.gemm(w.projection->grad, d_in, kYes, joined, kNo, 1, 1);
    ops_.gemm(d_joined, d_in, kNo, w.projection->value, kNo, 1, 0);
    ops_.copy_columns(half, 0, d_joined, width_, width_);
    ops_.rms_norm_backward(half, w.hidden_norm->grad, half, hidden, w.hidden_norm->value,
                           hidden_inv_rms_.rows(0, t), false);
    ops_.add(d_hidden, half);
    ops_.copy_columns(half, 0, d_joined, 0, width_);
    ops_.rms_norm_backward(half, w.embedding_norm->grad, half, embedding(t),
                           w.embedding_norm->value, embedding_inv_rms_.rows(0, t), false);
    return half;
}

}  // namespace gradus
