// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "gradus/deck/parameters.hpp"

namespace gradus {

/// Checks `text` against the type and range of `parameter` and returns its canonical form: plain
/// numbers, seconds for durations, bytes for sizes, true or false for flags. Throws DeckError that
/// says what is allowed; `key` is the concrete key where the row has a wildcard.
std::string canonical_value(const DeckKey& parameter, const std::string& key,
                            const std::string& text);

/// "a whole number > 0 (steps)", "one of a | b", "auto or a time > 0 like 90s, 2h or 00:30:00".
std::string describe_type(const DeckKey& parameter);

/// Words between blanks. In a word `\ ` is a blank, `\n` a line break and `\\` a backslash; throws
/// DeckError where another character follows a backslash.
std::vector<std::string> split_list(std::string_view text);

}  // namespace gradus
