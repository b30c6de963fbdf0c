// SPDX-License-Identifier: Apache-2.0
#include "number.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "characters.hpp"
#include "gradus/text/script.hpp"

namespace gradus {
namespace {

using boost::multiprecision::cpp_int;

constexpr std::size_t kLongestStatement = 1000;
constexpr int kLargestExponent = 400;

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/// Composes compatibility characters: full-width digits, one-half signs, narrow spaces.
std::string compatible(std::string_view text) {
    if (std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; })) {
        return std::string(text);
    }
    const std::string valid = to_valid_utf8(text);
    utf8proc_uint8_t* mapped = nullptr;
    const auto size = utf8proc_map(
        reinterpret_cast<const utf8proc_uint8_t*>(valid.data()),
        static_cast<utf8proc_ssize_t>(valid.size()), &mapped,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
    if (size < 0) return valid;
    return {reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(size)};
}

/// A LaTeX argument of digits at `at`: "{12}" or one digit. Moves `at` behind it.
std::string_view digits_argument(std::string_view text, std::size_t& at) {
    if (at < text.size() && is_digit(text[at])) return text.substr(at++, 1);
    if (at >= text.size() || text[at] != '{') return {};
    std::size_t end = at + 1;
    while (end < text.size() && is_digit(text[end])) ++end;
    if (end == at + 1 || end >= text.size() || text[end] != '}') return {};
    const std::string_view digits = text.substr(at + 1, end - at - 1);
    at = end + 1;
    return digits;
}

/// Appends the fraction of digits at `at` to `out` and says where it ends; 0 if there is none.
std::size_t append_fraction(std::string_view text, std::size_t at, std::string& out) {
    for (const std::string_view name : {"\\frac", "\\dfrac", "\\tfrac"}) {
        if (!text.substr(at).starts_with(name)) continue;
        std::size_t end = at + name.size();
        const std::string_view above = digits_argument(text, end);
        if (above.empty()) return 0;
        const std::string_view below = digits_argument(text, end);
        if (below.empty()) return 0;
        if (!out.empty() && is_digit(out.back())) out += ' ';
        out.append(above).append("/").append(below);
        return end;
    }
    return 0;
}

std::size_t skip_digits(std::string_view text, std::size_t at) {
    while (at < text.size() && is_digit(text[at])) ++at;
    return at;
}

/// End of the number without a sign at `at`; `at` itself if there is none.
std::size_t unsigned_end(std::string_view text, std::size_t at) {
    std::size_t end = skip_digits(text, at);
    const std::size_t whole = end - at;
    if (whole >= 1 && whole <= 3 && text[at] != '0') {
        // Thousands commas count only in whole groups of three: "1,2" is a list.
        while (end + 3 < text.size() && text[end] == ',' && skip_digits(text, end + 1) == end + 4) {
            end += 4;
        }
    }
    const bool integer = end > at;
    if (end + 1 < text.size() && text[end] == '.' && is_digit(text[end + 1])) {
        end = skip_digits(text, end + 1);
    }
    if (end == at) return at;
    if (end + 1 < text.size() && (text[end] == 'e' || text[end] == 'E')) {
        const std::size_t sign = text[end + 1] == '-' || text[end + 1] == '+' ? 1 : 0;
        const std::size_t exponent = skip_digits(text, end + 1 + sign);
        if (exponent > end + 1 + sign) return exponent;
    }
    if (!integer) return end;
    if (end + 1 < text.size() && text[end] == '/' && is_digit(text[end + 1])) {
        return skip_digits(text, end + 1);
    }
    // Mixed: "3 1/2".
    if (end + 1 < text.size() && text[end] == ' ' && is_digit(text[end + 1])) {
        const std::size_t above = skip_digits(text, end + 1);
        if (above + 1 < text.size() && text[above] == '/' && is_digit(text[above + 1])) {
            return skip_digits(text, above + 1);
        }
    }
    return end;
}

struct Span {
    std::size_t begin = 0, end = 0;
    bool found() const { return end > begin; }
};

/// The next number at or after `from`, with its sign where the sign is no operator.
Span next_number(std::string_view text, std::size_t from) {
    for (std::size_t at = from; at < text.size(); ++at) {
        const bool point = text[at] == '.' && at + 1 < text.size() && is_digit(text[at + 1]);
        if (!is_digit(text[at]) && !point) continue;
        const std::size_t end = unsigned_end(text, at);
        std::size_t begin = at;
        if (at > from && (text[at - 1] == '-' || text[at - 1] == '+')) {
            const char before = at >= 2 ? text[at - 2] : ' ';
            const bool is_operator =
                is_digit(before) || is_letter(before) || before == ')' || before == '}';
            if (!is_operator) begin = at - 1;
        }
        return {begin, end};
    }
    return {};
}

cpp_int power_of_ten(int exponent) {
    return boost::multiprecision::pow(cpp_int(10), static_cast<unsigned>(exponent));
}

cpp_int integer_of(std::string_view digits) {
    // A leading zero would make cpp_int read octal.
    const std::size_t first = digits.find_first_not_of('0');
    return first == digits.npos ? cpp_int(0) : cpp_int(std::string(digits.substr(first)));
}

/// Decimal without sign: digits, commas, a point, an exponent.
std::optional<ExactNumber> decimal_of(std::string_view text) {
    std::string digits;
    int scale = 0;
    bool fraction = false;
    std::size_t at = 0;
    for (; at < text.size() && text[at] != 'e' && text[at] != 'E'; ++at) {
        if (text[at] == '.') fraction = true;
        if (!is_digit(text[at])) continue;
        digits += text[at];
        scale += fraction ? 1 : 0;
    }
    if (at < text.size()) {
        const std::string exponent(text.substr(at + 1));
        if (exponent.size() > 5) return {};
        scale -= std::atoi(exponent.c_str());
        if (std::abs(scale) > kLargestExponent) return {};
    }
    ExactNumber number{integer_of(digits), 1};
    if (scale > 0) number.denominator = power_of_ten(scale);
    if (scale < 0) number.numerator *= power_of_ten(-scale);
    return number;
}

/// The value of a text that next_number delimited.
std::optional<ExactNumber> value_of(std::string_view text) {
    const bool negative = text.starts_with('-');
    if (negative || text.starts_with('+')) text.remove_prefix(1);
    std::optional<ExactNumber> number;
    const std::size_t slash = text.find('/');
    if (slash == text.npos) {
        number = decimal_of(text);
    } else {
        const std::size_t space = text.find(' ');
        const std::size_t above = space == text.npos ? 0 : space + 1;
        const cpp_int below = integer_of(text.substr(slash + 1));
        number = decimal_of(text.substr(above, slash - above));
        if (!number || below == 0) return {};
        if (space != text.npos) {
            const auto whole = decimal_of(text.substr(0, space));
            if (!whole || whole->denominator != 1) return {};
            number->numerator += whole->numerator * below;
        }
        number->denominator *= below;
    }
    if (number && negative) number->numerator = -number->numerator;
    return number;
}

/// Whether `c` may stand between the words around a stated number: anything but what makes the
/// number a part of an expression.
bool is_prose(char c) {
    return is_letter(c) || is_space(c) || (c & 0x80) != 0 ||
           std::string_view(".,:;!?'\"()*_").find(c) != std::string_view::npos;
}

}  // namespace

bool equal(const ExactNumber& a, const ExactNumber& b) {
    return a.numerator * b.denominator == b.numerator * a.denominator;
}

std::string plain_notation(std::string_view text) {
    struct Replacement {
        std::string_view from, to;
    };
    static constexpr Replacement kReplacements[] = {{"\\$", ""},           {"$", ""},
                                                    {"\\%", ""},           {"%", ""},
                                                    {"\\!", ""},           {"\\,", ""},
                                                    {"\\;", " "},          {"\\ ", " "},
                                                    {"{,}", ","},          {"^\\circ", ""},
                                                    {"^{\\circ}", ""},     {"\\left", ""},
                                                    {"\\right", ""},       {"\xE2\x88\x92", "-"},
                                                    {"\xE2\x80\x93", "-"}, {"\xE2\x81\x84", "/"},
                                                    {"\xE2\x82\xAC", ""},  {"\xC2\xA3", ""}};
    const std::string source = compatible(text);
    const std::string_view view = source;
    std::string out;
    out.reserve(source.size());
    for (std::size_t at = 0; at < view.size();) {
        if (view[at] == '\\') {
            if (const std::size_t end = append_fraction(view, at, out); end > 0) {
                at = end;
                continue;
            }
        }
        const auto* found =
            std::find_if(std::begin(kReplacements), std::end(kReplacements),
                         [&](const Replacement& r) { return view.substr(at).starts_with(r.from); });
        if (found != std::end(kReplacements)) {
            out += found->to;
            at += found->from.size();
        } else {
            out += view[at++];
        }
    }
    return out;
}

std::string with_decimal_point(std::string_view text) {
    if (text.size() > kLongestStatement || text.find(',') == text.npos) return "";
    std::string plain = plain_notation(text);
    const std::size_t first = plain.find_first_not_of(" \t\n"), comma = plain.find(',');
    if (first == plain.npos || comma == plain.npos) return "";
    plain = plain.substr(first, plain.find_last_not_of(" \t\n.") + 1 - first);
    const std::size_t point = comma - first, begin = plain.starts_with('-') ? 1 : 0;
    const std::size_t whole = skip_digits(plain, begin) - begin, part = skip_digits(plain, point + 1) - point - 1;
    if (whole == 0 || begin + whole != point || part == 0 || point + 1 + part != plain.size()) return "";
    if (part == 3 && whole <= 3 && plain[begin] != '0') return "";
    plain[point] = '.';
    return plain;
}

std::string_view last_number(std::string_view plain) {
    Span last, before;
    for (Span next = next_number(plain, 0); next.found(); next = next_number(plain, next.end)) {
        before = last;
        last = next;
    }
    // Not in brackets, nor the last two of a list.
    const bool apart = (before.begin == 0 || is_space(plain[before.begin - 1])) &&
                       (last.end == plain.size() || is_space(plain[last.end]) || plain[last.end] == '.');
    if (before.found() && apart && before.end + 1 == last.begin && plain[before.end] == ',' &&
        !with_decimal_point(plain.substr(before.begin, last.end - before.begin)).empty())
        last.begin = before.begin;
    return plain.substr(last.begin, last.end - last.begin);
}

std::optional<ExactNumber> stated_number(std::string_view answer) {
    if (answer.size() > kLongestStatement) return {};
    const std::string plain = plain_notation(answer);
    std::string_view text = plain;
    if (const std::size_t equals = text.rfind('='); equals != text.npos) {
        text.remove_prefix(equals + 1);
    }
    const Span number = next_number(text, 0);
    if (!number.found() || next_number(text, number.end).found()) return {};
    const std::string_view before = text.substr(0, number.begin);
    const std::string_view after = text.substr(number.end);
    const bool apart = (before.empty() || !is_letter(before.back())) &&
                       (after.empty() || !is_letter(after.front()));
    if (!apart || !std::all_of(before.begin(), before.end(), is_prose) ||
        !std::all_of(after.begin(), after.end(), is_prose)) {
        return {};
    }
    return value_of(text.substr(number.begin, number.end - number.begin));
}

}  // namespace gradus
