// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace gradus {

/// Whether two answers say the same: numbers, formulas with variables, tuples, intervals, sets, lists, matrices,
/// equations, inequalities, or plain words, in LaTeX or as typed. Lists and sets have no order, tuples have one; "x = 5"
/// is 5; a list is never one of its items. What cannot be read as mathematics must be the same text. False where in
/// doubt. Bounded work whatever the texts are; an empty answer equals nothing.
bool same_answer(const std::string& reference, const std::string& answer);

}  // namespace gradus
