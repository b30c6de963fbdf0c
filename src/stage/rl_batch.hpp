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

/// How a rollout is split: into `parts` updates, `epochs` times over.
struct RolloutSplit {
    std::int64_t prompts = 0, parts = 0, epochs = 0;
    bool keep_groups = true;  ///< the samples of a prompt stay together
    bool operator==(const RolloutSplit&) const = default;
    std::string text() const;
};

/// A scored rollout, the same on every rank; `next` of its updates are done. What a checkpoint in
/// the middle of a rollout holds.
class PendingRollout {
  public:
    std::vector<Sequence> sequences;    ///< in order of (group, sample)
    std::vector<std::int32_t> group;    ///< place of the sequence's group within the rollout
    std::int64_t number = 0;            ///< of the rollout, counts from 0
    std::int64_t next = 0;
    RolloutSplit split;                 ///< that it was made with
    double temperature = 1;             ///< that it was sampled at; holds for all its updates
    Json statistics = Json::object();   ///< of rewards and lengths, for metrics

    std::int64_t updates() const { return split.parts * split.epochs; }
    bool empty() const { return next >= updates(); }
    /// Indices of the sequences of update `u`, ascending: groups, or sequences, in the order of a
    /// permutation addressed by (seed, rollout, epoch).
    std::vector<std::size_t> members(std::uint64_t seed, std::int64_t u) const;
    /// The sequences of update `u`.
    std::vector<Sequence> batch(std::uint64_t seed, std::int64_t u) const;

    /// Slabs "rollout/..." over this data rank's part; they point into `storage`.
    struct Storage {
        std::vector<std::int32_t> tokens, lengths, groups;
        std::vector<std::vector<float>> columns;
    };
    std::vector<Slab> slabs(const Grid& grid, Storage& storage) const;
    /// Most bytes that the slabs take a token.
    static std::int64_t bytes_per_token();
    Json state() const;
    static PendingRollout load(const CheckpointReader& reader);
};

}  // namespace gradus
