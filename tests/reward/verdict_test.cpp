// SPDX-License-Identifier: Apache-2.0
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "gradus/reward/reward.hpp"

namespace gradus {

BOOST_AUTO_TEST_SUITE(verdict)

BOOST_AUTO_TEST_CASE(a_word_within_the_other_is_none) {
    const auto verdict = [](const char* reply) { return verdict_in(reply, "CORRECT", "NOT CORRECT"); };
    BOOST_TEST(verdict("The answer is NOT CORRECT") == 0);
    BOOST_TEST(verdict("The answer is CORRECT") == 1);
    BOOST_TEST(verdict("CORRECT? No: NOT CORRECT") == 0);
    BOOST_TEST(verdict("NOT CORRECT? No: CORRECT") == 1);
    BOOST_TEST(verdict("KNOT CORRECT") == 1);
    BOOST_TEST(std::isnan(verdict("NOT CORRECTED")));
    BOOST_TEST(verdict_in("It is NOT WRONG", "NOT WRONG", "WRONG") == 1);
    BOOST_TEST(verdict_in("It is WRONG", "NOT WRONG", "WRONG") == 0);
    BOOST_TEST(verdict_in("yes and yes and no", "yes and yes", "yes and no") == 0);
    BOOST_TEST(verdict_in("INCORRECT", "CORRECT", "INCORRECT") == 0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
