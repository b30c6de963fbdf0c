// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/bpe_trainer.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "gradus/base/error.hpp"
#include "gradus/text/tokenizer.hpp"

using namespace gradus;

namespace {

using Strings = std::vector<std::string>;

Strings merges_of(const BpeTrainer& trainer) {
    return nlohmann::json::parse(trainer.json())["model"]["merges"].get<Strings>();
}

void learn(BpeTrainer& trainer) {
    trainer.train([](std::int64_t, std::int64_t) {});
}

/// Merges of the definition, counted anew for each: words of one letter each, with their counts.
Strings slow_merges(std::map<std::string, int> counts, std::size_t wanted, int least) {
    std::map<Strings, int> words;
    for (const auto& [text, count] : counts) {
        Strings word;
        for (const char c : text) word.emplace_back(1, c);
        words[word] += count;
    }
    Strings merges, made = {"a", "b", "c"};  // in the order of their ids
    const auto id = [&](const std::string& piece) {
        return std::find(made.begin(), made.end(), piece) - made.begin();
    };
    while (merges.size() < wanted) {
        std::map<std::pair<std::ptrdiff_t, std::ptrdiff_t>, int> pairs;
        for (const auto& [word, count] : words)
            for (std::size_t i = 0; i + 1 < word.size(); ++i)
                if (std::find(made.begin(), made.end(), word[i] + word[i + 1]) == made.end())
                    pairs[{id(word[i]), id(word[i + 1])}] += count;
        const auto best =
            std::max_element(pairs.begin(), pairs.end(),
                             [](const auto& a, const auto& b) { return a.second < b.second; });
        if (best == pairs.end() || best->second < least) break;
        const std::string left = made[static_cast<std::size_t>(best->first.first)],
                          right = made[static_cast<std::size_t>(best->first.second)];
        merges.push_back(left + " " + right);
        made.push_back(left + right);
        std::map<Strings, int> next;
        for (const auto& [word, count] : words) {
            Strings joined;
            for (std::size_t i = 0; i < word.size(); ++i) {
                const bool both = i + 1 < word.size() && word[i] == left && word[i + 1] == right;
                joined.push_back(both ? left + right : word[i]);
                if (both) ++i;
            }
            next[joined] += count;
        }
        words = next;
    }
    return merges;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(bpe_trainer)

// The example of Sennrich et al., 3.2: low 5, lower 2, newest 6, widest 3. "e s" 9, then "es t" 9.
// Pairs that are left: "l o" 7 and "o w" 7, of which l (id 75) is smaller than o (78); then "lo w"
// 7; then of "n e", "e w", "w est" with 6 each e (68) is the smallest on the left.
BOOST_AUTO_TEST_CASE(example_of_the_paper) {
    BpeTrainer trainer({.vocab_size = 256 + 5});
    for (const auto& [word, count] :
         std::map<std::string, int>{{"low", 5}, {"lower", 2}, {"newest", 6}, {"widest", 3}})
        for (int i = 0; i < count; ++i) trainer.add(word);
    BOOST_TEST(trainer.words() == 4);
    learn(trainer);
    BOOST_TEST(merges_of(trainer) == (Strings{"e s", "es t", "l o", "lo w", "e w"}),
               boost::test_tools::per_element());
    BOOST_TEST(trainer.vocab_size() == 261);
}

BOOST_AUTO_TEST_CASE(counts_kept_in_step_agree_with_counts_made_anew) {
    std::mt19937 random(11);
    for (int round = 0; round < 30; ++round) {
        std::map<std::string, int> counts;
        for (int i = 0; i < 30; ++i) {
            std::string word;
            for (std::size_t n = 1 + random() % 12; n > 0; --n)
                word += "abc"[random() % (round % 2 == 0 ? 2 : 3)];
            counts[word] += 1 + static_cast<int>(random() % 4);
        }
        BpeTrainer trainer({.vocab_size = 256 + 40, .min_frequency = 3});
        for (const auto& [word, count] : counts)
            for (int i = 0; i < count; ++i) trainer.add(word);
        learn(trainer);
        BOOST_TEST(merges_of(trainer) == slow_merges(counts, 40, 3),
                   boost::test_tools::per_element());
    }
}

BOOST_AUTO_TEST_CASE(the_file_loads_and_texts_come_back) {
    for (const char* pattern : {"gpt2", "llama3", "qwen2", "deepseek", "digits"}) {
        BpeTrainer trainer({.vocab_size = 300,
                            .pattern = pattern,
                            .special = {"<bos>", "<eos>", "<think>", "</think>"},
                            .bos = "<bos>"});
        const std::string text =
            "<think>12 plus 12 is 24, and 24 plus 24 is 48.</think> \u4e00\u4e8c\u4e00\u4e8c "
            "caf\u00E9 caf\u00E9";
        for (int i = 0; i < 3; ++i) trainer.add(text);
        learn(trainer);
        const auto tokenizer = parse_tokenizer(trainer.json(), pattern, {.eos_names = {"<eos>"}});
        BOOST_TEST(tokenizer->vocab_size() == trainer.vocab_size());
        BOOST_TEST(tokenizer->bos() == trainer.vocab_size() - 4);
        BOOST_TEST(tokenizer->eos() == trainer.vocab_size() - 3);
        BOOST_TEST(tokenizer->special("<think>") == trainer.vocab_size() - 2);
        for (const bool special : {false, true})
            BOOST_TEST(tokenizer->decode(tokenizer->encode(text, special)) == text);
        BOOST_TEST(tokenizer->encode(text, true).size() < text.size() / 2);
        BOOST_TEST(tokenizer->encode("think", true).size() >
                   1u);  // tags were left out of the counts
        const bool by_digit = pattern == std::string("digits") || pattern == std::string("qwen2");
        BOOST_TEST((tokenizer->encode("24", false).size() == 2u) == by_digit, pattern);
    }
}

BOOST_AUTO_TEST_CASE(the_order_of_texts_does_not_matter) {
    BpeTrainer a({.vocab_size = 280}), b({.vocab_size = 280});
    for (const char* text : {"one two one", "two three", "three three"}) a.add(text);
    for (const char* text : {"three three", "one two one", "two three"}) b.add(text);
    learn(a);
    learn(b);
    BOOST_TEST(a.json() == b.json());
}

BOOST_AUTO_TEST_CASE(what_cannot_be_trained) {
    BOOST_CHECK_THROW(BpeTrainer({.pattern = "none"}), DataError);
    BOOST_CHECK_THROW(BpeTrainer({.vocab_size = 255}), DataError);
    BOOST_CHECK_THROW(BpeTrainer({.special = {"<a>", "<a>"}}), DataError);
    BOOST_CHECK_THROW(BpeTrainer({.special = {""}}), DataError);
    BOOST_CHECK_THROW(BpeTrainer({.special = {"<a>"}, .bos = "<b>"}), DataError);
    BpeTrainer trainer({.vocab_size = 1000});
    BOOST_CHECK_THROW(trainer.add("\xFF"), DataError);
    trainer.add("ab");
    learn(trainer);
    BOOST_TEST(trainer.vocab_size() == 256);  // no pair occurs twice
}

BOOST_AUTO_TEST_SUITE_END()
