// SPDX-License-Identifier: Apache-2.0
#include "presets.hpp"

#include <fmt/format.h>

namespace gradus {
namespace {

using Keys = std::vector<std::pair<std::string_view, std::string_view>>;

Keys operator+(Keys a, const Keys& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

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

std::vector<Preset> make_presets() {
    return {
        {"deepseek-r1-zero",
         "Nature 645 (2025), Methods, training details of R1-Zero. The clip ratio is not stated there (kept at 0.2), "
         "nor which standard deviation, its epsilon and the aggregation: sample, 1e-4, DeepSeekMath eq. 3",
         false, r1()},
        {"deepseek-r1",
         "Nature 645 (2025), Methods, first RL stage: as R1-Zero with a clip ratio of 10. The second stage samples at "
         "rollout.temperature = 0.7",
         false, r1() + Keys{{"loss.clip_low", "10"}, {"loss.clip_high", "10"}}},
        {"deepseekmath", "arXiv 2402.03300, sections 4.1 and 4.2, eq. 3 and 4: one update a rollout", false,
         {{"rl.group", "64"}, {"rl.updates", "1"}, {"rl.epochs", "1"}, {"train.lr", "1e-6"},
          {"loss.objective", "clip"}, {"loss.ratio", "token"}, {"loss.kl", "k3"}, {"loss.kl_in", "loss"},
          {"loss.kl_coef", "0.04"}, {"loss.advantage", "group"}, {"loss.std", "sample"}, {"loss.std_eps", "1e-4"},
          {"loss.aggregation", "sequence_mean"}}},
        {"trl", "huggingface/trl GRPOTrainer, commit f2cd5771, its defaults (loss_type dapo)", true,
         trl("token_mean") + Keys{{"rl.group", "8"}, {"train.lr", "1e-6"}, {"train.lr_schedule", "linear"},
                                  {"optim.beta2", "0.999"}, {"optim.weight_decay", "0"}}},
        {"verl",
         "verl-project/verl core_algos, commit 1dda039b, with adv_estimator = grpo; its rollouts of 1024 prompts go "
         "into 4 updates",
         true,
         verl() + Keys{{"rl.updates", "4"}, {"train.lr", "1e-6"}, {"train.lr_schedule", "constant"},
                       {"optim.beta2", "0.999"}, {"optim.weight_decay", "0.01"}}},
        {"openrlhf",
         "OpenRLHF v0.11.0, commit 3c3be623, with group_norm: KL in the reward (there after, here before the "
         "statistics of the group)",
         false,
         {{"loss.objective", "clip"}, {"loss.clip_low", "0.2"}, {"loss.clip_high", "0.2"},
          {"loss.ratio_clamp", "20"}, {"loss.kl", "k1"}, {"loss.kl_in", "reward"}, {"loss.kl_coef", "0.01"},
          {"loss.advantage", "group"}, {"loss.std", "sample"}, {"loss.std_eps", "1e-9"}, {"rl.reward_clip", "10"},
          {"loss.aggregation", "token_mean"}, {"train.lr", "1e-6"}, {"optim.weight_decay", "0"}}},
        {"slime", "THUDM/slime, commit 624b824a, its defaults; the KL term is off", false,
         {{"loss.objective", "clip"}, {"loss.clip_low", "0.2"}, {"loss.clip_high", "0.2"}, {"loss.kl_coef", "0"},
          {"loss.advantage", "group"}, {"loss.std", "sample"}, {"loss.std_eps", "1e-6"},
          {"loss.aggregation", "sequence_mean"}, {"train.lr", "1e-6"}, {"train.lr_schedule", "constant"}}},
        {"nemo-rl", "NVIDIA NeMo-RL, commit 7ea279ab, grpo_math_1B: advantages against the other samples", false,
         {{"rl.prompts", "32"}, {"rl.group", "16"}, {"loss.objective", "clip"}, {"loss.clip_low", "0.2"},
          {"loss.clip_high", "0.2"}, {"loss.kl", "k3"}, {"loss.kl_in", "loss"}, {"loss.kl_coef", "0.01"},
          {"loss.kl_clamp_log", "20"}, {"loss.kl_clamp", "10"}, {"loss.kl_correction", "score"},
          {"loss.advantage", "leave_one_out"}, {"loss.std", "sample"}, {"loss.std_eps", "1e-6"},
          {"loss.aggregation", "token_mean"}, {"train.lr", "5e-6"}, {"train.lr_min", "5e-7"},
          {"optim.beta2", "0.999"}, {"optim.weight_decay", "0.01"}}},
        {"dapo",
         "arXiv 2503.14476: clip-higher, dynamic sampling, mean over tokens, no KL. Set rl.overlong_buffer for its soft "
         "overlong punishment",
         true,
         trl("token_mean") + Keys{{"loss.clip_high", "0.28"}, {"rl.dynamic_sampling", "true"}}},
        {"dr-grpo", "arXiv 2503.20783: no division by the deviation nor by the length", true,
         trl("constant") + Keys{{"loss.std", "none"}}},
        {"grpo", "TRL's loss_type grpo, commit f2cd5771", true, trl("sequence_mean")},
        {"bnpo", "TRL's loss_type bnpo, commit f2cd5771; tokens are counted over the whole update, there over a "
                 "micro-batch", true, trl("token_mean")},
        {"cispo", "MiniMax-M1, arXiv 2506.13585; TRL's cap of 5 on the ratio, no lower one", true,
         trl("token_mean") + Keys{{"loss.objective", "cispo"}, {"loss.clip_low", "1"}, {"loss.clip_high", "4"}}},
        {"sapo", "arXiv 2511.20347; TRL's loss_type sapo", true,
         trl("sequence_mean") + Keys{{"loss.objective", "sapo"}}},
        {"gspo", "arXiv 2507.18071: ratios of sequences, clipped at 3e-4 and 4e-4", true,
         trl("sequence_mean") +
             Keys{{"loss.ratio", "sequence"}, {"loss.clip_low", "3e-4"}, {"loss.clip_high", "4e-4"}}},
        {"luspo", "TRL's loss_type luspo with ratios of sequences, without its padding", true,
         trl("sequence_sum") + Keys{{"loss.ratio", "sequence"}}},
        {"vespo", "TRL's loss_type vespo; its recorded gradients need loss.weight_gradient = true", true,
         trl("token_mean") + Keys{{"loss.objective", "vespo"}}},
        {"rloo", "arXiv 2402.14740: the log-prob against the mean of the others", true,
         verl() + Keys{{"loss.objective", "reinforce"}, {"loss.advantage", "leave_one_out"}, {"loss.std", "none"}}},
        {"reinforce++", "verl's reinforce_plus_plus (arXiv 2501.03262), commit 1dda039b", true,
         verl() + Keys{{"loss.advantage", "reinforce"}, {"loss.whiten", "sample"}}},
        {"reinforce++-baseline", "verl's reinforce_plus_plus_baseline, commit 1dda039b", true,
         verl() + Keys{{"loss.std", "none"}, {"loss.whiten", "sample"}}},
        {"gdpo", "arXiv 2601.05242; TRL's normalize_then_sum", false,
         trl("token_mean") + Keys{{"loss.advantage", "rewards"}}},
    };
}

}  // namespace

std::span<const Preset> presets() {
    // A later key of a list wins.
    static const std::vector<Preset> all = make_presets();
    return all;
}

const Preset* find_preset(std::string_view name) {
    for (const Preset& preset : presets())
        if (preset.name == name) return &preset;
    return nullptr;
}

std::string_view preset_names() {
    static const std::string names = [] {
        std::string text = "none";
        for (const Preset& preset : presets()) text += fmt::format(" | {}", preset.name);
        return text;
    }();
    return names;
}

std::string describe_presets() {
    std::string text = "\nPresets of loss.preset:\n";
    for (const Preset& preset : presets()) {
        text += fmt::format("  {}: {}; {}\n", preset.name, preset.source,
                            preset.confirmed ? "compared with values that the project's own code gave"
                                             : "by its documentation");
        for (const auto& [key, value] : preset.keys) text += fmt::format("      {} = {}\n", key, value);
    }
    return text;
}

}  // namespace gradus
