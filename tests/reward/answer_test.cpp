// SPDX-License-Identifier: Apache-2.0
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "gradus/reward/reward.hpp"

using namespace gradus;

namespace {

double accuracy(const std::string& response, const std::string& reference) {
    return make_accuracy_reward()->score({.response = response, .reference = reference});
}

}  // namespace

BOOST_AUTO_TEST_SUITE(answer)

BOOST_AUTO_TEST_CASE(parts_of_a_response) {
    BOOST_TEST(final_part("<think>a</think> b") == " b");
    BOOST_TEST(final_part("<think>a</think>b</think>c") == "c");
    BOOST_TEST(final_part("<think>a") == "<think>a");
    BOOST_TEST(final_part("b") == "b");
    BOOST_TEST(reasoning_part("<think>a</think>b") == "a");
    BOOST_TEST(reasoning_part("<think>a") == "a");
    BOOST_TEST(reasoning_part("</think><think>a") == "a");
    BOOST_TEST(reasoning_part("b") == "");
    BOOST_TEST(reasoning_part("") == "");
}

BOOST_AUTO_TEST_CASE(where_the_answer_stands) {
    BOOST_TEST(extract_answer("<think>1 <answer>2</answer></think><answer> 3 </answer>") == "3");
    BOOST_TEST(extract_answer("<answer>1</answer> or <answer>2</answer>") == "2");
    BOOST_TEST(extract_answer("<answer>1</answer> <answer>2") == "1");
    BOOST_TEST(extract_answer("<answer>5</answer> \\boxed{6} #### 7") == "5");
    BOOST_TEST(extract_answer("\\boxed{1} so \\boxed{\\frac{1}{2}}. #### 7") == "\\frac{1}{2}");
    BOOST_TEST(extract_answer("so it is 12\n#### 1,080\n") == "1,080");
    BOOST_TEST(extract_answer("First 3, then 15-3=12.") == "12");
    BOOST_TEST(extract_answer("It fell to -3 degrees.") == "-3");
    BOOST_TEST(extract_answer("<think>7+8=15</think>15") == "15");
    BOOST_TEST(extract_answer("<think>7+8=15, so 15<answer>15</answer>") == "15");
    // What was only thought is no answer.
    BOOST_TEST(extract_answer("<think>7+8=15</think>I do not know.") == "");
    BOOST_TEST(extract_answer("") == "");
    BOOST_TEST(extract_answer("\\boxed{3 and no end 4") == "4");
}

BOOST_AUTO_TEST_CASE(a_final_answer_behind_the_boxes) {
    BOOST_TEST(extract_answer("It is \\boxed{200} in the first, \\boxed{255} in the second. Final Answer: The final answer is "
                              "$10,455$. I hope it is correct.") == "$10,455$");
    BOOST_TEST(extract_answer("\\boxed{5}. Final answer: 6") == "6");
    BOOST_TEST(extract_answer("Final answer: 6, or \\boxed{5}") == "5");
    BOOST_TEST(extract_answer("The final answer is \\boxed{5}.") == "5");
    BOOST_TEST(extract_answer("\\boxed{5}. The final answer is correct.") == "5");
    BOOST_TEST(extract_answer("\\boxed{5}. The final answer is below 7.") == "5");
    BOOST_TEST(extract_answer("\\boxed{5}. The answer is 6") == "5");
    BOOST_TEST(extract_answer("\\boxed{5}. The final answer is a") == "5");
    BOOST_TEST(extract_answer("\\boxed{5}. The final answer is x + y") == "x + y");
    BOOST_TEST(extract_answer("\\boxed{5}. The final answer is \\pi") == "\\pi");
    BOOST_TEST(extract_answer("<answer>\\boxed{5}</answer> The final answer is 6") == "5");
}

BOOST_AUTO_TEST_CASE(a_decimal_comma_of_a_response) {
    const auto right = [](const char* response, const char* reference) { return accuracy(response, reference) == 1.0; };
    BOOST_TEST(right("1000,99", "1000.99"));
    BOOST_TEST(right("Soucis : 2,74 $ a..", "2.74"));
    BOOST_TEST(right("<answer>$-0{,}5$</answer>", "-0.5"));
    BOOST_TEST(right("\\boxed{0,111}", "0.111"));
    BOOST_TEST(right("\\boxed{8, 12}", "8,12"));
    for (const char* list : {"(8,12)", "[8,12]", "\\{8,12\\}", "8, 12", "8,12,3", "3,8,12", "8;12", "8,12x", "x,8,12"}) {
        BOOST_TEST(!right((std::string("\\boxed{") + list + "}").c_str(), "8.12"), list);
        BOOST_TEST(!right((std::string("It is ") + list).c_str(), "8.12"), list);
        BOOST_TEST(!right("\\boxed{8.12}", list), list);
    }
    // MATH writes lists so.
    BOOST_TEST(!right("\\boxed{8.12}", "8,12"));
    BOOST_TEST(!right("\\boxed{1,234}", "1.234"));
    BOOST_TEST(right("\\boxed{1,234}", "1234"));
    BOOST_TEST(!right("\\boxed{0,111}", "111"));
    BOOST_TEST(!right("0,111 apples", "111"));
    BOOST_TEST(!right("\\boxed{8,12}", "8.120"));
    BOOST_TEST(!right("\\boxed{8,12}", "-8.12"));
    BOOST_TEST(!right("\\boxed{8,12}", "812"));
    BOOST_TEST(!right("\\boxed{8,12}", "12"));
}

BOOST_AUTO_TEST_CASE(words_that_change_a_number) {
    for (const char* word : {"million", "Half", "dozen", "squared", "thirds", "trillion", "plus"}) {
        BOOST_TEST(accuracy(std::string("<answer>5 ") + word + "</answer>", "5") == 0.0, word);
        BOOST_TEST(accuracy(std::string("<answer>5\\text{ ") + word + "}</answer>", "5") == 0.0, word);
    }
    for (const char* changed :
         {"\\text{square root of }5", "\\text{sqrt }5", "\\text{ln }5", "\\text{triple }5", "\\text{double }5", "\\text{inverse of }5",
          "\\text{less than }5", "\\text{at most }5", "5\\text{ below zero}", "5\\text{ factorial}", "5 tenths", "5 hundredths",
          "5 thousandths", "5 fifths", "5 eighths", "5 lakh", "5 crore", "5 doubled", "5 gross", "5 bn", "triple 5", "cube of 5",
          "sine of 5", "factorial of 5", "one fifth of 5", "5 point five", "\\text{twenty-}5", "twenty 5", "five times 5", "5\\text{ pi}",
          "5\\text{x}", "2\\mathrm{sin}5", "\\text{inverse of }-5", "\\text{inverse of }\\left(5\\right)", "\\mathrm{triple }5",
          "\\mbox{sine of }5", "inverse of 5", "less than 5", "Triple 5", "the opposite of 5", "5\\text{ Hundredths}", "5 tenth", "5 at most",
          "5\\text{ at least}", "The square is 5", "5 square", "5 square roots"})
        for (const std::string& response : {"<answer>" + std::string(changed) + "</answer>", "\\boxed{" + std::string(changed) + "}"})
            BOOST_TEST(accuracy(response, "5") == 0.0, response);
    BOOST_TEST(accuracy("\\boxed{5\\text{ km }300}", "5300") == 0.0);
    BOOST_TEST(accuracy("\\boxed{\\text{ln }5}", "\\ln 5") == 1.0);
    BOOST_TEST(accuracy("\\boxed{6, 8\\text{, and }10}", "6,8,10") == 1.0);
    for (const char* plain : {"The total cost is $5", "Janet makes $5 every day", "She has a total of 5 apples", "\\text{Answer: }5",
                              "\\text{Area} = 5", "The share of Ann: 5", "5 months", "5 points", "\\text{The answer is }5", "It costs about 5 dollars.",
                              "The most that he can earn is $5.", "Vlad is 5 inches taller than his sister.", "The kitchen is 5 square feet",
                              "They picked up 5 cans"})
        BOOST_TEST(accuracy("<answer>" + std::string(plain) + "</answer>", "5") == 1.0, plain);
    for (const char* unit : {"notebooks", "tons", "square feet", "miles"}) {
        BOOST_TEST(accuracy(std::string("<answer>5 ") + unit + "</answer>", "5") == 1.0, unit);
        BOOST_TEST(accuracy(std::string("<answer>5\\text{ ") + unit + "}</answer>", "5") == 1.0, unit);
    }
}

BOOST_AUTO_TEST_CASE(measures_of_several_sizes) {
    for (const auto& [reference, other] : {std::pair{"5 m", "5 m^2"}, {"5\\text{ meters}", "5\\text{ km}"}, {"5\\text{ meters}", "5 kilometers"},
                                           {"5 meters", "5 kilometers"}, {"\\$5", "5 cents"}, {"5 cents", "5 dollars"}, {"5\\text{ cm}^2", "5\\text{ cm}^3"},
                                           {"5 square feet", "5 feet"}, {"10 AM", "10 PM"}, {"5 minutes", "5 hours"}, {"5\\text{ m}", "5 square meters"},
                                           {"\\frac{1}{2}\\text{ cm}", "\\frac{1}{2}\\text{ mm}"}, {"5 m²", "5 m"}}) {
        BOOST_TEST(accuracy("<answer>" + std::string(other) + "</answer>", reference) == 0.0, reference << " and " << other);
        BOOST_TEST(accuracy("\\boxed{" + std::string(reference) + "}", other) == 0.0, other << " and " << reference);
    }
    for (const auto& [reference, other] : {std::pair{"5 m^2", "5 square meters"}, {"5\\text{ meters}", "5 m"}, {"\\$5", "5 dollars"}, {"\\$5", "5"},
                                           {"5\\text{ cm}^2", "5"}, {"5 inches", "5\\text{ in}"}, {"5 hours", "5 hours a day"}, {"10 AM", "10 am"},
                                           {"5", "5 kilometers"}, {"5 minutes", "5\\text{ min}"}})
        BOOST_TEST(accuracy("<answer>" + std::string(other) + "</answer>", reference) == 1.0, reference << " and " << other);
}

BOOST_AUTO_TEST_CASE(references) {
    // From GSM8K's training rows.
    BOOST_TEST(extract_reference("She earned 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10") == "10");
    BOOST_TEST(extract_reference("There are...\n#### 109,200,000") == "109,200,000");
    BOOST_TEST(extract_reference(" 42\n") == "42");
}

BOOST_AUTO_TEST_CASE(numbers_are_compared_by_value) {
    const auto same = [](const char* a, const char* b) {
        return accuracy("<answer>" + std::string(a) + "</answer>", b) == 1.0;
    };
    BOOST_TEST(same("1,234", "1234.0"));
    BOOST_TEST(same("$1,234.50", "1234.5"));
    BOOST_TEST(same("+7", "7"));
    BOOST_TEST(same("007", "7"));
    BOOST_TEST(same("08", "8"));
    BOOST_TEST(same("-0", "0"));
    BOOST_TEST(same("\u22125", "-5"));
    BOOST_TEST(same("\uff11\uff18", "18"));
    BOOST_TEST(same("25%", "25"));
    BOOST_TEST(same(".5", "1/2"));
    BOOST_TEST(same("3 1/2", "3.5"));
    BOOST_TEST(same("-3 1/2", "-3.5"));
    BOOST_TEST(same("1.5e3", "1500"));
    BOOST_TEST(same("The answer is 18.", "18"));
    BOOST_TEST(same("18 apples", "18"));
    BOOST_TEST(same("7+8=15", "15"));
    BOOST_TEST(same("x = -2", "-2"));
    BOOST_TEST(same("2/6", "1/3"));
    BOOST_TEST(!same("0.3333333333333333333333", "1/3"));
    BOOST_TEST(!same("12345678901234567890123", "12345678901234567890124"));
    BOOST_TEST(same("12345678901234567890123.0", "12345678901234567890123"));
    BOOST_TEST(!same("18", "-18"));
    BOOST_TEST(!same("12 or 18", "18"));
    BOOST_TEST(!same("1,2", "12"));
    BOOST_TEST(!same("2x", "2"));
    BOOST_TEST(same("2^3", "8"));
    BOOST_TEST(!same("1/0", "0"));
    BOOST_TEST(!same("many", "18"));
    BOOST_TEST(!same("", "18"));
}

BOOST_AUTO_TEST_CASE(cases_of_other_projects) {
    // hendrycks/math math_equivalence_test.py: test_decimals2, test_dollars.
    BOOST_TEST(accuracy("\\boxed{0.1}", ".1") == 1.0);
    BOOST_TEST(accuracy("\\boxed{10}", "\\$10") == 1.0);
    // Math-Verify test_all.py: test_number_extraction, cases 0, 1, 3.
    BOOST_TEST(accuracy("-5", "-5") == 1.0);
    BOOST_TEST(accuracy("7,425,000", "7425000") == 1.0);
    BOOST_TEST(accuracy("1000.0", "1000") == 1.0);
    // SkyThought test_math.py, cases 1 and 3; slime test_rm_math.py, cases 0, 1, 3.
    BOOST_TEST(accuracy("5", "4") == 0.0);
    BOOST_TEST(accuracy("The answer is $4.", "4.") == 1.0);
    BOOST_TEST(accuracy("\\frac{1}{2}", "0.5") == 1.0);
    BOOST_TEST(accuracy("\\frac12", "\\frac{1}{2}") == 1.0);
    BOOST_TEST(accuracy("3/4", "\\frac{3}{4}") == 1.0);
    // open-r1 test_rewards.py: test_accuracy_reward_correct_answer and _wrong_answer.
    BOOST_TEST(accuracy("\\boxed{\\frac{63}{400}}", "\\frac{63}{400}") == 1.0);
    BOOST_TEST(accuracy("\\boxed{\\frac{64}{400}}", "\\frac{63}{400}") == 0.0);
}

BOOST_AUTO_TEST_CASE(references_that_are_no_numbers) {
    BOOST_TEST(std::isnan(accuracy("<answer>4</answer>", "")));
    for (const char* reference : {"blue", "x^2+4", "2\\pi", "(1, 2)", "1/0"}) {
        BOOST_TEST(accuracy("<answer>4</answer>", reference) == 0.0, reference);
        BOOST_TEST(accuracy(std::string("<answer>") + reference + "</answer>", reference) == 1.0, reference);
        BOOST_TEST(accuracy(std::string("So it is \\boxed{") + reference + "}.", reference) == 1.0, reference);
    }
}

BOOST_AUTO_TEST_CASE(answers_that_nothing_marks) {
    BOOST_TEST(accuracy("Therefore $x \\geq 5$ is the solution.", "x >= 5") == 1.0);
    BOOST_TEST(accuracy("It is $7$, or rather 8.", "8") == 1.0);
    BOOST_TEST(accuracy("It is 7, or rather $8$", "8") == 1.0);
    BOOST_TEST(accuracy("The answer is $\\frac{1}{3}$. Check: 3 times that is 1.", "1/3") == 1.0);
    BOOST_TEST(accuracy("\\boxed{1} and \\boxed{2}", "1,2") == 1.0);
    BOOST_TEST(accuracy("\\boxed{1} and \\boxed{2}", "2") == 0.0);
    BOOST_TEST(accuracy("first \\boxed{1}, then\n\\boxed{2}", "2") == 1.0);
    BOOST_TEST(accuracy("so the number is 1,000.99m²", "1000.99") == 1.0);
    BOOST_TEST(accuracy("AZYUK2A", "2") == 0.0);
}

BOOST_AUTO_TEST_CASE(words_beside_an_answer_that_nothing_marks) {
    for (const char* changed :
         {"The answer is 3 million.", "The answer is minus 3.", "The answer is half of 3.", "The answer is not 3.", "It is 3 hundredths.",
          "So it is half of 3", "It is not 3.", "The answer is $3$ million.", "The answer is not $3$.", "It is half of \\(3\\).",
          "The answer is 3 and a half.", "The answer is 2 or 3.", "The answer is 2 to 3", "It is at most 3.", "It is 3 at most.", "It is less than 3.", "It is 3 square roots.", "The answer is the square root of 3",
          "The answer is 3 below zero.", "The answer is negative $3$.", "The answer is inverse of 3", "We get 2 times 3.",
          "The answer is not **3**.", "It is 3-hundredths", "The answer is 3 point five.", "The answer is the digits of 3",
          "The answer is \\text{half of }3.", "The answer is \\overline{3}."})
        BOOST_TEST(accuracy(changed, "3") == 0.0, changed);
    for (const char* plain :
         {"The answer is 3.", "It is 3", "The answer is about $3$.", "The answer is 3 apples and a pear.", "She has 3 and leaves.",
          "He went there 3 times.", "First 2, then 3.", "It adds up to 3.", "Half of them are 3.", "The answer is \\(3\\) miles.",
          "I thought of a million, but it is 3.", "The kitchen is 3 square feet.", "He is 3 inches taller than Ann.", "Ann sells 3 dozens-free boxes"})
        BOOST_TEST(accuracy(plain, "3") == (std::string(plain).find("dozens") == std::string::npos ? 1.0 : 0.0), plain);
    BOOST_TEST(extract_answer("The answer is minus 5.") == "-5");
    BOOST_TEST(accuracy("The answer is minus $\\frac{1}{2}$.", "-1/2") == 1.0);
    BOOST_TEST(accuracy("The answer is minus $x-1$.", "1-x") == 1.0);
    BOOST_TEST(accuracy("The answer is 10 minus 5.", "-5") == 0.0);
    BOOST_TEST(accuracy("The answer is 2 and 3.", "2,3") == 1.0);
}

BOOST_AUTO_TEST_CASE(hostile_responses_take_bounded_time) {
    BOOST_TEST(accuracy("<answer>" + std::string(3'000'000, '9') + "</answer>", "9") == 0.0);
    BOOST_TEST(accuracy("<answer>1e99999999</answer>", "9") == 0.0);
    BOOST_TEST(accuracy("1e-400 1e400 1e401", "9") == 0.0);
    std::string groups = "1";
    for (int i = 0; i < 300'000; ++i) groups += ",111";
    BOOST_TEST(accuracy(groups, "9") == 0.0);
    std::string slashes;
    for (int i = 0; i < 300'000; ++i) slashes += "1/1 1.\\frac{";
    BOOST_TEST(accuracy(slashes, "9") == 0.0);
    BOOST_TEST(accuracy(std::string(1'000'000, '{') + "\\boxed{", "9") == 0.0);
    for (const std::string part : {"\u00B2", "\u0301\u0316", "\uFDFA", "$", "\\boxed{1},", "answer is", "<answer>", "\\(", "1 1"}) {
        std::string text;
        while (text.size() < 1'000'000) text += part;
        BOOST_TEST(accuracy(text, "9") == 0.0);
    }
    BOOST_TEST(accuracy("\xFF\xC0 5", "5") == 1.0);
}

BOOST_AUTO_TEST_SUITE_END()
