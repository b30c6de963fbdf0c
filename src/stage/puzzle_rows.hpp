// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gradus/base/json_lines.hpp"

namespace gradus {

/// A row that poses a puzzle, in the one form that is read on: {prompt, reference} and its other fields, the reference as
/// reward/puzzles.hpp has it. Other rows come back as they are. Throws DataError where a row poses a puzzle but not which.
///
///   nums, target                           Countdown (TinyZero, d1, reasoning-gym)
///   quiz, names, solution, knight_knave    knights and knaves (Xie et al. 2024, arXiv 2410.23123)
Json as_puzzle_row(const Json& row);

}  // namespace gradus
