// SPDX-License-Identifier: Apache-2.0
// Losses take per-token inputs and return the loss and its derivatives by log-prob and entropy.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace gradus {

enum class Aggregation {
    sequence_mean,  ///< mean over sequences of the mean over their tokens (DeepSeekMath eq. 3)
    token_mean      ///< mean over all tokens of the batch
};

struct PolicyLossOptions {
    double clip_low = 0.2, clip_high = 0.2;
    double kl_coef = 0;       ///< k3 estimator inside the loss
    double entropy_coef = 0;
    Aggregation aggregation = Aggregation::sequence_mean;
};

/// Counted over the whole global batch before the first micro-batch.
struct LossNormalizer {
    double tokens = 0;
    double sequences = 0;
};

/// Sums over the tokens seen (unnormalised), to be reduced over ranks and divided by `tokens`.
struct PolicyLossSums {
    double loss = 0;        ///< already normalised: add over micro-batches and ranks
    double kl = 0, entropy = 0, ratio = 0, clipped_low = 0, clipped_high = 0;
    double sampler_gap = 0;      ///< sum |trainer log-prob - sampler log-prob|
    double sampler_gap_max = 0;
    double tokens = 0;
};

/// One sequence's tokens; all spans have the same length n. GRPO of DeepSeekMath (arXiv 2402.03300)
/// eq. 3-4 in token form:
///   L = -1/N sum_i 1/|o_i| sum_t { min[rho A, clip(rho, 1 - low, 1 + high) A] - beta k3 },
/// rho = exp(lp - old), k3 = exp(ref - lp) - (ref - lp) - 1. Writes dL/dlp and dL/dH.
/// `Real` is float in training, double in tests.
template <class Real>
void policy_loss(const PolicyLossOptions& options, const LossNormalizer& normalizer,
                 std::span<const Real> log_prob, std::span<const Real> entropy,
                 std::span<const Real> old_log_prob, std::span<const Real> ref_log_prob,
                 std::span<const Real> advantage, std::span<Real> d_log_prob,
                 std::span<Real> d_entropy, PolicyLossSums& sums);

/// Group-relative advantages: (r - mean) / (std + eps), entries that are NaN left out of the
/// statistics and given 0; groups without spread give 0.
enum class GroupStd { sample, population, none };
std::vector<double> group_advantages(std::span<const double> rewards, GroupStd std, double eps);

Aggregation parse_aggregation(const std::string& name);
GroupStd parse_group_std(const std::string& name);

}  // namespace gradus
