// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gradus {

/// Whether `text` is well-formed UTF-8.
bool is_valid_utf8(std::string_view text);
/// Replaces ill-formed sequences by U+FFFD (what may be written to JSON).
std::string to_valid_utf8(std::string_view text);

/// A word for language identification: a maximal run of Latin letters, or one Han/Kana character.
/// Digits, punctuation, and tags in angle brackets are no words.
struct Word {
    std::string text;    ///< lower-cased
    std::string script;  ///< "Latin", "Han", "Other"
};
std::vector<Word> words(std::string_view text);

}  // namespace gradus
