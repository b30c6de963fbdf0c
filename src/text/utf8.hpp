// SPDX-License-Identifier: Apache-2.0
// Code points of text that is known to be well-formed UTF-8.
#pragma once

#include <utf8proc.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace gradus {

struct CodePoint {
    char32_t value;
    std::size_t bytes;
};

/// Bytes of the character that begins with `lead`.
inline std::size_t utf8_length(char lead) {
    const auto byte = static_cast<unsigned char>(lead);
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// The character at the start of `text`, which is not empty.
inline CodePoint code_point(std::string_view text) {
    const std::size_t n = utf8_length(text[0]);
    auto value = static_cast<char32_t>(static_cast<unsigned char>(text[0]));
    if (n > 1) value &= 0xFFu >> (n + 1);
    for (std::size_t i = 1; i < n; ++i)
        value = value << 6 | (static_cast<unsigned char>(text[i]) & 0x3Fu);
    return {value, n};
}

/// The character at the end of `text`, which is not empty.
inline CodePoint last_code_point(std::string_view text) {
    std::size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    return code_point(text.substr(at));
}

inline void append_utf8(std::string& to, char32_t value) {
    utf8proc_uint8_t bytes[4];
    const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(value), bytes);
    to.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(n));
}

inline utf8proc_category_t category(char32_t c) {
    return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

/// Unicode's White_Space (PropList.txt): what \s means to Rust's regex and to Oniguruma.
inline bool is_white_space(char32_t c) {
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/// General category N: what Rust's char::is_numeric means.
inline bool is_numeric(char32_t c) {
    const auto kind = category(c);
    return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL ||
           kind == UTF8PROC_CATEGORY_NO;
}

/// \w of Rust's regex: Alphabetic, Mark, decimal digit, connector, joiner (UTS 18, annex C).
inline bool is_word_character(char32_t c) {
    const auto kind = category(c);
    const bool circled = (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
                         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
    return (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_NL) ||
           kind == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D || circled;
}

}  // namespace gradus
