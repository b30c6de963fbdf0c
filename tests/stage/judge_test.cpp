// SPDX-License-Identifier: Apache-2.0
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "gradus/reward/reward.hpp"
#include "gradus/stage/judge.hpp"
#include "gradus/stage/phase_model.hpp"

namespace gradus {

BOOST_AUTO_TEST_SUITE(judge)

BOOST_AUTO_TEST_CASE(the_last_whole_word_is_the_verdict) {
    const auto verdict = [](const std::string& reply) { return verdict_in(reply, "CORRECT", "INCORRECT"); };
    for (const char* reply : {"CORRECT", "It is CORRECT.", "INCORRECT? No: CORRECT", "<think>INCORRECT</think>\n\nCORRECT",
                              "**CORRECT**", "\"correctness\": \"CORRECT\""})
        BOOST_TEST(verdict(reply) == 1, reply);
    for (const char* reply : {"INCORRECT", "The answer is INCORRECT", "CORRECT at first, in the end INCORRECT",
                              "<think>CORRECT</think> INCORRECT!"})
        BOOST_TEST(verdict(reply) == 0, reply);
    for (const char* reply : {"", "correct", "CORRECTED", "UNCORRECT", "<think>CORRECT</think> I cannot say", "IN_CORRECT"})
        BOOST_TEST(std::isnan(verdict(reply)), reply);
    BOOST_TEST(verdict_in("no, yes", "yes", "no") == 1);
}

BOOST_AUTO_TEST_CASE(what_is_put_into_a_template_is_not_looked_at_again) {
    BOOST_TEST(fill_template("{a} and {b}, {a} {c} {", {{"a", "{b}"}, {"b", "x"}}) == "{b} and x, {b} {c} {");
    BOOST_TEST(fill_template("", {{"a", "b"}}).empty());
    BOOST_TEST(fill_template("nothing", {}) == "nothing");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
