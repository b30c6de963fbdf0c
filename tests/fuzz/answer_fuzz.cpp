// SPDX-License-Identifier: Apache-2.0
// An answer and its reference, apart by the first newline: whatever they are, the comparison ends, in time, and says the
// same both ways (but for a choice, which may be answered in small letters); an answer is itself; rewards are numbers or unscorable.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>

#include "gradus/reward/math_answer.hpp"
#include "gradus/reward/reward.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    const std::size_t line = std::min(text.find('\n'), text.size());
    const std::string reference = text.substr(0, line), answer = line < size ? text.substr(line + 1) : "";
    const auto began = std::chrono::steady_clock::now();
    const bool choice = reference.size() <= 12 || answer.size() <= 3;
    const bool same = gradus::same_answer(reference, answer);
    if (!choice && same != gradus::same_answer(answer, reference)) std::abort();
    if (!reference.empty() && !gradus::same_answer(reference, reference)) std::abort();
    static const auto accuracy = gradus::make_accuracy_reward(), steps = gradus::make_steps_reward();
    const gradus::RewardInput input{.response = answer, .reference = reference};
    const double right = accuracy->score(input), share = steps->score(input);
    if (!(right == 0 || right == 1 || std::isnan(right)) || !(share >= 0 && share <= 1)) std::abort();
    // Sanitizers slow it down some ten times.
    if (std::chrono::steady_clock::now() - began > std::chrono::seconds(20)) std::abort();
    return 0;
}
