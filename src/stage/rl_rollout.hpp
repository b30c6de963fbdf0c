// SPDX-License-Identifier: Apache-2.0
// How a rollout of stage rl is made: samples, rewards, log-probs, values, advantages.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gradus/reward/reward.hpp"
#include "gradus/stage/data.hpp"
#include "gradus/stage/reward_models.hpp"
#include "gradus/stage/run.hpp"
#include "gradus/stage/stack.hpp"
#include "gradus/store/rollout_table.hpp"
#include "gradus/train/advantage.hpp"
#include "rl_batch.hpp"

namespace gradus {

class RolloutMaker {
  public:
    /// `origin`: identity of the checkpoint that the run's first weights were of, null where they were not.
    RolloutMaker(Run& run, Stack& stack, std::vector<PromptRow> prompts, std::vector<RewardModelSource> reward_models,
                 Json origin);

    /// Rollout `number`, sampled after `step` updates; writes the rollout table. `groups`: prompts that the
    /// run has drawn so far, which is the cursor into the data and addresses the samples; moved on.
    /// Nothing where the run was asked to stop before all was sampled; `groups` is moved on then too.
    std::optional<PendingRollout> make(std::int64_t number, std::int64_t step, std::int64_t& groups);

  private:
    struct Rounds {
        std::int64_t rounds = 0, replaced = 0, flat = 0;
    };
    /// Whether a reward that has weight is for prompts of this kind.
    bool is_rewarded(const std::string& kind, const std::vector<double>& weights) const;
    /// The next `count` prompts to which any such reward applies; where there are none at all, the next ones.
    std::vector<std::int64_t> draw_prompts(std::int64_t step, std::int64_t count, std::int64_t& groups,
                                           std::vector<std::int64_t>& addresses);
    /// These two return nothing where the run was asked to stop meanwhile.
    std::optional<std::vector<RolloutRow>> sample(std::int64_t step, std::int64_t count, std::int64_t& groups);
    /// Rows of rl.prompts groups, in order of (group, sample), on every rank.
    std::optional<std::vector<RolloutRow>> sample_with_spread(std::int64_t step, std::int64_t& groups, Rounds& rounds);
    /// RolloutRow::reward of each row.
    void add_up(std::vector<RolloutRow>& rows, std::int64_t step) const;
    Sequence sequence_of(const RolloutRow& row) const;
    using Scorer = std::function<std::vector<std::vector<float>>(const std::vector<Sequence>&)>;
    /// What `score` gives the tokens (log-probs, values), in the micro-batches of the first epoch's updates: where
    /// the parameters are the same these find the same bits.
    void fill(PendingRollout& pending, std::vector<float> Sequence::*column, const Scorer& score);
    void give_advantages(PendingRollout& pending, std::vector<RolloutRow>& rows, std::int64_t step) const;
    ScoredResponse scored(const RolloutRow& row, const Sequence& sequence, std::int64_t step) const;
    /// The scored steps of a response, those of its whole last, by token; none of what is unscorable.
    std::vector<StepReward> steps_of(const RolloutRow& row, const std::vector<double>& weights) const;
    void write(const std::vector<RolloutRow>& rows, std::int64_t step) const;
    Json statistics(const std::vector<RolloutRow>& rows, const Rounds& rounds) const;

    Run& run_;
    Stack& stack_;
    std::vector<PromptRow> prompts_;
    RewardPool pool_;
    ModelRewards models_;
    std::set<std::string> kinds_;  ///< of the prompts
    Shuffler shuffler_;
    std::uint64_t seed_;
    RolloutSplit split_;
    std::size_t group_;
    Json origin_;
};

/// Forgets what was sampled for rollouts that are made again: all of it, or of other steps than `step`.
void forget_sampling(const std::string& run_dir, std::optional<std::int64_t> but_step = std::nullopt);

/// What the deck asks for.
RolloutSplit rollout_split(const Deck& deck);

}  // namespace gradus
