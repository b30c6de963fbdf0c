// SPDX-License-Identifier: Apache-2.0
// Trained reward models beside a policy: where they come from, their weights, and how they score a rollout.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gradus/reward/reward.hpp"
#include "gradus/stage/data.hpp"
#include "gradus/stage/run.hpp"
#include "gradus/stage/stack.hpp"
#include "gradus/store/rollout_table.hpp"
#include "gradus/train/scores.hpp"

namespace gradus {

/// The reward model of `reward.NAME.from`, with the tokenizer and the template that it was trained with: what it scores
/// is text, written anew for it.
struct RewardModelSource {
    std::string name;
    std::unique_ptr<CheckpointReader> reader;
    ModelConfig config;
    std::unique_ptr<Tokenizer> tokenizer;
    std::unique_ptr<ChatTemplate> chat;
    double mean = 0, std = 1;  ///< of the scores of its training stage; 0 and 1 where the deck does not ask for them
};

/// Those of all rewards of kind = model, in order of name. Where `missing` is given it is told of those that have no
/// checkpoint yet, and their source has no reader and the shape `policy`. Throws CheckpointError where one is missing,
/// holds no reward model, lacks its tokenizer, or has no mean and standard deviation to normalise by.
std::vector<RewardModelSource> resolve_reward_models(const Deck& deck, const ModelConfig& policy,
                                                     const std::function<void(const std::string&)>& note,
                                                     const std::function<void(const std::string&)>& missing = {});
/// What the stack must have for them.
std::vector<RewardModelNeed> needs_of(const Deck& deck, const std::vector<RewardModelSource>& sources);

/// The weights of reward models and what they go through: the policy's activations where they have its shape, else
/// their own, which those of one shape share.
class RewardModels {
  public:
    /// `limits` are the policy's. Throws DeckError where a CPU is to offload.
    RewardModels(const std::vector<RewardModelNeed>& needs, Transformer& policy, const Transformer::Limits& limits,
                 const Grid& grid, Ops& ops, const RunMemory& memory);

    void load(std::size_t model, const CheckpointReader& reader);
    /// Tokens of the longest sequence that it scores.
    std::int64_t longest(std::size_t model) const;
    /// sequence_scores() by a model; between training and generation.
    std::vector<float> scores(std::size_t model, const std::vector<Sequence>& batch);

  private:
    struct Model {
        ModelConfig config;
        std::unique_ptr<ParameterSet> parameters;  ///< in memory of the host where it is offloaded
        std::shared_ptr<ParameterSet> place;       ///< on the device, where it is; models of one shape take turns
        std::shared_ptr<Transformer> own;          ///< null: the policy's
    };
    std::vector<Model> models_;
    Transformer& policy_;
    const Grid& grid_;
    Ops& ops_;
    std::int64_t micro_tokens_;
    MicroBatch micro_;
    Tensor value_;
};

/// The columns of rewards of kind = model.
class ModelRewards {
  public:
    /// Loads the weights. `rewards`: all of the run, one a column; `prompts`: all of the run.
    ModelRewards(Run& run, Stack& stack, std::vector<RewardModelSource> sources, const std::vector<NamedReward>& rewards,
                 const std::vector<PromptRow>& prompts);

    /// Scores of the rows, which are the same on every rank, for the weights after `step` updates: those to which a
    /// reward applies, where its weight is not 0 at this step (or is 0 throughout: it is measured). Others keep
    /// kNotApplicable. kUnscorable, counted in the log: a score that is not finite, a response too long for the model.
    void score(std::vector<RolloutRow>& rows, std::int64_t step);

  private:
    struct Model {
        RewardModelSource source;
        std::size_t column = 0;
        bool answer_only = false;
        std::string normalise;
        Schedule weight;
        std::vector<std::vector<TokenId>> prompts;  ///< where they are not the policy's
    };
    Sequence sequence_of(const Model& model, const RolloutRow& row) const;
    double normalised(const Model& model, double score) const;

    Run& run_;
    Stack& stack_;
    const std::vector<NamedReward>& rewards_;
    const std::vector<PromptRow>& prompts_;
    std::vector<Model> models_;
};

/// What a model that sees answers only is given: final_part(), nothing of reasoning that never ends.
std::string answer_part(const std::string& response);

}  // namespace gradus
