// SPDX-License-Identifier: Apache-2.0
// The answers of GSM8K and MATH-500 (GRADUS_DATA): each accepted against itself in disguises, none against another.
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <fmt/format.h>
#include <set>

#include "gradus/base/json_lines.hpp"
#include "gradus/reward/math_answer.hpp"
#include "gradus/reward/reward.hpp"

namespace gradus {
namespace {

std::vector<std::string> answers(const char* file, const char* field) {
    std::vector<std::string> all;
    const char* root = std::getenv("GRADUS_DATA");
    if (root == nullptr) {
        fmt::print("skipped: GRADUS_DATA is not set\n");
        return all;
    }
    for_each_json_line(fmt::format("{}/{}", root, file), [&](const Json& row, std::int64_t) {
        all.push_back(extract_reference(row.at(field).get<std::string>()));
    });
    BOOST_TEST(all.size() > 400u);
    return all;
}

bool right(const std::string& reference, const std::string& response) {
    static const auto reward = make_accuracy_reward();
    return reward->score({.response = response, .reference = reference}) == 1;
}

void accepted_in_disguise(const std::vector<std::string>& all) {
    for (const std::string& a : all)
        for (const std::string& response :
             {"<think>so</think><answer>" + a + "</answer>", "<think>so</think>It is $\\boxed{" + a + "}$.",
              "Some words. The answer is $" + a + "$.", "\\[ " + a + " \\]", "It is \\boxed{ \\left(" + a + "\\right) }"}) {
            // A bracket more is another interval.
            if (response.find("\\left(") != std::string::npos && a.find_first_of(",[(=<>") != std::string::npos) continue;
            if (response.find("\\left(") != std::string::npos && a.find("text") != std::string::npos) continue;
            BOOST_TEST(right(a, response), a << " as " << response);
        }
}

/// Pairs of different rows that are accepted all the same.
int accepted_of_others(const std::vector<std::string>& all) {
    std::set<std::pair<std::string, std::string>> pairs;
    for (std::size_t i = 0; i < all.size(); ++i)
        for (const std::size_t step : {1u, 7u, 31u}) {
            const std::string &a = all[i], &b = all[(i + step) % all.size()];
            // "x=5" is 5.
            const bool named = (a.find('=') == a.npos) != (b.find('=') == b.npos);
            if (a != b && !named && same_answer(a, b)) {
                BOOST_TEST_MESSAGE(a << " and " << b);
                pairs.emplace(a, b);
            }
        }
    return static_cast<int>(pairs.size());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(answers_of_data)

BOOST_AUTO_TEST_CASE(gsm8k) {
    std::vector<std::string> all = answers("gsm8k/test.jsonl", "answer");
    accepted_in_disguise(all);
    for (const std::string& a : all) {
        std::string bare = a;
        std::erase(bare, ',');
        for (const std::string& response : {bare + ".0", "$" + bare, "\\$" + bare, bare + " apples", "x = " + bare})
            BOOST_TEST(right(a, "<answer>" + response + "</answer>"), a << " as " << response);
        BOOST_TEST(!right(a, "<answer>" + bare + "1</answer>"));
        BOOST_TEST(!right(a, "<answer>" + bare + ", 7</answer>"));
        BOOST_TEST(!right(a, "<answer></answer>"));
    }
    BOOST_TEST(accepted_of_others(all) == 0);
}

BOOST_AUTO_TEST_CASE(math_500) {
    const std::vector<std::string> all = answers("math/math500.jsonl", "answer");
    accepted_in_disguise(all);
    for (const std::string& a : all) {
        if (a.find("\\frac") == std::string::npos) continue;
        std::string other = a;
        for (std::size_t at = 0; (at = other.find("\\frac", at)) != std::string::npos; at += 6) other.insert(at + 1, 1, 'd');
        std::string boxed = "\\boxed{";
        boxed.append(other).push_back('}');
        BOOST_TEST(right(a, boxed), a << " as " << other);
    }
    BOOST_TEST(accepted_of_others(all) == 0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
