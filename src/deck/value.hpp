// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "gradus/deck/parameters.hpp"

namespace gradus {

/// Checks `text` against the type and range of `parameter` and returns its canonical form: plain
/// numbers, seconds for durations, bytes for sizes, true or false for flags. Throws DeckError that
/// says what is allowed.
std::string canonical_value(const DeckKey& parameter, const std::string& text);

/// "a whole number, > 0, in steps", "one of a | b".
std::string describe_type(const DeckKey& parameter);

}  // namespace gradus
