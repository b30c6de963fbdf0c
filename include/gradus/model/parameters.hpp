// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "gradus/model/parameter_info.hpp"
#include "gradus/ranks/grid.hpp"
#include "gradus/tensor/arena.hpp"
#include "gradus/tensor/ops.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// A parameter of which this rank holds `box`.
struct Parameter : ParameterInfo {
    Box box;
    Tensor value;  ///< [box.count], of the set's type; f32 where it is not trained by gradients
    Tensor grad;   ///< f32, same shape; null where it or the model is not trained
};

/// All parameters of a model in a fixed order, values and gradients each in one piece of memory:
/// first those that all data ranks hold alike, then the experts, so that the reduction of either
/// kind's gradients is one call; last what is not trained, which has no gradients.
class ParameterSet {
  public:
    /// Lays out the parameters of `config` for this rank. `label` names the arena's rows:
    /// "LABEL.weights" and, where `trained`, "LABEL.gradients". `train_mtp`: the module of multi-token
    /// prediction is trained too; sets of which one is copied to the other must agree in it. `dtype`:
    /// f32 or bf16. `phase`: when the values are there; gradients always are.
    ParameterSet(const ModelConfig& config, const Grid& grid, Arena& arena, bool trained,
                 const std::string& label, bool train_mtp = false, DType dtype = DType::f32,
                 Phase phase = Phase::always);

    DType dtype() const { return values_.dtype(); }

    std::vector<Parameter>& all() { return parameters_; }
    const std::vector<Parameter>& all() const { return parameters_; }
    bool has(const std::string& name) const { return index_.contains(name); }
    /// Throws InternalError for an unknown name.
    Parameter& at(const std::string& name);
    const Parameter& at(const std::string& name) const;
    /// All values but those that have no gradients, and all gradients, as flat arrays (padding
    /// included, always zero).
    Tensor flat_values() const { return values_; }
    Tensor flat_grads() const { return grads_; }
    /// What has no gradients, f32.
    Tensor flat_untrained() const { return untrained_; }
    /// All values become those of `other`, a set of the same model and grid.
    void copy_from(const ParameterSet& other, Ops& ops);
    /// The part of flat_grads() that is summed over all data ranks, and that of the experts, summed
    /// over the data ranks that hold the same ones.
    Tensor dense_grads() const { return grads_.rows(0, dense_); }
    Tensor expert_grads() const { return grads_.rows(dense_, grads_.dim(0) - dense_); }

    /// Normal(0, std), residual projections (o_proj, down_proj) by std / sqrt(2 layers), norms one, biases
    /// and the scalar head zero.
    /// A function of (seed, tensor, global index): the same on any grid.
    void initialize(Ops& ops, std::uint64_t seed, double std);

  private:
    std::vector<Parameter> parameters_;
    std::unordered_map<std::string, std::size_t> index_;
    std::int64_t dense_ = 0;  ///< elements before the experts'
    Tensor values_, untrained_, grads_;
};

/// Parameters that lie one behind the other, as one: rows of the first, then of the next ...
struct JoinedParameters {
    Tensor value, grad;  ///< [sum of rows, columns], or [sum of elements]
};
JoinedParameters join(std::initializer_list<const Parameter*> parts);

}  // namespace gradus
