// SPDX-License-Identifier: Apache-2.0
// stage = rl: GRPO as DeepSeek-R1 runs it. A rollout samples G responses to each of M prompts,
// scores them, and feeds B updates; the reference is replaced every N updates.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "gradus/base/error.hpp"
#include "gradus/stage/data.hpp"
#include "gradus/stage/lifecycle.hpp"
#include "gradus/stage/scoring.hpp"
#include "rl_batch.hpp"
#include "stages.hpp"

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

/// Reward, length and group statistics of a rollout, as they go to metrics.jsonl.
Json rollout_statistics(const std::vector<RolloutRow>& rows, const std::vector<NamedReward>& rewards,
                        std::int32_t group_size) {
    Json out;
    MeanSpread reward, length;
    double truncated = 0, flat_groups = 0, groups = 0;
    for (std::size_t first = 0; first < rows.size(); first += static_cast<std::size_t>(group_size)) {
        double low = INFINITY, high = -INFINITY;
        for (std::size_t i = first; i < first + static_cast<std::size_t>(group_size); ++i) {
            length.add(static_cast<double>(rows[i].tokens.size()));
            truncated += rows[i].finish == FinishReason::length;
            if (!std::isfinite(rows[i].reward)) continue;
            reward.add(rows[i].reward);
            low = std::min(low, rows[i].reward);
            high = std::max(high, rows[i].reward);
        }
        flat_groups += !(low < high);
        ++groups;
    }
    out["reward_mean"] = reward.mean();
    out["reward_std"] = reward.std();
    for (std::size_t r = 0; r < rewards.size(); ++r) {
        MeanSpread column;
        double unscorable = 0;
        for (const RolloutRow& row : rows)
            if (std::isfinite(row.rewards[r]))
                column.add(row.rewards[r]);
            else
                ++unscorable;
        out["rewards"][rewards[r].name] = {
            {"mean", column.mean()}, {"std", column.std()}, {"unscorable", unscorable}};
    }
    out["groups_without_spread"] = flat_groups / groups;
    out["length_mean"] = length.mean();
    out["length_min"] = length.low;
    out["length_max"] = length.high;
    out["truncated"] = truncated / length.count;
    out["rollout_tokens"] = length.sum;
    return out;
}

/// The loop of the stage with all that its steps share.
class ReinforcementLearning {
  public:
    ReinforcementLearning(Run& run, Stack& stack, std::vector<PromptRow> prompts,
                          std::vector<PromptRow> held_out);
    ExitCode loop(StartPoint& start);

  private:
    PendingRollout roll_out(std::int64_t step);
    std::vector<RolloutRow> sample_and_score(std::int64_t step);
    void give_advantages(std::vector<RolloutRow>& rows, std::int64_t step) const;
    PendingRollout make_pending(const std::vector<RolloutRow>& rows, std::int64_t step);
    Trainer::PolicyResult update(std::int64_t step, double lr);
    /// pass@1 of the policy on held-out problems after `step` updates; NaN where none is due.
    double measure(std::int64_t step);
    void record(std::int64_t step, const Trainer::PolicyResult& result, double lr, double pass,
                double seconds, Lifecycle& life);

    Run& run_;
    Stack& stack_;
    std::vector<PromptRow> prompts_;
    RewardPool pool_;
    Shuffler shuffler_;
    std::uint64_t seed_;
    std::int64_t prompts_per_rollout_, updates_, epochs_, total_, reference_every_;
    std::int32_t group_;
    std::int64_t rollouts_ = 0;  ///< made so far
    double tokens_ = 0;          ///< generated and trained, whole run
    PendingRollout pending_;
    std::vector<PromptRow> held_out_;
    std::int64_t measure_every_;
};

ReinforcementLearning::ReinforcementLearning(Run& run, Stack& stack, std::vector<PromptRow> prompts,
                                             std::vector<PromptRow> held_out)
    : run_(run),
      stack_(stack),
      prompts_(std::move(prompts)),
      pool_(deck_rewards(run.deck), 1),
      shuffler_(static_cast<std::uint64_t>(run.deck.integer("run.seed")),
                static_cast<std::int64_t>(prompts_.size()), run.deck.flag("data.shuffle")),
      seed_(static_cast<std::uint64_t>(run.deck.integer("run.seed"))),
      prompts_per_rollout_(run.deck.integer("rl.prompts")),
      updates_(run.deck.integer("rl.updates")),
      epochs_(run.deck.integer("rl.epochs")),
      total_(run.deck.integer("train.steps")),
      reference_every_(run.deck.integer("rl.reference_every")),
      group_(static_cast<std::int32_t>(run.deck.integer("rl.group"))),
      held_out_(std::move(held_out)),
      measure_every_(run.deck.integer("eval.every")) {
}

/// This rank's samples, scored, with advantages; written to the rollout table.
std::vector<RolloutRow> ReinforcementLearning::sample_and_score(std::int64_t step) {
    Profile::Region region(run_.profile, "rollout.other");
    std::vector<std::int64_t> chosen, groups;
    for (std::int64_t i = 0; i < prompts_per_rollout_; ++i) {
        groups.push_back(rollouts_ * prompts_per_rollout_ + i);
        chosen.push_back(shuffler_.row(groups.back()));
    }
    const GenerationOptions options = resolve_generation(run_.deck, run_.chat, step);
    std::vector<RolloutRow> rows = generate_and_score(
        run_, stack_, pool_,
        {.rows = prompts_, .prompts = chosen, .groups = groups, .samples = group_, .options = options});
    give_advantages(rows, step);
    if (run_.grid.tensor_rank() == 0) {
        std::vector<std::string> names;
        for (const NamedReward& reward : pool_.rewards()) names.push_back(reward.name);
        write_rollouts(rollout_path(run_.dir, step, run_.grid.data_rank(), 0), names, rows);
    }
    return rows;
}

void ReinforcementLearning::give_advantages(std::vector<RolloutRow>& rows, std::int64_t step) const {
    std::vector<double> weights;
    for (const NamedReward& reward : pool_.rewards())
        weights.push_back(run_.deck.schedule("reward." + reward.name + ".weight").at(step));
    for (RolloutRow& row : rows) {
        row.step = step;
        row.reward = 0;
        // One part that cannot be judged leaves the sum unknown.
        for (std::size_t r = 0; r < weights.size(); ++r)
            if (weights[r] != 0) row.reward += weights[r] * row.rewards[r];
        if (std::isnan(row.reward)) row.reward = kUnscorable;
    }
    const GroupStd std = parse_group_std(run_.deck.text("loss.std"));
    const double eps = run_.deck.number("loss.std_eps");
    const auto size = static_cast<std::size_t>(group_);
    for (std::size_t first = 0; first < rows.size(); first += size) {
        std::vector<double> rewards;
        for (std::size_t i = first; i < first + size; ++i) rewards.push_back(rows[i].reward);
        const std::vector<double> advantages = group_advantages(rewards, std, eps);
        for (std::size_t i = 0; i < size; ++i) rows[first + i].advantage = advantages[i];
    }
}

PendingRollout ReinforcementLearning::make_pending(const std::vector<RolloutRow>& rows,
                                                   std::int64_t step) {
    PendingRollout pending;
    pending.number = rollouts_;
    pending.updates = updates_ * epochs_;
    pending.prompts = prompts_per_rollout_;
    pending.parts = updates_;
    pending.temperature = run_.deck.schedule("rollout.temperature").at(step);
    pending.statistics = rollout_statistics(rows, pool_.rewards(), group_);
    const bool mask_truncated = run_.deck.flag("rl.mask_truncated");
    for (const RolloutRow& row : rows) {
        Sequence s;
        s.tokens = row.prompt_tokens;
        s.tokens.insert(s.tokens.end(), row.tokens.begin(), row.tokens.end());
        const std::size_t prompt = row.prompt_tokens.size(), n = s.tokens.size();
        const bool used = !(mask_truncated && row.finish == FinishReason::length);
        s.weight.assign(n, 0.0f);
        s.advantage.assign(n, 0.0f);
        s.sampler_log_prob.assign(n, 0.0f);
        for (std::size_t t = prompt; t < n; ++t) {
            s.weight[t] = used ? 1.0f : 0.0f;
            s.advantage[t] = static_cast<float>(row.advantage);
            s.sampler_log_prob[t] = row.log_probs[t - prompt];
        }
        s.address = static_cast<std::int64_t>(pending.sequences.size());
        pending.sequences.push_back(std::move(s));
        pending.group.push_back(
            static_cast<std::int32_t>(row.group - rollouts_ * prompts_per_rollout_));
    }
    const std::string& old = run_.deck.text("rl.old_logprobs");
    // One update from one rollout is on-policy: the ratio is 1 by definition, nothing to compute.
    if (old == "sampler") {
        for (Sequence& s : pending.sequences) s.old_log_prob = s.sampler_log_prob;
    } else if (old == "trainer" || pending.updates > 1) {
        Profile::Region region(run_.profile, "logprobs.old");
        auto all = stack_.trainer->log_probs(*stack_.policy, pending.sequences, pending.temperature);
        for (std::size_t i = 0; i < all.size(); ++i) pending.sequences[i].old_log_prob = std::move(all[i]);
    }
    const Schedule kl_coef = run_.deck.schedule("loss.kl_coef");
    bool reference_wanted = false;
    for (std::int64_t i = 0; i < pending.updates; ++i) reference_wanted |= kl_coef.at(step + i) != 0;
    if (reference_wanted) {
        Profile::Region region(run_.profile, "logprobs.reference");
        auto all = stack_.trainer->log_probs(stack_.bring_reference(), pending.sequences, pending.temperature);
        for (std::size_t i = 0; i < all.size(); ++i) pending.sequences[i].ref_log_prob = std::move(all[i]);
    }
    return pending;
}

PendingRollout ReinforcementLearning::roll_out(std::int64_t step) {
    const std::vector<RolloutRow> rows = gather_rows(run_.grid, sample_and_score(step));
    PendingRollout pending = make_pending(rows, step);
    const std::int64_t preempted = run_.grid.data().sum(stack_.engine->preemptions());
    if (preempted > 0) pending.statistics["preempted"] = preempted;
    ++rollouts_;
    tokens_ += pending.statistics["rollout_tokens"].get<double>();
    return pending;
}

Trainer::PolicyResult ReinforcementLearning::update(std::int64_t step, double lr) {
    const Deck& deck = run_.deck;
    const PolicyLossOptions options{
        .clip_low = deck.schedule("loss.clip_low").at(step),
        .clip_high = deck.schedule("loss.clip_high").at(step),
        .kl_coef = deck.schedule("loss.kl_coef").at(step),
        .entropy_coef = deck.schedule("loss.entropy_coef").at(step),
        .aggregation = parse_aggregation(deck.text("loss.aggregation"))};
    const std::vector<Sequence> batch = pending_.batch(seed_);
    ++pending_.next;
    return stack_.trainer->policy_step(batch, options, pending_.temperature, lr);
}

double ReinforcementLearning::measure(std::int64_t step) {
    if (measure_every_ == 0 || (step % measure_every_ != 0 && step != total_)) return NAN;
    Profile::Region region(run_.profile, "evaluate.other");
    std::vector<std::int64_t> all(held_out_.size());
    std::iota(all.begin(), all.end(), 0);
    GenerationOptions options = resolve_generation(run_.deck, run_.chat, 0);
    options.sampling.temperature = run_.deck.number("eval.temperature");
    options.sampling.top_p = run_.deck.number("eval.top_p");
    options.stream = Stream::eval;
    std::vector<NamedReward> accuracy;
    accuracy.push_back({"accuracy", make_accuracy_reward()});
    RewardPool pool(std::move(accuracy), 1);
    const auto samples = static_cast<std::int32_t>(run_.deck.integer("eval.n"));
    double correct = 0;
    for (const RolloutRow& row : generate_and_score(run_, stack_, pool,
                                                    {.rows = held_out_,
                                                     .prompts = all,
                                                     .groups = all,
                                                     .samples = samples,
                                                     .options = options}))
        correct += row.rewards[0] == 1;
    return run_.grid.data().sum(correct) / static_cast<double>(all.size()) / samples;
}

void ReinforcementLearning::record(std::int64_t step, const Trainer::PolicyResult& result, double lr,
                                   double pass, double seconds, Lifecycle& life) {
    const PolicyLossSums& sums = result.sums;
    const double n = std::max(1.0, sums.tokens);
    if (pending_.next == 1) {
        // Later updates of a rollout see a policy that has moved on from the one that sampled.
        pending_.statistics["sampler_gap_mean"] = sums.sampler_gap / n;
        pending_.statistics["sampler_gap_max"] = sums.sampler_gap_max;
    }
    Json row = {{"step", step},
                {"rollout", pending_.number},
                {"loss", result.loss},
                {"grad_norm", result.grad_norm},
                {"lr", lr},
                {"kl", sums.kl / n},
                {"entropy", sums.entropy / n},
                {"ratio", sums.ratio / n},
                {"clipped_low", sums.clipped_low / n},
                {"clipped_high", sums.clipped_high / n},
                {"trained_tokens", sums.tokens}};
    row.update(router_metrics(stack_.config, result.router));
    row.update(pending_.statistics);
    if (!std::isnan(pass)) row["pass_at_1"] = pass;
    row["tokens_per_s"] = result.tokens / seconds;
    row["seconds"] = lap_times(run_.profile);
    run_.metric(row);
    life.report(step,
                fmt::format("reward {:.3f} len {:.1f} kl {:.4f} ent {:.3f} norm {:.3f} flat {:.2f} "
                            "gap {:.1e} {:.1f} s",
                            row["reward_mean"].get<double>(), row["length_mean"].get<double>(),
                            sums.kl / n, sums.entropy / n, result.grad_norm,
                            row["groups_without_spread"].get<double>(),
                            row["sampler_gap_mean"].get<double>(), seconds) +
                    (std::isnan(pass) ? "" : fmt::format(" pass@1 {:.1f} %", 100 * pass)));
}

ExitCode ReinforcementLearning::loop(StartPoint& start) {
    if (start.own) {
        const Json& state = start.own->state();
        try {
            rollouts_ = state.at("rollouts");
            tokens_ = state.at("tokens");
            pending_ = PendingRollout::load(*start.own);
        } catch (const Json::exception& e) {
            throw CheckpointError(fmt::format("{} was written by another version of gradus, whose rollouts "
                                              "this one cannot continue: {}",
                                              start.own->directory(), e.what()));
        }
        require<DeckError>(
            pending_.empty() || (pending_.prompts == prompts_per_rollout_ &&
                                 pending_.parts == updates_ && pending_.updates == updates_ * epochs_),
            "{} stands in the middle of a rollout of rl.prompts = {}, rl.updates = {}, rl.epochs = {}; "
            "the deck now has {}, {}, {}: go on with the old values, or from another checkpoint",
            start.own->directory(), pending_.prompts, pending_.parts,
            pending_.updates / std::max<std::int64_t>(1, pending_.parts), prompts_per_rollout_, updates_,
            epochs_);
    }
    const double tokens_before = tokens_;
    start.own.reset();
    start.from.reset();
    const LearningRate rate = resolve_learning_rate(run_.deck, total_);
    Lifecycle life(run_, stack_, total_);
    PendingRollout::Storage storage;
    for (std::int64_t step = start.step; step < total_;) {
        const double began = now_seconds();
        life.begin_step();
        if (pending_.empty()) pending_ = roll_out(step);
        const double lr = rate.at(step);
        const Trainer::PolicyResult result = life.guarded([&] { return update(step, lr); });
        ++step;
        tokens_ += result.tokens;
        const double pass = measure(step);
        record(step, result, lr, pass, now_seconds() - began, life);
        if (reference_every_ > 0 && step % reference_every_ == 0)
            stack_.renew_reference();
        const bool stop = life.end_step(step);
        if (stop || step == total_ || life.due(step)) {
            const bool finished = step == total_;
            if (finished) pending_ = PendingRollout{};
            life.save(step,
                      {{"rollouts", rollouts_}, {"tokens", tokens_}, {"rollout", pending_.state()}},
                      pending_.slabs(run_.grid, storage), finished);
        }
        if (stop) return ExitCode::again;
    }
    life.finish();
    run_.finish(total_, tokens_ - tokens_before, {{"rollouts", rollouts_}});
    return ExitCode::done;
}

}  // namespace

ExitCode run_rl(Run& run) {
    StartPoint start = find_start(run);
    if (start.finished && start.step >= run.deck.integer("train.steps")) {
        run.log.info("finished before, at step {}: nothing to do", start.step);
        return ExitCode::done;
    }
    DataReport report;
    auto read = [&](const RowSource& source) {
        const Profile::Region region(run.profile, "data.read");
        return read_prompts(run.deck, run.chat, report, source);
    };
    std::vector<PromptRow> prompts = read({});
    run.log.info("{} prompts, {} lines skipped", prompts.size(), report.skipped);
    std::vector<PromptRow> held_out;
    if (run.deck.integer("eval.every") > 0)
        held_out = read({.files = "data.eval_path", .limit = "eval.limit"});
    log_data(run, report);
    Stack stack(run.deck, start.config, run.grid, *run.tokenizer, run.memory(), run.profile,
                stack_needs(run.deck));
    load_start(run, stack, start);
    run.cut_back(start.step);
    return ReinforcementLearning(run, stack, std::move(prompts), std::move(held_out)).loop(start);
}

}  // namespace gradus
