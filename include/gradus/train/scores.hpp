// SPDX-License-Identifier: Apache-2.0
// Scores of whole sequences by a model with a scalar head.
#pragma once

#include <cstdint>
#include <vector>

#include "gradus/model/transformer.hpp"
#include "gradus/train/packing.hpp"

namespace gradus {

/// What the passes of a scalar head go through.
struct ScorePasses {
    Transformer& model;
    MicroBatch& micro;
    Tensor value;  ///< f32 [micro_tokens]
    std::int64_t micro_tokens = 0;
    const Grid& grid;
    Ops& ops;
};

/// The scalar head after the last token of each sequence, by forward passes over this rank's share of the batch,
/// exchanged so that all ranks hold all, bit for bit alike. What is not finite stays so: the caller decides. Sequences
/// need tokens only.
std::vector<float> sequence_scores(const ScorePasses& passes, const ParameterSet& parameters,
                                   const std::vector<Sequence>& batch);

}  // namespace gradus
