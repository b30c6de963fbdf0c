// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/reward_models.hpp"

#include <algorithm>
#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/text/script.hpp"
#include "gradus/train/preference_loss.hpp"

namespace gradus {
namespace {

std::string key_of(const std::string& name, const char* part) { return fmt::format("reward.{}.{}", name, part); }

/// The policy's shape but for what a scalar head leaves out.
bool shares_activations(const ModelConfig& model, ModelConfig policy) {
    policy.scalar_head = model.scalar_head;
    policy.mtp_layers = model.mtp_layers;
    policy.tied = model.tied;
    return model == policy;
}

RewardModelSource open_source(const Deck& deck, const std::string& name, const std::string& directory) {
    const std::string key = key_of(name, "from"), &from = deck.text(key);
    const std::string where = fmt::format("{} = {} ({})", key, from, deck.origin(key));
    RewardModelSource source{.name = name, .reader = std::make_unique<CheckpointReader>(directory)};
    const Json& state = source.reader->state();
    require<CheckpointError>(state.contains("model") && state.contains("tokenizer") && state.contains("reward_model"),
                             "{}: {} holds no reward model; stage = reward_model makes one of a policy", where, directory);
    source.config = ModelConfig::from_json(state["model"]);
    source.tokenizer = make_tokenizer(carried_tokenizer(from));
    const std::string trained = state["tokenizer"].get<std::string>();
    require<CheckpointError>(source.tokenizer->identity() == trained,
                             "{}: the model was trained with tokenizer {}, beside it in huggingface/ is {}: put its "
                             "tokenizer.json back",
                             where, trained, source.tokenizer->identity());
    const Json& about = state["reward_model"];
    source.chat = std::make_unique<ChatTemplate>(about.at("template").get<std::string>(), *source.tokenizer,
                                                 about.at("thinking").get<bool>());
    if (deck.text(key_of(name, "normalise")) != "score") return source;
    require<CheckpointError>(about.contains("mean"),
                             "{}: {} knows no mean of its scores to normalise by: it is measured at the end of its "
                             "stage, which has not been reached; run it on, or choose another reward.{}.normalise",
                             where, directory, name);
    source.mean = about["mean"].get<double>();
    source.std = about["std"].get<double>();
    require<CheckpointError>(source.std > 0, "{}: all scores were alike in its training stage: the model has learnt nothing",
                             where);
    return source;
}

}  // namespace

std::string answer_part(const std::string& response) {
    const bool open = response.find("<think>") != std::string::npos && response.find("</think>") == std::string::npos;
    return open ? "" : final_part(response);
}

std::vector<RewardModelSource> resolve_reward_models(const Deck& deck, const ModelConfig& policy,
                                                     const std::function<void(const std::string&)>& note,
                                                     const std::function<void(const std::string&)>& missing) {
    std::vector<RewardModelSource> sources;
    if (deck.stage() != "rl") return sources;
    for (const std::string& name : deck.names("reward")) {
        if (deck.text(key_of(name, "kind")) != "model") continue;
        const std::string key = key_of(name, "from"), &from = deck.text(key);
        const std::string directory = find_checkpoint(from, note);
        if (!directory.empty()) {
            sources.push_back(open_source(deck, name, directory));
            continue;
        }
        require<CheckpointError>(static_cast<bool>(missing),
                                 "{} = {} ({}): there is no checkpoint; has that stage finished?", key, from,
                                 deck.origin(key));
        missing(fmt::format("{} = {}: no checkpoint there yet; the plan is for a model of the policy's shape", key, from));
        sources.push_back({.name = name, .config = policy.with_scalar_head()});
    }
    return sources;
}

std::vector<RewardModelNeed> needs_of(const Deck& deck, const std::vector<RewardModelSource>& sources) {
    std::vector<RewardModelNeed> needs;
    for (const RewardModelSource& source : sources)
        needs.push_back({source.name, source.config, deck.flag(key_of(source.name, "offload"))});
    return needs;
}

RewardModels::RewardModels(const std::vector<RewardModelNeed>& needs, Transformer& policy,
                           const Transformer::Limits& limits, const Grid& grid, Ops& ops, const RunMemory& memory)
    : policy_(policy),
      grid_(grid),
      ops_(ops),
      micro_tokens_(limits.max_tokens),
      micro_(limits.max_tokens, ops, memory.device),
      value_(memory.device.take("batch.loss", DType::f32, {limits.max_tokens})) {
    for (const RewardModelNeed& need : needs) {
        need.config.check(grid.tensor_size(), grid.expert_size());
        const std::string label = "reward." + need.name;
        Model made{.config = need.config};
        made.parameters = std::make_unique<ParameterSet>(need.config, grid, need.offload ? memory.host : memory.device,
                                                         false, label, false, limits.dtype);
        const bool shared = shares_activations(need.config, policy.config());
        for (const Model& other : models_) {
            if (other.config != need.config) continue;
            if (need.offload && other.place) made.place = other.place;
            made.own = other.own;
        }
        if (need.offload && !made.place)
            made.place = std::make_shared<ParameterSet>(need.config, grid, memory.device, false, label, false,
                                                        limits.dtype, Phase::reward);
        if (!shared && !made.own)
            made.own = std::make_shared<Transformer>(
                need.config, grid, ops, memory.device,
                Transformer::Limits{.max_tokens = limits.max_tokens,
                                    .max_length = std::min(need.config.max_positions, limits.max_tokens),
                                    .train = false,
                                    .head_chunk = 1,
                                    .dtype = limits.dtype});
        models_.push_back(std::move(made));
    }
}

void RewardModels::load(std::size_t model, const CheckpointReader& reader) {
    load_parameters(*models_[model].parameters, reader, "weights", ops_);
}

std::int64_t RewardModels::longest(std::size_t model) const {
    return std::min(models_[model].config.max_positions, micro_tokens_);
}

std::vector<float> RewardModels::scores(std::size_t model, const std::vector<Sequence>& batch) {
    const Model& m = models_[model];
    if (m.place) bring(*m.parameters, *m.place, ops_);
    return sequence_scores({m.own ? *m.own : policy_, micro_, value_, micro_tokens_, grid_, ops_},
                           m.place ? *m.place : *m.parameters, batch);
}

ModelRewards::ModelRewards(Run& run, Stack& stack, std::vector<RewardModelSource> sources,
                           const std::vector<NamedReward>& rewards, const std::vector<PromptRow>& prompts)
    : run_(run), stack_(stack), rewards_(rewards), prompts_(prompts) {
    const Profile::Region region(run.profile, "checkpoint.read");
    for (RewardModelSource& source : sources) {
        const std::string& name = source.name;
        stack.reward_models->load(models_.size(), *source.reader);
        run.log.info("reward {} from {}: tokenizer {}, chat template {}", name, source.reader->directory(),
                     source.tokenizer->identity(), source.chat->name());
        source.reader.reset();
        Model model{.column = static_cast<std::size_t>(
                        std::find_if(rewards.begin(), rewards.end(), [&](const NamedReward& r) { return r.name == name; }) -
                        rewards.begin()),
                    .answer_only = run.deck.text(key_of(name, "part")) == "answer",
                    .normalise = run.deck.text(key_of(name, "normalise")),
                    .weight = run.deck.schedule(key_of(name, "weight"))};
        // A model that reads as the policy does takes the prompts as they are.
        if (source.tokenizer->identity() != run.tokenizer->identity() || source.chat->name() != run.chat.name())
            for (const PromptRow& prompt : prompts)
                model.prompts.push_back(rewards[model.column].applies(prompt.kind) ? source.chat->render_prompt(prompt.messages)
                                                                                   : std::vector<TokenId>{});
        model.source = std::move(source);
        models_.push_back(std::move(model));
    }
}

Sequence ModelRewards::sequence_of(const Model& model, const RolloutRow& row) const {
    const auto prompt = static_cast<std::size_t>(row.prompt);
    Sequence sequence;
    sequence.tokens = model.prompts.empty() ? prompts_[prompt].tokens : model.prompts[prompt];
    const std::string text = to_valid_utf8(model.answer_only ? answer_part(row.response_text) : row.response_text);
    std::vector<TokenId> response = model.source.chat->render_response(text);
    // What was cut off has no end; the model sees that.
    if (row.finish == FinishReason::length) response.pop_back();
    sequence.tokens.insert(sequence.tokens.end(), response.begin(), response.end());
    return sequence;
}

double ModelRewards::normalised(const Model& model, double score) const {
    if (!std::isfinite(score)) return kUnscorable;
    if (model.normalise == "sigmoid") return sigmoid(score);
    return (score - model.source.mean) / model.source.std;
}

void ModelRewards::score(std::vector<RolloutRow>& rows, std::int64_t step) {
    const Profile::Region region(run_.profile, "reward.model");
    for (std::size_t m = 0; m < models_.size(); ++m) {
        const Model& model = models_[m];
        const std::vector<double> levels = model.weight.levels();
        const bool measured = std::all_of(levels.begin(), levels.end(), [](double level) { return level == 0; });
        if (model.weight.at(step) == 0 && !measured) continue;
        std::vector<Sequence> batch;
        std::vector<std::size_t> members;
        std::size_t too_long = 0, not_finite = 0;
        for (std::size_t i = 0; i < rows.size(); ++i) {
            if (!rewards_[model.column].applies(prompts_[static_cast<std::size_t>(rows[i].prompt)].kind)) continue;
            rows[i].rewards[model.column] = kUnscorable;
            Sequence sequence = sequence_of(model, rows[i]);
            if (std::ssize(sequence.tokens) > stack_.reward_models->longest(m)) {
                ++too_long;
                continue;
            }
            members.push_back(i);
            batch.push_back(std::move(sequence));
        }
        if (batch.empty() && too_long == 0) continue;
        const std::vector<float> scores =
            batch.empty() ? std::vector<float>{} : stack_.reward_models->scores(m, batch);
        for (std::size_t k = 0; k < members.size(); ++k) {
            const double value = normalised(model, static_cast<double>(scores[k]));
            not_finite += std::isnan(value);
            rows[members[k]].rewards[model.column] = value;
        }
        if (too_long + not_finite > 0)
            run_.log.warn("reward {} after {} updates: {} of {} responses cannot be scored: {} scores are not finite, {} "
                          "responses are longer than its {} tokens",
                          model.source.name, step, too_long + not_finite, batch.size() + too_long, not_finite, too_long,
                          stack_.reward_models->longest(m));
        run_.watchdog.alive();
    }
}

}  // namespace gradus
