// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/parameters.hpp"

#include <array>
#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kAlign = 16;  // floats: 64 bytes

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
    return {flat ? flat.f32() + offset : nullptr, DType::f32, shape};
}

bool ends_with(const std::string& text, std::string_view end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Normal numbers for the elements of this rank's box, addressed by their place in the whole tensor.
void fill_normal(const Parameter& p, std::uint64_t seed, std::uint64_t tensor, double std) {
    // A stack of matrices is a matrix for each number of the first dimension.
    const int last = p.global.rank() - 1;
    const std::int64_t columns = p.box.count[last], width = p.global[last];
    const std::int64_t rows = p.box.elements() / columns, per = p.box.count[last - 1];
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t matrix = last == 2 ? p.box.offset[0] + r / per : 0;
        const std::int64_t row_number = matrix * p.global[last - 1] + p.box.offset[last - 1] + r % per;
        const std::int64_t first = row_number * width + p.box.offset[last];
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
                           const std::string& label, bool train_mtp) {
    for (ParameterInfo& info : describe_parameters(config)) {
        index_.emplace(info.name, parameters_.size());
        Parameter& p = parameters_.emplace_back();
        static_cast<ParameterInfo&>(p) = std::move(info);
        p.box = local_box(p, grid);
        p.trained = p.trained && (train_mtp || !p.mtp);
    }
    std::vector<std::int64_t> offsets(parameters_.size());
    std::int64_t total = 0;
    const auto place = [&](auto belongs) {
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            if (!belongs(parameters_[i])) continue;
            offsets[i] = total;
            total += (parameters_[i].box.elements() + kAlign - 1) / kAlign * kAlign;
        }
    };
    place([](const Parameter& p) { return p.trained && !p.expert; });
    dense_ = total;
    place([](const Parameter& p) { return p.trained && p.expert; });
    const std::int64_t with_gradient = total;
    place([](const Parameter& p) { return !p.trained; });
    values_ = arena.take(label + ".weights", DType::f32, {total});
    if (trained) grads_ = arena.take(label + ".gradients", DType::f32, {with_gradient});
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        Parameter& p = parameters_[i];
        p.value = piece(values_, offsets[i], p.box.count);
        if (trained && p.trained) p.grad = piece(grads_, offsets[i], p.box.count);
    }
}

const Parameter& ParameterSet::at(const std::string& name) const {
    const auto found = index_.find(name);
    require(found != index_.end(), "the model has no parameter {}", name);
    return parameters_[found->second];
}

Parameter& ParameterSet::at(const std::string& name) {
    return const_cast<Parameter&>(std::as_const(*this).at(name));
}

void ParameterSet::initialize(std::uint64_t seed, double std) {
    std::int64_t blocks = 0;
    for (const Parameter& p : parameters_) blocks += ends_with(p.name, "input_layernorm.weight");
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        const Parameter& p = parameters_[i];
        if (p.global.rank() == 1) {
            const bool bias = ends_with(p.name, ".bias") || ends_with(p.name, "_bias");
            for (float& x : p.value.floats()) x = bias ? 0.0f : 1.0f;
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
