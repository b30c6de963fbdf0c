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
    std::string_view compared;  ///< recorded values of another code that tests/reference confirms it with
    std::vector<std::pair<std::string_view, std::string_view>> keys;  ///< each once
};

std::span<const Preset> presets();
/// nullptr for "none" and for what is unknown.
const Preset* find_preset(std::string_view name);
/// "none | grpo | ...": the range of loss.preset.
std::string_view preset_names();
/// "SOURCE. Confirmed by ... . Sets: key = value; ..." on one line.
std::string describe_preset(const Preset& preset);

}  // namespace gradus
