// SPDX-License-Identifier: Apache-2.0
// The pending part of an RL run: one rollout on its way through its updates.
#pragma once

#include <cstdint>
#include <vector>

#include "gradus/base/json_lines.hpp"
#include "gradus/ranks/grid.hpp"
#include "gradus/store/checkpoint.hpp"
#include "gradus/train/packing.hpp"

namespace gradus {

/// A scored rollout, the same on every rank; `next` of its `updates` are done. What a checkpoint in
/// the middle of a rollout holds.
class PendingRollout {
  public:
    std::vector<Sequence> sequences;    ///< in order of (group, sample)
    std::vector<std::int32_t> group;    ///< place of the sequence's group within the rollout
    std::int64_t number = 0;            ///< of the rollout, counts from 0
    std::int64_t next = 0, updates = 0;
    double temperature = 1;             ///< that it was sampled at; holds for all its updates
    std::int64_t prompts = 0, parts = 0;  ///< rl.prompts and rl.updates that it was made with
    Json statistics = Json::object();   ///< of rewards and lengths, for metrics

    bool empty() const { return next >= updates; }
    /// The sequences of update `next`: whole groups, in the order of a permutation addressed by
    /// (seed, rollout, epoch).
    std::vector<Sequence> batch(std::uint64_t seed) const;

    /// Slabs "rollout/..." over this data rank's part; they point into `storage`.
    struct Storage {
        std::vector<std::int32_t> tokens, lengths, groups;
        std::vector<float> weight, advantage, old_log_prob, ref_log_prob, sampler_log_prob;
    };
    std::vector<Slab> slabs(const Grid& grid, Storage& storage) const;
    Json state() const;
    static PendingRollout load(const CheckpointReader& reader);
};

}  // namespace gradus
