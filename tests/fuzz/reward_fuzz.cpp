// SPDX-License-Identifier: Apache-2.0
// Rewards and filters of what a model wrote. Byte 0 picks one, byte 1 its options; the first line behind them is the prompt
// and the reference, the rest the response. Whatever they are, a score is a number in its range or unscorable, filters
// give one verdict each time, and all ends in time.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>

#include "gradus/base/error.hpp"
#include "gradus/reward/code.hpp"
#include "gradus/reward/puzzles.hpp"
#include "gradus/reward/reward.hpp"
#include "gradus/stage/filters.hpp"
#include "gradus/text/language.hpp"
#include "gradus/text/prose.hpp"

using namespace gradus;

namespace {

void demand(bool holds) {
    if (!holds) std::abort();
}

void in_range(double score, double low, double high) { demand(score >= low && score <= high); }

void form(unsigned, const RewardInput& input) {
    static const auto format = make_format_reward(), tags = make_tags_reward();
    const double formed = format->score(input), tagged = tags->score(input);
    demand(formed == 0 || formed == 1);
    demand(tagged * 4 == std::floor(tagged * 4));
    in_range(tagged, formed, 1);  // what is well formed has all tags
}

void language(unsigned option, const RewardInput& input) {
    const std::string known = option % 14 == kLanguages.size() ? kLanguageOfPrompt : std::string(kLanguages[option % 14]);
    in_range(make_language_reward(known)->score(input), 0, 1);
}

void length(unsigned option, const RewardInput& input) {
    RewardInput of_length = input;
    of_length.tokens = static_cast<std::int32_t>(option * option);
    const double score = make_cosine_reward({.longest = 1 + static_cast<std::int64_t>(option) * 100})->score(of_length);
    if (!std::isnan(score)) in_range(score, -1, 1);
    in_range(overlong_punishment(of_length.tokens, 100, option), -1, 0);
}

void repetition(unsigned option, const RewardInput& input) {
    in_range(make_repetition_reward(1 + static_cast<int>(option % 8))->score(input), -1, 0);
}

void puzzle(unsigned, const RewardInput& input) {
    static const auto reward = make_puzzle_reward();
    const double score = reward->score(input);
    demand(std::isnan(score) ? !puzzle_of(input.reference) : score == 0 || score == 1);
}

void code(unsigned option, const RewardInput& input) {
    CodeTask task{.language = option % 2 == 0 ? Language::python : Language::cpp,
                  .cases = {{.input = "", .output = ""}},
                  .entry_point = option & 2 ? "f" : "",
                  .prologue = option & 4 ? "#include <vector>\nint g(int a) { return a; }" : "",
                  .header = option & 8 ? "int f(int a) {\n" : ""};
    try {
        if (const auto given = code_task(input.reference)) task = *given;
    } catch (const DataError&) {
    }
    const std::string program = extract_code(input.response, task.language);
    demand(program.size() <= input.response.size() + 1);
    const CodeJob job = code_job(task, input.response, {});
    // A body is indented by four characters a line.
    demand(job.source.size() <= 6 * program.size() + task.prologue.size() + task.header.size() + 6);
    if (const auto head = cpp_header(input.response)) demand(!head->name.empty() && !head->type.empty());
}

void text(unsigned option, const RewardInput& input) {
    demand(prose(input.response).size() <= input.response.size());
    has_code_block(input.response);
    const auto words = static_cast<std::int64_t>(word_hashes(input.response).size());
    in_range(static_cast<double>(longest_paragraph(input.response)), 0, static_cast<double>(words));
    const std::int64_t n = 1 + option % 8;
    Passages passages(n);
    passages.add(input.response, "it");
    demand(passages.find(input.response).has_value() == (words > 0));
    NearDuplicates others(0.5 + 0.5 * option / 255, n, option, [&](std::int64_t) { return input.response; });
    others.find(input.response);
    others.keep(0);
    const auto match = others.find(input.response);
    demand(match.has_value() == (words > 0) && (!match || match->similarity == 1));
    if (const auto near = others.find(input.prompt)) in_range(near->similarity, 0.5, 1);
}

/// The lines of a response as samples of the prompt; each verdict, filter by filter.
std::vector<int> verdicts(unsigned option, const RewardInput& input, const std::vector<std::string>& lines) {
    Passages tests(4);
    tests.add("one two three four five", "a test");
    SampleFilters filters({.correct = (option & 1) != 0,
                           .format = (option & 2) != 0,
                           .code_blocks = (option & 4) == 0,
                           .min_language = option & 8 ? 0.7 : 0.0,
                           .max_repetition = option & 16 ? 0.2 : 1.0,
                           .near_duplicate = option & 32 ? 0.6 : 0.0,
                           .near_duplicate_elsewhere = option & 64 ? 0.9 : 0.0,
                           .max_length = 50,
                           .max_paragraph = option & 128 ? 3 : 0,
                           .max_per_prompt = 4},
                          &tests);
    static const auto format = make_format_reward(), accuracy = make_accuracy_reward();
    std::vector<int> all;
    std::int64_t refused = 0;
    for (std::size_t i = 0; i < lines.size(); ++i) {
        const RewardInput sample{.prompt = input.prompt, .response = lines[i], .reference = input.reference};
        const auto why = filters.refusal({.source = i % 5 == 4 ? Source::general : Source::reasoning,
                                          .id = "line",
                                          .prompt = input.prompt,
                                          .response = lines[i],
                                          .number = static_cast<std::int64_t>(i / 8),
                                          .well_formed = format->score(sample) == 1,
                                          .accuracy = accuracy->score(sample),
                                          .tokens = static_cast<std::int64_t>(lines[i].size())});
        all.push_back(why ? static_cast<int>(why->filter) : -1);
        refused += why.has_value();
    }
    const FilterCounts &of_reasoning = filters.counts(Source::reasoning), &of_general = filters.counts(Source::general);
    demand(of_reasoning.seen + of_general.seen == static_cast<std::int64_t>(lines.size()));
    demand(of_reasoning.kept + of_general.kept + refused == static_cast<std::int64_t>(lines.size()));
    filters.table();
    return all;
}

void filters(unsigned option, const RewardInput& input) {
    std::vector<std::string> lines;
    for (std::size_t at = 0; at <= input.response.size() && lines.size() < 40;) {
        const std::size_t end = std::min(input.response.find('\n', at), input.response.size());
        lines.push_back(input.response.substr(at, end - at));
        at = end + 1;
    }
    demand(verdicts(option, input, lines) == verdicts(option, input, lines));
}

void judge(unsigned, const RewardInput& input) {
    const double verdict = verdict_in(input.response, "yes", "no");
    demand(verdict == 0 || verdict == 1 || std::isnan(verdict));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    static constexpr void (*kJudges[])(unsigned, const RewardInput&) = {form, language, length, repetition, puzzle,
                                                                        code, text,     filters, judge};
    const std::string text(reinterpret_cast<const char*>(data + 2), size - 2);
    const std::size_t line = std::min(text.find('\n'), text.size());
    const RewardInput input{.prompt = text.substr(0, line),
                            .response = line < text.size() ? text.substr(line + 1) : "",
                            .reference = text.substr(0, line)};
    const auto began = std::chrono::steady_clock::now();
    kJudges[data[0] % std::size(kJudges)](data[1], input);
    // Sanitizers slow it down some ten times.
    demand(std::chrono::steady_clock::now() - began < std::chrono::seconds(20));
    return 0;
}
