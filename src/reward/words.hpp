// SPDX-License-Identifier: Apache-2.0
// What the words beside a number do to it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gradus {

/// Whether a word makes another number of the one beside it ("half", "million", "not", "or", "tenths", "sine"): it is no
/// unit, and its number is not the answer. In any case of letters.
bool changes_number(std::string_view word);

/// Whether one of the words of a text does, or "at most", "at least". "square" before a unit does not.
bool has_changing_word(std::string_view text);

/// Whether the words in front of a number let it be what it is: the last of them is known to ("is", "costs", "total of"),
/// and none changes it. What is not known is not read: there are more ways to change a number than a list has.
bool may_precede_number(std::string_view words);

/// The runs of letters of a text, in lower case.
std::vector<std::string> words_in(std::string_view text);

}  // namespace gradus
