// SPDX-License-Identifier: Apache-2.0
// Benchmarks by name. Temperature, top-p and samples a problem are DeepSeek-R1's where it says them: 0.6, 0.95, 64 for
// AIME, 16 for MATH-500 (Nature 645, 2025, supplementary notes on evaluation); other counts go by the size of the set.
#include "presets.hpp"

namespace gradus {
namespace {

using Keys = std::vector<std::pair<std::string_view, std::string_view>>;

/// The instruction is the one that DeepSeek recommends for mathematics (README of DeepSeek-R1, usage recommendations).
constexpr std::string_view kBoxed = "Please reason step by step, and put your final answer within \\boxed{}.";

Keys sampled(std::string_view samples, std::string_view problems, Keys more = {}) {
    Keys keys = {{"rollout.temperature", "0.6"}, {"rollout.top_p", "0.95"}, {"eval.n", samples}, {"eval.problems", problems}};
    keys.insert(keys.end(), more.begin(), more.end());
    return keys;
}

Keys boxed(std::string_view samples, std::string_view problems, Keys more = {}) {
    more.emplace_back("data.instruction", kBoxed);
    return sampled(samples, problems, more);
}

Keys code(std::string_view samples, std::string_view problems) {
    return sampled(samples, problems, {{"reward.code.kind", "code"}});
}

}  // namespace

std::span<const Preset> benchmarks() {
    static const std::vector<Preset> all = {
        {"gsm8k", "Cobbe et al. 2021 (arXiv 2110.14168), test: question, answer", "", boxed("4", "1319")},
        {"math500", "Lightman et al. 2023 (arXiv 2305.20050): problem, answer, subject, level", "",
         boxed("16", "500", {{"eval.by", "level subject"}})},
        {"aime", "American Invitational Mathematics Examination, of a year or more: problem, answer", "", boxed("64", "0")},
        {"humaneval", "Chen et al. 2021 (arXiv 2107.03374): programs in Python", "", code("16", "164")},
        {"humaneval_cpp", "Zheng et al. 2023 (arXiv 2303.17568), HumanEval-X: programs in C++", "", code("16", "164")},
        {"mbpp", "Austin et al. 2021 (arXiv 2108.07732), all 974 problems: programs in Python", "", code("4", "974")},
        {"countdown", "expressions that make a number: nums, target", "", sampled("16", "0")},
        {"knights", "Xie et al. 2024 (arXiv 2410.23123), knights and knaves: quiz, names, solution", "", sampled("16", "0")},
    };
    return all;
}

}  // namespace gradus
