// SPDX-License-Identifier: Apache-2.0
#include <boost/test/unit_test.hpp>
#include <chrono>

#include "gradus/reward/reward.hpp"

namespace gradus {
namespace {

std::vector<StepScore> steps(const std::string& response) {
    return make_steps_reward()->steps({.response = response});
}
double score(const std::string& response) { return make_steps_reward()->score({.response = response}); }

/// The rewards of all steps as digits.
std::string verdicts(const std::string& response) {
    std::string text;
    for (const StepScore& s : steps(response)) text += s.reward == 1 ? '1' : '0';
    return text;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(steps_reward)

BOOST_AUTO_TEST_CASE(equations_of_the_reasoning) {
    const std::string good = "<think>3+8=11, then 11+4=15, so 15</think><answer>15</answer>";
    BOOST_TEST(verdicts(good) == "11");
    BOOST_TEST(score(good) == 1.0);
    const auto ends = steps(good);
    BOOST_TEST(good.substr(0, ends[0].end) == "<think>3+8=11");
    BOOST_TEST(good.substr(0, ends[1].end) == "<think>3+8=11, then 11+4=15");
    BOOST_TEST(verdicts("<think>3+8=12, then 12+4=16. So 2*(3-1) = 4.</think>1+1=3") == "011");
    BOOST_TEST(score("<think>3+8=12, then 12+4=16</think>") == 0.5);
    BOOST_TEST(verdicts("6/4 = 1.5, 1/3 = 2/6, 7-9=-2, 1/3=0.33") == "1110");
    BOOST_TEST(verdicts("2+2=4=1+3=5") == "10");  // 4 computes nothing
}

BOOST_AUTO_TEST_CASE(what_is_no_step) {
    for (const char* text : {"", "no numbers", "5=5", "x+1=2", "1+=2", "1+1=", "=3", "1/0=4", "1+1 2=3", "(1+1=2",
                             "1..2+1=2"})
        BOOST_TEST(verdicts(text) == "", text);
    BOOST_TEST(score("") == 0.0);
}

BOOST_AUTO_TEST_CASE(parts_of_other_formulas) {
    for (const char* text : {"1,000+2=1,002", "2^3+1=9", "3×4+1=13", "3 × 4+1=13", "sqrt(4)+1=3", "x-2+3=11", "f(2)+1=6",
                             "2+2=4,000", "2+2=4x", "2+2=4^1", "2+2=4 × 1", "50%+1=2", "\\frac12+1=2", "5!+1=121",
                             "2+2=400%", "2+2=4 ≠ 5", "(i) 3+4=7", "**3+4=7**", "3+4=7!"})
        BOOST_TEST(verdicts(text) == "", text << ": " << verdicts(text));
    for (const char* text : {"- 3+4=7", "so: 3+4=7", "1. 3+4=7", "2) 3+4=7", "* 3+4=7", "so 3+4=7, then", "所以 3+4=7", "$3+4=7$",
                             "3+4=7\nso", "then 3+4=7 apples", "<b>3+4=7</b>"})
        BOOST_TEST(verdicts(text) == "1", text << ": " << verdicts(text));
}

BOOST_AUTO_TEST_CASE(bounded) {
    std::string sum = "1";
    for (int i = 0; i < 300; ++i) sum += "+1";
    BOOST_TEST(verdicts(sum + "=301") == "");
    BOOST_TEST(verdicts(std::string(60, '(') + "1+1" + std::string(60, ')') + "=2") == "");
    std::string many;
    for (int i = 0; i < 200000; ++i) many += "9999999999*9999999999=1=";
    const auto began = std::chrono::steady_clock::now();
    BOOST_TEST(steps(many).size() == 200000u);
    BOOST_TEST(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() < 5);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
