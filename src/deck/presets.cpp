// SPDX-License-Identifier: Apache-2.0
#include "presets.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace gradus {
namespace {

using Keys = std::vector<std::pair<std::string_view, std::string_view>>;

/// Both, with the value of `b` where they have the same key.
Keys operator+(Keys a, const Keys& b) {
    for (const auto& entry : b) {
        const auto same = std::find_if(a.begin(), a.end(), [&](const auto& pair) { return pair.first == entry.first; });
        if (same == a.end())
            a.push_back(entry);
        else
            same->second = entry.second;
    }
    return a;
}

constexpr std::string_view kLosses = "TRL's losses and gradients";
constexpr std::string_view kAdvantages = "verl's advantages";
constexpr std::string_view kBoth = "verl's losses, gradients and advantages";

/// DeepSeek-R1: 512 prompts x 16 samples a rollout, 16 updates of 512 samples, one epoch.
Keys r1() {
    return {{"rl.prompts", "512"}, {"rl.group", "16"}, {"rl.updates", "16"}, {"rl.epochs", "1"},
            {"rl.reference_every", "400"}, {"train.lr", "3e-6"}, {"train.lr_schedule", "constant"},
            {"rollout.temperature", "1"}, {"loss.objective", "clip"}, {"loss.ratio", "token"},
            {"loss.kl", "k3"}, {"loss.kl_in", "loss"}, {"loss.kl_coef", "0.001"}, {"loss.advantage", "group"},
            {"loss.std", "sample"}, {"loss.std_eps", "1e-4"}, {"loss.aggregation", "sequence_mean"}};
}

/// TRL's defaults but for the aggregation.
Keys trl(std::string_view aggregation) {
    return {{"loss.objective", "clip"}, {"loss.ratio", "token"}, {"loss.clip_low", "0.2"},
            {"loss.clip_high", "0.2"}, {"loss.kl_coef", "0"}, {"loss.advantage", "group"},
            {"loss.std", "sample"}, {"loss.std_eps", "1e-4"}, {"loss.aggregation", aggregation},
            {"rl.unscorable", "all"}};
}

Keys verl() {
    return {{"loss.objective", "clip"}, {"loss.ratio", "token"}, {"loss.clip_low", "0.2"},
            {"loss.clip_high", "0.2"}, {"loss.dual_clip", "3"}, {"loss.ratio_clamp", "20"},
            {"loss.kl_coef", "0"}, {"loss.kl", "k3"}, {"loss.kl_clamp_log", "20"}, {"loss.kl_clamp", "10"},
            {"loss.advantage", "group"}, {"loss.std", "sample"}, {"loss.std_eps", "1e-6"},
            {"loss.lone_reward", "true"}, {"loss.aggregation", "token_mean"}};
}

/// DeepSeekMath: a batch of 1024, 64 samples a prompt.
Keys deepseekmath() {
    return {{"rl.prompts", "16"}, {"rl.group", "64"}, {"rl.updates", "1"}, {"rl.epochs", "1"},
            {"train.lr", "1e-6"}, {"train.lr_schedule", "constant"}, {"loss.objective", "clip"},
            {"loss.ratio", "token"}, {"loss.kl", "k3"}, {"loss.kl_in", "loss"}, {"loss.kl_coef", "0.04"},
            {"loss.advantage", "group"}, {"loss.std", "sample"}, {"loss.std_eps", "1e-4"},
            {"loss.aggregation", "sequence_mean"}};
}

std::vector<Preset> papers() {
    return {
        {"deepseek-r1-zero",
         "Nature 645 (2025), Methods, training details of R1-Zero. Not stated there: the clip ratio (left as it is), "
         "which standard deviation (sample), its epsilon (1e-4), the aggregation (DeepSeekMath eq. 3), a course of the "
         "learning rate (constant)",
         "", r1()},
        {"deepseek-r1",
         "Nature 645 (2025), Methods, first RL stage: as R1-Zero with a clip ratio of 10. The second stage samples at "
         "rollout.temperature = 0.7",
         "", r1() + Keys{{"loss.clip_low", "10"}, {"loss.clip_high", "10"}}},
        {"deepseekmath",
         "arXiv 2402.03300, sections 4.1 and 4.2, eq. 3 and 4: one update a rollout, its batch of 1024 taken as 16 "
         "prompts of 64 samples. Not stated: as for R1-Zero",
         "", deepseekmath()},
        {"dapo",
         "arXiv 2503.14476, section 4.1: clip-higher, dynamic sampling, mean over tokens, no KL. Set "
         "rl.overlong_buffer for its soft overlong punishment (4096 of 20480 tokens)",
         kLosses,
         trl("token_mean") + Keys{{"rl.prompts", "512"}, {"rl.group", "16"}, {"rl.updates", "16"},
                                  {"loss.clip_high", "0.28"}, {"rl.dynamic_sampling", "true"}}},
        {"dr-grpo", "arXiv 2503.20783: no division by the deviation nor by the length", kLosses,
         trl("constant") + Keys{{"loss.std", "none"}}},
    };
}

std::vector<Preset> projects() {
    return {
        {"trl",
         "huggingface/trl GRPOTrainer, commit f2cd5771, its defaults (loss_type dapo); loss.sampler_ratio as it "
         "corrects for vLLM, without which it has none",
         kLosses,
         trl("token_mean") + Keys{{"rl.group", "8"}, {"rl.updates", "1"}, {"rl.epochs", "1"},
                                  {"loss.sampler_ratio", "sequence_mask"}, {"loss.sampler_max", "3"},
                                  {"train.lr", "1e-6"}, {"train.lr_schedule", "linear"}, {"train.lr_min", "0"},
                                  {"optim.beta1", "0.9"}, {"optim.beta2", "0.999"}, {"optim.weight_decay", "0"},
                                  {"optim.clip", "1"}}},
        {"verl",
         "verl-project/verl core_algos, commit 1dda039b, with adv_estimator = grpo (its default wants a critic) and "
         "without its default of one sample a prompt",
         kBoth,
         verl() + Keys{{"rl.prompts", "1024"}, {"rl.updates", "4"}, {"rl.epochs", "1"}, {"train.lr", "1e-6"},
                       {"train.lr_schedule", "constant"}, {"optim.beta1", "0.9"}, {"optim.beta2", "0.999"},
                       {"optim.weight_decay", "0.01"}, {"optim.clip", "1"}}},
        {"openrlhf",
         "OpenRLHF v0.11.0, commit 3c3be623, with group_norm. There the KL enters and the clip of 10 holds after the "
         "statistics of the group, here before; its bound of 10 on the KL is for all estimators, here for k3 only; its "
         "warm-up is 0.03 of the steps; its sizes (1024 prompts, updates of 128 samples) are left out",
         "",
         {{"loss.objective", "clip"}, {"loss.ratio", "token"}, {"loss.clip_low", "0.2"}, {"loss.clip_high", "0.2"},
          {"loss.ratio_clamp", "20"}, {"loss.kl", "k1"}, {"loss.kl_in", "reward"}, {"loss.kl_coef", "0.01"},
          {"loss.kl_clamp", "10"}, {"loss.advantage", "group"}, {"loss.std", "sample"}, {"loss.std_eps", "1e-9"},
          {"loss.whiten", "none"}, {"rl.reward_clip", "10"}, {"loss.aggregation", "token_mean"}, {"train.lr", "1e-6"},
          {"train.lr_schedule", "cosine"}, {"train.lr_min", "1e-7"}, {"optim.beta1", "0.9"}, {"optim.beta2", "0.95"},
          {"optim.weight_decay", "0"}, {"optim.clip", "1"}}},
        {"slime",
         "THUDM/slime, commit 624b824a, its defaults; decay and beta2 of its recipes. The KL term is off; its "
         "low_var_kl is k3 with loss.kl_clamp = 10",
         "",
         {{"loss.objective", "clip"}, {"loss.ratio", "token"}, {"loss.clip_low", "0.2"}, {"loss.clip_high", "0.2"},
          {"loss.kl_coef", "0"}, {"loss.kl", "k1"}, {"loss.advantage", "group"}, {"loss.std", "sample"},
          {"loss.std_eps", "1e-6"}, {"loss.aggregation", "sequence_mean"}, {"train.lr", "1e-6"},
          {"train.lr_schedule", "constant"}, {"optim.beta1", "0.9"}, {"optim.beta2", "0.98"},
          {"optim.weight_decay", "0.1"}, {"optim.clip", "1"}}},
        {"nemo-rl",
         "NVIDIA NeMo-RL, commit 7ea279ab, grpo_math_1B: advantages against the other samples. Its warm-up begins at "
         "5e-7, here at 1/13 of the rate",
         "",
         {{"rl.prompts", "32"}, {"rl.group", "16"}, {"rl.updates", "1"}, {"rl.epochs", "1"},
          {"loss.objective", "clip"}, {"loss.ratio", "token"}, {"loss.clip_low", "0.2"}, {"loss.clip_high", "0.2"},
          {"loss.kl", "k3"}, {"loss.kl_in", "loss"}, {"loss.kl_coef", "0.01"}, {"loss.kl_clamp_log", "20"},
          {"loss.kl_clamp", "10"}, {"loss.kl_correction", "score"}, {"loss.advantage", "leave_one_out"},
          {"loss.std", "sample"}, {"loss.std_eps", "1e-6"}, {"loss.aggregation", "token_mean"}, {"train.lr", "5e-6"},
          {"train.lr_schedule", "constant"}, {"train.warmup", "13"}, {"optim.beta1", "0.9"}, {"optim.beta2", "0.999"},
          {"optim.eps", "1e-8"}, {"optim.weight_decay", "0.01"}}},
    };
}

std::vector<Preset> algorithms() {
    return {
        {"grpo", "TRL's loss_type grpo, commit f2cd5771", kLosses, trl("sequence_mean")},
        {"bnpo",
         "TRL's loss_type bnpo, commit f2cd5771; tokens are counted over the whole update, there over a micro-batch",
         kLosses, trl("token_mean")},
        {"cispo", "MiniMax-M1, arXiv 2506.13585; TRL's cap of 5 on the ratio, no lower one", kLosses,
         trl("token_mean") + Keys{{"loss.objective", "cispo"}, {"loss.clip_low", "1"}, {"loss.clip_high", "4"}}},
        {"sapo", "arXiv 2511.20347; TRL's loss_type sapo, commit f2cd5771", kLosses,
         trl("sequence_mean") + Keys{{"loss.objective", "sapo"}, {"loss.sapo_positive", "1"},
                                     {"loss.sapo_negative", "1.05"}}},
        {"gspo", "arXiv 2507.18071, section 5.1: ratios of sequences, clipped at 3e-4 and 4e-4", kLosses,
         trl("sequence_mean") +
             Keys{{"loss.ratio", "sequence"}, {"loss.clip_low", "3e-4"}, {"loss.clip_high", "4e-4"}}},
        {"luspo",
         "arXiv 2602.05261, clip ratios of its section 5.1; TRL's loss_type luspo with ratios of sequences, without its "
         "padding",
         kLosses,
         trl("sequence_sum") +
             Keys{{"loss.ratio", "sequence"}, {"loss.clip_low", "2e-3"}, {"loss.clip_high", "2.5e-3"}}},
        {"vespo",
         "TRL's loss_type vespo, commit f2cd5771, where the weight has no gradient; the recorded gradients have one "
         "(loss.weight_gradient = true)",
         "TRL's losses", trl("token_mean") + Keys{{"loss.objective", "vespo"}, {"loss.weight_gradient", "false"}}},
        {"rloo", "arXiv 2402.14740: the log-prob against the mean of the others; advantages as verl's, commit 1dda039b",
         kAdvantages,
         verl() + Keys{{"loss.objective", "reinforce"}, {"loss.advantage", "leave_one_out"}, {"loss.std", "none"}}},
        {"ppo",
         "verl's ppo_trainer with its default adv_estimator = gae, commit 1dda039b: a critic, whitened advantages, no "
         "KL term; sizes and one sample a prompt left out",
         "verl's losses, gradients and advantages, but for the critic's loss",
         verl() + Keys{{"loss.advantage", "gae"}, {"loss.gamma", "1"}, {"loss.lambda", "1"}, {"loss.whiten", "sample"},
                       {"critic.lr", "1e-5"}, {"critic.clip", "0.5"}, {"critic.warmup", "0"}}},
        {"reinforce", "Williams 1992: the log-prob times the reward, no baseline, summed over each response", "",
         {{"loss.objective", "reinforce"}, {"loss.advantage", "reinforce"}, {"loss.gamma", "1"},
          {"loss.whiten", "none"}, {"loss.kl_coef", "0"}, {"loss.aggregation", "sequence_sum"}}},
        {"reinforce++", "verl's reinforce_plus_plus (arXiv 2501.03262), commit 1dda039b", kBoth,
         verl() + Keys{{"loss.advantage", "reinforce"}, {"loss.gamma", "1"}, {"loss.whiten", "sample"}}},
        {"reinforce++-baseline", "verl's reinforce_plus_plus_baseline, commit 1dda039b", kBoth,
         verl() + Keys{{"loss.std", "none"}, {"loss.whiten", "sample"}}},
        {"gdpo", "arXiv 2601.05242; TRL's normalize_then_sum, commit f2cd5771", "",
         trl("token_mean") + Keys{{"loss.advantage", "rewards"}}},
    };
}

}  // namespace

std::span<const Preset> presets() {
    static const std::vector<Preset> all = [] {
        std::vector<Preset> rows;
        for (const auto& part : {papers(), projects(), algorithms()}) rows.insert(rows.end(), part.begin(), part.end());
        return rows;
    }();
    return all;
}

std::span<const PresetKey> preset_keys() {
    static const std::vector<PresetKey> keys = {{"loss.preset", presets()}, {"eval.benchmark", benchmarks()}};
    return keys;
}

const Preset* PresetKey::find(std::string_view name) const {
    for (const Preset& preset : presets)
        if (preset.name == name) return &preset;
    return nullptr;
}

std::string preset_names(std::span<const Preset> presets) {
    std::string text = "none";
    for (const Preset& preset : presets) text += fmt::format(" | {}", preset.name);
    return text;
}

std::string PresetKey::describe(const Preset& preset) const {
    std::string text(preset.source);
    if (key == "loss.preset")
        text += preset.compared.empty()
                    ? ". Only by what is written, no recorded values"
                    : fmt::format(". Confirmed by recorded values: {}", preset.compared);
    text += ". Sets:";
    for (const auto& [name, value] : preset.keys) text += fmt::format(" {} = {};", name, value);
    text.back() = '.';
    return text;
}

}  // namespace gradus
