// SPDX-License-Identifier: Apache-2.0
// Losses take per-token inputs and return the loss and its derivatives by log-prob and entropy.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace gradus {

/// What a token contributes before masks and weights, from its ratio rho = exp(lp - old) and its
/// advantage A. `sg` marks what has no gradient.
enum class Objective {
    clip,      ///< -min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO, Schulman et al. 2017, eq. 7)
    cispo,     ///< -sg(clip(rho, 1 - low, 1 + high)) A lp (MiniMax-M1, arXiv 2506.13585)
    sapo,      ///< -A sigmoid(tau (rho - 1)) 4 / tau, tau by the sign of A (arXiv 2511.20347)
    vespo,     ///< -sg(phi(W)) A lp, W the ratio of the whole sequence (TRL)
    reinforce  ///< -A lp (Williams 1992)
};

enum class RatioLevel {
    token,    ///< each token its own ratio
    sequence  ///< exp of the mean log-ratio of the sequence's tokens (GSPO, arXiv 2507.18071)
};

/// How the terms of all tokens become one number. N sequences (those without tokens count), n tokens.
enum class Aggregation {
    sequence_mean,  ///< 1/N sum_i 1/n_i sum_t (DeepSeekMath eq. 3)
    sequence_sum,   ///< 1/N sum_i sum_t
    token_mean,     ///< 1/n sum (DAPO)
    token_sum,      ///< sum
    constant        ///< 1/(N length) sum, the same length for all (Dr. GRPO)
};

/// Estimators of KL(policy || reference) at a token, d = ref - lp (Schulman 2020).
enum class KlKind {
    k1,  ///< -d
    k2,  ///< d^2 / 2
    k3,  ///< e^d - d - 1
    abs  ///< |d|
};

struct KlOptions {
    KlKind kind = KlKind::k3;
    bool k2_gradient = false;  ///< the value of `kind`, the gradient of k2 (verl's "k3+")
    double clamp_log = 0;      ///< d of k3 is held within +-this; 0: not
    double clamp = 0;          ///< the value of k3 is held within +-this; 0: not
};

/// An estimate and its derivative by lp.
struct KlTerm {
    double value = 0, slope = 0;
};
KlTerm kl_term(const KlOptions& options, double log_prob, double ref_log_prob);

/// What the KL term in the loss is multiplied by.
enum class KlCorrection {
    none,
    ratio,  ///< rho, with its gradient: unbiased where the update is off-policy (DeepSeek-V3.2)
    score   ///< 1, but with the gradient of the sampling: + kl grad lp (arXiv 2506.09477, NeMo-RL)
};

/// Ratio exp(old - sampler) between the trainer's and the sampler's policy, for a token or (of the
/// sum) for a sequence, that policy terms are multiplied by: held within bounds, or 0 outside of them.
enum class SamplerRatio { none, token_truncate, token_mask, sequence_truncate, sequence_mask };

struct PolicyLossOptions {
    Objective objective = Objective::clip;
    RatioLevel ratio = RatioLevel::token;
    double clip_low = 0.2, clip_high = 0.2;
    double delta = 0;        ///< rho is at most this in the unclipped term (INTELLECT-2); 0: no bound
    double dual_clip = 0;    ///< where A < 0 the term is at most -A times this (Ye et al. 2020); 0: not
    double ratio_clamp = 0;  ///< log rho is held within +-this, of sequences from above; 0: not
    double sapo_positive = 1.0, sapo_negative = 1.05;  ///< SAPO's tau
    bool weight_gradient = false;  ///< VESPO: phi has a gradient too
    KlOptions kl;
    double kl_coef = 0;      ///< of the term in the loss
    KlCorrection kl_correction = KlCorrection::none;
    double entropy_coef = 0;
    /// Tokens of lower entropy have no policy term ("80/20", arXiv 2506.01939).
    double entropy_floor = -std::numeric_limits<double>::infinity();
    SamplerRatio sampler_ratio = SamplerRatio::none;
    double sampler_min = 0, sampler_max = 2;
    /// Sequences of negative advantage whose mean sampler - lp is above this have no policy term
    /// (DeepSeek-V3.2 eq. 9).
    double off_policy_limit = std::numeric_limits<double>::infinity();
    Aggregation aggregation = Aggregation::sequence_mean;
    double length = 1;       ///< of Aggregation::constant
};

/// Counted over the whole global batch before the first micro-batch.
struct LossNormalizer {
    double tokens = 0;
    double sequences = 0;
};

/// Sums over the tokens seen, to be added over sequences and ranks; divided by `tokens` the means.
struct PolicyLossSums {
    double loss = 0;        ///< already normalised
    double kl = 0, entropy = 0, ratio = 0;
    double log_ratio = 0;   ///< sum of lp - old
    double clipped_low = 0, clipped_high = 0;
    double dual_clipped = 0;
    double masked = 0;      ///< tokens without a policy term: entropy, sampler ratio, off-policy limit
    double sampler_ratio = 0;
    double sampler_gap = 0;      ///< sum |trainer log-prob - sampler log-prob|
    double sequence_weight = 0;  ///< VESPO's phi, once a sequence
    double sequences = 0;        ///< with tokens
    double tokens = 0;
    double sampler_gap_max = 0;

    void add(const PolicyLossSums& more);
    /// All that is summed, in a fixed order, for a reduction over ranks.
    std::array<double*, 14> summed();
};

/// One sequence's trained tokens: spans of the same length n, but that those which the options do not
/// use may be empty.
template <class Real>
struct PolicyTokens {
    std::span<const Real> log_prob, entropy, old_log_prob, advantage;
    std::span<const Real> ref_log_prob;      ///< of a KL term
    std::span<const Real> sampler_log_prob;  ///< of its ratio, the off-policy limit and the gap
};

/// The loss of a sequence, added to `sums`, and its derivatives dL/dlp and dL/dH (written). In order:
/// the policy term by `objective`, its masks, the sampler's ratio, + kl_coef KL, - entropy_coef H, and
/// the aggregation's weight (as in TRL, neither mask nor ratio touches the KL term). A ratio of a
/// sequence hands its derivative to all its tokens. Computed in double; where the ratio overflows the
/// loss is not finite, except at A = 0, which has no policy term. `Real` is float in training.
template <class Real>
void policy_loss(const PolicyLossOptions& options, const LossNormalizer& normalizer,
                 const PolicyTokens<Real>& tokens, std::span<Real> d_log_prob,
                 std::span<Real> d_entropy, PolicyLossSums& sums);

/// The entropy that the share `top` of the tokens with the most entropy reaches: the (1 - top)
/// quantile, linear between neighbours (torch.quantile). `values` is sorted.
double entropy_floor(std::vector<double>& values, double top);

}  // namespace gradus
