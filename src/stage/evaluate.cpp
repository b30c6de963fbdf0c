// SPDX-License-Identifier: Apache-2.0
// stage = evaluate: pass@1 over n samples a problem, pass@k, cons@n, format, language, length.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "gradus/base/error.hpp"
#include "gradus/reward/code.hpp"
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

/// Counts of problems, by all or by those with one value of a field.
struct PassAtOne {
    double problems = 0, sum = 0, squares = 0;

    void add(double share) {
        ++problems;
        sum += share;
        squares += share * share;
    }
    double mean() const { return problems > 0 ? sum / problems : 0; }
    /// Of the mean, over problems.
    double standard_error() const {
        if (problems < 2) return 0;
        return std::sqrt(std::max(0.0, squares / problems - mean() * mean()) / (problems - 1));
    }
    Json json() const { return {{"problems", problems}, {"pass_at_1", mean()}, {"stderr", standard_error()}}; }
};

Json measure(const Deck& deck, const Samples& samples, std::size_t n) {
    const std::vector<RolloutRow>& rows = samples.rows;
    std::map<std::int64_t, const PromptRow*> prompt_at;
    for (const PromptRow& prompt : samples.prompts) prompt_at[prompt.index] = &prompt;
    PassAtOne pass;
    std::map<std::string, std::map<std::string, PassAtOne>> by;
    double cons = 0, format = 0, language = 0, length = 0, cut = 0, tests = 0, programs = 0, voted = 0;
    std::int64_t unscorable = 0;
    std::map<int, double> at_k;
    for (const std::string& word : deck.list("eval.k"))
        // Of the default's values, n samples may be too few for some.
        if (const long long k = std::stoll(word); k <= static_cast<long long>(n))
            at_k[static_cast<int>(k)] = 0;
    for (std::size_t p = 0; p < rows.size(); p += n) {
        const PromptRow& prompt = *prompt_at.at(rows[p].group);
        const bool program = code_task(prompt.reference).has_value();
        int correct = 0;
        for (std::size_t i = p; i < p + n; ++i) {
            const RolloutRow& row = rows[i];
            unscorable += std::isnan(row.rewards[0]);
            correct += row.rewards[0] == 1;
            if (program && !std::isnan(row.rewards[0])) {
                tests += row.rewards[0];
                ++programs;
            }
            format += row.rewards[1];
            language += row.rewards[2];
            length += static_cast<double>(row.tokens.size());
            cut += row.finish == FinishReason::length;
        }
        const double share = static_cast<double>(correct) / static_cast<double>(n);
        pass.add(share);
        for (const auto& [field, value] : prompt.fields) by[field][value].add(share);
        // Of programs no two need be alike.
        if (!program) {
            cons += consensus(rows, p, n, 0);
            ++voted;
        }
        for (auto& [k, value] : at_k) value += pass_at_k(static_cast<int>(n), correct, k);
    }
    const auto all = static_cast<double>(rows.size());
    const std::string& name = deck.text("eval.name");
    Json result = {{"name", name.empty() ? std::filesystem::path(deck.text("run.dir")).filename().string()
                                         : name},
                   {"from", deck.text("model.from")},
                   {"pass_at_1", pass.mean()},
                   {"stderr", pass.standard_error()},
                   {"format", format / all},
                   {"language", language / all},
                   {"mean_length", length / all},
                   {"truncated", cut / all},
                   {"problems", samples.prompts.size()},
                   {"samples", n},
                   {"unscorable", unscorable}};
    if (deck.text("eval.benchmark") != "none") result["benchmark"] = deck.text("eval.benchmark");
    if (voted > 0) result[fmt::format("cons_at_{}", n)] = cons / voted;
    if (programs > 0) result["tests_passed"] = tests / programs;
    for (const auto& [k, value] : at_k) result["pass_at_k"][std::to_string(k)] = value / pass.problems;
    for (const auto& [field, values] : by)
        for (const auto& [value, of_value] : values) result["by"][field][value] = of_value.json();
    return result;
}

void tell(Run& run, const Json& result, std::int32_t n) {
    const auto percent = [&](const std::string& name) { return 100 * result.at(name).get<double>(); };
    const std::string cons = fmt::format("cons_at_{}", n);
    run.log.info("{} problems x {} samples: pass@1 {:.2f} % +- {:.2f}{}, format {:.2f} %, language {:.2f} %, mean length {:.1f}{}",
                 result["problems"].get<std::int64_t>(), n, percent("pass_at_1"), percent("stderr"),
                 result.contains(cons) ? fmt::format(", cons@{} {:.2f} %", n, percent(cons)) : "", percent("format"),
                 percent("language"), result["mean_length"].get<double>(),
                 result.contains("tests_passed") ? fmt::format(", tests passed {:.2f} %", percent("tests_passed")) : "");
    if (result["unscorable"] > 0)
        run.log.warn("{} responses could not be judged; they count as wrong", result["unscorable"].dump());
    const Json by = result.value("by", Json::object());
    for (const auto& [field, values] : by.items())
        for (const auto& [value, of_value] : values.items())
            run.log.info("  {} {}: pass@1 {:.2f} % +- {:.2f} ({} problems)", field, value,
                         100 * of_value["pass_at_1"].get<double>(), 100 * of_value["stderr"].get<double>(),
                         of_value["problems"].get<std::int64_t>());
    const std::int64_t whole = run.deck.integer("eval.problems");
    if (whole > 0 && whole != result["problems"].get<std::int64_t>())
        run.log.warn("the data have {} problems, {} has {}: this is not the whole benchmark", result["problems"].dump(),
                     run.deck.text("eval.benchmark"), whole);
}

}  // namespace

ExitCode run_evaluate(Run& run) {
    if (run.finished_before("result.json")) return ExitCode::done;
    const auto n = static_cast<std::int32_t>(run.deck.integer("eval.n"));
    const Samples samples = sample_all(
        run, [&](const std::vector<PromptRow>& prompts) { return standard_rewards(run, prompts); }, n, Stream::eval);
    if (samples.stopped) return ExitCode::again;
    double tokens = 0;
    for (const RolloutRow& row : samples.rows) tokens += static_cast<double>(row.tokens.size());
    Json result = measure(run.deck, samples, static_cast<std::size_t>(n));
    if (samples.seconds > 0) result["generated_tokens_per_s"] = samples.generated_tokens / samples.seconds;
    tell(run, result, n);
    run.finish(1, tokens, {});
    if (run.is_root()) write_file_atomically(run.path("result.json"), result.dump(2) + "\n");
    return ExitCode::done;
}

}  // namespace gradus
