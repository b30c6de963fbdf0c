// SPDX-License-Identifier: Apache-2.0
// Published recipes of reinforcement learning, and benchmarks, by their names: `loss.preset = NAME` and
// `eval.benchmark = NAME` set keys that the deck leaves out.
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
std::span<const Preset> benchmarks();

/// A key whose value names one of them.
struct PresetKey {
    std::string_view key;
    std::span<const Preset> presets;

    /// nullptr for "none" and for what is unknown.
    const Preset* find(std::string_view name) const;
    /// "SOURCE. Confirmed by ... . Sets: key = value; ..." on one line.
    std::string describe(const Preset& preset) const;
};
std::span<const PresetKey> preset_keys();
/// "none | grpo | ...": the range of such a key.
std::string preset_names(std::span<const Preset> presets);

}  // namespace gradus
