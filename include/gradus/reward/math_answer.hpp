// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace gradus {

/// Whether two answers say the same: numbers, formulas with variables, tuples, intervals, sets, lists, matrices,
/// equations, inequalities, or plain words, in LaTeX or as typed. Lists and sets have no order, tuples have one; "x = 5"
/// is 5, but x = 1, y = 2 is not x = 2, y = 1; a chain x = 2 + 3 = 5 is its last side; a list is never one of its items,
/// a tuple counts once in it, and x = 0 or x = 1 is no tuple. Inequalities joined by "and" are an intersection, by "or" a
/// union; with commas a union where they are apart (x < 2, x > 3). Variables are real, and so are their roots of odd
/// degree: x^{2/3} is \sqrt[3]{x}^2, but \sqrt{x^2} is not x. Units behind a number are left out, but cm is not km, nor
/// cm^2. What cannot be read as mathematics must be the same text or the same words. Formulas that differ
/// are taken for the same with a chance that is next to none (identity.hpp). Work is bounded, about a tenth of a second
/// at most, whatever the texts are; texts of more than 1500 bytes are no answers; an empty answer equals nothing.
bool same_answer(const std::string& reference, const std::string& answer);

}  // namespace gradus
