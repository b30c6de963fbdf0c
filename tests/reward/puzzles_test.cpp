// SPDX-License-Identifier: Apache-2.0
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "gradus/base/json_lines.hpp"
#include "gradus/reward/puzzles.hpp"

namespace gradus {
namespace {

double judge(const Puzzle& puzzle, const std::string& response) {
    return make_puzzle_reward()->score({.response = response, .reference = to_reference(puzzle)});
}

double countdown(const std::string& answer) {
    return judge({.numbers = {3, 5, 7, 2}, .target = 28}, "<think>hm</think><answer>" + answer + "</answer>");
}

}  // namespace

BOOST_AUTO_TEST_SUITE(puzzles)

BOOST_AUTO_TEST_CASE(an_expression_uses_every_number_once) {
    for (const char* right : {"(3 + 5) * 7 / 2", "7*(5+3)/2", "(3+5)*7/2 = 28", "(5 + 3) \u00d7 7 \u00f7 2", "$(3+5) \\times 7 / 2$",
                              "\\boxed{(3+5)*7/2}", "-(3+5)*7/(-2)", "-(-5 - 3)*7/2", " ( ( 3 ) + 5 ) * 7 / 2 "})
        BOOST_TEST(countdown(right) == 1, right);
    for (const char* wrong :
         {"28", "", "(3 + 5) * 7", "7 * 4", "(3 + 5) * 7 / 2 + 2 - 2", "(3 + 5) * 7 / 2 = 27", "3 + 5 + 7 + 2", "(3 + 5) * 7 / 2)",
          "(3 + 5 * 7 / 2", "35 - 7", "3 5 7 2", "(3+5)*7/(2-2)", "28 = (3+5)*7/2 = 28", "(3+5)*7/2 or 28", "3 + 5 * 7 - 2 * 5", "--28", "-(3+5)*7/2", "(3+5)*-7/(-2)", "-", "(-)",
          "3 + + 5"})
        BOOST_TEST(countdown(wrong) == 0, wrong);
    BOOST_TEST(countdown(std::string(100000, '(')) == 0);
    BOOST_TEST(countdown(std::string(200, '(') + "3") == 0);
    // The last answer counts, and what was thought is none.
    BOOST_TEST(judge({.numbers = {1, 2}, .target = 3}, "<think><answer>1+2</answer></think><answer>4</answer>") == 0);
    BOOST_TEST(judge({.numbers = {2, 2}, .target = 4}, "<answer>2+2</answer>") == 1);
    BOOST_TEST(judge({.numbers = {2, 2}, .target = 2}, "<answer>2</answer>") == 0);
}

BOOST_AUTO_TEST_CASE(everybody_is_called_what_they_are) {
    const Puzzle puzzle{.names = {"Zoe", "Ann", "Annabel"}, .knights = {true, false, true}};
    for (const char* right : {"</think>Zoe is a knight, Ann is a knave, and Annabel is a knight.",
                              "<answer>(1) Zoe is a knight\n(2) Ann is a knave\n(3) Annabel is a knight</answer>",
                              "**Zoe** is a **knight**; ANN IS A KNAVE; Annabel is the knight"})
        BOOST_TEST(judge(puzzle, right) == 1, right);
    for (const char* wrong : {"", "Zoe is a knight", "Zoe is a knight, Ann is a knight, Annabel is a knight",
                              "Zoe is a knight, Ann is a knave, Ann is a knight, Annabel is a knight",
                              "Zoe is a knight, Annabel is a knave, Annabel is a knight, Ann is a knave",
                              "<think>Zoe is a knight, Ann is a knave, Annabel is a knight</think> I do not know"})
        BOOST_TEST(judge(puzzle, wrong) == 0, wrong);
    Puzzle other = puzzle;
    other.knight = "pioneer";
    other.knave = "laggard";
    BOOST_TEST(judge(other, "Zoe is a pioneer, Ann is a laggard, Annabel is a pioneer") == 1);
    BOOST_TEST(judge(other, "Zoe is a knight, Ann is a knave, Annabel is a knight") == 0);
}

BOOST_AUTO_TEST_CASE(what_is_no_puzzle_cannot_be_judged) {
    for (const char* reference : {"", "28", "{", "{}", "{\"puzzle\": \"chess\"}", "{\"puzzle\": \"countdown\", \"numbers\": 3}",
                                  "{\"puzzle\": \"countdown\", \"numbers\": 3, \"target\": 3}",
                                  "{\"puzzle\": \"countdown\", \"numbers\": [3], \"target\": 1e300}",
                                  "{\"puzzle\": \"countdown\", \"numbers\": [3e99], \"target\": 3}",
                                  "{\"puzzle\": \"countdown\", \"numbers\": [3], \"target\": 2.5}",
                                  "{\"puzzle\": \"countdown\", \"numbers\": [3], \"target\": 9223372036854775808}",
                                  "{\"puzzle\": \"countdown\", \"numbers\": [18446744073709551613], \"target\": -3}",
                                  "{\"puzzle\": \"knights\", \"names\": [], \"knights\": [], \"words\": [\"a\", \"b\"]}"}) {
        BOOST_TEST(!puzzle_of(reference).has_value(), reference);
        const Judgement judgement = make_puzzle_reward()->judge({.response = "28", .reference = reference});
        BOOST_TEST(std::isnan(judgement.score), reference);
        BOOST_TEST(judgement.reason == "the reference is no puzzle");
    }
}

// The data's own solutions, and the same with something changed.
BOOST_AUTO_TEST_CASE(solutions_of_the_data_are_right) {
    const char* data = std::getenv("GRADUS_DATA");
    if (data == nullptr) {
        BOOST_TEST_MESSAGE("skipped: GRADUS_DATA is not set");
        return;
    }
    int solved = 0, told = 0;
    JsonLinesReader countdowns(std::string(data) + "/countdown/countdown_all.jsonl");
    while (countdowns.next()) {
        const Json& row = countdowns.row();
        if (row["solution"].is_null()) continue;
        Puzzle puzzle{.numbers = row["nums"].get<std::vector<std::int64_t>>(), .target = row["target"]};
        const std::string response = "<answer>" + row["solution"].get<std::string>() + "</answer>";
        BOOST_TEST(judge(puzzle, response) == 1, response);
        ++puzzle.target;
        BOOST_TEST(judge(puzzle, response) == 0, response);
        ++solved;
    }
    JsonLinesReader tales(std::string(data) + "/knights_knaves/3ppl_test.jsonl");
    while (tales.next()) {
        const Json& row = tales.row();
        Puzzle puzzle{.names = row["names"], .knights = row["solution"].get<std::vector<bool>>()};
        for (const char* field : {"solution_text", "solution_text_format"}) {
            const std::string response = "</think>" + row[field].get<std::string>();
            BOOST_TEST(judge(puzzle, response) == 1, response);
            for (std::size_t i = 0; i < puzzle.names.size(); ++i) {
                Puzzle other = puzzle;
                other.knights[i] = !other.knights[i];
                BOOST_TEST(judge(other, response) == 0, response);
            }
        }
        ++told;
    }
    BOOST_TEST(solved == 84);  // of 340 rows, those with a solution
    BOOST_TEST(told == 100);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
