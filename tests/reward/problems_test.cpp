// SPDX-License-Identifier: Apache-2.0
#include "gradus/reward/problems.hpp"

#include <boost/test/unit_test.hpp>
#include <regex>
#include <set>

#include "gradus/base/error.hpp"
#include "gradus/reward/reward.hpp"
#include "gradus/text/script.hpp"

using namespace gradus;

namespace {

/// An evaluator of its own for "(7+8)*2-3": brackets and the usual precedence.
struct Evaluator {
    const char* at;
    int sum() {
        int value = product();
        while (*at == '+' || *at == '-') {
            const bool plus = *at++ == '+';
            const int other = product();
            value += plus ? other : -other;
        }
        return value;
    }
    int product() {
        int value = factor();
        while (*at == '*') {
            ++at;
            value *= factor();
        }
        return value;
    }
    int factor() {
        if (*at == '(') {
            ++at;
            const int value = sum();
            ++at;
            return value;
        }
        int value = 0;
        while (*at >= '0' && *at <= '9') value = 10 * value + (*at++ - '0');
        return value;
    }
};

int evaluate(const std::string& formula) {
    return Evaluator{formula.c_str()}.sum();
}

/// The value of a story, read verb by verb.
int evaluate_story(const std::string& story) {
    static const std::regex kPart("(has|gets|wins|pays|uses) ([0-9])|doubles");
    int value = 0;
    for (std::sregex_iterator it(story.begin(), story.end(), kPart), end; it != end; ++it) {
        const std::string verb = (*it)[1];
        const int number = verb.empty() ? 0 : std::stoi((*it)[2]);
        if (verb == "has") value = number;
        if (verb == "gets" || verb == "wins") value += number;
        if (verb == "pays" || verb == "uses") value -= number;
        if (verb.empty()) value *= 2;
    }
    return value;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(problems)

BOOST_AUTO_TEST_CASE(answers_are_right_and_reasoning_leads_to_them) {
    const ProblemOptions options{.seed = 3, .min_terms = 3, .max_terms = 7, .words = 0.4};
    static const std::regex kStep("([0-9]+[-+*][0-9]+)=([0-9]+)");
    int stories = 0, doublings = 0;
    for (int i = 0; i < 3000; ++i) {
        const Problem problem = make_problem(options, i);
        const bool story = problem.prompt.find("How many?") != std::string::npos;
        stories += story ? 1 : 0;
        doublings += problem.reasoning.find("*2") != std::string::npos ? 1 : 0;
        const int value = story ? evaluate_story(problem.prompt) : evaluate(problem.prompt);
        BOOST_REQUIRE_EQUAL(std::to_string(value), problem.answer);
        int steps = 0;
        for (std::sregex_iterator it(problem.reasoning.begin(), problem.reasoning.end(), kStep),
             end;
             it != end; ++it, ++steps) {
            const int result = evaluate((*it)[1]);
            BOOST_REQUIRE_EQUAL(std::to_string(result), (*it)[2]);
            BOOST_REQUIRE(result >= 0 && result <= 99);
        }
        BOOST_REQUIRE_EQUAL(steps, problem.level);
        BOOST_REQUIRE(problem.reasoning.ends_with("so " + problem.answer));
        BOOST_REQUIRE(problem.level >= 2 && problem.level <= 6);
    }
    BOOST_TEST(stories > 1000);
    BOOST_TEST(stories < 1400);
    BOOST_TEST(doublings > 300);
    BOOST_TEST(doublings < 600);
}

BOOST_AUTO_TEST_CASE(a_pure_function_of_seed_and_index) {
    const ProblemOptions one{.seed = 1}, two{.seed = 2};
    int differ = 0;
    for (int i = 0; i < 100; ++i) {
        const Problem a = make_problem(one, i), b = make_problem(one, i);
        BOOST_TEST(a.prompt == b.prompt);
        BOOST_TEST(a.reasoning == b.reasoning);
        differ += make_problem(two, i).prompt != a.prompt ? 1 : 0;
    }
    BOOST_TEST(differ > 90);
    BOOST_CHECK_THROW(make_problem({.min_terms = 1}, 0), DeckError);
    BOOST_CHECK_THROW(make_problem({.min_terms = 5, .max_terms = 4}, 0), DeckError);
}

BOOST_AUTO_TEST_CASE(short_and_various_enough) {
    const ProblemOptions options{.seed = 1, .min_terms = 4, .max_terms = 5};
    std::set<std::string> distinct, answers;
    constexpr int kCount = 5000;
    for (int i = 0; i < kCount; ++i) {
        const Problem problem = make_problem(options, i);
        BOOST_REQUIRE(problem.prompt.size() < 60);
        BOOST_REQUIRE(problem.reasoning.size() < 65);
        distinct.insert(problem.prompt);
        answers.insert(problem.answer);
    }
    BOOST_TEST(distinct.size() > kCount * 0.95);
    BOOST_TEST(answers.size() > 40u);
}

BOOST_AUTO_TEST_CASE(clean_documents_score_full_marks) {
    const auto accuracy = make_accuracy_reward(), format = make_format_reward();
    const auto language = make_language_reward("en");
    for (int i = 0; i < 500; ++i) {
        const Problem problem = make_problem({.seed = 5}, i);
        const std::string text =
            make_document_response(problem, {.worked = 1.0, .imperfect = 0.0, .mixed = 0.0}, 9, i);
        BOOST_TEST(text == "<think>" + problem.reasoning + "</think><answer>" + problem.answer +
                               "</answer>");
        const RewardInput input{.response = text, .reference = problem.answer};
        BOOST_TEST(accuracy->score(input) == 1.0);
        BOOST_TEST(format->score(input) == 1.0);
        BOOST_TEST(language->score(input) == 1.0);
    }
}

BOOST_AUTO_TEST_CASE(shares_are_as_asked) {
    constexpr int kCount = 6000;
    const DocumentOptions options{.worked = 0.5, .imperfect = 0.3, .mixed = 0.4};
    const auto accuracy = make_accuracy_reward(), format = make_format_reward();
    const auto language = make_language_reward("en");
    int worked = 0, wrong = 0, broken = 0, chinese = 0, whole = 0;
    for (int i = 0; i < kCount; ++i) {
        const Problem problem = make_problem({.seed = 7}, i);
        const std::string text = make_document_response(problem, options, 11, i);
        BOOST_REQUIRE(is_valid_utf8(text));
        if (text == "<answer>" + problem.answer + "</answer>") continue;
        ++worked;
        const RewardInput input{.response = text, .reference = problem.answer};
        wrong += accuracy->score(input) == 0.0 ? 1 : 0;
        broken += format->score(input) == 0.0 ? 1 : 0;
        const double english = language->score(input);
        chinese += english < 1.0 ? 1 : 0;
        whole += english == 0.0 ? 1 : 0;
    }
    // Binomial means; the margins are about five standard deviations.
    BOOST_TEST(std::abs(worked - 3000) < 200);
    BOOST_TEST(std::abs(wrong - worked * 0.1) < 85);
    BOOST_TEST(std::abs(broken - worked * 0.2) < 110);
    BOOST_TEST(std::abs(chinese - worked * 0.4) < 140);
    BOOST_TEST(whole > chinese / 2);
    BOOST_TEST(whole < chinese);
}

BOOST_AUTO_TEST_CASE(foreign_reasoning_is_refused) {
    const DocumentOptions worked{.worked = 1.0};
    for (const char* reasoning : {"", "so 5", "hello", "1+"}) {
        BOOST_CHECK_THROW(make_document_response({.reasoning = reasoning}, worked, 1, 1),
                          DataError);
    }
}

BOOST_AUTO_TEST_SUITE_END()
