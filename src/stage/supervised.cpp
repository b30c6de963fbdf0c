// SPDX-License-Identifier: Apache-2.0
// stage = pretrain | sft: next-token training, on all tokens or on responses only.
#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/stage/data.hpp"
#include "gradus/stage/lifecycle.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// The batches of a run: consecutive rows of the shuffled data until a step has its tokens.
class BatchCursor {
  public:
    BatchCursor(const std::vector<Sequence>& data, Shuffler shuffler, std::int64_t tokens_per_step,
                std::int64_t at)
        : data_(data), shuffler_(std::move(shuffler)), tokens_(tokens_per_step), at_(at) {}

    std::vector<Sequence> next() {
        std::vector<Sequence> batch;
        for (std::int64_t tokens = 0; tokens < tokens_;) {
            batch.push_back(data_[static_cast<std::size_t>(shuffler_.row(at_++))]);
            tokens += static_cast<std::int64_t>(batch.back().tokens.size());
        }
        return batch;
    }
    std::int64_t at() const { return at_; }

  private:
    const std::vector<Sequence>& data_;
    Shuffler shuffler_;
    std::int64_t tokens_, at_;
};

std::int64_t total_steps(const Deck& deck, const std::vector<Sequence>& data) {
    const double epochs = deck.number("train.epochs");
    const std::int64_t steps = deck.integer("train.steps");
    if (steps > 0) return steps;
    double tokens = 0;
    for (const Sequence& s : data) tokens += static_cast<double>(s.tokens.size());
    return std::max<std::int64_t>(
        1, std::llround(epochs * tokens / deck.number("train.tokens_per_step")));
}

}  // namespace

ExitCode run_supervised(Run& run) {
    const bool everything = run.deck.stage() == "pretrain";
    StartPoint start = find_start(run);
    DataReport report;
    const std::int64_t longest = std::min({run.deck.integer("train.max_length"),
                                           start.config.max_positions,
                                           run.deck.integer("train.micro_tokens")});
    const std::vector<Sequence> data = [&] {
        const Profile::Region region(run.profile, "data.read");
        return read_sequences(run.deck, run.chat, *run.tokenizer, everything, longest, report);
    }();
    const std::int64_t total = total_steps(run.deck, data);
    if (start.finished && start.step >= total) {
        run.log.info("finished before, at step {}: nothing to do", start.step);
        return ExitCode::done;
    }
    Stack stack(run.deck, start.config, run.grid, *run.tokenizer, run.memory(), run.profile,
                {.train = true});
    load_start(run, stack, start);
    log_data(run, report);
    run.log.info("{} sequences, {} lines skipped; {} steps", data.size(), report.skipped, total);

    const auto seed = static_cast<std::uint64_t>(run.deck.integer("run.seed"));
    const std::int64_t cursor = start.own ? start.own->state()["data_at"].get<std::int64_t>() : 0;
    double tokens = start.own ? start.own->state()["tokens"].get<double>() : 0;
    const double tokens_before = tokens;
    start.own.reset();
    start.from.reset();
    BatchCursor batches(
        data, Shuffler(seed, static_cast<std::int64_t>(data.size()), run.deck.flag("data.shuffle")),
        run.deck.integer("train.tokens_per_step"), cursor);
    const LearningRate rate = resolve_learning_rate(run.deck, total);
    run.cut_back(start.step);
    Lifecycle life(run, stack, total);

    for (std::int64_t step = start.step; step < total;) {
        const double began = now_seconds();
        life.begin_step();
        const Trainer::TokenResult result = life.guarded(
            [&] { return stack.trainer->next_token_step(batches.next(), rate.at(step)); });
        ++step;
        tokens += result.tokens;
        const double seconds = now_seconds() - began;
        Json row = {{"step", step},
                    {"loss", result.loss},
                    {"grad_norm", result.grad_norm},
                    {"lr", rate.at(step - 1)},
                    {"tokens", tokens},
                    {"trained_tokens", result.trained_tokens},
                    {"tokens_per_s", result.tokens / seconds},
                    {"seconds", lap_times(run.profile)}};
        row.update(router_metrics(start.config, result.router));
        if (run.deck.number("loss.mtp_coef") > 0) row["mtp_loss"] = result.mtp_loss;
        run.metric(row);
        life.report(step, fmt::format("loss {:.4f} norm {:.3f} lr {:.2e} tok/s {}", result.loss,
                                      result.grad_norm, rate.at(step - 1),
                                      format_count(result.tokens / seconds)));
        const bool stop = life.end_step(step);
        if (stop || step == total || life.due(step))
            life.save(step, {{"data_at", batches.at()}, {"tokens", tokens}}, {}, step == total);
        if (stop) return ExitCode::again;
    }
    life.finish();
    run.finish(total, tokens - tokens_before, {});
    return ExitCode::done;
}

}  // namespace gradus
