// SPDX-License-Identifier: Apache-2.0
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/reward/reward.hpp"

using namespace gradus;

namespace {

double format(const std::string& response, bool truncated = false) {
    return make_format_reward()->score({.response = response, .truncated = truncated});
}
double language(const std::string& response, const std::string& target = "en") {
    return make_language_reward(target)->score({.response = response});
}
double repetition(const std::string& response) {
    return make_repetition_reward()->score({.response = response});
}

}  // namespace

BOOST_AUTO_TEST_SUITE(style)

BOOST_AUTO_TEST_CASE(format_is_all_or_nothing) {
    BOOST_TEST(format("<think>a</think><answer>1</answer>") == 1.0);
    BOOST_TEST(format(" <think>\na\n</think>\n\n<answer>1</answer>\n") == 1.0);
    for (const char* bad :
         {"<answer>1</answer>", "<think>a</think>1", "<think>a<answer>1</answer>",
          "<think></think><answer>1</answer>", "<think> \n</think><answer>1</answer>",
          "<think>a</think><answer> </answer>", "<think>a</think>so<answer>1</answer>",
          "<think>a</think><answer>1</answer>.", "x<think>a</think><answer>1</answer>",
          "<answer>1</answer><think>a</think>", "<think><think>a</think><answer>1</answer>",
          "<think>a</think><answer>1</answer><answer>1</answer>",
          "<think>a<answer>1</answer></think>", "<think>a</think><answer>1", ""}) {
        BOOST_TEST(format(bad) == 0.0, bad);
    }
    BOOST_TEST(format("<think>a</think><answer>1</answer>", true) == 0.0);
}

BOOST_AUTO_TEST_CASE(language_counts_words_of_the_reasoning) {
    BOOST_TEST(language("<think>1, then 2, so 3</think><answer>3</answer>") == 1.0);
    // One English word, two Chinese characters.
    const std::string half = "<think>1, then 2, \u6240\u4ee5 3</think><answer>so</answer>";
    BOOST_TEST(language(half) == 1.0 / 3.0);
    BOOST_TEST(language(half, "zh") == 2.0 / 3.0);
    BOOST_TEST(language("then \u4e00") == 0.5);
    BOOST_TEST(language("<answer>18</answer>") == 1.0);
    BOOST_TEST(language("<think>1+1=2</think>\u4e00") == 1.0);
    BOOST_TEST(language("<think>\u0442\u043e so") == 0.5);
    BOOST_CHECK_THROW(make_language_reward("tlh"), DeckError);
}

BOOST_AUTO_TEST_CASE(language_of_the_prompt) {
    const auto score = [](const char* prompt, const char* response) {
        return make_language_reward("prompt")->score({.prompt = prompt, .response = response});
    };
    BOOST_TEST(score("一共有几个苹果？", "<think>先算七加八。</think>") == 1.0);
    BOOST_TEST(score("一共有几个苹果？", "<think>We add the two.</think>") == 0.0);
    BOOST_TEST(score("How many apples are there?", "<think>We add the two.</think>") == 1.0);
    // A prompt without words leaves the choice: three characters, one word.
    BOOST_TEST(score("7+8=?", "<think>一共是 then</think>") == 0.75);
    BOOST_TEST(score("7+8=?", "<think>15</think>") == 1.0);
    BOOST_TEST(language("We add the two.</think>所以", "en") == 1.0);
}

BOOST_AUTO_TEST_CASE(repetition_is_the_share_of_repeated_trigrams) {
    BOOST_TEST(repetition("") == 0.0);
    BOOST_TEST(repetition("a b") == 0.0);
    BOOST_TEST(repetition("a b c d e") == 0.0);
    // Trigrams: abc bca cab abc, three of four distinct.
    BOOST_TEST(repetition("a b c a b c") == -0.25);
    BOOST_TEST(repetition(" A b\nC\ta B c ") == -0.25);
    // open-r1 test_rewards.py, TestRepetitionPenaltyReward with n = 3.
    BOOST_TEST(repetition("word word word word") == -0.5);
    BOOST_TEST(repetition("A B C A B") == 0.0);
    BOOST_TEST(std::abs(repetition("A B C A B C E F G A B C A B C") + 0.3846) < 5e-5);
    // Ten words, eight trigrams, one distinct.
    BOOST_TEST(repetition("a a a a a a a a a a") == -0.875);
    // Words joined otherwise are other trigrams.
    BOOST_TEST(repetition("ab c d a bc d") == 0.0);
}

BOOST_AUTO_TEST_CASE(overlong_falls_over_the_buffer) {
    // DAPO's own lengths: 16384 expected, 4096 beside, 20480 at most.
    BOOST_TEST(overlong_punishment(0, 20480, 4096) == 0.0);
    BOOST_TEST(overlong_punishment(16384, 20480, 4096) == 0.0);
    BOOST_TEST(overlong_punishment(16385, 20480, 4096) == -1.0 / 4096);
    BOOST_TEST(overlong_punishment(18432, 20480, 4096) == -0.5);
    BOOST_TEST(overlong_punishment(20480, 20480, 4096) == -1.0);
    BOOST_TEST(overlong_punishment(30000, 20480, 4096) == -1.0);
    BOOST_TEST(overlong_punishment(50, 100, 100) == -0.5);
    BOOST_TEST(overlong_punishment(100, 100, 0) == 0.0);
}

BOOST_AUTO_TEST_SUITE_END()
