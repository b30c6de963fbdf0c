// SPDX-License-Identifier: Apache-2.0
// Published recipes of reinforcement learning by their names: `loss.preset = NAME` sets keys that the deck
// leaves out.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gradus {

struct Preset {
    std::string_view name;
    std::string_view source;  ///< paper and section, or project and commit; what it cannot say in keys
    bool confirmed = false;   ///< values that the project's own code gave are compared in tests/reference
    std::vector<std::pair<std::string_view, std::string_view>> keys;
};

std::span<const Preset> presets();
/// nullptr for "none" and for what is unknown.
const Preset* find_preset(std::string_view name);
/// "none | grpo | ...": the range of loss.preset.
std::string_view preset_names();
/// The presets with what they set, for --help-deck.
std::string describe_presets();

}  // namespace gradus
