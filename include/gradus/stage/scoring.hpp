// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "gradus/deck/deck.hpp"
#include "gradus/reward/code.hpp"
#include "gradus/reward/reward.hpp"
#include "gradus/rollout/engine.hpp"
#include "gradus/stage/data.hpp"
#include "gradus/stage/run.hpp"
#include "gradus/stage/stack.hpp"
#include "gradus/store/rollout_table.hpp"

namespace gradus {

/// What the deck's stage needs of the model machinery.
StackNeeds stack_needs(const Deck& deck);

/// Whether `bench.what` names a measurement (an empty list names all).
bool bench_wants(const Deck& deck, const std::string& what);

/// The rewards that `reward.NAME.` keys describe, in order of name, for rows with these references.
/// Throws DeckError where this machine cannot run what the rows ask for as the deck wants it. On
/// all ranks together.
std::vector<NamedReward> deck_rewards(Run& run, const std::vector<std::string>& references);
/// Cores that this rank may take: those that it may run on, divided by the ranks that have the
/// same. On all ranks together.
int cores_of_rank(const Run& run);
/// Threads for them: one, or the programs that a rank runs at once. On all ranks together.
int reward_threads(const Run& run);
/// The keys of a reward of kind = code.
CodeSettings code_settings(const Deck& deck, const std::string& name);
/// That reward; deck_rewards calls it.
/// `partial`: whatever the deck says of partial credit.
std::unique_ptr<Reward> make_deck_code_reward(Run& run, const std::string& name,
                                              const std::vector<std::string>& references,
                                              bool partial = false);
/// What evaluate and sample always measure: accuracy, format and language. Accuracy is judged by
/// what the row asks for: a program (the share of its tests that pass), a puzzle, or an answer.
/// Throws DeckError where rows ask for programs and the deck does not say how they are run.
std::vector<NamedReward> standard_rewards(Run& run, const std::vector<PromptRow>& prompts);

/// What generate_and_score() does.
struct GenerateAndScore {
    const std::vector<PromptRow>& rows;
    const std::vector<std::int64_t>& prompts;  ///< indices into `rows`, dealt to data ranks in turn
    /// Addresses of the prompts' groups; they enter the random address, so that a prompt that comes
    /// up again is sampled anew.
    const std::vector<std::int64_t>& groups;
    std::int32_t samples;
    GenerationOptions options;
    /// For the progress line: this is `share` of a whole, of which `done` is done.
    double done = 0, share = 1;
};
/// `samples` responses to each of the prompts, scored on host threads meanwhile; one line of the
/// log says what rewards could not judge. Returns this data rank's rows in the order of (prompt,
/// sample).
std::vector<RolloutRow> generate_and_score(Run& run, Stack& stack, RewardPool& pool,
                                           const GenerateAndScore& work);

/// Scores rows that are the same on every rank, each data rank its share: RolloutRow::rewards of
/// all, on every rank.
void score_rows(Run& run, RewardPool& pool, std::vector<RolloutRow>& rows);
/// The counts of all data ranks, each with its first reason; empty where they are all 0. One sum
/// more a call, and a gather only where something could not be judged.
std::vector<Unscorable> unscorable_of_all(const Grid& grid, const std::vector<Unscorable>& mine);
/// One line of the log that names the rewards that could not judge all, with counts and reasons;
/// none where they could.
void warn_unscorable(Run& run, const std::vector<NamedReward>& rewards,
                     const std::vector<Unscorable>& unscorable);

/// Into the order of (group, sample).
void sort_by_address(std::vector<RolloutRow>& rows);

/// Rows of all data ranks in order of (group, sample), on every rank.
std::vector<RolloutRow> gather_rows(const Grid& grid, const std::vector<RolloutRow>& mine);
/// Rank 0's rows, on every rank.
std::vector<RolloutRow> broadcast_rows(const Grid& grid, const std::vector<RolloutRow>& rows);

}  // namespace gradus
