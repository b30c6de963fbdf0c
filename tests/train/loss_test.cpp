// SPDX-License-Identifier: Apache-2.0
// Policy losses: against the formulas as their papers print them, against differences, at their edges. Values of
// other projects' code are in tests/reference.
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

/// Inputs of some sequences: old, reference and sampler log-probs far enough away for clips on either side.
/// One advantage a sequence.
struct Inputs {
    std::vector<Doubles> log_prob, entropy, old_log_prob, ref_log_prob, sampler_log_prob, advantage;

    explicit Inputs(const std::vector<std::size_t>& lengths) {
        RandomSequence random({.seed = 3, .stream = Stream::test});
        auto draw = [&](std::size_t n, double from, double to) {
            Doubles x(n);
            for (double& value : x) value = from + (to - from) * random.uniform();
            return x;
        };
        auto beside = [&](const Doubles& x, double far) {
            Doubles y = draw(x.size(), -far, far);
            for (std::size_t t = 0; t < x.size(); ++t) y[t] += x[t];
            return y;
        };
        for (std::size_t i = 0; i < lengths.size(); ++i) {
            const std::size_t n = lengths[i];
            log_prob.push_back(draw(n, -3, -0.1));
            entropy.push_back(draw(n, 0, 2));
            advantage.emplace_back(n, i % 2 == 0 ? 0.4 + draw(1, 0, 1)[0] : -0.4 - draw(1, 0, 1)[0]);
            old_log_prob.push_back(beside(log_prob.back(), 0.6));
            ref_log_prob.push_back(beside(log_prob.back(), 0.8));
            sampler_log_prob.push_back(beside(old_log_prob.back(), 0.3));
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
    PolicyTokens<double> sequence(std::size_t i) const {
        return {.log_prob = log_prob[i],
                .entropy = entropy[i],
                .old_log_prob = old_log_prob[i],
                .advantage = advantage[i],
                .ref_log_prob = ref_log_prob[i],
                .sampler_log_prob = sampler_log_prob[i]};
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
        policy_loss<double>(options, in.normalizer(), in.sequence(i), out.d_log_prob[i], out.d_entropy[i], out.sums);
    }
    return out;
}

/// GRPO as DeepSeekMath (eq. 3, 4) and DAPO print it.
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

constexpr auto kAggregations = {Aggregation::sequence_mean, Aggregation::sequence_sum, Aggregation::token_mean,
                                Aggregation::token_sum, Aggregation::constant};

/// Options whose loss is a function of the log-probs that its derivatives belong to: nothing held constant.
std::vector<PolicyLossOptions> differentiable() {
    std::vector<PolicyLossOptions> all;
    for (const auto objective : {Objective::clip, Objective::sapo, Objective::vespo, Objective::reinforce})
        for (const auto ratio : {RatioLevel::token, RatioLevel::sequence})
            for (const auto aggregation : kAggregations)
                all.push_back({.objective = objective,
                               .ratio = ratio,
                               .clip_low = 0.05,
                               .clip_high = 0.1,
                               .weight_gradient = true,
                               .kl_coef = 0.04,
                               .entropy_coef = 0.01,
                               .aggregation = aggregation,
                               .length = 16});
    PolicyLossOptions more{.clip_low = 0.2, .clip_high = 10, .kl_coef = 0.3, .length = 16};
    for (const auto ratio : {RatioLevel::token, RatioLevel::sequence}) {
        more.ratio = ratio;
        for (const KlKind kind : {KlKind::k1, KlKind::k2, KlKind::k3, KlKind::abs}) {
            more.kl.kind = kind;
            for (const KlCorrection correction : {KlCorrection::none, KlCorrection::ratio}) {
                more.kl_correction = correction;
                all.push_back(more);
            }
        }
        more.kl = {.clamp_log = 0.3, .clamp = 0.1};
        all.push_back(more);
        more.delta = 1.3;
        more.dual_clip = 1.2;
        all.push_back(more);
        more.ratio_clamp = 0.2;
        all.push_back(more);
        more.entropy_floor = 0.8;
        more.off_policy_limit = -0.05;
        all.push_back(more);
        for (const auto kind : {SamplerRatio::token_truncate, SamplerRatio::token_mask,
                                SamplerRatio::sequence_truncate, SamplerRatio::sequence_mask}) {
            more = {.ratio = ratio, .sampler_ratio = kind, .sampler_min = 0.8, .sampler_max = 1.1};
            all.push_back(more);
        }
        more = {.length = 16};
    }
    return all;
}

double dot(const std::vector<Doubles>& a, const std::vector<Doubles>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
        for (std::size_t t = 0; t < a[i].size(); ++t) sum += a[i][t] * b[i][t];
    return sum;
}

/// A sequence of one token.
struct OneToken {
    double log_prob = -1, entropy = 0.5, old = -1, advantage = 1, ref = -1, sampler = -1;

    PolicyLossSums sums = {};
    double slope = 0;
    OneToken& operator()(const PolicyLossOptions& options) {
        const Doubles lp = {log_prob}, h = {entropy}, o = {old}, a = {advantage}, r = {ref}, s = {sampler};
        Doubles d(1), dh(1);
        sums = {};
        policy_loss<double>(options, {.tokens = 1, .sequences = 1},
                            {.log_prob = lp, .entropy = h, .old_log_prob = o, .advantage = a, .ref_log_prob = r,
                             .sampler_log_prob = s}, d, dh, sums);
        slope = d[0];
        return *this;
    }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(policy_losses)

BOOST_AUTO_TEST_CASE(is_the_paper_s_formula) {
    const Inputs in({7, 1, 12, 4});
    for (const auto aggregation : {Aggregation::sequence_mean, Aggregation::token_mean})
        for (const double clip : {0.2, 10.0}) {
            const PolicyLossOptions options{.clip_low = clip,
                                            .clip_high = clip + 0.08,
                                            .kl_coef = 0.04,
                                            .entropy_coef = 0.01,
                                            .aggregation = aggregation};
            const Output out = run(options, in);
            BOOST_TEST(out.sums.loss == paper(options, in), boost::test_tools::tolerance(1e-12));
            BOOST_TEST((out.sums.clipped_low > 0) == (clip < 1));
            BOOST_TEST((out.sums.clipped_high > 0) == (clip < 1));
        }
}

BOOST_AUTO_TEST_CASE(derivatives_are_those_of_differences) {
    Inputs in({7, 1, 12, 4});
    const double h = 1e-6;
    for (const PolicyLossOptions& options : differentiable()) {
        const Output out = run(options, in);
        auto difference = [&](double& x) {
            const double keep = x;
            x = keep + h;
            const double above = run(options, in).sums.loss;
            x = keep - h;
            const double below = run(options, in).sums.loss;
            x = keep;
            return (above - below) / (2 * h);
        };
        const double scale = std::sqrt(dot(out.d_log_prob, out.d_log_prob));
        BOOST_TEST(scale > 0);
        for (std::size_t i = 0; i < in.log_prob.size(); ++i) {
            for (std::size_t t = 0; t < in.log_prob[i].size(); ++t) {
                BOOST_TEST(std::abs(out.d_log_prob[i][t] - difference(in.log_prob[i][t])) < 1e-8 * (1 + scale));
                BOOST_TEST(std::abs(out.d_entropy[i][t] - difference(in.entropy[i][t])) < 1e-8);
            }
        }
    }
}

/// DeepSeekMath eq. 20, 21: on-policy the gradient coefficient is A + beta (pi_ref / pi - 1).
BOOST_AUTO_TEST_CASE(on_policy_it_is_equation_21) {
    Inputs in({7, 1, 12, 4});
    in.old_log_prob = in.log_prob;
    const double beta = 0.04;
    const Output out = run({.kl_coef = beta}, in);
    for (std::size_t i = 0; i < in.log_prob.size(); ++i)
        for (std::size_t t = 0; t < in.log_prob[i].size(); ++t) {
            const double q = std::exp(in.ref_log_prob[i][t]) / std::exp(in.log_prob[i][t]);
            const double coefficient = in.advantage[i][t] + beta * (q - 1);
            const auto n = static_cast<double>(in.log_prob[i].size());
            BOOST_TEST(std::abs(out.d_log_prob[i][t] + coefficient / n / 4) < 1e-14);
        }
    BOOST_TEST(std::abs(out.sums.ratio - in.tokens()) < 1e-12);
}

/// What is held constant: the loss has the value, the gradient is another function's.
BOOST_AUTO_TEST_CASE(cispo_and_detached_vespo_move_by_the_log_prob_alone) {
    OneToken token{.log_prob = -0.5, .old = -1, .advantage = 2};
    const double rho = std::exp(0.5);
    token({.objective = Objective::cispo, .clip_low = 1, .clip_high = 4});
    BOOST_TEST(std::abs(token.sums.loss - 2 * rho * 0.5) < 1e-14);
    BOOST_TEST(std::abs(token.slope + 2 * rho) < 1e-14);
    token({.objective = Objective::cispo, .clip_high = 0.28});
    BOOST_TEST(std::abs(token.slope + 2 * 1.28) < 1e-14);
    BOOST_TEST(token.sums.clipped_high == 1);
    token({.objective = Objective::vespo});
    const double phi = std::exp(3 + 2 * 0.5 - 3 * rho);
    BOOST_TEST(std::abs(token.slope + 2 * phi) < 1e-14);
    BOOST_TEST(std::abs(token.sums.sequence_weight - phi) < 1e-14);
}

BOOST_AUTO_TEST_CASE(the_gradient_of_k2_under_any_value) {
    for (const KlKind kind : {KlKind::k1, KlKind::k3, KlKind::abs}) {
        const KlTerm plain = kl_term({.kind = kind}, -1.5, -1.1), plus = kl_term({.kind = kind, .k2_gradient = true}, -1.5, -1.1);
        BOOST_TEST(plain.value == plus.value);
        BOOST_TEST(plus.slope == kl_term({.kind = KlKind::k2}, -1.5, -1.1).slope);
    }
}

BOOST_AUTO_TEST_CASE(clamps_of_the_divergence) {
    // d = 30: beyond both clamps; without them e^30.
    BOOST_TEST(kl_term({}, -31, -1).value > 1e13);
    BOOST_TEST(kl_term({.clamp_log = 20, .clamp = 10}, -31, -1).value == 10);
    BOOST_TEST(kl_term({.clamp_log = 20, .clamp = 10}, -31, -1).slope == 0);
    BOOST_TEST(kl_term({.clamp_log = 2}, -4, -1).value == std::exp(2.0) - 3, boost::test_tools::tolerance(1e-14));
    // The score term: the value of none, the gradient of sampling.
    OneToken token{.advantage = 0, .ref = -0.4};
    const KlTerm k3 = kl_term({}, -1, -0.4);
    token({.kl_coef = 0.5, .kl_correction = KlCorrection::score});
    BOOST_TEST(token.sums.loss == 0.5 * k3.value, boost::test_tools::tolerance(1e-14));
    BOOST_TEST(token.slope == 0.5 * (k3.slope + k3.value), boost::test_tools::tolerance(1e-14));
}

BOOST_AUTO_TEST_CASE(clips_only_what_makes_the_objective_better) {
    // rho = 1.5, 1.5, 0.5, 0.5 with clips at 0.8 and 1.2.
    const double up = std::log(0.6), down = std::log(0.2), old = std::log(0.4);
    OneToken a{.log_prob = up, .old = old, .advantage = 2}, b{.log_prob = up, .old = old, .advantage = -2};
    OneToken c{.log_prob = down, .old = old, .advantage = 2}, d{.log_prob = down, .old = old, .advantage = -2};
    BOOST_TEST(a({}).slope == 0);
    BOOST_TEST(a.sums.clipped_high == 1);
    BOOST_TEST(std::abs(a.sums.loss + 2 * 1.2) < 1e-14);
    BOOST_TEST(std::abs(b({}).slope - 2 * 1.5) < 1e-14);
    BOOST_TEST(std::abs(c({}).slope + 2 * 0.5) < 1e-14);
    BOOST_TEST(d({}).slope == 0);
    BOOST_TEST(d.sums.clipped_low == 1);
    BOOST_TEST(std::abs(d.sums.loss - 2 * 0.8) < 1e-14);
}

BOOST_AUTO_TEST_CASE(bounds_beyond_the_clip) {
    // rho = 5, A = -2: PPO lets it grow, the dual clip and delta do not.
    OneToken token{.log_prob = std::log(0.5), .old = std::log(0.1), .advantage = -2};
    BOOST_TEST(std::abs(token({}).sums.loss - 10) < 1e-13);
    BOOST_TEST(std::abs(token({.dual_clip = 3}).sums.loss - 6) < 1e-13);
    BOOST_TEST(token.slope == 0);
    BOOST_TEST(token.sums.dual_clipped == 1);
    BOOST_TEST(std::abs(token({.delta = 4}).sums.loss - 8) < 1e-13);
    BOOST_TEST(token.slope == 0);
    BOOST_TEST(token.sums.dual_clipped == 0);
    // A = 2 within a clip of 10: delta bounds it, the dual clip does not.
    token.advantage = 2;
    BOOST_TEST(std::abs(token({.clip_high = 10, .delta = 4}).sums.loss + 8) < 1e-13);
    BOOST_TEST(std::abs(token({.clip_high = 10, .dual_clip = 3}).sums.loss + 10) < 1e-13);
}

BOOST_AUTO_TEST_CASE(the_sampler_s_ratio) {
    // old - sampler = 1: ratio e.
    OneToken token{.old = -1, .advantage = 1, .sampler = -2};
    const double e = std::exp(1.0);
    BOOST_TEST(std::abs(token({.sampler_ratio = SamplerRatio::token_truncate, .sampler_max = 2}).sums.loss + 2) < 1e-14);
    BOOST_TEST(std::abs(token({.sampler_ratio = SamplerRatio::token_mask, .sampler_max = 3}).sums.loss + e) < 1e-14);
    BOOST_TEST(token({.sampler_ratio = SamplerRatio::token_mask, .sampler_max = 2}).sums.loss == 0);
    BOOST_TEST(token.sums.masked == 1);
    // Neither mask nor ratio touches the divergence.
    token.ref = -0.4;
    BOOST_TEST(token({.kl_coef = 1, .sampler_ratio = SamplerRatio::sequence_mask, .sampler_max = 2}).sums.loss ==
               kl_term({}, -1, -0.4).value);
    // The mean fell by 1 since it was sampled.
    token = {.log_prob = -2, .old = -1, .advantage = -1, .sampler = -1};
    BOOST_TEST(token({.off_policy_limit = 0.9}).sums.loss == 0);
    BOOST_TEST(token({.off_policy_limit = 1.1}).sums.loss != 0);
    token.advantage = 1;
    BOOST_TEST(token({.off_policy_limit = 0.9}).sums.loss != 0);
}

BOOST_AUTO_TEST_CASE(a_share_of_the_tokens_by_entropy) {
    Doubles values = {3, 1, 2, 5, 4};
    BOOST_TEST(entropy_floor(values, 0.2) == 4.2, boost::test_tools::tolerance(1e-14));  // between 4 and 5
    BOOST_TEST(entropy_floor(values, 0.5) == 3);
    BOOST_TEST(std::isinf(entropy_floor(values, 1)));
    OneToken token{.entropy = 0.5, .advantage = 1, .ref = -0.5};
    BOOST_TEST(token({.entropy_floor = 0.6}).sums.loss == 0);
    BOOST_TEST(token({.entropy_floor = 0.5}).sums.loss == -1);
}

BOOST_AUTO_TEST_CASE(on_policy_float_ratios_are_one) {
    const std::vector<float> log_prob = {-1.25f, -0.5f}, entropy = {1, 1}, advantage = {3, 3};
    std::vector<float> d_log_prob(2), d_entropy(2);
    PolicyLossSums sums;
    policy_loss<float>({}, {.tokens = 10, .sequences = 4},
                       {.log_prob = log_prob, .entropy = entropy, .old_log_prob = log_prob, .advantage = advantage},
                       d_log_prob, d_entropy, sums);
    for (const float d : d_log_prob) BOOST_TEST(d == -3.0f / 8);
    BOOST_TEST(sums.ratio == 2);
}

BOOST_AUTO_TEST_CASE(ratios_that_overflow) {
    // DeepSeek-R1's clip of 10: nothing holds a growing ratio where the advantage is negative.
    const PolicyLossOptions r1{.clip_low = 10, .clip_high = 10};
    OneToken token{.log_prob = -0.1, .old = -2000, .advantage = -1};
    BOOST_TEST(std::isinf(token(r1).sums.loss));  // the training step names the sequence and stops
    PolicyLossOptions held = r1;
    held.ratio_clamp = 20;
    BOOST_TEST(token(held).sums.loss == std::exp(20.0), boost::test_tools::tolerance(1e-14));
    BOOST_TEST(token.slope == 0);
    held = r1;
    held.dual_clip = 3;
    BOOST_TEST(token(held).sums.loss == 3);
    token.advantage = 1;
    BOOST_TEST(token(r1).sums.loss == -11);
    BOOST_TEST(token.slope == 0);
    token.advantage = 0;
    BOOST_TEST(token(r1).sums.loss == 0);
    BOOST_TEST(token.slope == 0);
    token.advantage = -1;
    for (const auto objective : {Objective::sapo, Objective::vespo, Objective::cispo, Objective::reinforce}) {
        PolicyLossOptions o = r1;
        o.objective = objective;
        BOOST_TEST(std::isfinite(token(o).sums.loss));
        BOOST_TEST(std::isfinite(token.slope));
    }
}

BOOST_AUTO_TEST_CASE(a_response_without_tokens_counts_as_a_sequence_only) {
    const Doubles none;
    Doubles d;
    PolicyLossSums sums;
    for (const auto objective : {Objective::clip, Objective::vespo})
        policy_loss<double>({.objective = objective, .ratio = RatioLevel::sequence}, {.tokens = 5, .sequences = 2},
                            {.log_prob = none, .entropy = none, .old_log_prob = none, .advantage = none}, d, d, sums);
    BOOST_TEST(sums.loss == 0);
    BOOST_TEST(sums.tokens == 0);
}

BOOST_AUTO_TEST_CASE(sums_add_up) {
    const Inputs in({7, 1, 12, 4});
    const PolicyLossOptions options{.dual_clip = 1.1, .kl_coef = 0.1, .sampler_ratio = SamplerRatio::token_mask,
                                    .sampler_min = 0.9, .sampler_max = 1.1};
    PolicyLossSums total, whole = run(options, in).sums;
    for (std::size_t i = 0; i < 4; ++i) {
        Doubles d(in.log_prob[i].size());
        PolicyLossSums own;
        policy_loss<double>(options, in.normalizer(), in.sequence(i), d, d, own);
        total.add(own);
    }
    const auto a = total.summed(), b = whole.summed();
    for (std::size_t i = 0; i < a.size(); ++i) BOOST_TEST(*a[i] == *b[i], boost::test_tools::tolerance(1e-12));
    BOOST_TEST(total.sampler_gap_max == whole.sampler_gap_max);
    BOOST_TEST(total.sequences == 4);
    BOOST_TEST(total.masked > 0);
    BOOST_TEST(total.dual_clipped > 0);
}

BOOST_AUTO_TEST_CASE(refuses_what_does_not_fit) {
    const Doubles one(1), two(2);
    Doubles d1(1), d2(1);
    PolicyLossSums sums;
    const LossNormalizer n{.tokens = 1, .sequences = 1};
    const PolicyTokens<double> good{.log_prob = one, .entropy = one, .old_log_prob = one, .advantage = one};
    PolicyTokens<double> bad = good;
    bad.old_log_prob = two;
    BOOST_CHECK_THROW(policy_loss<double>({}, n, bad, d1, d2, sums), InternalError);
    BOOST_CHECK_THROW(policy_loss<double>({.kl_coef = 0.1}, n, good, d1, d2, sums), InternalError);
    BOOST_CHECK_THROW(policy_loss<double>({.sampler_ratio = SamplerRatio::token_mask}, n, good, d1, d2, sums),
                      InternalError);
    BOOST_CHECK_THROW(policy_loss<double>({.off_policy_limit = 1}, n, good, d1, d2, sums), InternalError);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
