// SPDX-License-Identifier: Apache-2.0
#include "measures.hpp"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "characters.hpp"

namespace gradus {
namespace {

/// The sign of a measure by its names; short ones in their own letters, long ones in small letters without the plural's s.
std::string_view measure_named(const std::string& word) {
    static const std::unordered_map<std::string_view, std::string_view> all = {
        {"mm", "mm"}, {"cm", "cm"}, {"m", "m"}, {"km", "km"}, {"mg", "mg"}, {"g", "g"}, {"kg", "kg"}, {"ms", "ms"}, {"s", "s"},
        {"sec", "s"}, {"min", "min"}, {"h", "h"}, {"hr", "h"}, {"mL", "ml"}, {"ml", "ml"}, {"L", "l"}, {"in", "in"}, {"ft", "ft"},
        {"yd", "yd"}, {"mi", "mi"}, {"lb", "lb"}, {"oz", "oz"}, {"millimeter", "mm"}, {"centimeter", "cm"}, {"meter", "m"},
        {"kilometer", "km"}, {"millimetre", "mm"}, {"centimetre", "cm"}, {"metre", "m"}, {"kilometre", "km"}, {"milligram", "mg"},
        {"gram", "g"}, {"kilogram", "kg"}, {"ton", "t"}, {"millisecond", "ms"}, {"second", "s"}, {"minute", "min"}, {"hour", "h"},
        {"day", "d"}, {"week", "w"}, {"month", "mo"}, {"year", "y"}, {"milliliter", "ml"}, {"liter", "l"}, {"millilitre", "ml"},
        {"litre", "l"}, {"gallon", "gal"}, {"inch", "in"}, {"inches", "in"}, {"foot", "ft"}, {"feet", "ft"}, {"yard", "yd"},
        {"mile", "mi"}, {"pound", "lb"}, {"ounce", "oz"}, {"dollar", "$"}, {"cent", "c"}, {"degree", "deg"}, {"radian", "rad"}};
    if (const auto found = all.find(word); found != all.end()) return found->second;
    if (word.size() < 3) return {};
    std::string lower;
    for (const char c : word) lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (lower.back() == 's' && lower != "inches") lower.pop_back();
    const auto found = all.find(lower);
    return found != all.end() ? found->second : std::string_view();
}

/// "2" of ^2, ^{2}, or a superscript at `at`; "" where there is no power.
std::string power_at(std::string_view text, std::size_t at) {
    while (at < text.size() && (text[at] == '}' || text[at] == ' ')) ++at;
    const std::string_view rest = text.substr(std::min(at, text.size()));
    if (rest.starts_with("²")) return "2";
    if (rest.starts_with("³")) return "3";
    if (!rest.starts_with('^')) return "";
    const std::size_t digit = rest.starts_with("^{") ? 2 : 1;
    return digit < rest.size() && is_digit(rest[digit]) && rest[digit] != '1' ? std::string(1, rest[digit]) : "";
}

/// The first measure behind the first digit, with its power: "cm", "m2"; "$" where one stands before it. "" where there is
/// none.
std::string measure_of(const std::string& text) {
    const std::size_t digit = text.find_first_of("0123456789");
    if (const std::size_t money = text.find("\\$"); money != text.npos && money < digit) return "$";
    std::string word, before;
    for (std::size_t at = digit == text.npos ? 0 : digit; at <= text.size(); ++at) {
        if (at < text.size() && is_letter(text[at])) {
            word += text[at];
            continue;
        }
        if (word.empty()) continue;
        const std::size_t begin = at - word.size();
        const char left = begin == 0 ? ' ' : text[begin - 1];
        const bool apart = left == ' ' || left == '{' || left == '-' || (is_digit(left) && word.size() > 1);
        const std::string_view measure = apart ? measure_named(word) : std::string_view();
        if (!measure.empty()) {
            const std::string power = before == "square" || before == "sq" ? "2" : before == "cubic" ? "3" : power_at(text, at);
            return std::string(measure) + power;
        }
        before = word;
        word.clear();
    }
    return "";
}

/// "am" or "pm" where a text names a half of the day.
std::string half_of_day(const std::string& text) {
    std::string lower;
    for (const char c : text)
        if (c != '.') lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    for (const char* half : {"am", "pm"})
        for (std::size_t at = 0; (at = lower.find(half, at)) != std::string::npos; ++at) {
            const bool begins = at == 0 || (!is_letter(lower[at - 1]) && lower[at - 1] != '\\');  // \pm
            const bool ends = at + 2 >= lower.size() || !is_letter(lower[at + 2]);
            if (begins && ends) return half;
        }
    return "";
}

}  // namespace

bool of_one_measure(const std::string& a, const std::string& b) {
    if (half_of_day(a) != half_of_day(b)) return false;
    const std::string one = measure_of(a), other = measure_of(b);
    return one.empty() || other.empty() || one == other;
}

}  // namespace gradus
