// SPDX-License-Identifier: Apache-2.0
// stage = evaluate: pass@1 over n samples a problem, pass@k, cons@n, format, language, length.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>

#include "gradus/base/error.hpp"
#include "gradus/stage/lifecycle.hpp"
#include "gradus/stage/scoring.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// Unbiased pass@k from c correct of n samples (Chen et al. 2021, arXiv 2107.03374, eq. 1).
double pass_at_k(int n, int c, int k) {
    if (n - c < k) return 1;
    double miss = 1;
    for (int i = n - c + 1; i <= n; ++i) miss *= 1 - static_cast<double>(k) / i;
    return 1 - miss;
}

/// Whether the most frequent answer of a problem's samples is right. Samples without an answer do
/// not vote; of equally frequent answers the one seen first wins.
double consensus(const std::vector<RolloutRow>& rows, std::size_t first, std::size_t n,
                 std::size_t accuracy) {
    std::map<std::string, int> votes;
    std::string best;
    double best_score = 0;
    int most = 0;
    for (std::size_t i = first; i < first + n; ++i) {
        const std::string answer = extract_answer(rows[i].response_text);
        if (!answer.empty()) most = std::max(most, ++votes[answer]);
    }
    for (std::size_t i = first; i < first + n && best.empty(); ++i) {
        const std::string answer = extract_answer(rows[i].response_text);
        if (!answer.empty() && votes[answer] == most) {
            best = answer;
            best_score = rows[i].rewards[accuracy];
        }
    }
    return std::isnan(best_score) ? 0 : best_score;
}

/// The values of k for pass@k; those of the default that n samples cannot give are left out.
std::vector<int> wanted_k(const Deck& deck, int n) {
    std::vector<int> wanted;
    for (const std::string& word : deck.list("eval.k")) {
        const int k = std::stoi(word);  // the deck has checked that it is a number
        if (k > n && !deck.is_set("eval.k")) continue;
        require<DeckError>(k <= n, "{}: eval.k has {}, more than eval.n = {} samples",
                           deck.origin("eval.k"), k, n);
        wanted.push_back(k);
    }
    return wanted;
}

Json measure(const Deck& deck, const std::vector<RolloutRow>& rows, std::size_t n) {
    const std::size_t problems = rows.size() / n;
    double pass = 0, pass_squares = 0, cons = 0, format = 0, language = 0, length = 0, cut = 0;
    std::int64_t unscorable = 0;
    std::map<int, double> at_k;
    for (int k : wanted_k(deck, static_cast<int>(n))) at_k[k] = 0;
    for (std::size_t p = 0; p < problems; ++p) {
        int correct = 0;
        for (std::size_t i = p * n; i < (p + 1) * n; ++i) {
            const RolloutRow& row = rows[i];
            unscorable += std::isnan(row.rewards[0]);
            correct += row.rewards[0] == 1;
            format += row.rewards[1];
            language += row.rewards[2];
            length += static_cast<double>(row.tokens.size());
            cut += row.finish == FinishReason::length;
        }
        const double share = static_cast<double>(correct) / static_cast<double>(n);
        pass += share;
        pass_squares += share * share;
        cons += consensus(rows, p * n, n, 0);
        for (auto& [k, value] : at_k) value += pass_at_k(static_cast<int>(n), correct, k);
    }
    const auto count = static_cast<double>(problems), samples = static_cast<double>(rows.size());
    const double mean = pass / count;
    const double variance =
        problems > 1 ? std::max(0.0, pass_squares / count - mean * mean) * count / (count - 1) : 0;
    Json result = {{"name", deck.text("eval.name")},
                   {"from", deck.text("model.from")},
                   {"pass_at_1", mean},
                   {"stderr", std::sqrt(variance / count)},
                   {fmt::format("cons_at_{}", n), cons / count},
                   {"format", format / samples},
                   {"language", language / samples},
                   {"mean_length", length / samples},
                   {"truncated", cut / samples},
                   {"problems", problems},
                   {"samples", n},
                   {"unscorable", unscorable}};
    for (const auto& [k, value] : at_k) result["pass_at_k"][std::to_string(k)] = value / count;
    return result;
}

}  // namespace

ExitCode run_evaluate(Run& run) {
    if (run.deck.text("restart") != "none" && std::filesystem::exists(run.path("result.json"))) {
        run.log.info("{} is there: nothing to do", run.path("result.json"));
        return ExitCode::done;
    }
    wanted_k(run.deck, static_cast<int>(run.deck.integer("eval.n")));
    StartPoint start;
    start.config = resolve_model(run.deck, *run.tokenizer, start.from,
                                 [&](const std::string& text) { run.log.warn("{}", text); });
    require<DeckError>(start.from != nullptr,
                       "stage = evaluate needs model.from: a run directory or a checkpoint");
    Stack stack(run.deck, start.config, run.grid, *run.tokenizer, run.arena, run.profile,
                stack_needs(run.deck));
    load_parameters(*stack.policy, *start.from, "weights");
    run.log.info("weights from {}\n{}", start.from->directory(), run.arena.table());

    std::int64_t skipped = 0;
    const std::vector<PromptRow> prompts = read_prompts(run.deck, run.chat, skipped);
    const auto n = static_cast<std::int32_t>(run.deck.integer("eval.n"));
    std::vector<std::int64_t> all(prompts.size());
    std::iota(all.begin(), all.end(), 0);
    GenerationOptions options = resolve_generation(run.deck, 0);
    options.stream = Stream::eval;
    RewardPool pool(standard_rewards(run.deck), 1);
    const double began = now_seconds();
    std::vector<RolloutRow> mine = generate_and_score(
        run, stack, pool,
        {.rows = prompts, .prompts = all, .groups = all, .samples = n, .options = options});
    for (RolloutRow& row : mine) row.reward = row.rewards[0];
    if (run.grid.tensor_rank() == 0)
        write_rollouts(rollout_path(run.dir, 0, run.grid.data_rank(), 0),
                       {"accuracy", "format", "language"}, mine);
    const std::vector<RolloutRow> rows = gather_rows(run.grid, mine);
    double tokens = 0;
    for (const RolloutRow& row : rows) tokens += static_cast<double>(row.tokens.size());
    Json result = measure(run.deck, rows, static_cast<std::size_t>(n));
    result["generated_tokens_per_s"] = tokens / (now_seconds() - began);
    run.log.info("{} problems x {} samples: pass@1 {:.2f} % +- {:.2f}, cons@{} {:.2f} %, format "
                 "{:.2f} %, language {:.2f} %, mean length {:.1f}",
                 prompts.size(), n, 100 * result["pass_at_1"].get<double>(),
                 100 * result["stderr"].get<double>(), n,
                 100 * result[fmt::format("cons_at_{}", n)].get<double>(),
                 100 * result["format"].get<double>(), 100 * result["language"].get<double>(),
                 result["mean_length"].get<double>());
    run.finish(1, tokens, {});
    if (run.is_root()) write_file_atomically(run.path("result.json"), result.dump(2) + "\n");
    return ExitCode::done;
}

}  // namespace gradus
