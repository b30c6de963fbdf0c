// SPDX-License-Identifier: Apache-2.0
#include "gradus/deck/parameters.hpp"

#include <fmt/format.h>

#include <array>

#include "sections.hpp"
#include "value.hpp"

namespace gradus {
namespace {

constexpr std::array<std::string_view, 8> kStages = {"problems", "pretrain", "sft",   "rl",
                                                     "sample",   "evaluate", "score", "bench"};

std::vector<DeckKey> all_sections() {
    std::vector<DeckKey> all;
    for (const auto& section :
         {run_parameters(), model_parameters(), train_parameters(), stage_parameters()})
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

/// `text` broken at blanks into lines of at most `width`, each after `indent`.
std::string wrap(std::string_view text, std::string_view indent, std::size_t width) {
    std::string out, line;
    auto flush = [&] {
        if (!line.empty()) out += fmt::format("{}{}\n", indent, line);
        line.clear();
    };
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find(' ', at), text.size());
        const std::string_view word = text.substr(at, end - at);
        if (!line.empty() && line.size() + 1 + word.size() > width) flush();
        line += (line.empty() ? "" : " ") + std::string(word);
        at = end + 1;
    }
    flush();
    return out;
}

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

std::span<const std::string_view> stage_names() { return kStages; }

std::string help_deck(std::string_view prefix) {
    std::string text;
    for (const DeckKey& p : parameters()) {
        if (p.key.substr(0, prefix.size()) != prefix) continue;
        std::string key(p.key);
        if (const std::size_t star = key.find('*'); star != std::string::npos)
            key.replace(star, 1, "NAME");
        const std::string value = p.default_value == kRequired ? "(required)"
                                  : p.default_value.empty()    ? "(none)"
                                                               : std::string(p.default_value);
        text += fmt::format("{} = {}\n", key, value);
        text += wrap(fmt::format("{} [{}]", p.help, describe_type(p)), "    ", 92);
        if (p.stages != "*") text += wrap(fmt::format("Stages: {}", p.stages), "    ", 92);
    }
    return text;
}

}  // namespace gradus
