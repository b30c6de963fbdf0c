// SPDX-License-Identifier: Apache-2.0
#include "words.hpp"

#include <algorithm>

namespace gradus {
namespace {

constexpr std::size_t kLongest = 80;

/// Bytes of the UTF-8 sequence at `at`, 0 where there is none (RFC 3629, section 4).
std::size_t utf8_length(std::string_view text, std::size_t at) {
    auto byte = [&](std::size_t i) -> unsigned {
        return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U;
    };
    const unsigned first = byte(0);
    if (first < 0x80) return 1;
    if (first < 0xC2 || first > 0xF4) return 0;
    const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    // The second byte keeps out overlong forms, surrogates and what lies beyond U+10FFFF.
    const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (byte(1) < low || byte(1) > high) return 0;
    for (std::size_t i = 2; i < length; ++i)
        if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
    return length;
}

bool is_control(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\t') || byte == 0x7F;
}

}  // namespace

std::string trim(std::string_view text) {
    const auto blank = " \t\r";
    const std::size_t begin = text.find_first_not_of(blank);
    if (begin == std::string_view::npos) return "";
    return std::string(text.substr(begin, text.find_last_not_of(blank) - begin + 1));
}

std::string shown(std::string_view text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = utf8_length(text, at);
        if (out.size() + std::max<std::size_t>(length, 1) > kLongest) return out + "...";
        if (length == 0 || is_control(text[at]))
            out += '?';
        else
            out += text.substr(at, length);
        at += std::max<std::size_t>(length, 1);
    }
    return out;
}

std::string_view fault_of(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        if (is_control(text[at])) return "a control character";
        const std::size_t length = utf8_length(text, at);
        if (length == 0) return "bytes that are no UTF-8";
        at += length;
    }
    return "";
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
    // Rows of the table: the one being filled and the two before it.
    std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i) {
        before.swap(last);
        last.swap(row);
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t substituted = last[j - 1] + (a[i - 1] != b[j - 1] ? 1 : 0);
            row[j] = std::min({last[j] + 1, row[j - 1] + 1, substituted});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = std::min(row[j], before[j - 2] + 1);
        }
    }
    return row[b.size()];
}

std::size_t tolerance(std::string_view word) {
    return std::max<std::size_t>(1, word.size() / 3);
}

std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates) {
    std::string best;
    std::size_t distance = tolerance(word) + 1;
    for (const std::string& candidate : candidates)
        if (const std::size_t d = edit_distance(word, candidate); d < distance) {
            distance = d;
            best = candidate;
        }
    return best;
}

}  // namespace gradus
