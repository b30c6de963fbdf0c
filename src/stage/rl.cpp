// SPDX-License-Identifier: Apache-2.0
// stage = rl: GRPO as DeepSeek-R1 runs it, and its relatives. A rollout samples G responses to each of
// M prompts, scores them, and feeds B updates of the policy and, for PPO, of the critic; the reference is
// replaced every N updates.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <optional>

#include "gradus/base/error.hpp"
#include "gradus/stage/data.hpp"
#include "gradus/stage/lifecycle.hpp"
#include "gradus/stage/loaded_model.hpp"
#include "gradus/stage/scoring.hpp"
#include "rl_options.hpp"
#include "rl_rollout.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// The course of the policy's rate at another height; its warm-up and decay are those of all updates.
LearningRate critic_learning_rate(const Deck& deck, LearningRate rate) {
    const double peak = deck.number("critic.lr");
    rate.floor = rate.peak > 0 ? rate.floor * peak / rate.peak : 0.0;
    rate.peak = peak;
    return rate;
}

/// The weight of the entropy bonus that follows the entropy (Skywork-OR1, arXiv 2505.22312): a step up after an
/// update at which the entropy was below the target, a step down otherwise, within [0, 1]; it counts where the last
/// entropy was below.
class AdaptiveEntropy {
  public:
    explicit AdaptiveEntropy(const Deck& deck)
        : target_(deck.number("loss.entropy_target")),
          step_(deck.number("loss.entropy_step")),
          coef_(deck.schedule("loss.entropy_coef").at(0)) {}
    bool adapts() const { return target_ > 0; }
    /// `scheduled` where the weight does not adapt.
    double coef(double scheduled) const { return !adapts() ? scheduled : last_ <= target_ ? coef_ : 0.0; }
    void observe(double entropy) {
        if (!adapts()) return;
        coef_ = std::clamp(coef_ + (entropy < target_ ? step_ : -step_), 0.0, 1.0);
        last_ = entropy;
    }
    Json state() const { return {{"coef", coef_}, {"last", last_}}; }
    void load(const Json& state) {
        coef_ = state.at("coef");
        last_ = state.at("last");
    }

  private:
    double target_, step_, coef_;
    double last_ = 0;
};

/// What one update did to the policy and, where there is one, to the critic.
struct UpdateResult {
    Trainer::PolicyResult policy;
    std::optional<Trainer::ValueResult> critic;
    double lr = 0, critic_lr = 0;
};

Json critic_metrics(const Trainer::ValueResult& result, double lr) {
    const ValueLossSums& sums = result.sums;
    const double n = std::max(1.0, sums.tokens);
    Json row = {{"value_loss", sums.loss},
                {"value_mean", sums.value / n},
                {"return_mean", sums.returns / n},
                {"value_clipped", sums.clipped / n},
                {"critic_grad_norm", result.grad_norm},
                {"critic_lr", lr}};
    // Of returns that are all alike there is nothing to explain.
    if (const double explained = sums.explained_variance(); std::isfinite(explained))
        row["explained_variance"] = explained;
    return row;
}

/// The loop of the stage with all that its steps share.
class ReinforcementLearning {
  public:
    ReinforcementLearning(Run& run, Stack& stack, std::vector<PromptRow> prompts,
                          std::vector<PromptRow> held_out, std::vector<RewardModelSource> reward_models, Json origin);
    ExitCode loop(StartPoint& start);

  private:
    /// Makes the next rollout; false where the run was asked to stop meanwhile.
    bool roll_out(std::int64_t step);
    void save(std::int64_t step, Lifecycle& life, PendingRollout::Storage& storage);
    UpdateResult update(std::int64_t step);
    /// pass@1 of the policy on held-out problems after `step` updates; NaN where none is due.
    double measure(std::int64_t step);
    /// pass@1 of the policy on held-out problems.
    double pass_at_1();
    void record(std::int64_t step, const UpdateResult& result, double pass, double seconds, Lifecycle& life);

    Run& run_;
    Stack& stack_;
    Json origin_;  ///< identity of the checkpoint that the first weights were of; null: none
    RolloutMaker maker_;
    std::uint64_t seed_;
    RolloutSplit split_;
    std::int64_t total_, reference_every_, critic_warmup_;
    LearningRate rate_, critic_rate_;
    std::int64_t rollouts_ = 0;  ///< made so far
    std::int64_t groups_ = 0;    ///< prompts drawn so far
    AdaptiveEntropy entropy_;
    double tokens_ = 0;          ///< generated and trained, whole run
    PendingRollout pending_;
    std::vector<PromptRow> held_out_;
    std::int64_t measure_every_;
    double pass_at_start_ = NAN;  ///< of the first weights, until the first step has told it
};

ReinforcementLearning::ReinforcementLearning(Run& run, Stack& stack, std::vector<PromptRow> prompts,
                                             std::vector<PromptRow> held_out,
                                             std::vector<RewardModelSource> reward_models, Json origin)
    : run_(run),
      stack_(stack),
      origin_(std::move(origin)),
      maker_(run, stack, std::move(prompts), std::move(reward_models), origin_),
      seed_(static_cast<std::uint64_t>(run.deck.integer("run.seed"))),
      split_(rollout_split(run.deck)),
      total_(run.deck.integer("train.steps")),
      reference_every_(run.deck.integer("rl.reference_every")),
      critic_warmup_(stack.critic ? run.deck.integer("critic.warmup") : 0),
      rate_(resolve_learning_rate(run.deck, total_ - critic_warmup_)),
      critic_rate_(critic_learning_rate(run.deck, resolve_learning_rate(run.deck, total_))),
      entropy_(run.deck),
      held_out_(std::move(held_out)),
      measure_every_(run.deck.integer("eval.every")) {}

bool ReinforcementLearning::roll_out(std::int64_t step) {
    std::int64_t groups = groups_;
    auto made = maker_.make(rollouts_, step, groups);
    if (!made) return false;
    pending_ = std::move(*made);
    groups_ = groups;
    ++rollouts_;
    tokens_ += pending_.statistics["rollout_tokens"].get<double>();
    return true;
}

void ReinforcementLearning::save(std::int64_t step, Lifecycle& life, PendingRollout::Storage& storage) {
    const bool finished = step == total_;
    if (finished) pending_ = PendingRollout{};
    life.save(step,
              {{"rollouts", rollouts_},
               {"groups", groups_},
               {"tokens", tokens_},
               {"origin", origin_},
               {"entropy", entropy_.state()},
               {"rollout", pending_.state()}},
              pending_.slabs(run_.grid, storage), finished);
}

UpdateResult ReinforcementLearning::update(std::int64_t step) {
    PolicyLossOptions options = policy_loss_options(run_.deck, step);
    options.entropy_coef = entropy_.coef(options.entropy_coef);
    const std::vector<Sequence> batch = pending_.batch(seed_, pending_.next);
    options.entropy_floor =
        stack_.trainer->entropy_floor(batch, run_.deck.number("loss.top_entropy"), pending_.temperature);
    ++pending_.next;
    const bool learns = step >= critic_warmup_;
    UpdateResult result{.lr = learns ? rate_.at(step - critic_warmup_) : 0.0};
    result.policy = learns ? stack_.trainer->policy_step(batch, options, pending_.temperature, result.lr)
                           : stack_.trainer->policy_loss(batch, options, pending_.temperature);
    const PolicyLossSums& sums = result.policy.sums;
    if (learns) entropy_.observe(sums.entropy / std::max(1.0, sums.tokens));
    if (stack_.critic) {
        result.critic_lr = critic_rate_.at(step);
        result.critic = stack_.critic->trainer->value_step(batch, value_loss_options(run_.deck), result.critic_lr);
    }
    return result;
}

double ReinforcementLearning::measure(std::int64_t step) {
    if (measure_every_ == 0 || (step % measure_every_ != 0 && step != total_)) return NAN;
    return pass_at_1();
}

double ReinforcementLearning::pass_at_1() {
    Profile::Region region(run_.profile, "evaluate.other");
    std::vector<std::int64_t> all(held_out_.size());
    std::iota(all.begin(), all.end(), 0);
    GenerationOptions options = resolve_generation(run_.deck, run_.chat, 0);
    options.sampling.temperature = run_.deck.number("eval.temperature");
    options.sampling.top_p = run_.deck.number("eval.top_p");
    options.stream = Stream::eval;
    options.profile_phase = "evaluate";
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

void ReinforcementLearning::record(std::int64_t step, const UpdateResult& update, double pass, double seconds,
                                   Lifecycle& life) {
    const Trainer::PolicyResult& result = update.policy;
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
                {"lr", update.lr},
                {"kl", sums.kl / n},
                {"entropy", sums.entropy / n},
                {"ratio", sums.ratio / n},
                {"clipped_low", sums.clipped_low / n},
                {"clipped_high", sums.clipped_high / n},
                {"masked", sums.masked / n},
                {"trained_tokens", sums.tokens}};
    if (run_.deck.number("loss.dual_clip") > 0) row["dual_clipped"] = sums.dual_clipped / n;
    if (run_.deck.text("loss.sampler_ratio") != "none") row["sampler_ratio"] = sums.sampler_ratio / n;
    if (entropy_.adapts()) row["entropy_coef"] = entropy_.coef(0);
    row.update(router_metrics(stack_.config, result.router));
    if (update.critic) row.update(critic_metrics(*update.critic, update.critic_lr));
    row.update(pending_.statistics);
    if (!std::isnan(pass)) row["pass_at_1"] = pass;
    if (!std::isnan(pass_at_start_)) row["pass_at_1_at_start"] = pass_at_start_;
    pass_at_start_ = NAN;
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
                    (update.critic ? fmt::format(" value {:.4f} explained {:.2f}", update.critic->sums.loss,
                                                 update.critic->sums.explained_variance())
                                   : "") +
                    (std::isnan(pass) ? "" : fmt::format(" pass@1 {:.1f} %", 100 * pass)));
}

ExitCode ReinforcementLearning::loop(StartPoint& start) {
    if (start.own) {
        const Json& state = start.own->state();
        try {
            rollouts_ = state.at("rollouts");
            groups_ = state.at("groups");
            tokens_ = state.at("tokens");
            entropy_.load(state.at("entropy"));
            pending_ = PendingRollout::load(*start.own);
        } catch (const Json::exception& e) {
            throw CheckpointError(fmt::format("{} was written by another version of gradus, whose rollouts "
                                              "this one cannot continue: {}",
                                              start.own->directory(), e.what()));
        }
        require<DeckError>(pending_.empty() || pending_.split == split_,
                           "{} stands in the middle of a rollout of {}; the deck now has {}: go on with the old "
                           "values, or from another checkpoint",
                           start.own->directory(), pending_.split.text(), split_.text());
    }
    const double tokens_before = tokens_;
    start.own.reset();
    start.from.reset();
    start.critic.reader.reset();
    Lifecycle life(run_, stack_, total_);
    PendingRollout::Storage storage;
    if (start.step == 0 && measure_every_ > 0) {
        pass_at_start_ = pass_at_1();
        run_.log.info("pass@1 {:.1f} % before the first step", 100 * pass_at_start_);
    }
    for (std::int64_t step = start.step; step < total_;) {
        const double began = now_seconds();
        life.begin_step();
        if (pending_.empty() && !roll_out(step)) {
            // What was sampled stays on disk; the step that it is of must be there too.
            if (step > start.step && life.stop_now(step)) save(step, life, storage);
            life.finish();
            return ExitCode::again;
        }
        const UpdateResult result = life.guarded([&] { return update(step); });
        ++step;
        tokens_ += result.policy.tokens;
        const double pass = measure(step);
        record(step, result, pass, now_seconds() - began, life);
        if (stack_.reference && reference_every_ > 0 && step % reference_every_ == 0)
            stack_.renew_reference(run_.deck.number("rl.reference_mix"));
        const bool stop = life.end_step(step);
        if (stop || step == total_ || life.due(step)) save(step, life, storage);
        if (stop) return ExitCode::again;
    }
    life.finish();
    if (run_.is_root()) forget_sampling(run_.dir);
    run_.finish(total_, tokens_ - tokens_before, {{"rollouts", rollouts_}});
    return ExitCode::done;
}

/// Whether a key has a say in what a given policy's samples are, or in how they are judged.
bool decides_samples(const std::string& key) {
    for (const char* prefix : {"ckpt.", "optim.", "loss.", "critic.", "eval."})
        if (key.starts_with(prefix)) return false;
    if (key.starts_with("train.")) return key == "train.max_length";
    return !key.starts_with("run.") || key == "run.seed" || key == "run.device";
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
        held_out = read({.files = "data.eval_path", .limit = "eval.limit", .measured = true});
    log_data(run, report);
    std::vector<RewardModelSource> reward_models = resolve_reward_models(
        run.deck, start.config, [&](const std::string& text) { run.log.warn("{}", text); });
    StackNeeds needs = stack_needs(run.deck);
    needs.reward_models = needs_of(run.deck, reward_models);
    Stack stack(run.deck, start.config, run.grid, *run.tokenizer, run.memory(), run.profile, needs);
    load_start(run, stack, start);
    const Json origin = start.own ? start.own->state().value("origin", Json()) : start.from ? identity_of(run, *start.from) : Json();
    // Sampled by the same policy with the same keys, or not at all.
    run.on_root([&] {
        const bool same = run.deck.text("restart") == "latest" && std::filesystem::exists(run.path("deck.resolved")) &&
                          changed_keys(read_file(run.path("deck.resolved")), run.deck, decides_samples).empty();
        forget_sampling(run.dir, same ? std::optional(start.step) : std::nullopt);
    });
    run.cut_back(start.step);
    return ReinforcementLearning(run, stack, std::move(prompts), std::move(held_out), std::move(reward_models),
                                 origin)
        .loop(start);
}

}  // namespace gradus
