// SPDX-License-Identifier: Apache-2.0
// Puzzles whose answers a rule checks although there are many right ones, or their words vary: Countdown, and knights
// and knaves.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gradus/reward/reward.hpp"

namespace gradus {

/// As text it is a row's reference: {"puzzle": "countdown", "numbers": [...], "target": n} or
/// {"puzzle": "knights", "names": [...], "knights": [true, ...], "words": ["knight", "knave"]}.
struct Puzzle {
    std::vector<std::int64_t> numbers;  ///< Countdown: each is to be used exactly once
    std::int64_t target = 0;
    std::vector<std::string> names;     ///< knights and knaves: who is one; empty for Countdown
    std::vector<bool> knights;
    std::string knight = "knight", knave = "knave";
};
std::string to_reference(const Puzzle& puzzle);
/// Nothing where the text is no such reference.
std::optional<Puzzle> puzzle_of(const std::string& reference);

/// 1 where the final answer solves the puzzle, else 0; unscorable where the reference is none.
/// Countdown: the answer (extract_answer), up to an equals sign, is an expression of + - * / and parentheses that uses
/// each number once and has the target as its exact value; what stands behind the sign is the target too.
/// Knights and knaves: the final part calls every name what it is, and none of them both.
std::unique_ptr<Reward> make_puzzle_reward();

}  // namespace gradus
