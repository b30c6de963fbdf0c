// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/script.hpp"

#include <boost/test/unit_test.hpp>

using namespace gradus;

namespace {

std::string listed(std::string_view text) {
    std::string list;
    for (const Word& word : words(text)) list += word.text + ":" + std::string(script_name(word.script)) + " ";
    return list;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(script)

BOOST_AUTO_TEST_CASE(ill_formed_utf8_is_replaced_by_maximal_subparts) {
    const std::string r = "\uFFFD";
    // The Unicode Standard 15.0, section 3.9, tables 3-8 to 3-11.
    BOOST_TEST(to_valid_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41") ==
               r + r + r + r + r + r + r + r + "A");
    BOOST_TEST(to_valid_utf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41") ==
               r + r + r + r + r + r + r + r + "A");
    BOOST_TEST(to_valid_utf8("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42") ==
               r + r + r + r + r + "A" + r + r + "B");
    BOOST_TEST(to_valid_utf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41") == r + r + r + r + "A");
}

BOOST_AUTO_TEST_CASE(well_formed_utf8_stays) {
    const std::string all = std::string("a\0b", 3) + "\u00e9\u7136\U0001F600\U0010FFFF\uD7FF";
    BOOST_TEST(is_valid_utf8(all));
    BOOST_TEST(to_valid_utf8(all) == all);
    BOOST_TEST(is_valid_utf8(""));
    for (const char* bad : {"\xC2", "\xE7\x84", "\xF0\x9F\x98", "\x80", "\xF5\x80\x80\x80"}) {
        BOOST_TEST(!is_valid_utf8(bad));
        BOOST_TEST(is_valid_utf8(to_valid_utf8(bad)));
    }
}

BOOST_AUTO_TEST_CASE(words_by_script) {
    BOOST_TEST(listed("7+8=15, Then 15-3=12, so 12") == "then:Latin so:Latin ");
    BOOST_TEST(listed("7+8=15, \u7136\u540e so") == "\u7136:Han \u540e:Han so:Latin ");
    BOOST_TEST(listed("\u00c9t\u00e9 Stra\u00dfe") == "\u00e9t\u00e9:Latin stra\u00dfe:Latin ");
    // Decomposed letters keep their marks.
    BOOST_TEST(words("E\u0301te\u0301").size() == 1u);
    BOOST_TEST(listed("\u041f\u0440\u0438\u0432\u0435\u0442 \uc548\ub155") ==
               "\u043f\u0440\u0438\u0432\u0435\u0442:Cyrillic \uc548\ub155:Hangul ");
    BOOST_TEST(listed("\u3042\u30ab") == "\u3042:Kana \u30ab:Kana ");
    BOOST_TEST(listed("abc\u4e2dde") == "abc:Latin \u4e2d:Han de:Latin ");
    BOOST_TEST(listed("\u3002\uff0c 12 \U0001F600 $%") == "");
}

BOOST_AUTO_TEST_CASE(tags_are_no_words) {
    BOOST_TEST(listed("<think>one</think><answer>2</answer><|im_end|>") ==
               "one:Latin ");
    BOOST_TEST(listed("a<b and c>d") == "a:Latin b:Latin and:Latin c:Latin d:Latin ");
    BOOST_TEST(listed("<think") == "think:Latin ");
}

BOOST_AUTO_TEST_CASE(long_and_broken_text_is_read_in_one_pass) {
    BOOST_TEST(words(std::string(2'000'000, 'a')).size() == 1u);
    BOOST_TEST(words(std::string(500'000, '<')).size() == 0u);
    std::string tags;
    for (int i = 0; i < 100'000; ++i) tags += "<a";
    BOOST_TEST(words(tags).size() == 100'000u);
    BOOST_TEST(words("\xE7\x84 a \xFF").size() == 1u);
}

BOOST_AUTO_TEST_SUITE_END()
