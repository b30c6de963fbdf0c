// SPDX-License-Identifier: Apache-2.0
#include "value.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <sstream>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/deck/deck.hpp"
#include "words.hpp"

namespace gradus {
namespace {

template <class T>
std::optional<T> parse_number(std::string_view text) {
    if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    if constexpr (std::is_floating_point_v<T>)
        if (!std::isfinite(value)) return std::nullopt;
    return value;
}

struct Unit {
    std::string_view name;
    double factor;
};
constexpr Unit kTimes[] = {{"s", 1}, {"min", 60}, {"m", 60}, {"h", 3600}, {"d", 86400}, {"", 1}};
constexpr Unit kSizes[] = {{"KiB", 1024.0},          {"MiB", 1048576.0}, {"GiB", 1073741824.0},
                           {"TiB", 1099511627776.0}, {"B", 1},           {"", 1}};

/// "1.5h", "64 MiB"
template <std::size_t N>
std::optional<double> parse_with_unit(std::string_view text, const Unit (&units)[N]) {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789.eE+-"), text.size());
    const auto value = parse_number<double>(trim(text.substr(0, digits)));
    const std::string name = trim(text.substr(digits));
    for (const Unit& unit : units)
        if (value && name == unit.name && std::isfinite(*value * unit.factor))
            return *value * unit.factor;
    return std::nullopt;
}

/// 90, 90s, 1.5h, and the forms of batch systems: 30:00, 00:30:00, 1-12:00:00 -> seconds
std::optional<double> parse_duration(std::string_view text) {
    if (text.find(':') == std::string_view::npos) return parse_with_unit(text, kTimes);
    auto part = [](std::string_view digits, std::int64_t most) -> std::optional<std::int64_t> {
        const bool plain = digits.find_first_not_of("0123456789") == std::string_view::npos;
        const auto value = plain ? parse_number<std::int64_t>(digits) : std::nullopt;
        return value && *value <= most ? value : std::nullopt;
    };
    constexpr std::int64_t kMost = 1'000'000'000;
    std::int64_t days = 0;
    const std::size_t dash = text.find('-');
    if (dash != std::string_view::npos) {
        const auto value = part(text.substr(0, dash), kMost);
        if (!value || std::count(text.begin(), text.end(), ':') != 2) return std::nullopt;
        days = *value;
        text.remove_prefix(dash + 1);
    }
    if (std::count(text.begin(), text.end(), ':') > 2) return std::nullopt;
    std::int64_t seconds = 0;
    for (std::size_t at = 0; at <= text.size();) {
        const std::size_t end = std::min(text.find(':', at), text.size());
        const auto value = part(text.substr(at, end - at), at == 0 ? kMost : 59);
        if (!value) return std::nullopt;
        seconds = seconds * 60 + *value;
        at = end + 1;
    }
    return static_cast<double>(days * 86400 + seconds);
}

/// Whether `value` lies in a range like ">0", ">=0", "[0,1]", "(0,1]"; "" is everything.
bool in_range(std::string_view range, double value) {
    if (range.empty()) return true;
    if (range.substr(0, 2) == ">=") return value >= *parse_number<double>(range.substr(2));
    if (range.front() == '>') return value > *parse_number<double>(range.substr(1));
    const std::size_t comma = range.find(',');
    const double low = *parse_number<double>(range.substr(1, comma - 1));
    const double high = *parse_number<double>(range.substr(comma + 1, range.size() - comma - 2));
    return (range.front() == '[' ? value >= low : value > low) &&
           (range.back() == ']' ? value <= high : value < high);
}

/// The words that a range allows beside numbers: "auto | >0" has {"auto"}.
std::vector<std::string> alternatives(std::string_view range) {
    std::vector<std::string> words;
    std::istringstream in{std::string(range)};
    for (std::string word; in >> word;)
        if (word != "|") words.push_back(word);
    return words;
}

bool is_condition(const std::string& word) {
    return word.front() == '>' || word.front() == '[' || word.front() == '(';
}

std::string numeric_range(const DeckKey& p) {
    for (const std::string& word : alternatives(p.range))
        if (is_condition(word)) return word;
    return "";
}

/// "auto or a number > 0", "a number in [0,1]"; `like` gives examples.
std::string with_range(const DeckKey& p, const std::string& noun, const std::string& like = "") {
    std::string words, range;
    for (const std::string& word : alternatives(p.range)) {
        if (!is_condition(word)) {
            words += fmt::format("{} or ", word);
        } else if (const std::size_t end = word.find_first_not_of(">="); end > 0) {
            range = fmt::format(" {} {}", word.substr(0, end), word.substr(end));
        } else {
            range = fmt::format(" in {}", word);
        }
    }
    const std::string unit = p.unit.empty() ? "" : fmt::format(" ({})", p.unit);
    return words + noun + range + unit + like;
}

std::string joined_choices(const DeckKey& p) {
    return fmt::format("{}", fmt::join(alternatives(p.range), " | "));
}

/// The one of the words that a range allows that is nearest to a word that it does not.
std::string hint(const DeckKey& p, const std::string& text) {
    std::vector<std::string> words;
    if (p.type == ParameterType::flag) words = {"true", "false"};
    for (const std::string& word : alternatives(p.range))
        if (!is_condition(word)) words.push_back(word);
    const std::string near = nearest_word(text, words);
    return near.empty() ? "" : fmt::format("; did you mean {}?", near);
}

/// Whether a list's word is one of those that the range allows, or a whole number in it.
bool allows_word(const DeckKey& p, const std::string& word) {
    const auto words = alternatives(p.range);
    if (words.empty() || std::find(words.begin(), words.end(), word) != words.end()) return true;
    const std::string range = numeric_range(p);
    const auto value = parse_number<std::int64_t>(word);
    return !range.empty() && value && in_range(range, static_cast<double>(*value));
}

std::optional<Schedule> parse_schedule(const std::string& text) {
    try {
        return Schedule::parse(text);
    } catch (const DeckError&) {
        return std::nullopt;
    }
}

/// The value as the deck keeps it, nothing where it is of another type or out of range.
std::optional<std::string> accept(const DeckKey& p, const std::string& text) {
    const std::string range = numeric_range(p);
    auto real = [&](std::optional<double> value) -> std::optional<std::string> {
        if (!value || !in_range(range, *value)) return std::nullopt;
        return fmt::format("{}", *value);
    };
    auto whole = [&](std::optional<std::int64_t> value) -> std::optional<std::string> {
        if (!value || !in_range(range, static_cast<double>(*value))) return std::nullopt;
        return std::to_string(*value);
    };
    switch (p.type) {
        case ParameterType::flag:
            for (const char* yes : {"true", "yes", "on", "1"})
                if (text == yes) return "true";
            for (const char* no : {"false", "no", "off", "0"})
                if (text == no) return "false";
            return std::nullopt;
        case ParameterType::integer:
            return whole(parse_number<std::int64_t>(text));
        case ParameterType::number:
            return real(parse_number<double>(text));
        case ParameterType::duration:
            return real(parse_duration(text));
        case ParameterType::bytes: {
            const auto value = parse_with_unit(text, kSizes);
            if (!value || !(std::abs(*value) < 9e18)) return std::nullopt;
            return whole(std::llround(*value));
        }
        case ParameterType::schedule: {
            const auto schedule = parse_schedule(text);
            if (!schedule) return std::nullopt;
            for (double value : schedule->levels())
                if (!in_range(range, value)) return std::nullopt;
            return schedule->text();
        }
        case ParameterType::list:
            for (const std::string& word : split_list(text))
                if (!allows_word(p, word)) return std::nullopt;
            return text;
        case ParameterType::choice:
            return std::nullopt;  // one of the words, or nothing
        case ParameterType::text:
        case ParameterType::path:
            return text;
    }
    return std::nullopt;
}

}  // namespace

std::string describe_type(const DeckKey& p) {
    switch (p.type) {
        case ParameterType::flag:
            return "true or false";
        case ParameterType::integer:
            return with_range(p, "a whole number");
        case ParameterType::number:
            return with_range(p, "a number");
        case ParameterType::text:
            return "text";
        case ParameterType::choice:
            return (p.range.find('|') == std::string_view::npos ? "" : "one of ") +
                   joined_choices(p);
        case ParameterType::list:
            if (p.range.empty()) return "a list of words";
            if (numeric_range(p).empty()) return "a list of " + joined_choices(p);
            return with_range(p, "a list of whole numbers");
        case ParameterType::path:
            return "a path";
        case ParameterType::schedule:
            return with_range(p, "a number",
                              " or a schedule 0:NUMBER STEP:NUMBER ... with growing steps");
        case ParameterType::bytes:
            return with_range(p, "a size", " like 64MiB");
        case ParameterType::duration:
            return with_range(p, "a time", " like 90s, 2h or 00:30:00");
    }
    return "";
}

std::string canonical_value(const DeckKey& p, const std::string& key, const std::string& text) {
    for (const std::string& word : alternatives(p.range))
        if (word == text && !is_condition(word) && p.type != ParameterType::list) return text;
    const std::string given = text.empty() ? key + " is empty" : key + " = " + shown(text);
    std::optional<std::string> value;
    try {
        value = accept(p, text);
    } catch (const DeckError& e) {
        throw DeckError(fmt::format("{}: {}", given, e.what()));
    }
    require<DeckError>(value.has_value(), "{}: {} is expected{}", given, describe_type(p),
                       hint(p, text));
    return *value;
}

std::vector<std::string> split_list(std::string_view text) {
    std::vector<std::string> words;
    bool inside = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == ' ' || text[i] == '\t') {
            inside = false;
            continue;
        }
        if (!inside) words.emplace_back();
        inside = true;
        if (text[i] != '\\') {
            words.back() += text[i];
            continue;
        }
        const char next = ++i < text.size() ? text[i] : '\0';
        require<DeckError>(next == ' ' || next == 'n' || next == '\\',
                           "in a list a backslash stands before a blank, n or a backslash only");
        words.back() += next == 'n' ? '\n' : next;
    }
    return words;
}

}  // namespace gradus
