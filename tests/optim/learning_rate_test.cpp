// SPDX-License-Identifier: Apache-2.0
#include "gradus/optim/learning_rate.hpp"

#include <boost/test/unit_test.hpp>
#include <numbers>

#include "gradus/base/error.hpp"

namespace gradus {

BOOST_AUTO_TEST_SUITE(learning_rate)

BOOST_AUTO_TEST_CASE(warms_up_to_the_peak) {
    for (const auto kind :
         {LearningRateKind::constant, LearningRateKind::linear, LearningRateKind::cosine}) {
        const LearningRate rate{.kind = kind, .peak = 0.4, .floor = 0.1, .warmup = 4, .total = 20};
        BOOST_TEST(rate.at(0) == 0.1);
        BOOST_TEST(rate.at(1) == 0.2);
        BOOST_TEST(rate.at(3) == 0.4);
    }
}

BOOST_AUTO_TEST_CASE(reaches_the_floor_at_the_last_step) {
    const auto tolerance = boost::test_tools::tolerance(1e-14);
    for (const auto kind : {LearningRateKind::linear, LearningRateKind::cosine}) {
        for (const std::int64_t warmup : {0, 1, 4}) {
            const LearningRate rate{
                .kind = kind, .peak = 0.4, .floor = 0.1, .warmup = warmup, .total = 21};
            BOOST_TEST(rate.at(20) == 0.1, tolerance);
            BOOST_TEST(rate.at(30) == 0.1, tolerance);
            for (std::int64_t s = std::max<std::int64_t>(warmup, 1); s <= 20; ++s) {
                BOOST_TEST(rate.at(s) < rate.at(s - 1));
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(decays_along_a_line_or_a_cosine) {
    const auto tolerance = boost::test_tools::tolerance(1e-14);
    const LearningRate line{
        .kind = LearningRateKind::linear, .peak = 1, .floor = 0, .warmup = 0, .total = 11};
    for (int s = 0; s <= 10; ++s) BOOST_TEST(line.at(s) == 1 - 0.1 * s, tolerance);
    const LearningRate cosine{
        .kind = LearningRateKind::cosine, .peak = 3, .floor = 1, .warmup = 3, .total = 15};
    BOOST_TEST(cosine.at(2) == 3.0, tolerance);
    BOOST_TEST(cosine.at(5) == 2 + std::numbers::sqrt2 / 2, tolerance);
    BOOST_TEST(cosine.at(8) == 2.0, tolerance);
    BOOST_TEST(cosine.at(11) == 2 - std::numbers::sqrt2 / 2, tolerance);
    const LearningRate flat{.peak = 0.5, .floor = 0.1, .total = 9};
    BOOST_TEST(flat.at(0) == 0.5);
    BOOST_TEST(flat.at(8) == 0.5);
}

BOOST_AUTO_TEST_CASE(short_runs_divide_by_nothing) {
    for (const auto kind : {LearningRateKind::linear, LearningRateKind::cosine}) {
        BOOST_TEST((LearningRate{.kind = kind, .peak = 2, .total = 1}.at(0)) == 2.0);
        const LearningRate warmup_only{.kind = kind, .peak = 2, .warmup = 4, .total = 2};
        BOOST_TEST(warmup_only.at(1) == 1.0);
        const LearningRate exact{.kind = kind, .peak = 2, .warmup = 4, .total = 4};
        BOOST_TEST(exact.at(3) == 2.0);
    }
}

BOOST_AUTO_TEST_CASE(names) {
    BOOST_TEST((parse_learning_rate_kind("constant") == LearningRateKind::constant));
    BOOST_TEST((parse_learning_rate_kind("linear") == LearningRateKind::linear));
    BOOST_TEST((parse_learning_rate_kind("cosine") == LearningRateKind::cosine));
    BOOST_CHECK_THROW(parse_learning_rate_kind("cosin"), DeckError);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
