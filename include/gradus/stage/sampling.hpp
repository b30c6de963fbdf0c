// SPDX-License-Identifier: Apache-2.0
// Sampling that may be cut off: it goes in parts, and what is finished is kept.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gradus/stage/scoring.hpp"

namespace gradus {

/// Where the parts of one sampling lie: in `folder`/rollouts, a file a part and data rank, beside
/// `folder`/parts.json, which says how prompts are dealt into parts.
struct PartFolder {
    std::string folder;
    std::int64_t step = 0;  ///< updates that the policy has made
    /// ModelSource::identity of the weights that it began with; null: there is no checkpoint of
    /// them. Parts of another one are refused.
    Json policy = nullptr;
    /// Parts that do not fit are forgotten, with a warning, instead of refused.
    bool disposable = false;
    /// Whether the rows that are returned need their log-probs; the files have them in any case.
    bool log_probs = true;
    /// Completes the rows of a part before they are written; may be null.
    std::function<void(std::vector<RolloutRow>&)> complete;
};

/// generate_and_score() in parts of `rollout.part` prompts, each written as it is finished. Parts
/// that lie there from before are taken as they are: a part's responses have only each other for
/// company, so a run that was cut ends in the bits of one that was not. `stack` is called before
/// the first part that is generated. Returns the rows of all ranks in the order of (group, sample),
/// on every rank; nothing where the run was asked to stop before all parts were there. Throws
/// DataError where the parts are of other prompts, with what to do.
std::optional<std::vector<RolloutRow>> generate_in_parts(Run& run,
                                                         const std::function<Stack&()>& stack,
                                                         RewardPool& pool,
                                                         const GenerateAndScore& work,
                                                         const PartFolder& parts);

/// A prompt that is not sampled, and why.
struct LeftOut {
    PromptRow prompt;
    std::string why;
};

/// What came of sample_all().
struct Samples {
    std::vector<PromptRow> prompts;
    std::vector<LeftOut> left_out;
    std::vector<RolloutRow> rows;  ///< all ranks' in the order of (prompt, sample), on every rank
    bool stopped = false;  ///< asked to stop: there are no rows, the finished parts are kept
    double generated = 0, generated_tokens = 0;  ///< by this run, not by one before it
    double seconds = 0;                          ///< of generating them
};

/// `samples` responses of the policy of `model.from` to every prompt of `data.path`, scored, the
/// first reward counting as the sum; in the rollout table. A prompt's random address is its place
/// in the data, so that shards (data.shard) sample what a whole run does. `choose` takes out
/// prompts that are not wanted, the same on every rank; may be null. With `rollout.merge` nothing
/// is sampled: the rows are those of the runs that it names. Throws DataError where these lack a
/// prompt, were made with another deck or by different policies.
using MakeRewards = std::function<std::vector<NamedReward>(const std::vector<PromptRow>& prompts)>;
using ChoosePrompts = std::function<std::vector<LeftOut>(std::vector<PromptRow>& prompts)>;
Samples sample_all(Run& run, const MakeRewards& rewards, std::int32_t samples, Stream stream,
                   const ChoosePrompts& choose = {});

}  // namespace gradus
