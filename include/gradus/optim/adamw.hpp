// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "gradus/model/parameters.hpp"
#include "gradus/store/checkpoint.hpp"
#include "gradus/tensor/ops.hpp"

namespace gradus {

struct AdamWOptions {
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
    double clip = 1.0;  ///< global gradient norm; <= 0: none
    /// Of its tensors in a checkpoint ("critic": "critic/adam_m/...") and its rows in the arena; of the
    /// policy empty.
    std::string_view label = "";
};

/// Rows [begin, end) of a tensor's local rows that a data rank owns: rows are cut evenly.
struct OwnedRows {
    std::int64_t begin = 0, end = 0;
};
OwnedRows owned_rows(std::int64_t rows, int data_rank, int data_size);

/// AdamW with ZeRO-1: first and second moments exist only for owned rows, so each piece of state is
/// a box in the tensor's own index space. Rows of a tensor are cut over the data ranks, those of
/// experts (a row is an expert) over the data ranks that hold the same ones. Parameters of float32 are
/// their own master; those of bfloat16 have a float32 master beside the moments, which is what a
/// checkpoint holds. What is not trained has no moments and stays as it is.
class AdamW {
  public:
    /// `offload`: memory of the host that the device reaches, for masters and moments; null: they lie in
    /// `arena`.
    AdamW(ParameterSet& parameters, const Grid& grid, Ops& ops, Arena& arena, AdamWOptions options,
          Arena* offload = nullptr);

    /// Sums gradients over the ranks that hold the same parameters (the loss is already normalised globally), clips by the
    /// global norm over the whole model, updates owned rows, gathers the parameters, zeroes the
    /// gradients. Returns the norm before clipping. Throws NumericError where it is not finite,
    /// before anything is changed.
    /// `summed`: the gradients' sums were started with start_sums(), of every part once.
    double step(double lr, bool summed = false);
    /// Starts the sums of the gradients of a block (ParameterInfo::block), each row's on the rank that owns it.
    void start_sums(std::int64_t block);
    std::int64_t steps() const { return steps_; }

    /// Slabs of weights ("weights/"), "adam_m/", "adam_v/" that this rank owns, each behind the label.
    std::vector<Slab> slabs() const;
    /// Restores moments and the count of steps (parameters are loaded by load_parameters, masters by
    /// load_masters).
    void load(const CheckpointReader& reader, std::int64_t steps);
    /// The masters, from `group` of a checkpoint, in full precision, as load_parameters; or from the
    /// parameters.
    void load_masters(const CheckpointReader& reader, const std::string& group = "weights",
                      bool new_head = false);
    void masters_from_parameters();

  private:
    struct Piece {
        std::size_t parameter;
        OwnedRows rows;
        Tensor m, v;    ///< null for what is not trained
        Tensor master;  ///< null where the parameter is its own
    };
    bool has_master(const Parameter& parameter) const {
        return parameter.trained && parameters_.dtype() != DType::f32;
    }
    std::string named(std::string_view what, std::string_view separator) const;
    /// Over the whole model, from the sums of owned rows.
    double gradient_norm();

    ParameterSet& parameters_;
    const Grid& grid_;
    Ops& ops_;
    AdamWOptions options_;
    bool offloaded_;
    std::vector<Piece> pieces_;
    std::vector<BlockedTensor> owned_dense_, owned_experts_;  ///< values, by the rank that updates them
    /// The same of gradients, by block; those of experts apart.
    std::map<std::int64_t, std::array<std::vector<BlockedTensor>, 2>> gradients_;
    Tensor norm_scratch_;
    std::int64_t steps_ = 0;
};

/// This rank's box of every parameter from `group` ("weights", "reference") of a checkpoint, which may
/// hold them in any type of floats; they become the set's type.
/// Throws CheckpointError naming a tensor that is missing or of another shape. `new_head`: a scalar head
/// that the checkpoint of a policy lacks becomes zero.
void load_parameters(ParameterSet& parameters, const CheckpointReader& reader,
                     const std::string& group, Ops& ops, bool new_head = false);
/// Slabs of a parameter set that no optimiser owns (the reference): rows cut over data ranks.
std::vector<Slab> parameter_slabs(const ParameterSet& parameters, const Grid& grid,
                                  const std::string& group, const Ops& ops);

}  // namespace gradus
