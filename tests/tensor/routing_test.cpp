// SPDX-License-Identifier: Apache-2.0
// Which experts are chosen, and the order of tokens by expert: whole numbers, worked out by hand.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "op_case.hpp"

namespace gradus::test {

namespace {

struct Fixture {
    std::unique_ptr<Device> device = make_test_device();
    Arena arena{device.get()};
    std::unique_ptr<Ops> ops = make_test_ops(kLimits, arena);

    struct Routed {
        Numbers chosen;
        Floats weights, scores;
    };
    Routed route(Floats logits, Floats bias, const RouterShape& shape) {
        const auto tokens = std::ssize(logits) / shape.experts;
        Routed r{Numbers(static_cast<std::size_t>(tokens * shape.per_token), -7), {}, {}};
        r.weights.resize(r.chosen.size());
        r.scores.resize(logits.size());
        ops->route(view(r.scores, {tokens, shape.experts}), view(r.chosen, {tokens, shape.per_token}),
                   view(r.weights, {tokens, shape.per_token}), view(logits, {tokens, shape.experts}),
                   bias.empty() ? Tensor() : view(bias), shape);
        return r;
    }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(routing, Fixture)

BOOST_AUTO_TEST_CASE(best_first_and_of_equals_the_lower_number) {
    for (const bool sigmoid : {false, true}) {
        const RouterShape shape{.experts = 5, .per_token = 3, .sigmoid = sigmoid};
        BOOST_TEST(route({1, 2, 2, 0, 2, /**/ 0, 0, 0, 0, 0, /**/ -1, 3, 0, 5, 0}, {}, shape).chosen ==
                       (Numbers{1, 2, 4, 0, 1, 2, 3, 1, 2}),
                   boost::test_tools::per_element());
    }
}

BOOST_AUTO_TEST_CASE(the_bias_moves_the_choice_and_not_the_weights) {
    const RouterShape shape{.experts = 4, .per_token = 2, .sigmoid = true};
    // sigmoid(0) = 1/2 for all; the bias alone decides
    const auto r = route({0, 0, 0, 0}, {0.1F, -1, 0.3F, 0.2F}, shape);
    BOOST_TEST(r.chosen == (Numbers{2, 3}), boost::test_tools::per_element());
    for (const float w : r.weights) BOOST_TEST(w == 0.5F);
    for (const float s : r.scores) BOOST_TEST(s == 0.5F);
}

BOOST_AUTO_TEST_CASE(groups_count_by_the_sum_of_their_best) {
    // Scores of three groups of three: 0.9 0.1 0.1 | 0.6 0.6 0.1 | 0.7 0.2 0.2, as logits.
    const auto logit = [](double p) { return static_cast<float>(std::log(p / (1 - p))); };
    Floats z;
    for (const double p : {0.9, 0.1, 0.1, 0.6, 0.6, 0.1, 0.7, 0.2, 0.2}) z.push_back(logit(p));
    RouterShape shape{.experts = 9, .per_token = 3, .sigmoid = true, .groups = 3, .top_groups = 1,
                      .group_best = 1};
    BOOST_TEST(route(z, {}, shape).chosen == (Numbers{0, 1, 2}), boost::test_tools::per_element());
    shape.group_best = 2;  // 1.0, 1.2, 0.9
    BOOST_TEST(route(z, {}, shape).chosen == (Numbers{3, 4, 5}), boost::test_tools::per_element());
    shape.top_groups = 2;
    BOOST_TEST(route(z, {}, shape).chosen == (Numbers{0, 3, 4}), boost::test_tools::per_element());
    shape.top_groups = 3;
    BOOST_TEST(route(z, {}, shape).chosen == (Numbers{0, 6, 3}), boost::test_tools::per_element());
    // The bias counts in the choice of groups, too: 0.7 + 0.2 + 2 * 0.2 = 1.3.
    shape.top_groups = 1;
    BOOST_TEST(route(z, {0, 0, 0, 0, 0, 0, 0.2F, 0.2F, 0.2F}, shape).chosen == (Numbers{6, 7, 8}),
               boost::test_tools::per_element());
    // Experts of a good group are chosen even where their s + b is negative and others' is not.
    const Floats low{2, -5, -5, 0, 0, 0, 0, 0, 0};
    BOOST_TEST(route(z, low, shape).chosen == (Numbers{3, 4, 5}), boost::test_tools::per_element());
    shape.group_best = 1;
    BOOST_TEST(route(z, low, shape).chosen == (Numbers{0, 1, 2}), boost::test_tools::per_element());
    // Equal groups: the lower number.
    shape.group_best = 3;
    BOOST_TEST(route(Floats(9, 0.5F), {}, shape).chosen == (Numbers{0, 1, 2}),
               boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(weights_of_the_chosen) {
    RouterShape shape{.experts = 3, .per_token = 2, .scale = 2.5F};
    const float third = std::log(2.0F);  // softmax of (log 2, 0, 0): 1/2, 1/4, 1/4
    auto r = route({0, third, 0}, {}, shape);
    BOOST_TEST(r.chosen == (Numbers{1, 0}), boost::test_tools::per_element());
    BOOST_TEST(r.weights[0] == 1.25F, boost::test_tools::tolerance(1e-6F));
    BOOST_TEST(r.weights[1] == 0.625F, boost::test_tools::tolerance(1e-6F));
    shape.normalize = true;
    r = route({0, third, 0}, {}, shape);
    BOOST_TEST(r.weights[0] == 2.5F * 2 / 3, boost::test_tools::tolerance(1e-6F));
    BOOST_TEST(r.weights[1] == 2.5F / 3, boost::test_tools::tolerance(1e-6F));
    // Large logits do not overflow; scores that are all zero give weights of zero, not NaN.
    r = route({1000, -1000, 999}, {}, shape);
    BOOST_TEST(r.chosen == (Numbers{0, 2}), boost::test_tools::per_element());
    BOOST_TEST(r.weights[0] + r.weights[1] == 2.5F, boost::test_tools::tolerance(1e-6F));
    shape.sigmoid = true;
    r = route({-200, -200, -200}, {}, shape);
    for (const float w : r.weights) BOOST_TEST((w >= 0 && w <= 2.5F));
}

// A diverged router must not write outside: every choice stays a number of an expert, none twice.
BOOST_AUTO_TEST_CASE(nan_logits_choose_experts_that_exist) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    for (const bool sigmoid : {false, true}) {
        const RouterShape shape{.experts = 8, .per_token = 3, .sigmoid = sigmoid, .groups = 4,
                                .top_groups = 2, .group_best = 2};
        for (const auto& z : {Floats(8, kNan), {0, kNan, 1, 2, kNan, 3, -1, 0}}) {
            for (const std::int32_t e : route(z, {}, shape).chosen) BOOST_TEST((e >= 0 && e < 8));
        }
    }
}

// DeepSeek-V3 (arXiv 2412.19437) eq. 18 counts the K best of the bare scores; groups, as the bias, limit
// the choice alone. One sequence of two tokens; the second has equal scores.
BOOST_AUTO_TEST_CASE(the_balance_loss_counts_the_best_scores) {
    Floats scores{0.5F, 0.125F, 0.25F, 0.125F, /**/ 0.25F, 0.25F, 0.25F, 0.25F};
    const RouterShape shape{.experts = 4, .per_token = 2, .sigmoid = true, .groups = 2,
                            .top_groups = 1, .group_best = 2};
    const auto logit = [](float p) { return std::log(p / (1 - p)); };
    BOOST_TEST(route({logit(0.5F), logit(0.125F), logit(0.25F), logit(0.125F)}, {}, shape).chosen ==
                   (Numbers{0, 1}),
               boost::test_tools::per_element());
    Floats loss{1};
    Floats d_scores(8, NAN);
    ops->route_balance(view(loss), view(d_scores, {2, 4}), view(scores, {2, 4}), Packed({2}).packing(), shape, 2);
    // Best are {0, 2} and {0, 1}: f = (2, 1, 1, 0); P = (3/8, 3/16, 1/4, 3/16); sum f P = 19/16.
    BOOST_TEST(loss[0] == 1 + 2 * 1.1875F);
    // dp = f, all scores sum to 1: ds_i = f_i - sum_j f_j s_j, that is less 11/8 and less 1.
    BOOST_TEST(d_scores == (Floats{0.625F, -0.375F, -0.375F, -1.375F, 1, 0, 0, -1}),
               boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(tokens_in_order_of_expert) {
    // Token 0: experts 3, 0; token 1: 0, 2; token 2: 3, 0. Expert 1 has none.
    const Ints chosen({3, 0, 0, 2, 3, 0}, {3, 2});
    const std::vector<std::int32_t> six(6, -1), four(4, -1);
    const Ints order(six), source(six), place(six, {3, 2}), rows(four);
    ops->sort_by_expert(order.tensor(), source.tensor(), place.tensor(), rows.tensor(), chosen.tensor());
    const auto expect = [](const Ints& got, const Numbers& wanted) {
        for (std::size_t i = 0; i < wanted.size(); ++i)
            BOOST_TEST(got[static_cast<std::int64_t>(i)] == wanted[i]);
    };
    expect(rows, {3, 0, 1, 2});
    expect(order, {1, 2, 5, 3, 0, 4});
    expect(source, {0, 1, 2, 1, 0, 2});
    expect(place, {4, 0, 1, 3, 5, 2});
    const Ints none({}, {0, 2}), empty({});
    ops->sort_by_expert(empty.tensor(), empty.tensor(), none.tensor(), rows.tensor(), none.tensor());
    expect(rows, {0, 0, 0, 0});
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus::test
