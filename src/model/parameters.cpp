// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/parameters.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kAlign = 32;  // elements: 64 bytes of bfloat16

/// This rank's part of a tensor that is cut over tensor ranks and, where it is of experts, over
/// expert ranks.
Box local_box(const ParameterInfo& p, const Grid& grid) {
    const int rank = p.global.rank();
    std::array<std::int64_t, 4> offset{}, count{};
    for (int i = 0; i < rank; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const bool by_tensor = i == p.split_dim, by_expert = p.expert && i == 0;
        const int parts = by_tensor ? grid.tensor_size() : by_expert ? grid.expert_size() : 1;
        const int part = by_tensor ? grid.tensor_rank() : by_expert ? grid.expert_rank() : 0;
        count[at] = p.global[i] / parts;
        offset[at] = part * count[at];
    }
    return {make_shape(rank, offset.data()), make_shape(rank, count.data())};
}

Tensor piece(Tensor flat, std::int64_t offset, Shape shape) {
    char* data = static_cast<char*>(flat.data());
    return {data != nullptr ? data + offset * size_of(flat.dtype()) : nullptr, flat.dtype(), shape};
}

bool ends_with(const std::string& text, std::string_view end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// The place of this rank's box in the whole tensor, for normal numbers addressed by it. A stack of
/// matrices is a matrix for each number of the first dimension.
NormalFill address_of(const Parameter& p, std::uint64_t seed, std::uint64_t tensor, double std) {
    const int last = p.global.rank() - 1;
    return {.seed = seed,
            .tensor = tensor,
            .std = std,
            .rows = p.box.count[last - 1],
            .global_rows = p.global[last - 1],
            .global_columns = p.global[last],
            .matrix_begin = last == 2 ? p.box.offset[0] : 0,
            .row_begin = p.box.offset[last - 1],
            .column_begin = p.box.offset[last]};
}


}  // namespace

ParameterSet::ParameterSet(const ModelConfig& config, const Grid& grid, Arena& arena, bool trained,
                           const std::string& label, bool train_mtp, DType dtype, Phase phase) {
    std::vector<bool> by_gradients;  // whether it ever is trained by them
    for (ParameterInfo& info : describe_parameters(config)) {
        index_.emplace(info.name, parameters_.size());
        Parameter& p = parameters_.emplace_back();
        static_cast<ParameterInfo&>(p) = std::move(info);
        p.box = local_box(p, grid);
        by_gradients.push_back(p.trained);
        p.trained = p.trained && (train_mtp || !p.mtp);
    }
    std::vector<std::int64_t> offsets(parameters_.size());
    std::int64_t total = 0;
    const auto align = [&] { total = (total + kAlign - 1) / kAlign * kAlign; };
    const auto place = [&](auto belongs) {
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            if (!belongs(parameters_[i])) continue;
            if (!parameters_[i].joined) align();
            offsets[i] = total;
            total += parameters_[i].box.elements();
        }
        align();
    };
    const auto has_gradient = [&](const Parameter& p) {
        return by_gradients[static_cast<std::size_t>(&p - parameters_.data())];
    };
    place([](const Parameter& p) { return p.trained && !p.expert; });
    dense_ = total;
    place([](const Parameter& p) { return p.trained && p.expert; });
    const std::int64_t with_gradient = total;
    // A module that is not trained this time.
    place([&](const Parameter& p) { return !p.trained && has_gradient(p); });
    const std::int64_t values = total;
    total = 0;
    place([&](const Parameter& p) { return !has_gradient(p); });
    values_ = arena.take(label + ".weights", dtype, {values}, phase);
    untrained_ = arena.take(label + ".weights", DType::f32, {total}, phase);
    if (trained) grads_ = arena.take(label + ".gradients", DType::f32, {with_gradient});
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        Parameter& p = parameters_[i];
        p.value = piece(has_gradient(p) ? values_ : untrained_, offsets[i], p.box.count);
        if (trained && p.trained) p.grad = piece(grads_, offsets[i], p.box.count);
    }
}

JoinedParameters join(std::initializer_list<const Parameter*> parts) {
    const Parameter& first = **parts.begin();
    std::int64_t rows = 0;
    for (const Parameter* p : parts) {
        const std::int64_t at = rows * first.box.count.row_elements() * size_of(first.value.dtype());
        require(static_cast<char*>(first.value.data()) + at == p->value.data(),
                "{} does not lie behind {}", p->name, first.name);
        rows += p->box.count[0];
    }
    Shape shape{rows};
    if (first.box.count.rank() == 2) shape = {rows, first.box.count[1]};
    return {Tensor(first.value.data(), first.value.dtype(), shape),
            first.grad ? Tensor(first.grad.data(), DType::f32, shape) : Tensor()};
}

void ParameterSet::copy_from(const ParameterSet& other, Ops& ops) {
    ops.copy(values_, other.values_);
    ops.copy(untrained_, other.untrained_);
}

const Parameter& ParameterSet::at(const std::string& name) const {
    const auto found = index_.find(name);
    require(found != index_.end(), "the model has no parameter {}", name);
    return parameters_[found->second];
}

Parameter& ParameterSet::at(const std::string& name) {
    return const_cast<Parameter&>(std::as_const(*this).at(name));
}

void ParameterSet::initialize(Ops& ops, std::uint64_t seed, double std) {
    std::int64_t blocks = 0;
    for (const Parameter& p : parameters_) blocks += ends_with(p.name, "input_layernorm.weight");
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        const Parameter& p = parameters_[i];
        if (p.global.rank() == 1) {
            const bool bias = ends_with(p.name, ".bias") || ends_with(p.name, "_bias");
            ops.fill(p.value, bias ? 0.0f : 1.0f);
            continue;
        }
        if (p.name == kScalarHead) {
            ops.fill(p.value, 0);
            continue;
        }
        const bool residual =
            ends_with(p.name, "o_proj.weight") || ends_with(p.name, "down_proj.weight");
        // Residual branches add up over 2 layers (Radford et al. 2019, section 2.3).
        ops.fill_normal(p.value, address_of(p, seed, i,
                                            residual ? std / std::sqrt(2.0 * static_cast<double>(blocks))
                                                     : std));
    }
}

}  // namespace gradus
