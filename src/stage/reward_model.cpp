// SPDX-License-Identifier: Apache-2.0
// stage = reward_model: a policy with a scalar head learns which responses are better, from pairs or from labels.
// The score of a response is the head's number after its last token.
#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/stage/data.hpp"
#include "gradus/stage/lifecycle.hpp"
#include "gradus/train/preference_loss.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// What scores of some rows say.
struct Measurement {
    ScoreLossSums sums;
    Calibration calibration;

    double mean() const { return sums.score / sums.scores; }
    /// n - 1 below the line.
    double std() const {
        const double squares = sums.score_squares - sums.scores * mean() * mean();
        return sums.scores > 1 ? std::sqrt(std::max(0.0, squares) / (sums.scores - 1)) : 0.0;
    }
    Json json() const {
        return {{"rows", static_cast<std::int64_t>(sums.items)},
                {"accuracy", calibration.accuracy},
                {"stderr", calibration.accuracy_error},
                {"expected_calibration_error", calibration.expected_error},
                {"brier", calibration.brier},
                {"loss", sums.loss},
                {"margin_mean", sums.margin / sums.items},
                {"score_mean", mean()},
                {"score_std", std()}};
    }
};

/// The loop of the stage with all that its steps share.
class RewardModelTraining {
  public:
    RewardModelTraining(Run& run, Stack& stack, std::vector<RatedRow> rows, std::vector<RatedRow> held_out,
                        std::int64_t total);
    ExitCode loop(StartPoint& start);

  private:
    std::vector<RatedRow> next_rows();
    ScoreLossSums loss(const std::vector<RatedRow>& rows, std::span<const float> scores, std::span<float> d_scores) const;
    Measurement measure(const std::vector<RatedRow>& rows);
    /// One update after `step` of them, its metrics and, where it is due, a measurement of the held-out rows.
    void update(std::int64_t step, const LearningRate& rate, Lifecycle& life);
    /// Measures at the end and keeps the result.
    Json conclude();
    /// Of a checkpoint; with `result`, what is known of the scores at the end.
    Json state(const Json& result) const;

    Run& run_;
    Stack& stack_;
    std::vector<RatedRow> rows_, held_out_;
    bool pairs_;
    double center_coef_;
    std::int64_t total_, batch_, measure_every_, at_ = 0;
    double tokens_ = 0;
    Shuffler shuffler_;
};

RewardModelTraining::RewardModelTraining(Run& run, Stack& stack, std::vector<RatedRow> rows,
                                         std::vector<RatedRow> held_out, std::int64_t total)
    : run_(run),
      stack_(stack),
      rows_(std::move(rows)),
      held_out_(std::move(held_out)),
      pairs_(run.deck.text("reward_model.kind") == "pairwise"),
      center_coef_(run.deck.number("reward_model.center_coef")),
      total_(total),
      batch_(run.deck.integer("reward_model.batch")),
      measure_every_(run.deck.integer("eval.every")),
      shuffler_(static_cast<std::uint64_t>(run.deck.integer("run.seed")), std::ssize(rows_),
                run.deck.flag("data.shuffle")) {}

std::vector<RatedRow> RewardModelTraining::next_rows() {
    std::vector<RatedRow> batch;
    for (std::int64_t i = 0; i < batch_; ++i) batch.push_back(rows_[static_cast<std::size_t>(shuffler_.row(at_++))]);
    return batch;
}

std::vector<Sequence> sequences_of(std::span<const RatedRow> rows) {
    std::vector<Sequence> sequences;
    for (const RatedRow& row : rows) sequences.insert(sequences.end(), row.sequences.begin(), row.sequences.end());
    return sequences;
}

ScoreLossSums RewardModelTraining::loss(const std::vector<RatedRow>& rows, std::span<const float> scores,
                                        std::span<float> d_scores) const {
    std::vector<double> target;
    for (const RatedRow& row : rows) target.push_back(pairs_ ? row.margin : row.label);
    return pairs_ ? pairwise_loss<float>(scores, target, center_coef_, d_scores)
                  : pointwise_loss<float>(scores, target, d_scores);
}

Measurement RewardModelTraining::measure(const std::vector<RatedRow>& rows) {
    constexpr std::size_t kRowsAtOnce = 1024;
    std::vector<float> scores;
    for (std::size_t at = 0; at < rows.size(); at += kRowsAtOnce) {
        const std::span part(rows.data() + at, std::min(kRowsAtOnce, rows.size() - at));
        const std::vector<float> of_part = stack_.trainer->scores(sequences_of(part));
        scores.insert(scores.end(), of_part.begin(), of_part.end());
        run_.watchdog.alive();
    }
    std::vector<float> unused(scores.size());
    Measurement result{.sums = loss(rows, scores, unused)};
    std::vector<double> came_true;
    for (std::size_t i = 0; i < rows.size(); ++i)
        came_true.push_back(pairs_                ? sigmoid(static_cast<double>(scores[2 * i]) - scores[2 * i + 1])
                            : rows[i].label > 0 ? sigmoid(scores[i])
                                                : sigmoid(-static_cast<double>(scores[i])));
    result.calibration = calibration(came_true);
    return result;
}

Json RewardModelTraining::conclude() {
    const Profile::Region region(run_.profile, "evaluate.scores");
    const Measurement end = measure(held_out_.empty() ? rows_ : held_out_);
    const char* const of = held_out_.empty() ? "training" : "held-out";
    run_.log.info("{} {} of {}: accuracy {:.1f} +- {:.1f} %, calibration error {:.3f}, Brier {:.3f}; scores {:.3f} +- {:.3f}",
                  end.sums.items, pairs_ ? "pairs" : "labels", of, 100 * end.calibration.accuracy,
                  100 * end.calibration.accuracy_error, end.calibration.expected_error, end.calibration.brier, end.mean(),
                  end.std());
    Json result = {{"kind", run_.deck.text("reward_model.kind")}, {"of", of}};
    result.update(end.json());
    if (run_.is_root()) write_file_atomically(run_.path("result.json"), result.dump(2) + "\n");
    return result;
}

void RewardModelTraining::update(std::int64_t step, const LearningRate& rate, Lifecycle& life) {
    const double began = now_seconds();
    const std::vector<RatedRow> rows = next_rows();
    Measurement seen;
    const Trainer::ScoreResult result = life.guarded([&] {
        return stack_.trainer->score_step(
            sequences_of(rows),
            [&](std::span<const float> scores, std::span<float> d_scores) { seen.sums = loss(rows, scores, d_scores); },
            rate.at(step));
    });
    tokens_ += result.tokens;
    const double tokens_per_s = result.tokens / (now_seconds() - began);
    const double accuracy = seen.sums.right / seen.sums.items, margin = seen.sums.margin / seen.sums.items;
    Json row = {{"step", step + 1},
                {"loss", seen.sums.loss},
                {"accuracy", accuracy},
                {"margin_mean", margin},
                {"score_mean", seen.mean()},
                {"score_std", seen.std()},
                {"grad_norm", result.grad_norm},
                {"lr", rate.at(step)},
                {"tokens", tokens_},
                {"tokens_per_s", tokens_per_s}};
    row.update(router_metrics(stack_.config, result.router));
    std::string told;
    if (!held_out_.empty() && measure_every_ > 0 && (step + 1) % measure_every_ == 0) {
        const Profile::Region region(run_.profile, "evaluate.scores");
        const Measurement now = life.guarded([&] { return measure(held_out_); });
        row["held_out"] = now.json();
        told = fmt::format(" held-out {:.1f} %", 100 * now.calibration.accuracy);
    }
    row["seconds"] = lap_times(run_.profile);
    run_.metric(row);
    life.report(step + 1, fmt::format("loss {:.4f} accuracy {:.3f} margin {:.3f} norm {:.3f} lr {:.2e} tok/s {}{}",
                                      seen.sums.loss, accuracy, margin, result.grad_norm, rate.at(step),
                                      format_count(tokens_per_s), told));
}

Json RewardModelTraining::state(const Json& result) const {
    Json about = {{"kind", run_.deck.text("reward_model.kind")},
                  {"template", run_.chat.name()},
                  {"thinking", run_.deck.flag("policy.thinking")}};
    if (!result.is_null()) about.update({{"mean", result["score_mean"]}, {"std", result["score_std"]}});
    return {{"data_at", at_}, {"tokens", tokens_}, {"reward_model", about}};
}

ExitCode RewardModelTraining::loop(StartPoint& start) {
    if (start.own) {
        at_ = start.own->state()["data_at"].get<std::int64_t>();
        tokens_ = start.own->state()["tokens"].get<double>();
    }
    const double tokens_before = tokens_;
    start.own.reset();
    start.from.reset();
    const LearningRate rate = resolve_learning_rate(run_.deck, total_);
    Lifecycle life(run_, stack_, total_);
    Json result;
    for (std::int64_t step = start.step; step < total_;) {
        life.begin_step();
        update(step, rate, life);
        ++step;
        const bool stop = life.end_step(step);
        if (step == total_) result = life.guarded([&] { return conclude(); });
        if (stop || step == total_ || life.due(step)) life.save(step, state(result), {}, step == total_);
        if (stop) return ExitCode::again;
    }
    life.finish();
    run_.finish(total_, tokens_ - tokens_before, result);
    return ExitCode::done;
}

std::int64_t total_steps(const Deck& deck, std::size_t rows) {
    if (const std::int64_t steps = deck.integer("train.steps"); steps > 0) return steps;
    const double passes = deck.number("train.epochs") * static_cast<double>(rows);
    return std::max<std::int64_t>(1, std::llround(passes / deck.number("reward_model.batch")));
}

}  // namespace

ExitCode run_reward_model(Run& run) {
    StartPoint start = find_start(run);
    const std::int64_t longest = std::min({run.deck.integer("train.max_length"), start.config.max_positions,
                                           run.deck.integer("train.micro_tokens")});
    DataReport report;
    const auto read = [&](const RowSource& source) {
        const Profile::Region region(run.profile, "data.read");
        return read_rated(run.deck, run.chat, longest, report, source);
    };
    std::vector<RatedRow> rows = read({}), held_out;
    const double share = run.deck.number("data.eval_share");
    if (!run.deck.list("data.eval_path").empty())
        held_out = read({.files = "data.eval_path", .limit = nullptr});
    else if (share > 0)
        held_out = hold_out(rows, share, static_cast<std::uint64_t>(run.deck.integer("run.seed")));
    const std::int64_t total = total_steps(run.deck, rows.size());
    if (start.finished && start.step >= total) {
        run.log.info("finished before, at step {}: nothing to do", start.step);
        return ExitCode::done;
    }
    log_data(run, report);
    run.log.info("{} rows to train on, {} held out, {} lines skipped; {} steps", rows.size(), held_out.size(),
                 report.skipped, total);
    Stack stack(run.deck, start.config, run.grid, *run.tokenizer, run.memory(), run.profile, {.train = true});
    load_start(run, stack, start);
    run.cut_back(start.step);
    return RewardModelTraining(run, stack, std::move(rows), std::move(held_out), total).loop(start);
}

}  // namespace gradus
