// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/loss.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

using Doubles = std::vector<double>;

/// Inputs of some sequences, old and reference log-probs far enough away for clips on either side.
struct Inputs {
    std::vector<Doubles> log_prob, entropy, old_log_prob, ref_log_prob, advantage;

    explicit Inputs(const std::vector<std::size_t>& lengths) {
        RandomSequence random({.seed = 3, .stream = Stream::test});
        auto draw = [&](std::size_t n, double from, double to) {
            Doubles x(n);
            for (double& value : x) value = from + (to - from) * random.uniform();
            return x;
        };
        for (const std::size_t n : lengths) {
            log_prob.push_back(draw(n, -3, -0.1));
            entropy.push_back(draw(n, 0, 2));
            advantage.push_back(draw(n, -1.5, 1.5));
            Doubles old = draw(n, -0.6, 0.6), ref = draw(n, -0.8, 0.8);
            for (std::size_t t = 0; t < n; ++t) {
                old[t] += log_prob.back()[t];
                ref[t] += log_prob.back()[t];
            }
            old_log_prob.push_back(old);
            ref_log_prob.push_back(ref);
        }
    }

    double tokens() const {
        double n = 0;
        for (const Doubles& x : log_prob) n += static_cast<double>(x.size());
        return n;
    }
    LossNormalizer normalizer() const {
        return {.tokens = tokens(), .sequences = static_cast<double>(log_prob.size())};
    }
};

struct Output {
    std::vector<Doubles> d_log_prob, d_entropy;
    PolicyLossSums sums;
};

Output run(const PolicyLossOptions& options, const Inputs& in) {
    Output out;
    for (std::size_t i = 0; i < in.log_prob.size(); ++i) {
        out.d_log_prob.emplace_back(in.log_prob[i].size());
        out.d_entropy.emplace_back(in.log_prob[i].size());
        policy_loss<double>(options, in.normalizer(), in.log_prob[i], in.entropy[i],
                            in.old_log_prob[i], in.ref_log_prob[i], in.advantage[i],
                            out.d_log_prob[i], out.d_entropy[i], out.sums);
    }
    return out;
}

/// The formula as the paper prints it.
double paper(const PolicyLossOptions& o, const Inputs& in) {
    double sum = 0;
    for (std::size_t i = 0; i < in.log_prob.size(); ++i) {
        const std::size_t n = in.log_prob[i].size();
        const double divisor = o.aggregation == Aggregation::token_mean
                                   ? in.tokens()
                                   : static_cast<double>(in.log_prob.size() * n);
        for (std::size_t t = 0; t < n; ++t) {
            const double lp = in.log_prob[i][t], a = in.advantage[i][t];
            const double rho = std::exp(lp) / std::exp(in.old_log_prob[i][t]);
            const double clipped = std::clamp(rho, 1 - o.clip_low, 1 + o.clip_high);
            const double q = std::exp(in.ref_log_prob[i][t]) / std::exp(lp);
            sum -= (std::min(rho * a, clipped * a) - o.kl_coef * (q - std::log(q) - 1) +
                    o.entropy_coef * in.entropy[i][t]) /
                   divisor;
        }
    }
    return sum;
}

std::vector<PolicyLossOptions> all_options() {
    std::vector<PolicyLossOptions> all;
    for (const auto aggregation : {Aggregation::sequence_mean, Aggregation::token_mean})
        for (const double kl : {0.0, 0.04})
            for (const double entropy : {0.0, 0.01})
                for (const double high : {0.28, 10.0})
                    all.push_back({.clip_low = high == 10 ? 10 : 0.2,
                                   .clip_high = high,
                                   .kl_coef = kl,
                                   .entropy_coef = entropy,
                                   .aggregation = aggregation});
    return all;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(policy_losses)

BOOST_AUTO_TEST_CASE(is_the_paper_s_formula) {
    const Inputs in({7, 1, 12, 4});
    for (const PolicyLossOptions& options : all_options()) {
        BOOST_TEST(run(options, in).sums.loss == paper(options, in),
                   boost::test_tools::tolerance(1e-12));
    }
}

BOOST_AUTO_TEST_CASE(derivatives_are_those_of_differences) {
    Inputs in({7, 1, 12, 4});
    const double h = 1e-6;
    for (const PolicyLossOptions& options : all_options()) {
        const Output out = run(options, in);
        if (options.clip_high < 1) {
            BOOST_TEST(out.sums.clipped_low > 0);
            BOOST_TEST(out.sums.clipped_high > 0);
            BOOST_TEST(out.sums.clipped_low + out.sums.clipped_high < out.sums.tokens);
        } else {
            BOOST_TEST(out.sums.clipped_low + out.sums.clipped_high == 0);
        }
        auto difference = [&](double& x) {
            const double keep = x;
            x = keep + h;
            const double above = paper(options, in);
            x = keep - h;
            const double below = paper(options, in);
            x = keep;
            return (above - below) / (2 * h);
        };
        for (std::size_t i = 0; i < in.log_prob.size(); ++i) {
            for (std::size_t t = 0; t < in.log_prob[i].size(); ++t) {
                BOOST_TEST(std::abs(out.d_log_prob[i][t] - difference(in.log_prob[i][t])) < 1e-9);
                BOOST_TEST(std::abs(out.d_entropy[i][t] - difference(in.entropy[i][t])) < 1e-9);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(clips_only_what_makes_the_objective_better) {
    // rho = 1.5, 1.5, 0.5, 0.5 with clips at 0.8 and 1.2.
    const Doubles log_prob = {std::log(0.6), std::log(0.6), std::log(0.2), std::log(0.2)};
    const Doubles old(4, std::log(0.4)), entropy(4, 0.7), advantage = {2, -2, 2, -2};
    Doubles d_log_prob(4), d_entropy(4);
    PolicyLossSums sums;
    policy_loss<double>({.aggregation = Aggregation::token_mean}, {.tokens = 4, .sequences = 1},
                        log_prob, entropy, old, {}, advantage, d_log_prob, d_entropy, sums);
    const Doubles wanted = {0, 2 * 1.5 / 4, -2 * 0.5 / 4, 0};
    for (std::size_t t = 0; t < 4; ++t) BOOST_TEST(std::abs(d_log_prob[t] - wanted[t]) < 1e-14);
    BOOST_TEST(std::abs(sums.loss - (-2 * 1.2 + 2 * 1.5 - 2 * 0.5 + 2 * 0.8) / 4) < 1e-14);
    BOOST_TEST(sums.clipped_high == 1);
    BOOST_TEST(sums.clipped_low == 1);
    BOOST_TEST(std::abs(sums.ratio - 4) < 1e-14);
    BOOST_TEST(std::abs(sums.entropy - 2.8) < 1e-14);
    BOOST_TEST(sums.kl == 0);
    BOOST_TEST(sums.tokens == 4);
}

BOOST_AUTO_TEST_CASE(on_policy_it_is_the_policy_gradient) {
    const std::vector<float> log_prob = {-1.25f, -0.5f}, entropy = {1, 1}, advantage = {3, 3};
    std::vector<float> d_log_prob(2), d_entropy(2);
    PolicyLossSums sums;
    policy_loss<float>({}, {.tokens = 10, .sequences = 4}, log_prob, entropy, log_prob, {},
                       advantage, d_log_prob, d_entropy, sums);
    for (const float d : d_log_prob) BOOST_TEST(d == -3.0f / 8);
    BOOST_TEST(sums.ratio == 2);
}

BOOST_AUTO_TEST_CASE(a_huge_ratio_without_advantage_is_harmless) {
    const Doubles log_prob = {-0.1}, old = {-2000}, zero = {0};
    Doubles d_log_prob(1), d_entropy(1);
    PolicyLossSums sums;
    policy_loss<double>({}, {.tokens = 1, .sequences = 1}, log_prob, zero, old, {}, zero,
                        d_log_prob, d_entropy, sums);
    BOOST_TEST(sums.loss == 0);
    BOOST_TEST(d_log_prob[0] == 0);
}

BOOST_AUTO_TEST_CASE(refuses_what_does_not_fit) {
    const Doubles one(1), two(2);
    Doubles d1(1), d2(1);
    PolicyLossSums sums;
    const LossNormalizer n{.tokens = 1, .sequences = 1};
    BOOST_CHECK_THROW(policy_loss<double>({}, n, one, one, two, {}, one, d1, d2, sums),
                      InternalError);
    BOOST_CHECK_THROW(
        policy_loss<double>({.kl_coef = 0.1}, n, one, one, one, {}, one, d1, d2, sums),
        InternalError);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(advantages)

BOOST_AUTO_TEST_CASE(by_hand) {
    const auto tolerance = boost::test_tools::tolerance(1e-14);
    const Doubles rewards = {1, 0, 0, 1};  // mean 1/2, squares 1
    BOOST_TEST(group_advantages(rewards, GroupStd::sample, 0.5)[0] ==
                   0.5 / (std::sqrt(1.0 / 3) + 0.5),
               tolerance);
    BOOST_TEST(group_advantages(rewards, GroupStd::population, 0.5)[1] == -0.5 / (0.5 + 0.5),
               tolerance);
    BOOST_TEST(group_advantages(rewards, GroupStd::none, 0.5)[3] == 0.5, tolerance);
}

BOOST_AUTO_TEST_CASE(unscorable_entries_are_left_out) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const Doubles a = group_advantages(Doubles{2, nan, 4, nan}, GroupStd::sample, 0);
    BOOST_TEST(a[0] == -1 / std::sqrt(2.0), boost::test_tools::tolerance(1e-14));
    BOOST_TEST(a[2] == 1 / std::sqrt(2.0), boost::test_tools::tolerance(1e-14));
    BOOST_TEST(a[1] == 0);
    BOOST_TEST(a[3] == 0);
}

BOOST_AUTO_TEST_CASE(no_spread_no_advantage) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (const auto std : {GroupStd::sample, GroupStd::population, GroupStd::none}) {
        // 0.1 summed ten times is not 1: a computed mean would differ from its entries.
        for (const Doubles& rewards :
             {Doubles(10, 0.1), Doubles{nan, nan}, Doubles{nan, 3, nan}, Doubles{5}, Doubles{}}) {
            const Doubles a = group_advantages(rewards, std, 0);
            BOOST_TEST(a.size() == rewards.size());
            for (const double x : a) BOOST_TEST(x == 0);
        }
    }
}

BOOST_AUTO_TEST_CASE(names) {
    BOOST_TEST((parse_aggregation("sequence_mean") == Aggregation::sequence_mean));
    BOOST_TEST((parse_aggregation("token_mean") == Aggregation::token_mean));
    BOOST_CHECK_THROW(parse_aggregation("mean"), DeckError);
    BOOST_TEST((parse_group_std("sample") == GroupStd::sample));
    BOOST_TEST((parse_group_std("population") == GroupStd::population));
    BOOST_TEST((parse_group_std("none") == GroupStd::none));
    BOOST_CHECK_THROW(parse_group_std(""), DeckError);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
