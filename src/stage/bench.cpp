// SPDX-License-Identifier: Apache-2.0
// stage = bench: rates of a model shape, each beside the ceiling measured in the same run, and of a
// tokenizer.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/stage/lifecycle.hpp"
#include "gradus/stage/scoring.hpp"
#include "bench.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// Sequences of random tokens, `length` each.
std::vector<Sequence> random_sequences(std::int64_t tokens, std::int64_t length, std::int64_t vocab) {
    std::vector<Sequence> batch;
    for (std::int64_t at = 0; at < tokens; at += length) {
        Sequence s;
        RandomSequence random({.seed = 1, .stream = Stream::test, .prompt = static_cast<std::uint64_t>(at)});
        for (std::int64_t i = 0; i < length; ++i)
            s.tokens.push_back(static_cast<TokenId>(random.integer(0, vocab - 1)));
        s.weight.assign(s.tokens.size(), 1.0f);
        s.weight[0] = 0;
        s.address = static_cast<std::int64_t>(batch.size());
        batch.push_back(std::move(s));
    }
    return batch;
}

/// Seconds to write and sync `bytes` to a plain file in the run directory.
double plain_write_seconds(const std::string& path, std::int64_t bytes) {
    const std::vector<char> block(std::size_t{8} << 20, 'x');
    const double began = now_seconds();
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    require<DataError>(file >= 0, "cannot write {}: {}", path, std::strerror(errno));
    for (std::int64_t at = 0; at < bytes;) {
        const auto n = static_cast<std::size_t>(
            std::min<std::int64_t>(static_cast<std::int64_t>(block.size()), bytes - at));
        const ssize_t written = ::write(file, block.data(), n);
        if (written <= 0) {
            ::close(file);
            throw DataError(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
        }
        at += written;
    }
    ::fsync(file);
    ::close(file);
    const double seconds = now_seconds() - began;
    ::unlink(path.c_str());
    return seconds;
}

class Bench {
  public:
    Bench(Run& run, Stack& stack, Json& result)
        : run_(run),
          stack_(stack),
          runs_(run.deck.integer("bench.steps")),
          ceilings_(measure_ceilings(run, stack, runs_, result)) {}

    void train(Json& result) {
        const std::int64_t tokens = run_.deck.integer("bench.tokens");
        const std::int64_t length =
            std::min({tokens, run_.deck.integer("train.max_length"), stack_.config.max_positions});
        const auto batch = random_sequences(tokens * run_.grid.data_size(), length,
                                            stack_.config.vocab_size);
        stack_.trainer->next_token_step(batch, 0);
        const double seconds = best_seconds(runs_, [&] {
            stack_.trainer->next_token_step(batch, 0);
            run_.watchdog.alive();
        });
        const double model_flops =
            3 * stack_.config.forward_flops(static_cast<double>(length) / 2) * static_cast<double>(tokens) /
            run_.grid.tensor_size();
        const double rate = model_flops / seconds;
        const Ceilings& top = ceilings_;
        result["train"] = {{"tokens", tokens},
                           {"length", length},
                           {"seconds", seconds},
                           {"tokens_per_s", static_cast<double>(tokens) / seconds},
                           {"flops_per_s", rate},
                           {"product_flops_per_s", top.product},
                           {"share_of_product", rate / top.product}};
        if (top.datasheet > 0) result["train"]["mfu"] = rate / top.datasheet;
        run_.log.info("train       {:>10} tokens/s a data rank, {} tokens of {} a step, {:.3g} FLOP/s: {:.1f} % of {} "
                      "{:.3g}{}",
                      format_count(static_cast<double>(tokens) / seconds), tokens, length, rate,
                      100 * rate / top.product, top.product_name, top.product,
                      top.datasheet > 0 ? fmt::format(", MFU {:.1f} %", 100 * rate / top.datasheet) : "");
    }

    void generate(Json& result) {
        const GenerationOptions options = resolve_generation(run_.deck, run_.chat, 0);
        std::vector<Request> requests;
        const std::int64_t slots = run_.deck.integer("rollout.slots");
        const std::int64_t length = run_.deck.integer("bench.prompt");
        const auto prompts = random_sequences(length * slots, length, stack_.config.vocab_size);
        for (std::size_t i = 0; i < prompts.size(); ++i)
            requests.push_back({.prompt = static_cast<std::int64_t>(i), .tokens = prompts[i].tokens});
        // Each sequence takes all its length, so that every step has all rows.
        GenerationOptions endless = options;
        endless.end_tokens.clear();
        endless.stop.clear();
        endless.on_pass = [this] { run_.watchdog.alive(); };
        double tokens = 0;
        const auto once = [&] {
            tokens = 0;
            for (const Generated& g : stack_.engine->generate(*stack_.policy, requests, endless, {}))
                tokens += static_cast<double>(g.tokens.size());
        };
        once();  // recordings are made
        const double seconds = best_seconds(std::min<std::int64_t>(runs_, 3), once);
        result["generate"] = {{"tokens", tokens}, {"seconds", seconds}, {"tokens_per_s", tokens / seconds}};
        run_.log.info("generate    {:>10} tokens/s a data rank, {} sequences of {} + {} tokens at once",
                      format_count(tokens / seconds), slots, length, options.max_new_tokens);
    }

    void checkpoint(Json& result) {
        double bytes = 0;
        const std::vector<Slab> slabs = stack_.optimizer->slabs();
        for (const Slab& slab : slabs)
            bytes += static_cast<double>(slab.box.elements() * size_of(slab.dtype));
        double seconds = 1e300, plain = 1e300, still = 1e300;
        stack_.ops->synchronize();  // offloaded state is the host's memory
        for (std::int64_t i = 0; i < std::max<std::int64_t>(2, runs_); ++i) {
            run_.grid.world().barrier();
            plain = std::min(plain, plain_write_seconds(run_.path(fmt::format("plain.{}", run_.grid.rank())),
                                                        static_cast<std::int64_t>(bytes)));
            run_.grid.world().barrier();
            const double began = now_seconds();
            stack_.checkpoints->write(i + 1, slabs,
                                      {{"stage", "bench"},
                                       {"model", stack_.config.to_json()},
                                       {"tokenizer", run_.tokenizer->identity()},
                                       {"optimizer_steps", stack_.optimizer->steps()}},
                                      run_.deck.resolved());
            still = std::min(still, now_seconds() - began);
            stack_.checkpoints->finish();
            seconds = std::min(seconds, now_seconds() - began);
            run_.watchdog.alive();
        }
        result["checkpoint"] = {{"bytes", bytes},
                                {"seconds", seconds},
                                {"bytes_per_s", bytes / seconds},
                                {"training_waits_s", still},
                                {"plain_bytes_per_s", bytes / plain},
                                {"share_of_plain", plain / seconds}};
        run_.log.info("checkpoint  {:>10}/s a rank, {} in {:.2f} s, training waits {:.2f} s; {:.1f} % of a plain file's {}/s",
                      format_bytes(bytes / seconds), format_bytes(bytes), seconds, still, 100 * plain / seconds,
                      format_bytes(bytes / plain));
    }

  private:
    Run& run_;
    Stack& stack_;
    std::int64_t runs_;
    Ceilings ceilings_;
};

/// Peak and present resident memory of this process in bytes (VmHWM, VmRSS of /proc/self/status).
std::pair<double, double> resident_bytes() {
    const std::string status = read_file("/proc/self/status");
    auto value = [&](const char* name) {
        const std::size_t at = status.find(name);
        return at == std::string::npos ? 0.0 : 1024 * std::atof(status.c_str() + at + std::strlen(name));
    };
    return {value("VmHWM:"), value("VmRSS:")};
}

/// The parts that need a model.
void bench_model(Run& run, Json& result) {
    const double at_start = resident_bytes().second;
    const double gpu_at_start = run.gpu ? static_cast<double>(run.gpu->bytes_in_use()) : 0;
    auto wanted = [&](const char* what) { return bench_wants(run.deck, what); };
    StartPoint start;
    start.config = resolve_model(run.deck, *run.tokenizer, start.from,
                                 [&](const std::string& text) { run.log.warn("{}", text); });
    Stack stack(run.deck, start.config, run.grid, *run.tokenizer, run.memory(), run.profile,
                stack_needs(run.deck));
    load_start(run, stack, start);
    run.log.info("{} parameters; memory of this rank:\n{}",
                 format_count(static_cast<double>(start.config.parameters())), memory_table(run.memory()));
    Bench bench(run, stack, result);
    if (wanted("operations")) bench_operations(run, stack, result);
    if (wanted("attention")) bench_attention(run, stack, result);
    if (wanted("collectives")) bench_collectives(run, stack, result);
    result["parameters"] = start.config.parameters();
    result["arena_bytes"] = run.arena.bytes();
    if (wanted("train")) bench.train(result);
    if (wanted("generate")) bench.generate(result);
    if (wanted("checkpoint")) bench.checkpoint(result);
    const double grown = run.gpu ? static_cast<double>(run.gpu->bytes_in_use()) - gpu_at_start
                                 : resident_bytes().first - at_start;
    result["resident_growth_bytes"] = grown;
    run.log.info("memory      arena {}, {} {} ({:+.1f} %)", format_bytes(static_cast<double>(run.arena.bytes())),
                 run.gpu ? "GPU now less start" : "process peak less start", format_bytes(grown),
                 100 * (grown / static_cast<double>(run.arena.bytes()) - 1));
    if (const std::string choices = stack.ops->report(); !choices.empty())
        run.log.info("products:\n{}", choices);
}

/// What a step's control messages cost where no work hides them: rank 0 looks for signals, files and the time left, and
/// tells all ranks.
void bench_control(Run& run, std::int64_t runs, Json& result) {
    constexpr int kSteps = 200;
    const double seconds = best_seconds(runs, [&] {
        run.grid.world().barrier();
        for (int i = 0; i < kSteps; ++i) {
            run.stop.begin_step();
            run.stop.end_step();
        }
        run.watchdog.alive();
    });
    const double a_step = run.grid.world().max(seconds) / kSteps;
    result["control"] = {{"seconds_a_step", a_step}};
    run.log.info("control     {:>10.1f} us a step on {} ranks", 1e6 * a_step, run.grid.size());
}

}  // namespace

ExitCode run_bench(Run& run) {
    run.begin();
    Json result = {{"ranks", run.grid.size()}};
    const auto asked = run.deck.list("bench.what");
    const std::vector<std::string> without_model = {"tokenizer", "answers", "code", "control"};
    if (std::any_of(asked.begin(), asked.end(), [&](const std::string& what) {
            return std::find(without_model.begin(), without_model.end(), what) == without_model.end();
        }))
        bench_model(run, result);
    if (bench_wants(run.deck, "control")) bench_control(run, run.deck.integer("bench.steps"), result);
    if (bench_wants(run.deck, "answers")) bench_answers(run, run.deck.integer("bench.steps"), result);
    if (bench_wants(run.deck, "code")) bench_code(run, run.deck.integer("bench.steps"), result);
    if (bench_wants(run.deck, "tokenizer")) bench_tokenizer(run, run.deck.integer("bench.steps"), result);
    run.finish(1, 0, result);
    if (run.is_root()) write_file_atomically(run.path("bench.json"), result.dump(2) + "\n");
    return ExitCode::done;
}

}  // namespace gradus
