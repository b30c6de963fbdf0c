// SPDX-License-Identifier: Apache-2.0
// Advantages by hand, by enumeration, and at their edges. verl's own values are in tests/reference.
#include "gradus/train/advantage.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

namespace gradus {
namespace {

using Doubles = std::vector<double>;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
const auto kTolerance = boost::test_tools::tolerance(1e-12);

/// Groups of `size` responses with these rewards, of two tokens each.
std::vector<ScoredResponse> responses(const Doubles& rewards, std::size_t size) {
    std::vector<ScoredResponse> all;
    for (std::size_t i = 0; i < rewards.size(); ++i)
        all.push_back({.group = static_cast<std::int64_t>(i / size), .reward = rewards[i], .tokens = 2});
    return all;
}

Doubles first_tokens(const AdvantageOptions& options, const std::vector<ScoredResponse>& all) {
    Doubles out;
    for (const TokenAdvantages& a : token_advantages(options, all)) out.push_back(a.advantage.at(0));
    return out;
}

constexpr auto kKinds = {AdvantageKind::group, AdvantageKind::leave_one_out, AdvantageKind::rewards,
                         AdvantageKind::pass_at_k, AdvantageKind::process, AdvantageKind::reinforce,
                         AdvantageKind::gae};
constexpr auto kStds = {GroupStd::sample, GroupStd::population, GroupStd::none, GroupStd::batch, GroupStd::mean};

}  // namespace

BOOST_AUTO_TEST_SUITE(advantages)

BOOST_AUTO_TEST_CASE(by_hand) {
    const Doubles rewards = {1, 0, 0, 1};  // mean 1/2, squares 1
    const auto first = [&](GroupStd std) { return group_advantages({.std = std, .eps = 0.5}, rewards)[0]; };
    BOOST_TEST(first(GroupStd::sample) == 0.5 / (std::sqrt(1.0 / 3) + 0.5), kTolerance);
    BOOST_TEST(first(GroupStd::population) == 0.5 / (0.5 + 0.5), kTolerance);
    BOOST_TEST(first(GroupStd::none) == 0.5, kTolerance);
    BOOST_TEST(first(GroupStd::mean) == 0.5 / (0.5 + 0.5), kTolerance);
    // All rewards of the rollout: 1 0 0 1 0 0 0 0, mean 1/4, squares 2 - 8/16.
    const Doubles batch = first_tokens({.std = GroupStd::batch, .eps = 0.5}, responses({1, 0, 0, 1, 0, 0, 0, 0}, 4));
    BOOST_TEST(batch[0] == 0.5 / (std::sqrt(1.5 / 7) + 0.5), kTolerance);
    BOOST_TEST(batch[4] == 0);
}

BOOST_AUTO_TEST_CASE(against_the_others) {
    const Doubles rewards = {1, 0, 0.5, 1};
    const Doubles plain = group_advantages({.kind = AdvantageKind::leave_one_out, .std = GroupStd::none}, rewards);
    BOOST_TEST(plain[0] == 1 - 1.5 / 3, kTolerance);
    BOOST_TEST(plain[1] == 0 - 2.5 / 3, kTolerance);
    // NeMo-RL divides by the deviation of the others, where they have one.
    const Doubles scaled =
        group_advantages({.kind = AdvantageKind::leave_one_out, .std = GroupStd::sample, .eps = 1e-6}, rewards);
    BOOST_TEST(scaled[0] == 0.5 / (0.5 + 1e-6), kTolerance);  // 0, 0.5, 1
    const Doubles alike =
        group_advantages({.kind = AdvantageKind::leave_one_out, .std = GroupStd::sample}, Doubles{1, 0, 0});
    BOOST_TEST(alike[0] == 1, kTolerance);
}

BOOST_AUTO_TEST_CASE(each_reward_by_itself) {
    // Two rewards, one of a hundred times the scale: GDPO gives both the same say.
    std::vector<ScoredResponse> all = responses({101, 0, 1, 100}, 4);
    all[0].parts = {1, 100};
    all[1].parts = {0, 0};
    all[2].parts = {1, 0};
    all[3].parts = {0, 100};
    const Doubles a = first_tokens({.kind = AdvantageKind::rewards, .eps = 0}, all);
    // z = +-sqrt(3)/2 each; sums sqrt(3), -sqrt(3), 0, 0: their deviation is sqrt(2).
    BOOST_TEST(a[0] == std::sqrt(3.0) / std::sqrt(2.0), kTolerance);
    BOOST_TEST(a[1] == -a[0], kTolerance);
    BOOST_TEST(std::abs(a[2]) < 1e-12);
}

/// The definition: a set of k of the n responses scores 1 where one of them is right; a response's advantage is the
/// mean over the sets that hold it, standardised over all sets.
BOOST_AUTO_TEST_CASE(pass_at_k_is_the_mean_over_all_sets) {
    const Doubles rewards = {1, 0, 0, 1, 0, 0, 0};
    for (const int k : {1, 2, 3, 4, 6}) {
        Doubles sum(7, 0), count(7, 0);
        double all = 0, sets = 0;
        for (unsigned set = 0; set < 128; ++set) {
            if (__builtin_popcount(set) != k) continue;
            double right = 0;
            for (std::size_t i = 0; i < 7; ++i)
                if (set >> i & 1) right = std::max(right, rewards[i]);
            all += right;
            ++sets;
            for (std::size_t i = 0; i < 7; ++i)
                if (set >> i & 1) sum[i] += right, ++count[i];
        }
        const double p = all / sets, sigma = std::sqrt(p * (1 - p));
        const Doubles a = first_tokens({.kind = AdvantageKind::pass_at_k, .pass_k = k}, responses(rewards, 7));
        for (std::size_t i = 0; i < 7; ++i)
            BOOST_TEST(std::abs(a[i] - (sigma > 0 ? (sum[i] / count[i] - p) / sigma : 0)) < 1e-12);
    }
}

BOOST_AUTO_TEST_CASE(steps) {
    // DeepSeekMath, 4.1.3: rewards 1, 0 and 1 of steps that end at tokens 1, 3 and 2; mean 2/3.
    std::vector<ScoredResponse> all = responses({1, 0}, 2);
    all[0].tokens = 5;
    all[1].tokens = 3;
    all[0].steps = {{.end = 1, .reward = 1}, {.end = 3, .reward = 0}};
    all[1].steps = {{.end = 2, .reward = 1}};
    const auto out = token_advantages({.kind = AdvantageKind::process, .std = GroupStd::population, .eps = 0}, all);
    const double std = std::sqrt(2.0 / 9), up = 1.0 / 3 / std, down = -2.0 / 3 / std;
    const Doubles wanted = {up + down, up + down, down, down, 0};
    for (std::size_t t = 0; t < 5; ++t) BOOST_TEST(std::abs(out[0].advantage[t] - wanted[t]) < 1e-12);
    for (std::size_t t = 0; t < 3; ++t) BOOST_TEST(std::abs(out[1].advantage[t] - up) < 1e-12);
}

BOOST_AUTO_TEST_CASE(token_rewards_enter) {
    std::vector<ScoredResponse> all = responses({1, 0}, 2);
    all[0].token_rewards = {-0.25, -0.5};
    // Of one number a response: 0.25 against 0.
    BOOST_TEST(first_tokens({.std = GroupStd::none}, all)[0] == 0.125, kTolerance);
    // By time, discounted: 1/2 of what comes after.
    const auto out = token_advantages({.kind = AdvantageKind::reinforce, .gamma = 0.5}, all);
    BOOST_TEST(out[0].advantage[1] == 0.5, kTolerance);
    BOOST_TEST(out[0].advantage[0] == -0.25 + 0.25, kTolerance);
}

BOOST_AUTO_TEST_CASE(estimation_over_values) {
    std::vector<ScoredResponse> all = responses({1}, 1);
    all[0].values = {0.5, 0.25};
    // delta_1 = 1 - 0.25, delta_0 = 0.9 * 0.25 - 0.5.
    const auto out = token_advantages({.kind = AdvantageKind::gae, .gamma = 0.9, .lambda = 0.5}, all);
    BOOST_TEST(out[0].advantage[1] == 0.75, kTolerance);
    BOOST_TEST(out[0].advantage[0] == 0.225 - 0.5 + 0.9 * 0.5 * 0.75, kTolerance);
    BOOST_TEST(out[0].returns[0] == out[0].advantage[0] + 0.5, kTolerance);
}

BOOST_AUTO_TEST_CASE(whitening) {
    std::vector<ScoredResponse> all = responses({1, 0, kNan, 1}, 4);
    all[0].tokens = 5;
    for (const auto kind : {Whitening::sample, Whitening::population}) {
        const auto out = token_advantages({.std = GroupStd::none, .whitening = kind}, all);
        double n = 0, sum = 0, squares = 0;
        for (const std::size_t i : {0u, 1u, 3u})
            for (const double a : out[i].advantage) ++n, sum += a, squares += a * a;
        BOOST_TEST(std::abs(sum) < 1e-7);
        BOOST_TEST(std::abs(squares - (kind == Whitening::sample ? n - 1 : n)) < 1e-5);
        for (const double a : out[2].advantage) BOOST_TEST(a == 0);
    }
}

BOOST_AUTO_TEST_CASE(unscorable_entries_are_left_out) {
    const Doubles a = group_advantages({.eps = 0}, Doubles{2, kNan, 4, kNan});
    BOOST_TEST(a[0] == -1 / std::sqrt(2.0), kTolerance);
    BOOST_TEST(a[2] == 1 / std::sqrt(2.0), kTolerance);
    BOOST_TEST(a[1] == 0);
    BOOST_TEST(a[3] == 0);
    for (const auto kind : kKinds) {
        std::vector<ScoredResponse> all = responses({1, kNan, 0, 1, kNan, kNan, kNan, kNan}, 4);
        for (ScoredResponse& r : all) {
            r.values = {0.5, 0.25};
            r.parts = {r.reward};
        }
        const auto out = token_advantages({.kind = kind, .pass_k = 2}, all);
        for (std::size_t i = 0; i < out.size(); ++i)
            for (std::size_t t = 0; t < 2; ++t) {
                BOOST_TEST(std::isfinite(out[i].advantage[t]));
                if (std::isnan(all[i].reward)) {
                    BOOST_TEST(out[i].advantage[t] == 0);
                    // The critic is not taught by what nobody could judge.
                    if (kind == AdvantageKind::gae) BOOST_TEST(std::isnan(out[i].returns[t]));
                }
            }
    }
}

BOOST_AUTO_TEST_CASE(no_spread_no_advantage) {
    for (const auto kind : {AdvantageKind::group, AdvantageKind::leave_one_out, AdvantageKind::pass_at_k})
        for (const auto std : kStds) {
            // 0.1 summed ten times is not 1: a computed mean would differ from its entries.
            for (const Doubles& rewards : {Doubles(10, 0.1), Doubles{kNan, kNan}, Doubles{kNan, 3, kNan}, Doubles{5}}) {
                const Doubles a = first_tokens({.kind = kind, .std = std, .eps = 0, .pass_k = 1},
                                               responses(rewards, rewards.size()));
                for (const double x : a) BOOST_TEST(x == 0);
            }
        }
    BOOST_TEST(token_advantages({}, {}).empty());
}

BOOST_AUTO_TEST_CASE(a_group_of_one) {
    const Doubles one = {kNan, 3, kNan};
    BOOST_TEST(group_advantages({.eps = 0.5, .lone_reward = true}, one)[1] == 3 / 1.5, kTolerance);
    BOOST_TEST(group_advantages({.std = GroupStd::none, .lone_reward = true}, one)[1] == 3, kTolerance);
    BOOST_TEST(group_advantages({.lone_reward = true}, one)[0] == 0);
}

BOOST_AUTO_TEST_CASE(responses_without_tokens) {
    for (const auto kind : kKinds) {
        std::vector<ScoredResponse> all = responses({1, 0, 1}, 3);
        all[1].tokens = 0;
        for (ScoredResponse& r : all) {
            r.parts = {r.reward};
            r.values.assign(static_cast<std::size_t>(r.tokens), 0.5);
            r.steps = {{.end = 0, .reward = r.reward}};
        }
        const auto out = token_advantages({.kind = kind, .pass_k = 2, .whitening = Whitening::sample}, all);
        BOOST_TEST(out[1].advantage.empty());
        for (const double a : out[0].advantage) BOOST_TEST(std::isfinite(a));
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
