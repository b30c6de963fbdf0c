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

}  // namespace gradus
