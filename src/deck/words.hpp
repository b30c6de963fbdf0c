// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace gradus {

/// `text` without blanks at both ends.
std::string trim(std::string_view text);

/// `text` as an error message can print it: control characters and bytes that are no UTF-8 become
/// `?`, and what is longer than 80 bytes is cut.
std::string shown(std::string_view text);

/// What keeps `text` from standing in a deck: "a control character" or "bytes that are no UTF-8"
/// (RFC 3629); "" where nothing does. Tabs are allowed.
std::string_view fault_of(std::string_view text);

/// Edits between two words: insertions, deletions, substitutions, swaps of neighbours
/// (Damerau 1964, optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `word`; "" where none is near enough to be meant.
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);

/// How many edits a word of this length may be away from the one that is meant.
std::size_t tolerance(std::string_view word);

}  // namespace gradus
