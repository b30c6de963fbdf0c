// SPDX-License-Identifier: Apache-2.0
#include "gradus/deck/parameters.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>

#include "presets.hpp"
#include "sections.hpp"
#include "value.hpp"

namespace gradus {
namespace {

constexpr std::array<std::string_view, 12> kStages = {
    "import", "problems", "tokenizer", "pretrain", "sft",    "reward_model",
    "rl",     "sample",   "evaluate",  "score",    "export", "bench"};

std::vector<DeckKey> all_sections() {
    std::vector<DeckKey> all;
    for (const auto& section :
         {run_parameters(), model_parameters(), train_parameters(), rl_parameters(),
          stage_parameters()})
        all.insert(all.end(), section.begin(), section.end());
    return all;
}

/// Whether `key` is `pattern` with a non-empty name without dots in the place of `*`.
bool matches(std::string_view pattern, std::string_view key) {
    const std::size_t star = pattern.find('*');
    if (star == std::string_view::npos) return pattern == key;
    const std::string_view head = pattern.substr(0, star), tail = pattern.substr(star + 1);
    if (key.size() <= head.size() + tail.size() || key.substr(0, head.size()) != head ||
        key.substr(key.size() - tail.size()) != tail)
        return false;
    const std::string_view name = key.substr(head.size(), key.size() - head.size() - tail.size());
    return name.find('.') == std::string_view::npos;
}

/// Whether keys of `pattern` can begin with `prefix`; `*` stands for any name.
bool can_begin(std::string_view pattern, std::string_view prefix) {
    const std::size_t star = pattern.find('*');
    if (star == std::string_view::npos || prefix.size() <= star)
        return pattern.substr(0, prefix.size()) == prefix;
    if (prefix.substr(0, star) != pattern.substr(0, star)) return false;
    const std::size_t dot = prefix.find('.', star);
    return dot == std::string_view::npos || can_begin(pattern.substr(star + 1), prefix.substr(dot));
}

/// `text` broken at blanks into lines of at most `width`, each after four blanks.
std::string wrap(std::string_view text, std::size_t width) {
    std::string out;
    std::size_t column = width;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find(' ', at), text.size());
        const bool fits = column + 1 + (end - at) <= width;
        out += fits ? " " : out.empty() ? "    " : "\n    ";
        column = (fits ? column + 1 : 0) + (end - at);
        out += text.substr(at, end - at);
        at = end + 1;
    }
    return out + "\n";
}

constexpr std::string_view kGrammar =
    R"(A deck is lines of `key = value`; `#` begins a comment, a backslash at the end continues a line.
"..." keeps blanks, # and $; $NAME outside quotes is taken from the environment; `include = FILE`
reads another deck at this place. A later line wins over an earlier one, and key=value on the
command line over both. Below: each key with its default, what it means, what it takes.
)";

}  // namespace

std::span<const DeckKey> parameters() {
    static const std::vector<DeckKey> table = all_sections();
    return table;
}

const DeckKey* find_parameter(std::string_view key) {
    for (const DeckKey& p : parameters())
        if (matches(p.key, key)) return &p;
    return nullptr;
}

std::span<const std::string_view> stage_names() {
    return kStages;
}

std::string help_deck(std::string_view prefix) {
    std::string text(prefix.empty() ? kGrammar : "");
    std::string_view section = "?";
    for (const DeckKey& p : parameters()) {
        if (!can_begin(p.key, prefix)) continue;
        const std::string_view begin = p.key.substr(0, p.key.find('.') + 1);
        if (begin != section && !text.empty()) text += '\n';
        section = begin;
        std::string key(p.key);
        if (const std::size_t star = key.find('*'); star != std::string::npos)
            key.replace(star, 1, "NAME");
        const std::string_view value = p.default_value == kRequired ? "(required)"
                                       : p.default_value.empty()    ? "(none)"
                                                                    : p.default_value;
        text += fmt::format("{} = {}\n", key, value) + wrap(p.help, 92);
        const std::string stages = p.stages == "*" ? "" : fmt::format("; stages: {}", p.stages);
        text += wrap(fmt::format("[{}{}]", describe_type(p), stages), 92);
        for (const PresetKey& which : preset_keys())
            if (p.key == which.key && prefix == p.key)
                for (const Preset& preset : which.presets)
                    text += fmt::format("\n{} = {}\n", p.key, preset.name) + wrap(which.describe(preset), 92);
    }
    return text;
}

}  // namespace gradus
