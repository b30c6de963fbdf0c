// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "gradus/deck/deck.hpp"
#include "gradus/model/transformer.hpp"
#include "gradus/optim/adamw.hpp"
#include "gradus/optim/learning_rate.hpp"
#include "gradus/rollout/engine.hpp"
#include "gradus/store/checkpoint.hpp"
#include "gradus/tensor/backend.hpp"
#include "gradus/text/chat_template.hpp"
#include "gradus/train/trainer.hpp"

namespace gradus {

/// A reward model beside the policy.
struct RewardModelNeed {
    std::string name;      ///< of its reward
    ModelConfig config;
    bool offload = false;  ///< its weights stay in memory of the host
};

/// Which parts of the model machinery a stage uses.
struct StackNeeds {
    bool train = false;
    bool reference = false;
    bool generate = false;
    bool critic = false;
    std::vector<RewardModelNeed> reward_models;
    /// Bytes that the stage's own slabs may add to a checkpoint (pending rollouts).
    std::int64_t extra_checkpoint_bytes = 0;
};

/// Memory of a run: the device's, and the host's for what is copied from there; one arena on a CPU.
struct RunMemory {
    Arena& device;
    Arena& host;
    CudaDevice* gpu = nullptr;  ///< null on a CPU and where the run is planned only
};
/// The tables of both.
std::string memory_table(const RunMemory& memory);

/// A model of the policy's shape with a scalar head that learns the value of states, on the policy's
/// activations.
struct Critic {
    std::unique_ptr<ParameterSet> parameters;
    std::unique_ptr<AdamW> optimizer;
    std::unique_ptr<Trainer> trainer;
};

class RewardModels;  // stage/reward_models.hpp

/// Policy, optimiser, trainer, engine and checkpoint writer of a stage, with all their memory, built
/// from the deck in one fixed order, so that a planned arena counts exactly what a run takes.
struct Stack {
    Stack(const Deck& deck, const ModelConfig& config, const Grid& grid, const Tokenizer& tokenizer,
          const RunMemory& memory, Profile& profile, const StackNeeds& needs);
    ~Stack();

    ModelConfig config;
    std::unique_ptr<Ops> ops;
    std::unique_ptr<ParameterSet> policy;
    std::unique_ptr<ParameterSet> reference;  ///< in memory of the host where the deck offloads it
    std::unique_ptr<Transformer> model;
    std::unique_ptr<AdamW> optimizer;
    std::unique_ptr<Trainer> trainer;
    std::unique_ptr<Critic> critic;
    std::unique_ptr<RewardModels> reward_models;  ///< null: none
    std::unique_ptr<Engine> engine;
    std::unique_ptr<CheckpointWriter> checkpoints;
    std::int64_t checkpoint_bytes = 0;  ///< this rank's share of a checkpoint, at most

    /// The reference where the model can use it, until the next training or generation.
    const ParameterSet& bring_reference();
    /// reference = mix x policy + (1 - mix) x reference; 1: a copy. In the type of the weights.
    void renew_reference(double mix = 1);
    /// What a checkpoint holds of the models: weights and moments of the policy and the critic, weights of
    /// the reference.
    std::vector<Slab> model_slabs(const Grid& grid) const;

  private:
    std::vector<Slab> reference_slabs(const Grid& grid) const;
    std::unique_ptr<Critic> make_critic(const Deck& deck, const Grid& grid, const RunMemory& memory,
                                        Profile& profile, std::int64_t micro_tokens);

    std::unique_ptr<ParameterSet> brought_;  ///< on the device, where the reference is offloaded
};

/// Copies the weights of a set in memory of the host to one of the device.
void bring(const ParameterSet& from, ParameterSet& to, Ops& ops);

/// The shape of the stage's model: of the checkpoint that `model.from` names, else of the `model.` keys.
/// `reader` receives the opened checkpoint where there is one. Throws DeckError where both are
/// given and differ.
ModelConfig resolve_model(const Deck& deck, const Tokenizer& tokenizer,
                          std::unique_ptr<CheckpointReader>& reader,
                          const std::function<void(const std::string&)>& note);

/// The checkpoint that `critic.from` names, null where the key is empty, and where in it the critic's weights
/// are: "critic/weights" of a run with a critic, else "weights". Throws CheckpointError where there is none, or it
/// does not fit `config`.
struct CriticSource {
    std::unique_ptr<CheckpointReader> reader;
    std::string group = "weights";
};
CriticSource resolve_critic(const Deck& deck, const Tokenizer& tokenizer, const ModelConfig& config,
                            const std::function<void(const std::string&)>& note);

/// `config` as the stage trains it: with a scalar head in stage reward_model.
ModelConfig model_of_stage(const Deck& deck, const ModelConfig& config);

/// The shape that the `model.` keys describe.
ModelConfig model_from_keys(const Deck& deck, const Tokenizer& tokenizer);

/// Throws CheckpointError naming the `model.` keys that the deck sets and the model in the checkpoint
/// `directory` contradicts.
void require_same_model(const Deck& deck, const Tokenizer& tokenizer, const ModelConfig& stored,
                        const std::string& directory);

/// What metrics tell of the routers of a model with experts; empty for others.
Json router_metrics(const ModelConfig& config, const Trainer::RouterResult& result);
/// Throws CheckpointError with what to do where the checkpoint `state` is of another tokenizer, or its
/// vocabulary too small. Rows of the model beyond the tokenizer's tokens are padding: Hugging Face's
/// folders have them, and sampling, as there, is over all of them.
void require_same_tokenizer(const Json& state, const Tokenizer& tokenizer, const std::string& directory);

LearningRate resolve_learning_rate(const Deck& deck, std::int64_t total_steps);
GenerationOptions resolve_generation(const Deck& deck, const ChatTemplate& chat, std::int64_t step);
/// Longest prompt and response that the deck plans for.
std::int64_t generation_length(const Deck& deck, const ModelConfig& config);

}  // namespace gradus
