// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/loss.hpp"

#include <algorithm>
#include <cmath>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

/// VESPO's bounds (TRL): of a token's log-ratio and of the sequence's weight.
constexpr double kVespoToken = 20, kVespoLow = 1e-8, kVespoHigh = 20;

/// A token's policy term. The derivatives by its own log-prob and by log rho add up.
struct Term {
    double value = 0;
    double own = 0;
    double through_ratio = 0;
    bool low = false, high = false, dual = false;
};

Term clip_term(const PolicyLossOptions& o, double rho, double a) {
    const double low = 1 - o.clip_low, high = 1 + o.clip_high;
    const double free = o.delta > 0 ? std::min(rho, o.delta) : rho, held = std::clamp(rho, low, high);
    const double chosen = -a * free >= -a * held ? free : held;
    Term term{.value = -a * chosen,
              .through_ratio = chosen == rho ? -a * rho : 0.0,
              .low = rho < low && a < 0,
              .high = rho > high && a > 0};
    if (o.dual_clip > 0 && a < 0 && term.value > -a * o.dual_clip) {
        term.value = -a * o.dual_clip;
        term.through_ratio = 0;
        term.dual = true;
    }
    return term;
}

Term sapo_term(const PolicyLossOptions& o, double rho, double a) {
    const double tau = a > 0 ? o.sapo_positive : o.sapo_negative;
    const double s = 1 / (1 + std::exp(-tau * (rho - 1)));
    const double slope = s * (1 - s);
    // The gate closes faster than the ratio grows.
    return {.value = -a * s * 4 / tau, .through_ratio = slope == 0 ? 0.0 : -a * slope * 4 * rho};
}

/// -weight A lp, the weight without gradient.
Term weighted_term(double weight, double a, double log_prob) {
    return {.value = -weight * a * log_prob, .own = -weight * a};
}

Term policy_term(const PolicyLossOptions& o, double rho, double sequence_weight, double a, double lp) {
    if (a == 0) return {};
    switch (o.objective) {
        case Objective::clip: return clip_term(o, rho, a);
        case Objective::sapo: return sapo_term(o, rho, a);
        case Objective::vespo: return weighted_term(sequence_weight, a, lp);
        case Objective::reinforce: return weighted_term(1, a, lp);
        case Objective::cispo: break;
    }
    const double low = 1 - o.clip_low, high = 1 + o.clip_high;
    Term term = weighted_term(std::clamp(rho, low, high), a, lp);
    term.low = rho < low && a < 0;
    term.high = rho > high && a > 0;
    return term;
}

double sum_of(std::span<const double> values) {
    double sum = 0;
    for (const double v : values) sum += v;
    return sum;
}

bool of_sequence(SamplerRatio kind) {
    return kind == SamplerRatio::sequence_truncate || kind == SamplerRatio::sequence_mask;
}

double bounded(const PolicyLossOptions& o, double ratio) {
    const bool masks = o.sampler_ratio == SamplerRatio::token_mask || o.sampler_ratio == SamplerRatio::sequence_mask;
    if (masks) return ratio < o.sampler_min || ratio > o.sampler_max ? 0.0 : ratio;
    return std::clamp(ratio, o.sampler_min, o.sampler_max);
}

/// exp(old - sampler) of each token, bounded; empty where it is not used.
template <class Real>
std::vector<double> sampler_ratios(const PolicyLossOptions& o, const PolicyTokens<Real>& x) {
    if (o.sampler_ratio == SamplerRatio::none) return {};
    std::vector<double> ratios(x.log_prob.size());
    for (std::size_t t = 0; t < ratios.size(); ++t)
        ratios[t] = static_cast<double>(x.old_log_prob[t]) - x.sampler_log_prob[t];
    if (of_sequence(o.sampler_ratio)) std::fill(ratios.begin(), ratios.end(), sum_of(ratios));
    for (double& r : ratios) r = bounded(o, std::exp(r));
    return ratios;
}

/// VESPO's weight and its derivative by each of the sequence's log-probs.
struct SequenceWeight {
    double value = 1, slope = 0;
};

/// phi(W) = W^k e^(lambda (1 - W)) with W = the sequence's ratio, the sampler's included; (k, lambda) = (2, 3)
/// for A >= 0, (3, 2) below (TRL, VESPO).
SequenceWeight vespo_weight(std::span<const double> log_ratios, std::span<const double> sampler, double a) {
    double sum = 0;
    for (const double d : log_ratios) sum += std::clamp(d, -kVespoToken, kVespoToken);
    for (const double r : sampler) sum += std::log(r);
    const double log_w = std::clamp(sum, std::log(kVespoLow), kVespoHigh);
    const double k = a >= 0 ? 2 : 3, lambda = a >= 0 ? 3 : 2;
    const double phi = std::exp(lambda + k * log_w - lambda * std::exp(log_w));
    return {phi, log_w == sum && phi > 0 ? phi * (k - lambda * std::exp(log_w)) : 0.0};
}

template <class Real>
bool is_too_far(const PolicyLossOptions& o, const PolicyTokens<Real>& x) {
    if (std::isinf(o.off_policy_limit) || !(x.advantage[0] < 0)) return false;
    double sum = 0;
    for (std::size_t t = 0; t < x.log_prob.size(); ++t)
        sum += static_cast<double>(x.sampler_log_prob[t]) - x.log_prob[t];
    return sum / static_cast<double>(x.log_prob.size()) > o.off_policy_limit;
}

/// What each token's term is multiplied by.
double aggregation_weight(const PolicyLossOptions& o, const LossNormalizer& normalizer, std::size_t n) {
    switch (o.aggregation) {
        case Aggregation::sequence_mean: return 1 / (normalizer.sequences * static_cast<double>(n));
        case Aggregation::sequence_sum: return 1 / normalizer.sequences;
        case Aggregation::token_mean: return 1 / normalizer.tokens;
        case Aggregation::token_sum: return 1;
        case Aggregation::constant: break;
    }
    return 1 / (normalizer.sequences * o.length);
}

template <class Real>
void check_tokens(const PolicyLossOptions& o, const PolicyTokens<Real>& x, std::size_t d_log_prob,
                  std::size_t d_entropy) {
    const std::size_t n = x.log_prob.size();
    const bool sampler = o.sampler_ratio != SamplerRatio::none || !std::isinf(o.off_policy_limit);
    require(x.entropy.size() == n && x.old_log_prob.size() == n && x.advantage.size() == n &&
                d_log_prob == n && d_entropy == n &&
                (x.ref_log_prob.size() == n || (x.ref_log_prob.empty() && o.kl_coef == 0)) &&
                (x.sampler_log_prob.size() == n || (x.sampler_log_prob.empty() && !sampler)),
            "policy_loss: spans of different lengths");
}

/// Ratios of a sequence's tokens; `moves` is false where the clamp holds log rho.
struct Ratios {
    std::vector<double> log, value;
    std::vector<bool> moves;
};

template <class Real>
Ratios ratios_of(const PolicyLossOptions& o, const PolicyTokens<Real>& x) {
    const std::size_t n = x.log_prob.size();
    Ratios r{.log = std::vector<double>(n), .value = std::vector<double>(n), .moves = std::vector<bool>(n, true)};
    for (std::size_t t = 0; t < n; ++t) r.log[t] = static_cast<double>(x.log_prob[t]) - x.old_log_prob[t];
    const bool together = o.ratio == RatioLevel::sequence;
    const double mean = sum_of(r.log) / static_cast<double>(n);
    for (std::size_t t = 0; t < n; ++t) {
        double d = together ? mean : r.log[t];
        if (o.ratio_clamp > 0) {
            const double held = std::clamp(d, together ? d : -o.ratio_clamp, std::max(o.ratio_clamp, 0.0));
            r.moves[t] = held == d;
            d = held;
        }
        r.value[t] = std::exp(d);
    }
    return r;
}

}  // namespace

KlTerm kl_term(const KlOptions& o, double log_prob, double ref_log_prob) {
    const double d = ref_log_prob - log_prob;
    KlTerm term;
    switch (o.kind) {
        case KlKind::k1: term = {-d, 1}; break;
        case KlKind::k2: term = {d * d / 2, -d}; break;
        case KlKind::abs: term = {std::abs(d), d > 0 ? -1.0 : d < 0 ? 1.0 : 0.0}; break;
        case KlKind::k3: {
            const double held = o.clamp_log > 0 ? std::clamp(d, -o.clamp_log, o.clamp_log) : d;
            term = {std::expm1(held) - held, held == d ? -std::expm1(d) : 0.0};
            if (o.clamp > 0 && term.value > o.clamp) term = {o.clamp, 0};
        }
    }
    if (o.k2_gradient) term.slope = -d;
    return term;
}

void PolicyLossSums::add(const PolicyLossSums& more) {
    PolicyLossSums copy = more;
    const auto mine = summed(), theirs = copy.summed();
    for (std::size_t i = 0; i < mine.size(); ++i) *mine[i] += *theirs[i];
    sampler_gap_max = std::max(sampler_gap_max, more.sampler_gap_max);
}

std::array<double*, 14> PolicyLossSums::summed() {
    return {&loss,         &kl,           &entropy,   &ratio,         &log_ratio,
            &clipped_low,  &clipped_high, &dual_clipped, &masked,     &sampler_ratio,
            &sampler_gap,  &sequence_weight, &sequences, &tokens};
}

template <class Real>
void policy_loss(const PolicyLossOptions& o, const LossNormalizer& normalizer, const PolicyTokens<Real>& x,
                 std::span<Real> d_log_prob, std::span<Real> d_entropy, PolicyLossSums& sums) {
    const std::size_t n = x.log_prob.size();
    check_tokens(o, x, d_log_prob.size(), d_entropy.size());
    if (n == 0) return;
    const double weight = aggregation_weight(o, normalizer, n);
    const Ratios ratios = ratios_of(o, x);
    const std::vector<double> sampler = sampler_ratios(o, x);
    const bool vespo = o.objective == Objective::vespo;
    const SequenceWeight phi =
        vespo ? vespo_weight(ratios.log, sampler, static_cast<double>(x.advantage[0])) : SequenceWeight{};
    const bool too_far = is_too_far(o, x);
    std::vector<double> own(n), through_ratio(n);
    double through_weight = 0;
    for (std::size_t t = 0; t < n; ++t) {
        const double rho = ratios.value[t];
        const Term term = policy_term(o, rho, phi.value, x.advantage[t], x.log_prob[t]);
        const double kept = too_far || static_cast<double>(x.entropy[t]) < o.entropy_floor ? 0.0 : 1.0;
        // VESPO has the sampler's ratio in its weight.
        const double importance = sampler.empty() || vespo ? 1.0 : sampler[t];
        const double factor = kept * importance;
        // A term that is masked out may be infinite.
        double loss = factor == 0 ? 0.0 : factor * term.value;
        double slope = factor == 0 ? 0.0 : factor * term.own;
        through_ratio[t] = factor == 0 ? 0.0 : weight * factor * term.through_ratio;
        if (vespo && o.weight_gradient && factor != 0)
            through_weight -= weight * factor * phi.slope * x.advantage[t] * x.log_prob[t];
        if (!x.ref_log_prob.empty()) {
            const KlTerm kl = kl_term(o.kl, x.log_prob[t], x.ref_log_prob[t]);
            const double times = o.kl_correction == KlCorrection::ratio ? rho : 1.0;
            sums.kl += times * kl.value;
            if (o.kl_coef != 0) {
                loss += o.kl_coef * times * kl.value;
                slope += o.kl_coef * times * kl.slope;
                if (o.kl_correction == KlCorrection::score) slope += o.kl_coef * kl.value;
                if (o.kl_correction == KlCorrection::ratio)
                    through_ratio[t] += weight * o.kl_coef * rho * kl.value;
            }
        }
        loss -= o.entropy_coef * static_cast<double>(x.entropy[t]);
        own[t] = weight * slope;
        d_entropy[t] = static_cast<Real>(-weight * o.entropy_coef);
        if (!ratios.moves[t]) through_ratio[t] = 0;
        sums.loss += weight * loss;
        sums.entropy += static_cast<double>(x.entropy[t]);
        sums.ratio += rho;
        sums.log_ratio += ratios.log[t];
        sums.clipped_low += term.low;
        sums.clipped_high += term.high;
        sums.dual_clipped += term.dual;
        sums.masked += factor == 0;
        sums.sampler_ratio += sampler.empty() ? 1.0 : sampler[t];
        if (x.sampler_log_prob.empty()) continue;
        const double gap = std::abs(static_cast<double>(x.log_prob[t]) - x.sampler_log_prob[t]);
        sums.sampler_gap += gap;
        sums.sampler_gap_max = std::max(sums.sampler_gap_max, gap);
    }
    const bool together = o.ratio == RatioLevel::sequence;
    const double shared = sum_of(through_ratio) / static_cast<double>(n);
    for (std::size_t t = 0; t < n; ++t)
        d_log_prob[t] = static_cast<Real>(own[t] + (together ? shared : through_ratio[t]) + through_weight);
    sums.sequence_weight += vespo ? phi.value : 0.0;
    sums.sequences += 1;
    sums.tokens += static_cast<double>(n);
}

template void policy_loss<float>(const PolicyLossOptions&, const LossNormalizer&, const PolicyTokens<float>&,
                                 std::span<float>, std::span<float>, PolicyLossSums&);
template void policy_loss<double>(const PolicyLossOptions&, const LossNormalizer&, const PolicyTokens<double>&,
                                  std::span<double>, std::span<double>, PolicyLossSums&);

double entropy_floor(std::vector<double>& values, double top) {
    if (values.empty() || top >= 1) return -std::numeric_limits<double>::infinity();
    std::sort(values.begin(), values.end());
    const double at = (1 - top) * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(at);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

}  // namespace gradus
