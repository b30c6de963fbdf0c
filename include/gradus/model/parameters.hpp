// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "gradus/model/config.hpp"
#include "gradus/ranks/grid.hpp"
#include "gradus/tensor/arena.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// A named parameter under its Hugging Face name, as [out, in]; this rank holds `box` of it.
struct Parameter {
    std::string name;
    Shape global;
    int split_dim = -1;  ///< dimension split over tensor ranks, -1: replicated
    Box box;
    Tensor value;        ///< [box.count]
    Tensor grad;         ///< same shape; null where the model is not trained
    bool decay = true;   ///< weight decay applies (matrices, not norms and biases)
};

/// All parameters of a model in a fixed order, values and gradients each in one piece of memory, so
/// that a gradient reduction is one call.
class ParameterSet {
  public:
    /// Lays out the parameters of `config` for this tensor rank. `label` names the arena's rows:
    /// "LABEL.weights" and, where `trained`, "LABEL.gradients".
    ParameterSet(const ModelConfig& config, const Grid& grid, Arena& arena, bool trained,
                 const std::string& label);

    std::vector<Parameter>& all() { return parameters_; }
    const std::vector<Parameter>& all() const { return parameters_; }
    /// Throws InternalError for an unknown name.
    Parameter& at(const std::string& name);
    const Parameter& at(const std::string& name) const;
    /// All values, all gradients as flat f32 arrays (padding included, always zero).
    Tensor flat_values() const { return values_; }
    Tensor flat_grads() const { return grads_; }

    /// Normal(0, std), residual projections (o_proj, down_proj) by std / sqrt(2 layers), norms one, biases zero.
    /// A function of (seed, tensor, global index): the same on any grid.
    void initialize(std::uint64_t seed, double std);

  private:
    std::vector<Parameter> parameters_;
    Tensor values_, grads_;
};

}  // namespace gradus
