// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace gradus {

/// The languages that are told apart (ISO 639-1), in the order of LanguageWords::of.
inline constexpr std::array<std::string_view, 13> kLanguages = {"en", "de", "fr", "es", "zh", "ja", "ko",
                                                                "ru", "ar", "hi", "el", "he", "th"};

/// How many words of a text are in which language. Words are those of `words` in the `prose` of the text, but for single
/// Latin and Greek letters, which are mostly symbols (x, \beta, labels) and otherwise so few ("a") that they do not matter.
///
/// By script: Hangul is ko, Cyrillic ru, Arabic ar, Devanagari hi, Greek el, Hebrew he, Thai th; other languages of these scripts
/// count as these. Kana is ja, and so is Han in a sentence with Kana; else Han is zh; each character counts as a word.
/// Latin words belong to the language of their sentence: of en, de, fr, es the one with the most function words ("the",
/// "nicht", "dans", "pero") that none of the others has. Without any, or at a tie, they are of no particular one.
struct LanguageWords {
    std::array<std::int64_t, kLanguages.size()> of{};
    std::int64_t latin = 0;  ///< of no particular Latin-script language
    std::int64_t other = 0;  ///< of other scripts
    std::int64_t all() const;
    /// Share of the words that are in `language` or, where that is a Latin-script one, may be (`latin`); 1 where there
    /// are no words. Throws InternalError where the language is unknown.
    double share(std::string_view language) const;
    /// The language of most words, `latin` counting for the first of the Latin-script ones that has most; "" where there are no
    /// words of any.
    std::string_view main() const;
};

/// Takes any bytes; time is linear in the text.
LanguageWords count_languages(std::string_view text);

}  // namespace gradus
