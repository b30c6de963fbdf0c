// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace gradus {

/// Longer answers are not read as mathematics.
inline constexpr std::size_t kLongestAnswer = 1500;

/// An answer without what only typesets it: dollars, boxes, \left, \right, spaces, fonts, units, degree and per cent
/// signs; \dfrac as \frac, Unicode's signs as commands. "" where it is longer than kLongestAnswer.
std::string plain_latex(std::string_view text);

/// Whether a word makes another number of the one beside it ("half", "million", "not", "or"): it is no unit, and its
/// number is not the answer. In any case of letters.
bool changes_number(std::string_view word);

}  // namespace gradus
