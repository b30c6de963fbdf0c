// SPDX-License-Identifier: Apache-2.0
#include "value.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <sstream>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/deck/deck.hpp"

namespace gradus {
namespace {

template <class T>
std::optional<T> parse_number(std::string_view text) {
    if (!text.empty() && text.front() == '+') text.remove_prefix(1);
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
constexpr Unit kSizes[] = {{"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0},
                           {"TiB", 1099511627776.0}, {"B", 1}, {"", 1}};

template <std::size_t N>
std::optional<double> parse_with_unit(std::string_view text, const Unit (&units)[N]) {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789.eE+-"), text.size());
    for (const Unit& unit : units)
        if (text.substr(digits) == unit.name)
            if (const auto value = parse_number<double>(text.substr(0, digits))) return *value * unit.factor;
    return std::nullopt;
}

/// 90, 90s, 1.5h, 00:30:00, 30:00 -> seconds
std::optional<double> parse_duration(std::string_view text) {
    if (text.find(':') == std::string_view::npos) return parse_with_unit(text, kTimes);
    double seconds = 0;
    for (std::size_t at = 0; at <= text.size();) {
        const std::size_t end = std::min(text.find(':', at), text.size());
        const auto part = parse_number<double>(text.substr(at, end - at));
        if (!part || *part < 0) return std::nullopt;
        seconds = seconds * 60 + *part;
        at = end + 1;
    }
    return seconds;
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

[[noreturn]] void refuse(const DeckKey& p, const std::string& text) {
    throw DeckError(fmt::format("{} = {}: {} is expected", p.key, text, describe_type(p)));
}

}  // namespace

std::string describe_type(const DeckKey& p) {
    std::string words;
    for (const std::string& word : alternatives(p.range))
        words += (words.empty() ? "" : " | ") + word;
    const std::string range = words.empty() ? "" : ", " + words;
    const std::string unit = p.unit.empty() ? "" : fmt::format(", in {}", p.unit);
    switch (p.type) {
        case ParameterType::flag: return "true or false";
        case ParameterType::integer: return "a whole number" + range + unit;
        case ParameterType::number: return "a number" + range + unit;
        case ParameterType::text: return "text";
        case ParameterType::choice: return "one of " + words;
        case ParameterType::list: return "a list of words";
        case ParameterType::path: return "a path";
        case ParameterType::schedule: return "a number or a schedule `step:value ...`" + range;
        case ParameterType::bytes: return "a size like 64MiB" + range;
        case ParameterType::duration: return "a time like 90s, 2h or 00:30:00" + range;
    }
    return "";
}

std::string canonical_value(const DeckKey& p, const std::string& text) {
    const auto words = alternatives(p.range);
    if (std::any_of(words.begin(), words.end(),
                    [&](const std::string& w) { return !is_condition(w) && w == text; }))
        return text;
    const std::string range = numeric_range(p);
    auto checked = [&](std::optional<double> value) {
        if (!value || !in_range(range, *value)) refuse(p, text);
        return fmt::format("{}", *value);
    };
    switch (p.type) {
        case ParameterType::flag:
            for (const char* yes : {"true", "yes", "on", "1"})
                if (text == yes) return "true";
            for (const char* no : {"false", "no", "off", "0"})
                if (text == no) return "false";
            refuse(p, text);
        case ParameterType::integer: {
            const auto value = parse_number<std::int64_t>(text);
            if (!value || !in_range(range, static_cast<double>(*value))) refuse(p, text);
            return std::to_string(*value);
        }
        case ParameterType::number: return checked(parse_number<double>(text));
        case ParameterType::duration: return checked(parse_duration(text));
        case ParameterType::bytes: return checked(parse_with_unit(text, kSizes));
        case ParameterType::schedule: {
            try {
                const Schedule schedule = Schedule::parse(text);
                for (double value : schedule.levels())
                    if (!in_range(range, value)) refuse(p, text);
                return schedule.text();
            } catch (const DeckError&) {
                refuse(p, text);
            }
        }
        case ParameterType::choice: refuse(p, text);
        case ParameterType::text:
        case ParameterType::list:
        case ParameterType::path: return text;
    }
    return text;
}

}  // namespace gradus
