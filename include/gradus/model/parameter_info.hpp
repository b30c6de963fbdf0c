// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "gradus/model/config.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// The weight of ModelConfig::scalar_head, [1, H].
inline constexpr const char* kScalarHead = "score.weight";

/// A parameter of the model as it is on paper. Names and shapes ([out, in]) are Hugging Face's, but
/// for routed experts, which are stacked: `...mlp.experts.gate_proj.weight` is [E, out, in].
struct ParameterInfo {
    std::string name;
    Shape global;
    int split_dim = -1;    ///< dimension split over tensor ranks, -1: replicated
    bool expert = false;   ///< dimension 0 counts experts and is split over expert ranks
    bool decay = true;     ///< weight decay applies (matrices, not norms and biases)
    bool trained = true;   ///< has a gradient (the router's correction bias has none)
    bool mtp = false;      ///< of the multi-token prediction module
    bool joined = false;   ///< lies in memory right behind the one before: one product serves both

    /// The block whose backward pass finishes the gradient, -1 for what belongs to none or to multi-token
    /// prediction.
    std::int64_t block() const;
};

/// All parameters of a model, in a fixed order.
std::vector<ParameterInfo> describe_parameters(const ModelConfig& config);

}  // namespace gradus
