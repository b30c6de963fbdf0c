// SPDX-License-Identifier: Apache-2.0
#include "rl_rollout.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>

#include "gradus/base/error.hpp"
#include "gradus/stage/sampling.hpp"
#include "rl_options.hpp"

namespace gradus {
namespace {

struct MeanSpread {
    double sum = 0, squares = 0, count = 0, low = INFINITY, high = -INFINITY;
    void add(double x) {
        sum += x;
        squares += x * x;
        ++count;
        low = std::min(low, x);
        high = std::max(high, x);
    }
    double mean() const { return count > 0 ? sum / count : 0; }
    double std() const {
        return count > 0 ? std::sqrt(std::max(0.0, squares / count - mean() * mean())) : 0;
    }
};

/// Whether the rewards of a group, side by side, differ.
bool has_spread(std::span<const RolloutRow> group) {
    double low = INFINITY, high = -INFINITY;
    for (const RolloutRow& row : group) {
        if (std::isnan(row.reward)) continue;
        low = std::min(low, row.reward);
        high = std::max(high, row.reward);
    }
    return low < high;
}

/// The weighted sum of the rewards that apply to a row. Rewards that cannot be judged leave it unknown: any of them, or all
/// of them together.
double weighted_sum(const std::vector<double>& rewards, const std::vector<double>& weights, bool any_unknown) {
    double sum = 0;
    bool known = false, unknown = false;
    for (std::size_t r = 0; r < weights.size(); ++r) {
        if (weights[r] == 0 || rewards[r] == kNotApplicable) continue;
        if (!std::isfinite(rewards[r])) {
            unknown = true;
        } else {
            known = true;
            sum += weights[r] * rewards[r];
        }
    }
    if (any_unknown ? unknown : unknown && !known) return kUnscorable;
    return sum;
}

std::vector<std::string> references_of(const std::vector<PromptRow>& prompts) {
    std::vector<std::string> references;
    for (const PromptRow& prompt : prompts) references.push_back(prompt.reference);
    return references;
}

std::vector<double> reward_weights(const Deck& deck, const std::vector<NamedReward>& rewards, std::int64_t step) {
    std::vector<double> weights;
    for (const NamedReward& reward : rewards)
        weights.push_back(deck.schedule("reward." + reward.name + ".weight").at(step));
    return weights;
}

/// Where the parts of a rollout lie until the next one: RUN/sampling/stepNNNNNNN.groupNNN, by its first group.
constexpr const char* kSampling = "/sampling";

std::string sampling_folder(const std::string& run_dir, std::int64_t step, std::int64_t group) {
    return fmt::format("{}{}/step{:07}.group{}", run_dir, kSampling, step, group);
}

}  // namespace

void forget_sampling(const std::string& run_dir, std::optional<std::int64_t> but_step) {
    namespace fs = std::filesystem;
    const std::string kept = but_step ? fmt::format("step{:07}.", *but_step) : "";
    std::error_code none;
    for (fs::directory_iterator at(run_dir + kSampling, none), end; !none && at != end; ++at)
        if (kept.empty() || !at->path().filename().string().starts_with(kept)) fs::remove_all(at->path());
    if (kept.empty()) fs::remove_all(run_dir + kSampling);
}

RolloutSplit rollout_split(const Deck& deck) {
    return {.prompts = deck.integer("rl.prompts"),
            .parts = deck.integer("rl.updates"),
            .epochs = deck.integer("rl.epochs"),
            .keep_groups = deck.flag("rl.keep_groups")};
}

RolloutMaker::RolloutMaker(Run& run, Stack& stack, std::vector<PromptRow> prompts,
                           std::vector<RewardModelSource> reward_models, Json origin)
    : run_(run),
      stack_(stack),
      prompts_(std::move(prompts)),
      pool_(deck_rewards(run, references_of(prompts_)), reward_threads(run)),
      models_(run, stack, std::move(reward_models), pool_.rewards(), prompts_),
      shuffler_(static_cast<std::uint64_t>(run.deck.integer("run.seed")),
                static_cast<std::int64_t>(prompts_.size()), run.deck.flag("data.shuffle")),
      seed_(static_cast<std::uint64_t>(run.deck.integer("run.seed"))),
      split_(rollout_split(run.deck)),
      group_(static_cast<std::size_t>(run.deck.integer("rl.group"))),
      origin_(std::move(origin)) {
    for (const PromptRow& prompt : prompts_) kinds_.insert(prompt.kind);
    for (const NamedReward& reward : pool_.rewards())
        for (const std::string& kind : reward.applies_to)
            require<DataError>(kinds_.contains(kind),
                               "reward.{}.applies_to names prompts of kind {}; data.path has none, only {}", reward.name,
                               kind, fmt::join(kinds_, ", "));
}

bool RolloutMaker::is_rewarded(const std::string& kind, const std::vector<double>& weights) const {
    for (std::size_t r = 0; r < weights.size(); ++r)
        if (weights[r] != 0 && pool_.rewards()[r].applies(kind)) return true;
    return false;
}

std::vector<std::int64_t> RolloutMaker::draw_prompts(std::int64_t step, std::int64_t count, std::int64_t& groups,
                                                     std::vector<std::int64_t>& addresses) {
    const std::vector<double> weights = reward_weights(run_.deck, pool_.rewards(), step);
    std::set<std::string> kinds;
    for (const std::string& kind : kinds_)
        if (is_rewarded(kind, weights)) kinds.insert(kind);
    std::vector<std::int64_t> chosen;
    while (std::ssize(chosen) < count) {
        const std::int64_t address = groups++, row = shuffler_.row(address);
        if (!kinds.empty() && !kinds.contains(prompts_[static_cast<std::size_t>(row)].kind)) continue;
        addresses.push_back(address);
        chosen.push_back(row);
    }
    return chosen;
}

std::optional<std::vector<RolloutRow>> RolloutMaker::sample(std::int64_t step, std::int64_t count, std::int64_t& groups) {
    std::vector<std::int64_t> addresses;
    const std::vector<std::int64_t> chosen = draw_prompts(step, count, groups, addresses);
    const GenerationOptions options = resolve_generation(run_.deck, run_.chat, step);
    auto rows = generate_in_parts(run_, [this]() -> Stack& { return stack_; }, pool_,
                                  {.rows = prompts_,
                                   .prompts = chosen,
                                   .groups = addresses,
                                   .samples = static_cast<std::int32_t>(group_),
                                   .options = options},
                                  {.folder = sampling_folder(run_.dir, step, addresses.front()), .step = step, .policy = origin_, .disposable = true});
    if (!rows) return rows;
    models_.score(*rows, step);
    add_up(*rows, step);
    return rows;
}

void RolloutMaker::add_up(std::vector<RolloutRow>& rows, std::int64_t step) const {
    const std::vector<double> weights = reward_weights(run_.deck, pool_.rewards(), step);
    const bool any = run_.deck.text("rl.unscorable") == "any";
    const double penalty = run_.deck.number("rl.truncated_penalty"), bound = run_.deck.number("rl.reward_clip");
    const double overlong = run_.deck.number("rl.overlong_penalty");
    const std::int64_t longest = run_.deck.integer("rollout.max_new_tokens");
    const std::int64_t buffer = run_.deck.integer("rl.overlong_buffer");
    for (RolloutRow& row : rows) {
        row.step = step;
        row.reward = weighted_sum(row.rewards, weights, any);
        if (row.finish == FinishReason::length) row.reward -= penalty;
        row.reward += overlong * overlong_punishment(std::ssize(row.tokens), longest, buffer);
        if (bound > 0 && !std::isnan(row.reward)) row.reward = std::clamp(row.reward, -bound, bound);
    }
}

std::optional<std::vector<RolloutRow>> RolloutMaker::sample_with_spread(std::int64_t step, std::int64_t& groups,
                                                                        Rounds& rounds) {
    std::vector<RolloutRow> kept, flat;
    const auto wanted = static_cast<std::size_t>(split_.prompts) * group_;
    const std::int64_t most = run_.deck.flag("rl.dynamic_sampling") ? run_.deck.integer("rl.max_rounds") : 1;
    while (rounds.rounds < most && kept.size() < wanted) {
        ++rounds.rounds;
        const auto rows = sample(step, static_cast<std::int64_t>((wanted - kept.size()) / group_), groups);
        if (!rows) return rows;
        for (std::size_t first = 0; first < rows->size(); first += group_) {
            const std::span group(rows->data() + first, group_);
            std::vector<RolloutRow>& to = most == 1 || has_spread(group) ? kept : flat;
            to.insert(to.end(), group.begin(), group.end());
        }
        if (most > 1)
            run_.log.progress(fmt::format("round {}: {} of {} groups have spread", rounds.rounds,
                                          kept.size() / group_, split_.prompts));
    }
    const std::size_t filled = (wanted - kept.size()) / group_;
    rounds.replaced = static_cast<std::int64_t>(flat.size() / group_ - filled);
    if (filled > 0)
        run_.log.warn("{} of {} groups have no spread after rl.max_rounds = {} rounds; they stay, without effect",
                      filled, split_.prompts, most);
    kept.insert(kept.end(), flat.begin(), flat.begin() + static_cast<std::ptrdiff_t>(filled * group_));
    std::stable_sort(kept.begin(), kept.end(),
                     [](const RolloutRow& a, const RolloutRow& b) { return a.group < b.group; });
    return kept;
}

Sequence RolloutMaker::sequence_of(const RolloutRow& row) const {
    Sequence s;
    s.tokens = row.prompt_tokens;
    s.tokens.insert(s.tokens.end(), row.tokens.begin(), row.tokens.end());
    const std::size_t prompt = row.prompt_tokens.size(), n = s.tokens.size();
    const bool used = !(run_.deck.flag("rl.mask_truncated") && row.finish == FinishReason::length);
    s.weight.assign(n, 0.0f);
    s.advantage.assign(n, 0.0f);
    s.sampler_log_prob.assign(n, 0.0f);
    for (std::size_t t = prompt; t < n; ++t) {
        s.weight[t] = used ? 1.0f : 0.0f;
        s.sampler_log_prob[t] = row.log_probs[t - prompt];
    }
    return s;
}

void RolloutMaker::fill(PendingRollout& pending, std::vector<float> Sequence::*column, const Scorer& score) {
    for (std::int64_t u = 0; u < split_.parts; ++u) {
        const std::vector<std::size_t> members = pending.members(seed_, u);
        auto all = score(pending.batch(seed_, u));
        for (std::size_t i = 0; i < members.size(); ++i)
            pending.sequences[members[i]].*column = std::move(all[i]);
    }
}

std::vector<StepReward> RolloutMaker::steps_of(const RolloutRow& row, const std::vector<double>& weights) const {
    std::vector<StepReward> steps;
    if (std::isnan(row.reward) || row.tokens.empty()) return steps;
    const RewardInput input{.prompt = row.prompt_text,
                            .response = row.response_text,
                            .reference = row.reference,
                            .tokens = static_cast<std::int32_t>(row.tokens.size()),
                            .truncated = row.finish == FinishReason::length};
    // Bytes of the text up to the end of each token, behind the tag that the template may have opened.
    std::vector<std::size_t> ends;
    std::size_t bytes = 0;
    for (const TokenId token : row.tokens)
        ends.push_back(bytes += token < run_.tokenizer->vocab_size() ? run_.tokenizer->token_bytes(token).size() : 0);
    const std::size_t opened = run_.chat.response_text({}).size();
    const auto token_of = [&](std::size_t end) {
        const auto first = std::lower_bound(ends.begin(), ends.end() - 1, end - std::min(end, opened));
        return static_cast<std::int32_t>(first - ends.begin());
    };
    // What is not of steps makes one more at the end, in all responses or in none; where none of its rewards can
    // be judged (rl.unscorable = all) there is no such step.
    double whole = row.reward;
    bool others = run_.deck.number("rl.truncated_penalty") > 0 || run_.deck.integer("rl.overlong_buffer") > 0;
    bool known = others;
    for (std::size_t r = 0; r < weights.size(); ++r) {
        if (weights[r] == 0 || row.rewards[r] == kNotApplicable) continue;
        const Reward* const reward = pool_.rewards()[r].reward.get();
        if (reward == nullptr || !reward->scores_steps()) {
            others = true;
            known |= std::isfinite(row.rewards[r]);
            continue;
        }
        whole -= weights[r] * row.rewards[r];
        for (const StepScore& step : reward->steps(input))
            steps.push_back({.end = token_of(step.end), .reward = weights[r] * step.reward});
    }
    if (others && known) steps.push_back({.end = static_cast<std::int32_t>(row.tokens.size() - 1), .reward = whole});
    return steps;
}

ScoredResponse RolloutMaker::scored(const RolloutRow& row, const Sequence& s, std::int64_t step) const {
    const Deck& deck = run_.deck;
    ScoredResponse out{.group = row.group, .reward = row.reward, .tokens = std::ssize(row.tokens)};
    const std::size_t prompt = row.prompt_tokens.size(), n = s.tokens.size();
    const std::vector<double> weights = reward_weights(deck, pool_.rewards(), step);
    for (std::size_t r = 0; r < weights.size(); ++r)
        if (weights[r] != 0)
            out.parts.push_back(row.rewards[r] == kNotApplicable ? 0.0 : weights[r] * row.rewards[r]);
    if (deck.text("loss.advantage") == "process") out.steps = steps_of(row, weights);
    if (!s.value.empty()) out.values.assign(s.value.begin() + static_cast<std::ptrdiff_t>(prompt), s.value.end());
    const double coef = deck.schedule("loss.kl_coef").at(step);
    if (deck.text("loss.kl_in") == "reward" && coef != 0) {
        const KlOptions options = kl_options(deck);
        for (std::size_t t = prompt; t < n; ++t)
            out.token_rewards.push_back(
                -coef * kl_term(options, static_cast<double>(s.old_log_prob[t]),
                                static_cast<double>(s.ref_log_prob[t])).value);
    }
    return out;
}

void RolloutMaker::give_advantages(PendingRollout& pending, std::vector<RolloutRow>& rows,
                                   std::int64_t step) const {
    std::vector<ScoredResponse> responses;
    for (std::size_t i = 0; i < rows.size(); ++i) responses.push_back(scored(rows[i], pending.sequences[i], step));
    const std::vector<TokenAdvantages> all = token_advantages(advantage_options(run_.deck), responses);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        Sequence& s = pending.sequences[i];
        const std::vector<double>& advantage = all[i].advantage;
        const auto prompt = static_cast<std::ptrdiff_t>(rows[i].prompt_tokens.size());
        std::transform(advantage.begin(), advantage.end(), s.advantage.begin() + prompt,
                       [](double a) { return static_cast<float>(a); });
        if (stack_.critic) {
            s.returns.assign(s.tokens.size(), 0.0f);
            std::transform(all[i].returns.begin(), all[i].returns.end(), s.returns.begin() + prompt,
                           [](double r) { return static_cast<float>(r); });
        }
        const auto n = static_cast<double>(std::max<std::size_t>(1, advantage.size()));
        rows[i].advantage = std::accumulate(advantage.begin(), advantage.end(), 0.0) / n;
    }
}

std::optional<PendingRollout> RolloutMaker::make(std::int64_t number, std::int64_t step, std::int64_t& groups) {
    const Deck& deck = run_.deck;
    Rounds rounds;
    PendingRollout pending;
    run_.on_root([&] { forget_sampling(run_.dir, step); });
    std::vector<RolloutRow> rows;
    {
        Profile::Region region(run_.profile, "rollout.other");
        auto sampled = sample_with_spread(step, groups, rounds);
        if (!sampled) return std::nullopt;
        rows = std::move(*sampled);
    }
    pending.number = number;
    pending.split = split_;
    pending.temperature = deck.schedule("rollout.temperature").at(step);
    pending.statistics = statistics(rows, rounds);
    std::int32_t place = -1;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (i == 0 || rows[i].group != rows[i - 1].group) ++place;
        pending.sequences.push_back(sequence_of(rows[i]));
        pending.sequences.back().address = static_cast<std::int64_t>(i);
        pending.group.push_back(place);
    }
    const Schedule kl_coef = deck.schedule("loss.kl_coef");
    bool reference_wanted = false;
    for (std::int64_t i = 0; i < pending.updates(); ++i) reference_wanted |= kl_coef.at(step + i) != 0;
    const std::string& old = deck.text("rl.old_logprobs");
    const bool in_reward = reference_wanted && deck.text("loss.kl_in") == "reward";
    const auto log_probs = [&](const ParameterSet& parameters) {
        return [this, &parameters, &pending](const std::vector<Sequence>& batch) {
            return stack_.trainer->log_probs(parameters, batch, pending.temperature);
        };
    };
    // One update from one rollout is on-policy: the ratio is 1 by definition, nothing to compute.
    if (old == "sampler") {
        for (Sequence& s : pending.sequences) s.old_log_prob = s.sampler_log_prob;
    } else if (old == "trainer" || pending.updates() > 1 || in_reward) {
        Profile::Region region(run_.profile, "logprobs.old");
        fill(pending, &Sequence::old_log_prob, log_probs(*stack_.policy));
    }
    if (reference_wanted) {
        Profile::Region region(run_.profile, "logprobs.reference");
        fill(pending, &Sequence::ref_log_prob, log_probs(stack_.bring_reference()));
    }
    if (stack_.critic)
        fill(pending, &Sequence::value,
             [this](const std::vector<Sequence>& batch) { return stack_.critic->trainer->values(batch); });
    give_advantages(pending, rows, step);
    write(rows, step);
    return pending;
}

void RolloutMaker::write(const std::vector<RolloutRow>& rows, std::int64_t step) const {
    if (run_.grid.tensor_rank() != 0) return;
    std::vector<std::string> names;
    for (const NamedReward& reward : pool_.rewards()) names.push_back(reward.name);
    const auto n = static_cast<std::ptrdiff_t>(rows.size() / group_), size = static_cast<std::ptrdiff_t>(group_);
    const std::ptrdiff_t rank = run_.grid.data_rank(), ranks = run_.grid.data_size();
    const std::vector<RolloutRow> mine(rows.begin() + n * rank / ranks * size,
                                       rows.begin() + n * (rank + 1) / ranks * size);
    write_rollouts(rollout_path(run_.dir, step, run_.grid.data_rank(), 0), names, mine);
}

Json RolloutMaker::statistics(const std::vector<RolloutRow>& rows, const Rounds& rounds) const {
    Json out;
    MeanSpread reward, length;
    double truncated = 0, flat_groups = 0, groups = 0;
    for (std::size_t first = 0; first < rows.size(); first += group_) {
        const std::span group(rows.data() + first, group_);
        for (const RolloutRow& row : group) {
            length.add(static_cast<double>(row.tokens.size()));
            truncated += row.finish == FinishReason::length;
            if (!std::isnan(row.reward)) reward.add(row.reward);
        }
        flat_groups += !has_spread(group);
        ++groups;
    }
    out["reward_mean"] = reward.mean();
    out["reward_std"] = reward.std();
    const std::vector<NamedReward>& rewards = pool_.rewards();
    for (std::size_t r = 0; r < rewards.size(); ++r) {
        MeanSpread column;
        double unscorable = 0, applied = 0;
        for (const RolloutRow& row : rows) {
            applied += row.rewards[r] != kNotApplicable;
            unscorable += std::isnan(row.rewards[r]);
            if (std::isfinite(row.rewards[r])) column.add(row.rewards[r]);
        }
        Json& told = out["rewards"][rewards[r].name];
        told = {{"mean", column.mean()}, {"std", column.std()}, {"unscorable", unscorable}};
        if (applied == static_cast<double>(rows.size())) continue;
        told["applied"] = applied;
        if (applied == 0) told["mean"] = told["std"] = nullptr;
    }
    if (kinds_.size() > 1) {
        std::map<std::string, MeanSpread> of_kind;
        for (const RolloutRow& row : rows)
            if (!std::isnan(row.reward)) of_kind[prompts_[static_cast<std::size_t>(row.prompt)].kind].add(row.reward);
        for (const auto& [kind, spread] : of_kind)
            out["kinds"][kind] = {{"rows", spread.count}, {"reward_mean", spread.mean()}, {"reward_std", spread.std()}};
    }
    out["groups_without_spread"] = flat_groups / groups;
    if (run_.deck.flag("rl.dynamic_sampling")) {
        out["rounds"] = rounds.rounds;
        out["groups_replaced"] = rounds.replaced;
    }
    out["length_mean"] = length.mean();
    out["length_min"] = length.low;
    out["length_max"] = length.high;
    out["truncated"] = truncated / length.count;
    out["rollout_tokens"] = length.sum;
    return out;
}

}  // namespace gradus
