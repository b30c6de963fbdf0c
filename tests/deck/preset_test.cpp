// SPDX-License-Identifier: Apache-2.0
// loss.preset: what it sets, and what wins over it.
#include "../../src/deck/presets.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "../../src/deck/value.hpp"
#include "deck_fixture.hpp"
#include "gradus/deck/parameters.hpp"

namespace gradus {

BOOST_AUTO_TEST_SUITE(presets_of_the_deck)

BOOST_AUTO_TEST_CASE(every_preset_resolves_and_repeats) {
    for (const Preset& preset : presets()) BOOST_TEST_CONTEXT(preset.name) {
            const std::string origin = fmt::format("loss.preset = {}", preset.name);
            const Deck deck = rl_deck(origin);
            std::set<std::string_view> once;
            for (const auto& [key, value] : preset.keys) {
                BOOST_TEST(once.insert(key).second, key);
                const DeckKey* row = find_parameter(key);
                BOOST_REQUIRE_MESSAGE(row != nullptr, key);
                BOOST_TEST(fmt::format(" {} ", row->stages).find(" rl ") != std::string::npos, key);
                BOOST_TEST(deck.origin(key) == origin, key);
                BOOST_TEST(deck.text(key) == canonical_value(*row, std::string(key), std::string(value)));
            }
            const Deck again = resolve(deck.resolved());
            BOOST_TEST((again.values() == deck.values()));
        }
}

BOOST_AUTO_TEST_CASE(every_name_is_there_once) {
    std::set<std::string> names;
    for (const Preset& preset : presets()) BOOST_TEST(names.insert(std::string(preset.name)).second, preset.name);
    for (const char* name :
         {"deepseek-r1-zero", "deepseek-r1", "deepseekmath", "trl", "verl", "openrlhf", "slime", "nemo-rl", "dapo",
          "dr-grpo", "grpo", "bnpo", "cispo", "sapo", "gspo", "luspo", "vespo", "rloo", "reinforce", "reinforce++",
          "reinforce++-baseline", "gdpo", "ppo"})
        BOOST_TEST(names.count(name) == 1u, name);
}

BOOST_AUTO_TEST_CASE(resolved_names_the_preset_at_each_key) {
    const Words lines = split_lines(rl_deck("loss.preset = verl\nloss.std_eps = 0.5").resolved());
    const auto has = [&](const std::string& line) {
        return std::find(lines.begin(), lines.end(), line) != lines.end();
    };
    BOOST_TEST(has("loss.dual_clip               = 3                        # loss.preset = verl"));
    BOOST_TEST(has("loss.std_eps                 = 0.5                      # a.in:5"));
    BOOST_TEST(has("loss.preset                  = verl                     # a.in:4"));
}

BOOST_AUTO_TEST_CASE(included_by_a_deck_of_another_stage) {
    const DeckFolder folder;
    folder.write("common.in", "loss.preset = trl\n");
    const std::string lines = "include = common.in\ntrain.epochs = 1\n";
    const Deck deck = resolve_deck(folder.write("sft.in", required_keys("sft") + lines), {});
    BOOST_TEST(deck.origin("train.lr") == "default");
}

BOOST_AUTO_TEST_CASE(the_deck_wins) {
    const Deck deck = rl_deck("loss.std_eps = 0.5\nloss.preset = verl\n", {"loss.dual_clip=7"});
    BOOST_TEST(deck.number("loss.std_eps") == 0.5);
    BOOST_TEST(deck.number("loss.dual_clip") == 7);
    BOOST_TEST(deck.number("loss.ratio_clamp") == 20);
    BOOST_TEST(rl_deck("loss.preset = verl", {"loss.preset=grpo"}).number("loss.ratio_clamp") == 0);
    BOOST_TEST(rl_deck("").text("loss.preset") == "none");
}

/// From the papers and the projects' code and documentation, not from the table.
void check_values(const std::string& preset, const std::map<std::string, std::string>& wanted) {
    const Deck deck = rl_deck("loss.preset = " + preset);
    for (const auto& [key, value] : wanted)
        BOOST_TEST(deck.text(key) == value, preset << ": " << key << " = " << deck.text(key) << ", not " << value);
}

BOOST_AUTO_TEST_CASE(values_of_papers) {
    check_values("deepseek-r1-zero", {{"rl.prompts", "512"}, {"rl.group", "16"}, {"rl.updates", "16"},
                                      {"rl.epochs", "1"}, {"rl.reference_every", "400"}, {"train.lr", "3e-06"},
                                      {"loss.kl_coef", "0.001"}, {"loss.kl", "k3"}, {"loss.kl_in", "loss"},
                                      {"rollout.temperature", "1"}, {"loss.aggregation", "sequence_mean"}});
    BOOST_TEST(rl_deck("loss.preset = deepseek-r1-zero").origin("loss.clip_high") == "default");
    check_values("deepseek-r1", {{"loss.clip_low", "10"}, {"loss.clip_high", "10"}, {"rl.prompts", "512"},
                                 {"rl.reference_every", "400"}, {"train.lr", "3e-06"}, {"loss.kl_coef", "0.001"}});
    check_values("deepseekmath", {{"rl.group", "64"}, {"rl.prompts", "16"}, {"rl.updates", "1"},
                                  {"train.lr", "1e-06"}, {"loss.kl_coef", "0.04"},
                                  {"loss.aggregation", "sequence_mean"}});
    check_values("dapo", {{"loss.clip_low", "0.2"}, {"loss.clip_high", "0.28"}, {"loss.kl_coef", "0"},
                          {"loss.aggregation", "token_mean"}, {"rl.dynamic_sampling", "true"}, {"rl.group", "16"}});
    check_values("dr-grpo", {{"loss.std", "none"}, {"loss.aggregation", "constant"}, {"loss.kl_coef", "0"}});
}

BOOST_AUTO_TEST_CASE(values_of_projects) {
    check_values("trl", {{"train.lr", "1e-06"}, {"train.lr_schedule", "linear"}, {"rl.group", "8"},
                         {"optim.beta2", "0.999"}, {"optim.weight_decay", "0"}, {"optim.clip", "1"},
                         {"loss.std", "sample"}, {"loss.std_eps", "0.0001"}, {"loss.aggregation", "token_mean"},
                         {"loss.kl_coef", "0"}, {"loss.ratio_clamp", "0"}, {"loss.dual_clip", "0"},
                         {"loss.sampler_ratio", "sequence_mask"}, {"loss.sampler_max", "3"},
                         {"rl.unscorable", "all"}, {"loss.lone_reward", "false"}});
    check_values("verl", {{"train.lr", "1e-06"}, {"optim.beta2", "0.999"}, {"optim.weight_decay", "0.01"},
                          {"loss.std", "sample"}, {"loss.std_eps", "1e-06"}, {"loss.aggregation", "token_mean"},
                          {"loss.dual_clip", "3"}, {"loss.ratio_clamp", "20"}, {"loss.kl_clamp_log", "20"},
                          {"loss.kl_clamp", "10"}, {"loss.kl_coef", "0"}, {"loss.lone_reward", "true"},
                          {"rl.prompts", "1024"}, {"rl.updates", "4"}, {"train.lr_schedule", "constant"}});
    check_values("openrlhf", {{"loss.std", "sample"}, {"loss.std_eps", "1e-09"}, {"loss.kl", "k1"},
                              {"loss.kl_in", "reward"}, {"loss.kl_coef", "0.01"}, {"loss.kl_clamp", "10"},
                              {"rl.reward_clip", "10"}, {"loss.ratio_clamp", "20"}, {"loss.dual_clip", "0"},
                              {"loss.whiten", "none"}, {"loss.aggregation", "token_mean"}, {"train.lr", "1e-06"},
                              {"train.lr_min", "1e-07"}, {"optim.beta2", "0.95"}, {"optim.weight_decay", "0"}});
    check_values("slime", {{"loss.std", "sample"}, {"loss.std_eps", "1e-06"}, {"loss.aggregation", "sequence_mean"},
                           {"loss.kl", "k1"}, {"loss.kl_coef", "0"}, {"loss.ratio_clamp", "0"},
                           {"loss.dual_clip", "0"}, {"loss.clip_high", "0.2"}, {"train.lr_schedule", "constant"},
                           {"optim.beta2", "0.98"}, {"optim.weight_decay", "0.1"}});
    check_values("nemo-rl", {{"rl.prompts", "32"}, {"rl.group", "16"}, {"loss.advantage", "leave_one_out"},
                             {"loss.std", "sample"}, {"loss.std_eps", "1e-06"}, {"loss.kl", "k3"},
                             {"loss.kl_coef", "0.01"}, {"loss.kl_clamp_log", "20"}, {"loss.kl_clamp", "10"},
                             {"loss.kl_correction", "score"}, {"loss.aggregation", "token_mean"},
                             {"train.lr", "5e-06"}, {"train.lr_schedule", "constant"}, {"train.warmup", "13"},
                             {"optim.beta2", "0.999"}, {"optim.weight_decay", "0.01"}});
}

BOOST_AUTO_TEST_CASE(values_of_algorithms) {
    check_values("grpo", {{"loss.aggregation", "sequence_mean"}, {"loss.std_eps", "0.0001"}});
    check_values("bnpo", {{"loss.aggregation", "token_mean"}});
    // Bounds are 1 - clip_low and 1 + clip_high: from 0 to 5.
    check_values("cispo", {{"loss.objective", "cispo"}, {"loss.clip_low", "1"}, {"loss.clip_high", "4"}});
    check_values("sapo", {{"loss.objective", "sapo"}, {"loss.sapo_positive", "1"}, {"loss.sapo_negative", "1.05"},
                          {"loss.aggregation", "sequence_mean"}});
    check_values("gspo", {{"loss.ratio", "sequence"}, {"loss.aggregation", "sequence_mean"},
                          {"loss.clip_low", "0.0003"}, {"loss.clip_high", "0.0004"}});
    check_values("luspo", {{"loss.ratio", "sequence"}, {"loss.aggregation", "sequence_sum"},
                           {"loss.clip_low", "0.002"}, {"loss.clip_high", "0.0025"}});
    check_values("vespo", {{"loss.objective", "vespo"}, {"loss.weight_gradient", "false"}});
    check_values("rloo", {{"loss.advantage", "leave_one_out"}, {"loss.std", "none"}});
    check_values("reinforce", {{"loss.objective", "reinforce"}, {"loss.advantage", "reinforce"},
                               {"loss.whiten", "none"}, {"loss.kl_coef", "0"}});
    check_values("reinforce++", {{"loss.advantage", "reinforce"}, {"loss.whiten", "sample"}});
    check_values("reinforce++-baseline", {{"loss.advantage", "group"}, {"loss.std", "none"},
                                          {"loss.whiten", "sample"}});
    check_values("ppo", {{"loss.advantage", "gae"}, {"loss.lambda", "1"}, {"loss.gamma", "1"},
                         {"loss.whiten", "sample"}, {"loss.aggregation", "token_mean"}, {"loss.dual_clip", "3"},
                         {"critic.clip", "0.5"}, {"critic.lr", "1e-05"}, {"critic.warmup", "0"}});
    check_values("gdpo", {{"loss.advantage", "rewards"}, {"loss.std_eps", "0.0001"}});
}

BOOST_AUTO_TEST_CASE(an_unknown_name) {
    const std::string error = rl_error("loss.preset = dappo");
    BOOST_TEST(error.starts_with("a.in:4: loss.preset = dappo: one of none | "), error);
    BOOST_TEST(error.ends_with(" is expected; did you mean dapo?"), error);
}

BOOST_AUTO_TEST_CASE(help_lists_them) {
    const std::string help = help_deck("loss.preset");
    for (const Preset& preset : presets())
        BOOST_TEST(help.find(fmt::format("\nloss.preset = {}\n", preset.name)) != std::string::npos, preset.name);
    for (const std::string& line : split_lines(help)) BOOST_TEST(line.size() <= 100u, line);
    BOOST_TEST(help_deck("loss.").find("loss.preset = trl\n") == std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
