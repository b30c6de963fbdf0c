// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/script.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#include <array>
#include <memory>

#include "gradus/base/error.hpp"
#include "gradus/base/handle.hpp"

namespace gradus {
namespace {

struct Step {
    std::size_t bytes;
    bool valid;
};

/// The well-formed sequence at the start of `text` (Unicode 15, table 3-7), or the maximal
/// subpart of an ill-formed one, which counts as one error (Unicode 15, section 3.9, table 3-8).
Step utf8_step(std::string_view text) {
    const auto byte = [&](std::size_t i) {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
    };
    const unsigned lead = byte(0);
    if (lead < 0x80) return {1, true};
    if (lead < 0xC2 || lead > 0xF4) return {1, false};
    const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    unsigned low = 0x80, high = 0xBF;
    if (lead == 0xE0) low = 0xA0;   // no overlong forms
    if (lead == 0xED) high = 0x9F;  // no surrogates
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;  // no code point above U+10FFFF
    for (std::size_t i = 1; i < length; ++i) {
        if (byte(i) < low || byte(i) > high) return {i, false};
        low = 0x80;
        high = 0xBF;
    }
    return {length, true};
}

struct FreeCode {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
    void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
using Code = UniqueHandle<pcre2_code*, FreeCode>;
using Match = UniqueHandle<pcre2_match_data*, FreeMatch>;

// Group 1: what is no word; group 2 + s: a word of Script s. Possessive, so that the time is linear in the text. `sc:` is
// the character's own script; plain names would also take shared punctuation (the ideographic full stop) for Han.
// A letter takes its marks along, joiners (Persian, Hindi) and Arabic's tatweel included; U+30FC, U+FF70 (long vowel)
// and U+FF9E, U+FF9F (voicing) are shared by the two Kana, U+2019 is the typographic apostrophe.
const std::string& word_pattern() {
    static const std::string pattern = [] {
        const auto run = [](const std::string& script) {
            return fmt::format("((?:\\p{{sc:{}}}[\\p{{M}}\\x{{200c}}\\x{{200d}}\\x{{640}}]*+)++)", script);
        };
        const std::string latin = "(?:\\p{sc:Latin}\\p{M}*+)++";
        std::string all = "(</?[A-Za-z][A-Za-z0-9_|-]*+(?:\\s++[A-Za-z-]++=\"[^\"<>]*+\")*+\\s*+/?>"
                          "|<[|\\x{ff5c}][^<>\\s]++>"
                          "|\\p{N}[\\p{N}_\\p{sc:Latin}\\p{M}]*+"
                          "|" + latin + "(?:\\p{N}|_(?=[\\p{N}\\p{sc:Latin}]))[\\p{sc:Latin}\\p{M}\\p{N}_]*+)";
        all += "|(" + latin + "(?:['\\x{2019}]" + latin + ")*+)";
        all += "|([\\p{sc:Han}\\p{sc:Bopomofo}]\\p{M}*+)";
        all += "|([\\p{sc:Hiragana}\\p{sc:Katakana}\\x{30fc}\\x{ff70}][\\p{M}\\x{ff9e}\\x{ff9f}]*+)";
        for (const char* script : {"Hangul", "Cyrillic", "Arabic", "Devanagari", "Greek", "Hebrew"})
            all += "|" + run(script);
        all += "|((?=\\p{L})\\p{sc:Thai}\\p{M}*+)";
        return all + "|((?:(?![\\p{sc:Latin}\\p{sc:Han}\\p{sc:Hiragana}\\p{sc:Katakana}])\\p{L}\\p{M}*+)++)";
    }();
    return pattern;
}

const pcre2_code* word_code() {
    static const Code code = [] {
        int error = 0;
        PCRE2_SIZE offset = 0;
        Code made(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(word_pattern().data()),
                                word_pattern().size(), PCRE2_UTF | PCRE2_UCP, &error, &offset,
                                nullptr));
        require(made.get() != nullptr, "PCRE2 refuses the word pattern at {}: error {}", offset,
                error);
        return made;
    }();
    return code.get();
}

std::string lower_case(std::string_view text) {
    std::string lower;
    lower.reserve(text.size());
    std::size_t at = 0;
    while (at < text.size()) {
        utf8proc_int32_t point = 0;
        const auto read =
            utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                             static_cast<utf8proc_ssize_t>(text.size() - at), &point);
        if (read <= 0) break;
        std::array<utf8proc_uint8_t, 4> bytes{};
        const auto written = utf8proc_encode_char(utf8proc_tolower(point), bytes.data());
        lower.append(reinterpret_cast<const char*>(bytes.data()),
                     static_cast<std::size_t>(written));
        at += static_cast<std::size_t>(read);
    }
    return lower;
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
    while (!text.empty()) {
        const Step step = utf8_step(text);
        if (!step.valid) return false;
        text.remove_prefix(step.bytes);
    }
    return true;
}

std::string to_valid_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const Step step = utf8_step(text);
        out += step.valid ? text.substr(0, step.bytes) : std::string_view("\xEF\xBF\xBD");
        text.remove_prefix(step.bytes);
    }
    return out;
}

std::string_view script_name(Script script) {
    static constexpr std::array<std::string_view, 11> kNames = {"Latin",      "Han",   "Kana",   "Hangul", "Cyrillic", "Arabic",
                                                                "Devanagari", "Greek", "Hebrew", "Thai",   "Other"};
    return kNames[static_cast<std::size_t>(script)];
}

std::vector<Word> words(std::string_view text) {
    const std::string valid = to_valid_utf8(text);
    const Match match(pcre2_match_data_create_from_pattern(word_code(), nullptr));
    require(match.get() != nullptr, "out of memory for a PCRE2 match");
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
    std::vector<Word> found;
    PCRE2_SIZE at = 0;
    while (true) {
        const int groups = pcre2_match(word_code(), reinterpret_cast<PCRE2_SPTR>(valid.data()),
                                       valid.size(), at, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
        if (groups == PCRE2_ERROR_NOMATCH) return found;
        require(groups > 0, "PCRE2 failed with error {} while it looked for words", groups);
        // The highest group that is set is the alternative that matched.
        const int kind = groups - 1;
        if (kind > 1) {
            const std::string_view word(valid.data() + bounds[0], bounds[1] - bounds[0]);
            found.push_back({lower_case(word), static_cast<Script>(kind - 2)});
        }
        at = bounds[1];
    }
}

}  // namespace gradus
