// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/ngrams.hpp"

#include <fmt/format.h>

#include <boost/test/unit_test.hpp>

#include "gradus/base/philox.hpp"

using namespace gradus;

namespace {

/// Words w0 w1 .. drawn from a vocabulary.
std::vector<std::string> random_words(std::uint64_t seed, int n) {
    RandomSequence random({.seed = seed, .stream = Stream::test});
    std::vector<std::string> words;
    for (int i = 0; i < n; ++i) words.push_back(fmt::format("w{}", random.integer(0, 5000)));
    return words;
}
std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += word + " ";
    return text;
}
std::vector<std::uint64_t> grams(const std::string& text, int n) { return ngrams(word_hashes(text), n); }

}  // namespace

BOOST_AUTO_TEST_SUITE(ngrams_of_words)

BOOST_AUTO_TEST_CASE(spelling_alone_tells_no_texts_apart) {
    const auto same = [](const char* a, const char* b) { return word_hashes(a) == word_hashes(b); };
    BOOST_TEST(same("The Café, (x=12)!", "the cafe x 12"));
    BOOST_TEST(same("caf\u00e9", "cafe\u0301"));
    BOOST_TEST(same("Ｔｈｅ　１２", "the 12"));
    BOOST_TEST(same("Straße ﬁne", "STRASSE fine"));
    BOOST_TEST(same("a\xff\xfe b", "a b"));
    BOOST_TEST(same("ﾃｽﾄ", "テスト"));
    BOOST_TEST(!same("カ", "ガ"));
    BOOST_TEST(!same("1 2", "12"));
    BOOST_TEST(word_hashes("").empty());
    BOOST_TEST(word_hashes("...😀 +-").empty());
    BOOST_TEST(word_hashes("\u6240\u4ee512\u4e2a").size() == 4u);
    BOOST_TEST(word_hashes("don't").size() == 2u);
    BOOST_TEST(word_hashes(std::string(1'000'000, 'a')).size() == 1u);
    std::string marks;
    for (int i = 0; i < 300'000; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0327";
    BOOST_TEST(word_hashes("a" + marks).size() == 1u);
}

BOOST_AUTO_TEST_CASE(sets_of_ngrams) {
    BOOST_TEST(grams("", 3).empty());
    BOOST_TEST(grams("a b c d", 3).size() == 2u);
    BOOST_TEST(grams("a b a b a b", 2).size() == 2u);
    BOOST_TEST(grams("a", 3).size() == 1u);
    // What is short is compared as a whole.
    BOOST_TEST(jaccard(grams("a b", 3), grams("a b", 3)) == 1.0);
    BOOST_TEST(jaccard(grams("a b", 3), grams("a b c", 3)) == 0.0);
    BOOST_TEST(jaccard(grams("a b", 2), grams("a b c", 2)) == 0.5);
    BOOST_TEST(jaccard({}, {}) == 0.0);
}

/// Pairs a known Jaccard similarity apart: k of 1000 words in a row are replaced.
BOOST_AUTO_TEST_CASE(near_duplicates_are_found_and_others_not) {
    std::vector<std::string> kept;
    NearDuplicates finder(0.8, 5, 1, [&](std::int64_t id) { return kept[static_cast<std::size_t>(id)]; });
    for (int i = 0; i < 300; ++i) {
        const std::string text = joined(random_words(static_cast<std::uint64_t>(i), 1000));
        BOOST_REQUIRE(!finder.find(text));
        finder.keep(i);
        kept.push_back(text);
    }
    int above = 0, below = 0;
    for (int i = 0; i < 300; ++i) {
        std::vector<std::string> words = random_words(static_cast<std::uint64_t>(i), 1000);
        for (int w = 0; w < i; ++w) words[static_cast<std::size_t>(400 + w)] = fmt::format("other{}", w);
        const std::string text = joined(words);
        const double truth = jaccard(grams(text, 5), grams(kept[static_cast<std::size_t>(i)], 5));
        const auto found = finder.find(text);
        BOOST_TEST(found.has_value() == (truth >= 0.8), i << ": " << truth);
        if (found) BOOST_TEST((found->id == i && found->similarity == truth));
        (truth >= 0.8 ? above : below)++;
    }
    BOOST_TEST(above > 50);
    BOOST_TEST(below > 50);
}

BOOST_AUTO_TEST_CASE(bands_are_as_wide_as_the_threshold_allows) {
    const auto rows = [](double threshold) { return NearDuplicates(threshold, 5, 1, {}).band_rows(); };
    BOOST_TEST(rows(0.8) == 5);  // 1 - (1 - 0.8^5)^25 = 0.99995; six rows: 0.998
    BOOST_TEST(rows(0.5) == 2);  // 1 - (1 - 0.5^2)^64; three rows: 0.9963
    BOOST_TEST(rows(1.0) == 128);
    BOOST_TEST(rows(0.01) == 1);
}

BOOST_AUTO_TEST_CASE(odd_texts_are_no_near_duplicates_of_all) {
    std::vector<std::string> kept;
    NearDuplicates finder(0.5, 5, 1, [&](std::int64_t id) { return kept[static_cast<std::size_t>(id)]; });
    const auto refused = [&](const std::string& text) {
        const bool found = finder.find(text).has_value();
        if (!found) {
            finder.keep(static_cast<std::int64_t>(kept.size()));
            kept.push_back(text);
        }
        return found;
    };
    BOOST_TEST(!refused(""));
    BOOST_TEST(!refused(""));  // no words: nothing to compare
    BOOST_TEST(!refused("one"));
    BOOST_TEST(refused("One."));
    BOOST_TEST(!refused("two"));
    BOOST_TEST(!refused("\xff\xfe"));
    BOOST_TEST(!refused(std::string(1'000'000, 'x')));
    std::string many;
    for (int i = 0; i < 200'000; ++i) many += std::to_string(i) + " ";
    BOOST_TEST(!refused(many));
    BOOST_TEST(refused(many + "more"));
    // Texts that share a beginning and meet in many bands.
    for (int i = 0; i < 600; ++i) refused(fmt::format("a b c d e f g h {} {} {}", i, i * 7919, i * i));
}

BOOST_AUTO_TEST_CASE(passages_of_test_sets_are_found) {
    Passages tests(10);
    tests.add("Natalia sold clips to 48 of her friends in April, and then she sold half as many in May.", "gsm8k:1");
    tests.add("What is 2+2?", "short:1");
    tests.add("", "empty:1");
    BOOST_TEST(tests.find("Some day NATALIA sold clips - to 48 of her friends in April! How many?").value() == "gsm8k:1");
    BOOST_TEST(!tests.find("Natalia sold clips to 48 of her friends"));        // eight words in a row
    BOOST_TEST(!tests.find("Natalia sold 48 clips to friends of hers in April, and then half as many in May."));
    BOOST_TEST(tests.find("what is 2 + 2").value() == "short:1");
    BOOST_TEST(!tests.find("What is 2+2? And what is 3+3?"));
    BOOST_TEST(!tests.find(""));
    BOOST_TEST(!tests.find("\xff"));
}

BOOST_AUTO_TEST_SUITE_END()
