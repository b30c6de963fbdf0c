// SPDX-License-Identifier: Apache-2.0
// stage = evaluate: pass@1 over n samples a problem, pass@k, cons@n, format, language, length.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "gradus/base/error.hpp"
#include "gradus/stage/sampling.hpp"
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

Json measure(const Deck& deck, const std::vector<RolloutRow>& rows, std::size_t n) {
    const std::size_t problems = rows.size() / n;
    double pass = 0, pass_squares = 0, cons = 0, format = 0, language = 0, length = 0, cut = 0;
    std::int64_t unscorable = 0;
    std::map<int, double> at_k;
    for (const std::string& word : deck.list("eval.k"))
        // Of the default's values, n samples may be too few for some.
        if (const long long k = std::stoll(word); k <= static_cast<long long>(n))
            at_k[static_cast<int>(k)] = 0;
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
    const std::string& name = deck.text("eval.name");
    Json result = {{"name", name.empty() ? std::filesystem::path(deck.text("run.dir")).filename().string()
                                         : name},
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
    if (run.finished_before("result.json")) return ExitCode::done;
    const auto n = static_cast<std::int32_t>(run.deck.integer("eval.n"));
    const Samples samples = sample_all(run, standard_rewards(), n, Stream::eval);
    if (samples.stopped) return ExitCode::again;
    const std::vector<RolloutRow>& rows = samples.rows;
    double tokens = 0;
    for (const RolloutRow& row : rows) tokens += static_cast<double>(row.tokens.size());
    Json result = measure(run.deck, rows, static_cast<std::size_t>(n));
    if (samples.seconds > 0) result["generated_tokens_per_s"] = samples.generated_tokens / samples.seconds;
    run.log.info("{} problems x {} samples: pass@1 {:.2f} % +- {:.2f}, cons@{} {:.2f} %, format "
                 "{:.2f} %, language {:.2f} %, mean length {:.1f}",
                 rows.size() / static_cast<std::size_t>(n), n, 100 * result["pass_at_1"].get<double>(),
                 100 * result["stderr"].get<double>(), n,
                 100 * result[fmt::format("cons_at_{}", n)].get<double>(),
                 100 * result["format"].get<double>(), 100 * result["language"].get<double>(),
                 result["mean_length"].get<double>());
    run.finish(1, tokens, {});
    if (run.is_root()) write_file_atomically(run.path("result.json"), result.dump(2) + "\n");
    return ExitCode::done;
}

}  // namespace gradus
