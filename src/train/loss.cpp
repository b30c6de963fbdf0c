// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/loss.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gradus/base/error.hpp"

namespace gradus {

template <class Real>
void policy_loss(const PolicyLossOptions& options, const LossNormalizer& normalizer,
                 std::span<const Real> log_prob, std::span<const Real> entropy,
                 std::span<const Real> old_log_prob, std::span<const Real> ref_log_prob,
                 std::span<const Real> advantage, std::span<Real> d_log_prob,
                 std::span<Real> d_entropy, PolicyLossSums& sums) {
    const std::size_t n = log_prob.size();
    require(entropy.size() == n && old_log_prob.size() == n && advantage.size() == n &&
                d_log_prob.size() == n && d_entropy.size() == n &&
                (ref_log_prob.size() == n || (ref_log_prob.empty() && options.kl_coef == 0)),
            "policy_loss: spans of different lengths");
    if (n == 0) return;
    const double weight = options.aggregation == Aggregation::token_mean
                              ? 1.0 / normalizer.tokens
                              : 1.0 / (normalizer.sequences * static_cast<double>(n));
    const double low = 1.0 - options.clip_low, high = 1.0 + options.clip_high;
    for (std::size_t t = 0; t < n; ++t) {
        const double a = advantage[t];
        const double ratio = std::exp(static_cast<double>(log_prob[t]) - old_log_prob[t]);
        const bool below = ratio < low && a < 0, above = ratio > high && a > 0;
        // Without an advantage there is no policy term, even where the ratio overflows.
        double loss = a == 0 ? 0.0 : -a * (below ? low : above ? high : ratio);
        double slope = a == 0 || below || above ? 0.0 : -a * ratio;
        if (!ref_log_prob.empty()) {
            const double gap = static_cast<double>(ref_log_prob[t]) - log_prob[t];
            const double kl = std::expm1(gap) - gap;
            sums.kl += kl;
            if (options.kl_coef != 0) {
                loss += options.kl_coef * kl;
                slope -= options.kl_coef * std::expm1(gap);
            }
        }
        loss -= options.entropy_coef * static_cast<double>(entropy[t]);
        d_log_prob[t] = static_cast<Real>(weight * slope);
        d_entropy[t] = static_cast<Real>(-weight * options.entropy_coef);
        sums.loss += weight * loss;
        sums.entropy += static_cast<double>(entropy[t]);
        sums.ratio += ratio;
        sums.clipped_low += below ? 1 : 0;
        sums.clipped_high += above ? 1 : 0;
    }
    sums.tokens += static_cast<double>(n);
}

template void policy_loss<float>(const PolicyLossOptions&, const LossNormalizer&,
                                 std::span<const float>, std::span<const float>,
                                 std::span<const float>, std::span<const float>,
                                 std::span<const float>, std::span<float>, std::span<float>,
                                 PolicyLossSums&);
template void policy_loss<double>(const PolicyLossOptions&, const LossNormalizer&,
                                  std::span<const double>, std::span<const double>,
                                  std::span<const double>, std::span<const double>,
                                  std::span<const double>, std::span<double>, std::span<double>,
                                  PolicyLossSums&);

std::vector<double> group_advantages(std::span<const double> rewards, GroupStd std, double eps) {
    std::vector<double> advantages(rewards.size(), 0.0);
    double count = 0, sum = 0;
    double lowest = std::numeric_limits<double>::infinity(), highest = -lowest;
    for (const double r : rewards) {
        if (std::isnan(r)) continue;
        ++count;
        sum += r;
        lowest = std::min(lowest, r);
        highest = std::max(highest, r);
    }
    // Compared, not computed: rounding of the mean must not make an advantage.
    if (count < 2 || lowest == highest) return advantages;
    const double mean = sum / count;
    double squares = 0;
    for (const double r : rewards) {
        if (!std::isnan(r)) squares += (r - mean) * (r - mean);
    }
    double divisor = 1;
    if (std == GroupStd::sample) divisor = std::sqrt(squares / (count - 1)) + eps;
    if (std == GroupStd::population) divisor = std::sqrt(squares / count) + eps;
    for (std::size_t i = 0; i < rewards.size(); ++i) {
        if (!std::isnan(rewards[i])) advantages[i] = (rewards[i] - mean) / divisor;
    }
    return advantages;
}

Aggregation parse_aggregation(const std::string& name) {
    if (name == "sequence_mean") return Aggregation::sequence_mean;
    if (name == "token_mean") return Aggregation::token_mean;
    throw DeckError(
        fmt::format("unknown loss aggregation `{}`: sequence_mean or token_mean", name));
}

GroupStd parse_group_std(const std::string& name) {
    if (name == "sample") return GroupStd::sample;
    if (name == "population") return GroupStd::population;
    if (name == "none") return GroupStd::none;
    throw DeckError(
        fmt::format("unknown standard deviation `{}`: sample, population or none", name));
}

}  // namespace gradus
