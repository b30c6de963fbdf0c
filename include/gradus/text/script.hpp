// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gradus {

/// Whether `text` is well-formed UTF-8.
bool is_valid_utf8(std::string_view text);
/// Replaces ill-formed sequences by U+FFFD (what may be written to JSON).
std::string to_valid_utf8(std::string_view text);

/// Scripts that are told apart (Unicode's Script property). Kana is Hiragana and Katakana; Bopomofo goes with Han.
enum class Script : std::uint8_t { latin, han, kana, hangul, cyrillic, arabic, devanagari, greek, hebrew, thai, other };
std::string_view script_name(Script script);

/// A word for language identification: a maximal run of letters of one script with their marks, an apostrophe
/// within it included ("don't"). Han, Kana and Thai, which put no spaces between words, count by the
/// character. Digits, punctuation, emoji and tags (`<think>`, `<|im_end|>`, `<a href="x">`) are no words, nor are
/// Latin letters that are joined to a digit or an underscore: 5cm, x_1, max_len.
struct Word {
    std::string text;  ///< lower-cased
    Script script;
};
std::vector<Word> words(std::string_view text);

}  // namespace gradus
