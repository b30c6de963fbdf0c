// SPDX-License-Identifier: Apache-2.0
// The one table of deck parameters. Parser, checker, --help-deck, the echo in deck.resolved and the
// reference page all come from it. To add a key, add one row to the file of its section.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gradus {

enum class ParameterType { flag, integer, number, text, choice, list, path, schedule, bytes, duration };

/// A row of the table.
struct DeckKey {
    std::string_view key;  ///< "train.steps"; a part `*` matches any name: "reward.*.weight"
    ParameterType type = ParameterType::text;
    std::string_view unit;           ///< "steps", "tokens", "" ...
    std::string_view default_value;  ///< text form; `kRequired` where the stage cannot run without
    std::string_view range;          ///< numbers: ">0", ">=0", "[0,1]", "(0,1]"; choice: "a | b | c"
    std::string_view stages;         ///< stages that use it, space-separated; "*" all
    std::string_view help;           ///< one or two sentences
};

inline constexpr std::string_view kRequired = "<required>";

/// All parameters, in the order of --help-deck (section by section).
std::span<const DeckKey> parameters();
/// The row for a concrete key, wildcards matched; nullptr if unknown.
const DeckKey* find_parameter(std::string_view key);
/// The reference text of all keys that begin with `prefix` ("" all).
std::string help_deck(std::string_view prefix);
/// All stage names that `stage =` accepts.
std::span<const std::string_view> stage_names();

}  // namespace gradus
