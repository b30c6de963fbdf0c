// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/parameters.hpp"

#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kAlign = 16;  // floats: 64 bytes

/// `global` with dimension `split` cut into `parts`; this rank's part.
Box local_box(const Shape& global, int split, int rank, int parts) {
    auto part = [&](int i) { return i == split ? global[i] / parts : global[i]; };
    auto offset = [&](int i) { return i == split ? rank * part(i) : 0; };
    if (global.rank() == 1) return {{offset(0)}, {part(0)}};
    return {{offset(0), offset(1)}, {part(0), part(1)}};
}

/// Names, shapes and splits: columns of the first product of a pair (q, k, v, gate, up), rows of
/// the second (o, down), so that a pair needs one sum over tensor ranks (Shoeybi et al. 2019,
/// arXiv 1909.08053, section 3).
std::vector<Parameter> describe(const ModelConfig& c) {
    std::vector<Parameter> list;
    auto add = [&](const std::string& name, Shape global, int split) {
        Parameter p;
        p.name = name;
        p.global = global;
        p.split_dim = split;
        p.decay = global.rank() == 2;
        list.push_back(std::move(p));
    };
    const std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    add("model.embed_tokens.weight", {c.vocab_size, c.hidden}, 0);
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
        const std::string block = fmt::format("model.layers.{}.", layer);
        const std::string attention = block + "self_attn.", mlp = block + "mlp.";
        add(block + "input_layernorm.weight", {c.hidden}, -1);
        add(attention + "q_proj.weight", {q, c.hidden}, 0);
        add(attention + "k_proj.weight", {kv, c.hidden}, 0);
        add(attention + "v_proj.weight", {kv, c.hidden}, 0);
        if (c.qkv_bias) {
            add(attention + "q_proj.bias", {q}, 0);
            add(attention + "k_proj.bias", {kv}, 0);
            add(attention + "v_proj.bias", {kv}, 0);
        }
        if (c.qk_norm) {
            add(attention + "q_norm.weight", {c.head_dim}, -1);
            add(attention + "k_norm.weight", {c.head_dim}, -1);
        }
        add(attention + "o_proj.weight", {c.hidden, q}, 1);
        add(block + "post_attention_layernorm.weight", {c.hidden}, -1);
        add(mlp + "gate_proj.weight", {c.intermediate, c.hidden}, 0);
        add(mlp + "up_proj.weight", {c.intermediate, c.hidden}, 0);
        add(mlp + "down_proj.weight", {c.hidden, c.intermediate}, 1);
    }
    add("model.norm.weight", {c.hidden}, -1);
    if (!c.tied) add("lm_head.weight", {c.vocab_size, c.hidden}, 0);
    return list;
}

Tensor piece(Tensor flat, std::int64_t offset, Shape shape) {
    return {flat ? flat.f32() + offset : nullptr, DType::f32, shape};
}

bool ends_with(const std::string& text, std::string_view end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Normal numbers for the elements of this rank's box, addressed by their place in the whole tensor.
void fill_normal(const Parameter& p, std::uint64_t seed, std::uint64_t tensor, double std) {
    const std::int64_t columns = p.box.count[1], width = p.global[1];
    for (std::int64_t r = 0; r < p.box.count[0]; ++r) {
        const std::int64_t first = (p.box.offset[0] + r) * width + p.box.offset[1];
        float* row = p.value.f32() + r * columns;
        std::int64_t pair = -1;
        std::array<double, 2> draws{};
        for (std::int64_t i = 0; i < columns; ++i) {
            const std::int64_t at = first + i;
            if (at / 2 != pair) {
                pair = at / 2;
                draws = random_normal({.seed = seed,
                                       .stream = Stream::init,
                                       .step = tensor,
                                       .prompt = static_cast<std::uint64_t>(pair)});
            }
            row[i] = static_cast<float>(std * draws[static_cast<std::size_t>(at % 2)]);
        }
    }
}

}  // namespace

ParameterSet::ParameterSet(const ModelConfig& config, const Grid& grid, Arena& arena, bool trained,
                           const std::string& label)
    : parameters_(describe(config)) {
    std::vector<std::int64_t> offsets;
    std::int64_t total = 0;
    for (Parameter& p : parameters_) {
        p.box = local_box(p.global, p.split_dim, grid.tensor_rank(), grid.tensor_size());
        offsets.push_back(total);
        total += (p.box.elements() + kAlign - 1) / kAlign * kAlign;
    }
    values_ = arena.take(label + ".weights", DType::f32, {total});
    if (trained) grads_ = arena.take(label + ".gradients", DType::f32, {total});
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        Parameter& p = parameters_[i];
        p.value = piece(values_, offsets[i], p.box.count);
        if (trained) p.grad = piece(grads_, offsets[i], p.box.count);
    }
}

const Parameter& ParameterSet::at(const std::string& name) const {
    for (const Parameter& p : parameters_)
        if (p.name == name) return p;
    throw InternalError(fmt::format("the model has no parameter {}", name));
}

Parameter& ParameterSet::at(const std::string& name) {
    return const_cast<Parameter&>(std::as_const(*this).at(name));
}

void ParameterSet::initialize(std::uint64_t seed, double std) {
    std::int64_t blocks = 0;
    for (const Parameter& p : parameters_) blocks += ends_with(p.name, "down_proj.weight");
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        const Parameter& p = parameters_[i];
        if (p.global.rank() == 1) {
            const float value = ends_with(p.name, ".bias") ? 0.0f : 1.0f;
            for (float& x : p.value.floats()) x = value;
            continue;
        }
        const bool residual =
            ends_with(p.name, "o_proj.weight") || ends_with(p.name, "down_proj.weight");
        // Residual branches add up over 2 layers (Radford et al. 2019, section 2.3).
        fill_normal(p, seed, i,
                    residual ? std / std::sqrt(2.0 * static_cast<double>(blocks)) : std);
    }
}

}  // namespace gradus
