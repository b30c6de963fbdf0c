// SPDX-License-Identifier: Apache-2.0
#include "rl_options.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

/// The value that a choice of the parameter table stands for.
template <class Value>
Value chosen(const Deck& deck, const char* key,
             std::initializer_list<std::pair<std::string_view, Value>> values) {
    const std::string& text = deck.text(key);
    for (const auto& [name, value] : values)
        if (name == text) return value;
    throw InternalError(fmt::format("{} = {} stands for nothing", key, text));
}

double infinite_if_zero(double value) {
    return value > 0 ? value : std::numeric_limits<double>::infinity();
}

bool any(const Schedule& schedule) {
    const std::vector<double> levels = schedule.levels();
    return std::any_of(levels.begin(), levels.end(), [](double level) { return level != 0; });
}

}  // namespace

KlOptions kl_options(const Deck& deck) {
    return {.kind = chosen<KlKind>(deck, "loss.kl",
                                   {{"k1", KlKind::k1},
                                    {"k2", KlKind::k2},
                                    {"k3", KlKind::k3},
                                    {"abs", KlKind::abs},
                                    {"k1+", KlKind::k1},
                                    {"k3+", KlKind::k3},
                                    {"abs+", KlKind::abs}}),
            .k2_gradient = deck.text("loss.kl").ends_with('+'),
            .clamp_log = deck.number("loss.kl_clamp_log"),
            .clamp = deck.number("loss.kl_clamp")};
}

PolicyLossOptions policy_loss_options(const Deck& deck, std::int64_t step) {
    const std::int64_t length = deck.integer("loss.length");
    return {.objective = chosen<Objective>(deck, "loss.objective",
                                           {{"clip", Objective::clip},
                                            {"cispo", Objective::cispo},
                                            {"sapo", Objective::sapo},
                                            {"vespo", Objective::vespo},
                                            {"reinforce", Objective::reinforce}}),
            .ratio = deck.text("loss.ratio") == "sequence" ? RatioLevel::sequence : RatioLevel::token,
            .clip_low = deck.schedule("loss.clip_low").at(step),
            .clip_high = deck.schedule("loss.clip_high").at(step),
            .delta = deck.number("loss.delta"),
            .dual_clip = deck.number("loss.dual_clip"),
            .ratio_clamp = deck.number("loss.ratio_clamp"),
            .sapo_positive = deck.number("loss.sapo_positive"),
            .sapo_negative = deck.number("loss.sapo_negative"),
            .weight_gradient = deck.flag("loss.weight_gradient"),
            .kl = kl_options(deck),
            .kl_coef = deck.text("loss.kl_in") == "loss" ? deck.schedule("loss.kl_coef").at(step) : 0.0,
            .kl_correction = chosen<KlCorrection>(deck, "loss.kl_correction",
                                                  {{"none", KlCorrection::none},
                                                   {"ratio", KlCorrection::ratio},
                                                   {"score", KlCorrection::score}}),
            .entropy_coef = deck.schedule("loss.entropy_coef").at(step),
            .sampler_ratio = chosen<SamplerRatio>(deck, "loss.sampler_ratio",
                                                  {{"none", SamplerRatio::none},
                                                   {"token_truncate", SamplerRatio::token_truncate},
                                                   {"token_mask", SamplerRatio::token_mask},
                                                   {"sequence_truncate", SamplerRatio::sequence_truncate},
                                                   {"sequence_mask", SamplerRatio::sequence_mask}}),
            .sampler_min = deck.number("loss.sampler_min"),
            .sampler_max = deck.number("loss.sampler_max"),
            .off_policy_limit = infinite_if_zero(deck.number("loss.off_policy_limit")),
            .aggregation = chosen<Aggregation>(deck, "loss.aggregation",
                                               {{"sequence_mean", Aggregation::sequence_mean},
                                                {"sequence_sum", Aggregation::sequence_sum},
                                                {"token_mean", Aggregation::token_mean},
                                                {"token_sum", Aggregation::token_sum},
                                                {"constant", Aggregation::constant}}),
            .length = static_cast<double>(length > 0 ? length : deck.integer("rollout.max_new_tokens"))};
}

AdvantageOptions advantage_options(const Deck& deck) {
    return {.kind = chosen<AdvantageKind>(deck, "loss.advantage",
                                          {{"group", AdvantageKind::group},
                                           {"leave_one_out", AdvantageKind::leave_one_out},
                                           {"rewards", AdvantageKind::rewards},
                                           {"pass_at_k", AdvantageKind::pass_at_k},
                                           {"process", AdvantageKind::process},
                                           {"reinforce", AdvantageKind::reinforce},
                                           {"gae", AdvantageKind::gae}}),
            .std = chosen<GroupStd>(deck, "loss.std",
                                    {{"sample", GroupStd::sample},
                                     {"population", GroupStd::population},
                                     {"none", GroupStd::none},
                                     {"batch", GroupStd::batch},
                                     {"mean", GroupStd::mean}}),
            .eps = deck.number("loss.std_eps"),
            .lone_reward = deck.flag("loss.lone_reward"),
            .pass_k = static_cast<int>(deck.integer("loss.pass_k")),
            .gamma = deck.number("loss.gamma"),
            .lambda = deck.number("loss.lambda"),
            .whitening = chosen<Whitening>(deck, "loss.whiten",
                                           {{"none", Whitening::none},
                                            {"sample", Whitening::sample},
                                            {"population", Whitening::population}})};
}

ValueLossOptions value_loss_options(const Deck& deck) { return {.clip = deck.number("critic.clip")}; }

bool wants_critic(const Deck& deck) { return deck.text("loss.advantage") == "gae"; }

bool wants_reference(const Deck& deck) {
    return any(deck.schedule("loss.kl_coef"));
}

std::vector<std::string> check_rl_keys(const Deck& deck) {
    std::vector<std::string> wrong;
    auto want = [&](bool good, const char* key, const std::string& what) {
        if (!good) wrong.push_back(fmt::format("{}: {}", deck.origin(key), what));
    };
    auto whole = [&](const char* key) { return deck.integer(key); };
    const std::string& advantage = deck.text("loss.advantage");
    const bool alone = advantage == "reinforce" || advantage == "gae";
    const bool groups = deck.flag("rl.keep_groups");
    const std::int64_t parts = groups ? whole("rl.prompts") : whole("rl.prompts") * whole("rl.group");
    want(parts % whole("rl.updates") == 0, "rl.updates",
         groups ? fmt::format("rl.prompts = {} does not divide into rl.updates = {} parts of whole groups; with "
                              "rl.keep_groups = false samples are dealt out one by one",
                              whole("rl.prompts"), whole("rl.updates"))
                : fmt::format("{} samples (rl.prompts x rl.group) do not divide into rl.updates = {} parts", parts,
                              whole("rl.updates")));
    want(whole("rl.group") >= 2 || alone || deck.flag("loss.lone_reward"), "rl.group",
         fmt::format("rl.group = {}: advantages within a group need at least 2 samples a prompt; loss.advantage = "
                     "reinforce and gae do with one",
                     whole("rl.group")));
    want(whole("rl.group") >= 2 || !deck.flag("rl.dynamic_sampling"), "rl.dynamic_sampling",
         "rl.dynamic_sampling looks for groups with spread: a group of one has none; set rl.group >= 2");
    want(advantage != "pass_at_k" || whole("loss.pass_k") <= whole("rl.group"), "loss.pass_k",
         fmt::format("loss.pass_k = {} is more than rl.group = {} samples", whole("loss.pass_k"), whole("rl.group")));
    const std::vector<std::string> rewards = deck.names("reward");
    want(advantage != "process" || std::any_of(rewards.begin(), rewards.end(),
                                               [&](const std::string& name) {
                                                   return deck.text("reward." + name + ".kind") == "steps";
                                               }),
         "loss.advantage", "loss.advantage = process needs a reward of single steps: reward.NAME.kind = steps");
    want(advantage != "process" || deck.text("loss.kl_in") == "loss", "loss.kl_in",
         "loss.advantage = process has no place for the divergence of single tokens: use loss.kl_in = loss");
    want(deck.text("loss.std") != "batch" || advantage == "group" || advantage == "leave_one_out", "loss.std",
         "loss.std = batch goes with loss.advantage = group or leave_one_out");
    want(deck.number("loss.sampler_min") <= deck.number("loss.sampler_max"), "loss.sampler_min",
         fmt::format("loss.sampler_min = {} is more than loss.sampler_max = {}", deck.number("loss.sampler_min"),
                     deck.number("loss.sampler_max")));
    want(whole("rl.overlong_buffer") <= whole("rollout.max_new_tokens"), "rl.overlong_buffer",
         fmt::format("rl.overlong_buffer = {} is more than rollout.max_new_tokens = {}", whole("rl.overlong_buffer"),
                     whole("rollout.max_new_tokens")));
    want(deck.text("loss.kl_in") == "loss" || deck.text("loss.kl_correction") == "none", "loss.kl_correction",
         "loss.kl_correction is of the term in the loss: leave it out with loss.kl_in = reward");
    want(deck.text("loss.kl_in") == "loss" || advantage != "rewards", "loss.kl_in",
         "loss.advantage = rewards standardises each reward by itself and has no place for the divergence: use "
         "loss.kl_in = loss");
    want(deck.text("loss.objective") != "vespo" || !alone, "loss.objective",
         "VESPO weighs whole sequences and needs one advantage a response: choose a loss.advantage within groups");
    want(!wants_critic(deck) || whole("critic.warmup") < whole("train.steps"), "critic.warmup",
         fmt::format("critic.warmup = {} leaves none of train.steps = {} to the policy", whole("critic.warmup"),
                     whole("train.steps")));
    want(advantage != "process" || deck.number("rl.reward_clip") == 0, "rl.reward_clip",
         "rl.reward_clip bounds the sum of a response's rewards; loss.advantage = process takes them apart: leave it out");
    for (const std::string& name : rewards) {
        const std::string from = "reward." + name + ".from";
        const bool model = deck.text("reward." + name + ".kind") == "model";
        want(!model || !deck.text(from).empty(), from.c_str(),
             fmt::format("{} is missing: kind = model needs the run of a stage reward_model", from));
        for (const char* part : {"from", "part", "normalise", "offload"}) {
            const std::string key = fmt::format("reward.{}.{}", name, part);
            want(model || !deck.is_set(key), key.c_str(), key + " is of kind = model; leave it out");
        }
    }
    for (const char* key : {"critic.from", "critic.lr", "critic.warmup", "critic.clip"})
        want(wants_critic(deck) || !deck.is_set(key) || deck.origin(key).starts_with("loss.preset"), key,
             fmt::format("{}: there is a critic with loss.advantage = gae only; leave the key out", key));
    return wrong;
}

}  // namespace gradus
