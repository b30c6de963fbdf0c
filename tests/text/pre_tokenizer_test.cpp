// SPDX-License-Identifier: Apache-2.0
// How texts are normalised and cut into words.
#include "../../src/text/pre_tokenizer.hpp"

#include <utf8proc.h>

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <random>

#include "../../src/text/normalizer.hpp"
#include "../../src/text/utf8.hpp"
#include "gradus/base/error.hpp"
#include "tokenizer_json.hpp"

using namespace gradus;
using namespace gradus::test;

namespace {

using Words = std::vector<std::string>;

Words cut(const Value& json, std::string_view text, bool first = true) {
    Words words;
    PreTokenizer(json, "test").split(text, first, [&](std::string_view word) {
        words.emplace_back(word);
    });
    return words;
}

Value behavior(const char* name, bool invert = false) {
    return {
        {"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", name}, {"invert", invert}};
}

Value deepseek() {
    Value steps = Value::array();
    for (const std::string& regex : kDeepSeekSplits) steps.push_back(split(regex));
    steps.push_back(byte_level(false));
    return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

std::string utf8proc_form(const std::string& text, int options) {
    utf8proc_uint8_t* out = nullptr;
    const auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                static_cast<utf8proc_ssize_t>(text.size()), &out,
                                static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
    const std::string mapped(reinterpret_cast<const char*>(out), static_cast<std::size_t>(n));
    std::free(out);
    return mapped;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(pre_tokenizer)

// The example of Hugging Face's documentation of Split, "the-final--countdown" with the pattern
// "-".
BOOST_AUTO_TEST_CASE(behaviors) {
    const std::string text = "the-final--countdown";
    BOOST_TEST(cut(behavior("Removed"), text) == (Words{"the", "final", "countdown"}));
    BOOST_TEST(cut(behavior("Isolated"), text) ==
               (Words{"the", "-", "final", "-", "-", "countdown"}));
    BOOST_TEST(cut(behavior("MergedWithPrevious"), text) ==
               (Words{"the-", "final-", "-", "countdown"}));
    BOOST_TEST(cut(behavior("MergedWithNext"), text) ==
               (Words{"the", "-final", "-", "-countdown"}));
    BOOST_TEST(cut(behavior("Contiguous"), text) ==
               (Words{"the", "-", "final", "--", "countdown"}));
    BOOST_TEST(cut(behavior("Removed", true), text) == (Words{"-", "-", "-"}));
    BOOST_TEST(cut(behavior("MergedWithNext", true), "-a-b") == (Words{"-", "a-", "b"}));
}

BOOST_AUTO_TEST_CASE(digits) {
    const Value all = {{"type", "Digits"}, {"individual_digits", true}};
    const Value runs = {{"type", "Digits"}, {"individual_digits", false}};
    BOOST_TEST(cut(all, "ab12\u00BD c") == (Words{"ab", "1", "2", "\u00BD", " c"}));
    BOOST_TEST(cut(runs, "ab12\u00BD c") == (Words{"ab", "12\u00BD", " c"}));
}

// GPT-2: lower-case contractions only, digits in runs, a blank goes with the word after it.
BOOST_AUTO_TEST_CASE(gpt2) {
    BOOST_TEST(cut(byte_level(true), "I'm I'M  x2023!\n\n a") ==
               (Words{"I", "'m", " I", "'", "M", " ", " x", "2023", "!", "\n\n", " a"}));
    Value prefix = byte_level(true);
    prefix["add_prefix_space"] = true;
    BOOST_TEST(cut(prefix, "a b") == (Words{" a", " b"}));
    BOOST_TEST(cut(prefix, " a") == (Words{" a"}));
}

// Llama 3. " 12345": no letter after the blank, so it stands alone (last alternative). "\n\n  ok":
// the line breaks by \s*[\r\n]+, of the two blanks the first by \s+(?!\S), the second before a
// letter. U+017F folds to s.
BOOST_AUTO_TEST_CASE(llama3) {
    BOOST_TEST(
        cut(split(kLlama3Split), "I'M 12345 we'll\n\n  ok(x)!\n") ==
        (Words{"I", "'M", " ", "123", "45", " we", "'ll", "\n\n", " ", " ok", "(x", ")!\n"}));
    BOOST_TEST(cut(split(kLlama3Split), "it'\u017F") == (Words{"it", "'\u017F"}));
    BOOST_TEST(cut(split(kLlama3Split), "a  ") == (Words{"a", "  "}));
}

// DeepSeek-V3, three splits one after the other: digits by three; Han and Kana; the rest. "=" and
// "+" are symbols; "(x" is a sign before Latin letters; e + U+0301 is a letter and its mark.
BOOST_AUTO_TEST_CASE(deepseek_v3) {
    BOOST_TEST(cut(deepseek(), "Hello\u4e16\u754c12345 x=1+2\n") ==
               (Words{"Hello", "\u4e16\u754c", "123", "45", " x", "=", "1", "+", "2", "\n"}));
    BOOST_TEST(cut(deepseek(), "f(x) e\u0301t\u00E9 \u3042\u30A2z!!\n\n") ==
               (Words{"f", "(x", ")", " e\u0301t\u00E9", " ", "\u3042\u30A2", "z", "!!\n\n"}));
    // U+2003 is White_Space; U+180E is not, though PCRE2's own \s has it.
    BOOST_TEST(cut(split(R"(\s+)"), "a\u2003 \u180Eb") == (Words{"a", "\u2003 ", "\u180Eb"}));
    BOOST_TEST(cut(split(R"([^\S]+)"), "a\u2003 \u180Eb") == (Words{"a", "\u2003 ", "\u180Eb"}));
}

// U+3001 is used with Han and Kana: of the script extensions of Han, but not of the script.
BOOST_AUTO_TEST_CASE(scripts_are_without_extensions) {
    BOOST_TEST(cut(split(R"(\p{Han}+)"), "\u4e16\u3001\u4e16") ==
               (Words{"\u4e16", "\u3001", "\u4e16"}));
}

BOOST_AUTO_TEST_CASE(metaspace) {
    Value meta = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}};
    BOOST_TEST(cut(meta, "a  b") == (Words{"\u2581a", "\u2581", "\u2581b"}));
    BOOST_TEST(cut(meta, "a b", false) == (Words{"a", "\u2581b"}));
    BOOST_TEST(cut({{"type", "Metaspace"}, {"replacement", "_"}, {"add_prefix_space", false}},
                   "a b") == (Words{"a", "_b"}));
    BOOST_TEST(cut({{"type", "Metaspace"}, {"replacement", "_"}, {"add_prefix_space", true}},
                   "a b") == (Words{"_a", "_b"}));
}

// No expression may take more than so many steps a byte; a good one is not hindered in long texts.
BOOST_AUTO_TEST_CASE(steps_are_limited) {
    const std::string letters(200000, 'a'), blanks(1000000, ' ');
    BOOST_CHECK_THROW(cut(split("(a+)+[bc]"), letters), DataError);
    BOOST_TEST(cut(split(kLlama3Split), blanks) == Words{blanks});
    BOOST_TEST(cut(split("(?:a|b)+"), letters) == Words{letters});
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(normalizer)

// Random texts of what is hard, in all forms, against utf8proc's own way through the whole text.
BOOST_AUTO_TEST_CASE(all_forms) {
    const std::vector<char32_t> points = {
        'a',     'q',     ' ',    0xC5,    0xE9,   0x212B,  0x1E0B,  0x300,  0x301,
        0x307,   0x323,   0x327,  0x344,   0x345,  0x958,   0x915,   0x93C,  0x9C7,
        0x9BE,   0x1100,  0x1161, 0x11A8,  0xAC00, 0xAC01,  0xFB01,  0xFDFA, 0x1D15E,
        0x1D165, 0x2F800, 0x4E00, 0x1F600, 0x2019, 0x1112C, 0x11131, 0x11127};
    const std::pair<const char*, int> forms[] = {{"NFC", UTF8PROC_COMPOSE},
                                                 {"NFD", UTF8PROC_DECOMPOSE},
                                                 {"NFKC", UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                                                 {"NFKD", UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
    std::mt19937 random(3);
    for (const auto& [name, options] : forms) {
        const Normalizer normalizer({{"type", name}}, "test");
        for (int round = 0; round < 3000; ++round) {
            std::string text;
            for (std::size_t i = random() % 12; i > 0; --i)
                append_utf8(text, points[random() % points.size()]);
            BOOST_TEST(normalizer.apply(text) == utf8proc_form(text, options),
                       name << " of " << text);
        }
    }
}

// NFC of every character by itself and after a letter.
BOOST_AUTO_TEST_CASE(every_character) {
    const Normalizer normalizer({{"type", "NFC"}}, "test");
    int wrong = 0;
    for (char32_t c = 1; c < 0x110000; ++c) {
        if (c >= 0xD800 && c < 0xE000) continue;
        std::string text = "a";
        append_utf8(text, c);
        text += "\u0301x";
        if (normalizer.apply(text) != utf8proc_form(text, UTF8PROC_COMPOSE)) ++wrong;
    }
    BOOST_TEST(wrong == 0);
}

BOOST_AUTO_TEST_CASE(marks_alone_take_no_quadratic_time) {
    std::string text;
    for (int i = 0; i < 200000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
    const auto began = std::chrono::steady_clock::now();
    const std::string out = Normalizer({{"type", "NFC"}}, "test").apply(text);
    BOOST_TEST(out.size() == text.size());
    // n log n takes a few hundredths of a second, n * n many minutes.
    BOOST_TEST(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() <
               20);
}

BOOST_AUTO_TEST_CASE(other_steps) {
    const Value steps = {{{"type", "Lowercase"}},
                         {{"type", "Replace"}, {"pattern", {{"Regex", "\\s+"}}}, {"content", "_"}},
                         {{"type", "Prepend"}, {"prepend", ">"}}};
    const Normalizer normalizer({{"type", "Sequence"}, {"normalizers", steps}}, "test");
    BOOST_TEST(normalizer.apply("A \n\u00C9 \u0130") == ">a_\u00E9_i\u0307");
    BOOST_TEST(normalizer.apply("") == "");
    BOOST_TEST(Normalizer(nullptr, "test").apply("A") == "A");
}

BOOST_AUTO_TEST_SUITE_END()
