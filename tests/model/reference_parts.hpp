// SPDX-License-Identifier: Apache-2.0
// Formulas of the float64 model that need no weights: rotary frequencies and scales, the choice of
// experts, the balance loss.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include "gradus/model/config.hpp"

namespace gradus::test {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

/// Rotary settings of Su et al. 2021 and how they are stretched.
class ReferenceRotary {
  public:
    explicit ReferenceRotary(const ModelConfig& config) : c_(config) {}

    /// Radians a position of pair i: theta^(-2 i / d), stretched.
    double frequency(std::int64_t i) const {
        const auto d = static_cast<double>(c_.rope_dim());
        const double f = std::pow(c_.rope_theta, -2.0 * static_cast<double>(i) / d);
        const double slow = f / c_.rope.factor;
        switch (c_.rope.scaling) {
            case RopeScaling::none: return f;
            case RopeScaling::linear: return slow;
            case RopeScaling::llama3: return f * llama3_share(f) + slow * (1 - llama3_share(f));
            case RopeScaling::yarn: return f * yarn_share(i) + slow * (1 - yarn_share(i));
        }
        return f;
    }

    /// What cos and sin are multiplied by: sqrt(1/t) = 0.1 ln(factor) + 1 (YaRN, eq. 15), in
    /// DeepSeek's form the quotient of two such.
    double scale() const {
        const RopeOptions& r = c_.rope;
        if (r.scaling != RopeScaling::yarn) return 1;
        if (r.attention_factor > 0) return r.attention_factor;
        if (r.mscale != 0 && r.mscale_all_dim != 0)
            return magnitude(r.mscale) / magnitude(r.mscale_all_dim);
        return magnitude(1);
    }

    /// Factor of the scores: 1 / sqrt(D), with latent attention and YaRN times the magnitude squared.
    double attention() const {
        double scale = 1 / std::sqrt(static_cast<double>(c_.head_dim));
        if (c_.is_latent() && c_.rope.scaling == RopeScaling::yarn && c_.rope.mscale_all_dim != 0)
            scale *= magnitude(c_.rope.mscale_all_dim) * magnitude(c_.rope.mscale_all_dim);
        return scale;
    }

  private:
    double magnitude(double mscale) const { return 0.1 * mscale * std::log(c_.rope.factor) + 1; }

    /// Llama 3.1: waves shorter than L / high keep their frequency, longer than L / low lose it.
    double llama3_share(double f) const {
        const double waves = static_cast<double>(c_.rope.original_positions) / (2 * std::numbers::pi / f);
        return std::clamp((waves - c_.rope.low_freq_factor) /
                              (c_.rope.high_freq_factor - c_.rope.low_freq_factor), 0.0, 1.0);
    }

    /// s = 1 - clamp((i - low) / (high - low)), ends where a pair turns beta times within L0.
    double yarn_share(std::int64_t i) const {
        const auto d = static_cast<double>(c_.rope_dim());
        const auto turning = [&](double beta) {
            const double length = static_cast<double>(c_.rope.original_positions);
            return d * std::log(length / (beta * 2 * std::numbers::pi)) / (2 * std::log(c_.rope_theta));
        };
        double low = turning(c_.rope.beta_fast), high = turning(c_.rope.beta_slow);
        if (c_.rope.truncate) {
            low = std::floor(low);
            high = std::ceil(high);
        }
        low = std::max(low, 0.0);
        high = std::min(high, d - 1);
        return 1 - std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    }

    const ModelConfig& c_;
};

/// One token's experts: DeepSeek-V3 (arXiv 2412.19437) eq. 12 to 16 and section 2.1.2.
struct Routed {
    Row scores;
    std::vector<std::size_t> chosen;
    Row weights;
};

/// The numbers of the `count` largest of x, best first.
inline std::vector<std::size_t> largest(const Row& x, std::int64_t count) {
    std::vector<std::pair<double, std::size_t>> order;
    for (std::size_t i = 0; i < x.size(); ++i) order.emplace_back(-x[i], i);
    std::sort(order.begin(), order.end());
    std::vector<std::size_t> out;
    for (std::int64_t i = 0; i < count; ++i) out.push_back(order[static_cast<std::size_t>(i)].second);
    return out;
}

inline Routed reference_route(const MixtureOfExperts& m, const Row& logits, const Row& bias) {
    Routed r;
    double sum = 0;
    for (const double z : logits) {
        r.scores.push_back(m.score == RouterScore::sigmoid ? 1 / (1 + std::exp(-z)) : std::exp(z));
        sum += r.scores.back();
    }
    if (m.score == RouterScore::softmax)
        for (double& s : r.scores) s /= sum;
    Row choice = r.scores;
    for (std::size_t i = 0; i < bias.size(); ++i) choice[i] += bias[i];
    const std::size_t size = choice.size() / static_cast<std::size_t>(m.groups);
    Row groups;
    for (std::size_t g = 0; g < choice.size() / size; ++g) {
        const auto first = choice.begin() + static_cast<std::ptrdiff_t>(g * size);
        Row members(first, first + static_cast<std::ptrdiff_t>(size));
        groups.push_back(0);
        for (const std::size_t i : largest(members, m.group_best)) groups.back() += members[i];
    }
    const auto open = largest(groups, m.top_groups);
    for (std::size_t i = 0; i < choice.size(); ++i)
        if (std::find(open.begin(), open.end(), i / size) == open.end()) choice[i] = -1e300;
    r.chosen = largest(choice, m.per_token);
    sum = 0;
    for (const std::size_t e : r.chosen) sum += r.scores[e];
    for (const std::size_t e : r.chosen)
        r.weights.push_back(m.scale * r.scores[e] / (m.normalize ? sum : 1));
    return r;
}

/// sum_i f_i P_i of one sequence and one router (eq. 17 to 20), without its weight alpha.
inline double reference_balance(const MixtureOfExperts& m, const std::vector<Routed>& tokens) {
    const auto n = static_cast<double>(tokens.size());
    const auto experts = static_cast<std::size_t>(m.experts);
    Row f(experts, 0), p(experts, 0);
    for (const Routed& r : tokens) {
        double sum = 0;
        for (const double s : r.scores) sum += s;
        for (std::size_t i = 0; i < experts; ++i) p[i] += r.scores[i] / sum / n;
        for (const std::size_t e : largest(r.scores, m.per_token))  // not the biased choice
            f[e] += static_cast<double>(m.experts) / (static_cast<double>(m.per_token) * n);
    }
    double loss = 0;
    for (std::size_t i = 0; i < experts; ++i) loss += f[i] * p[i];
    return loss;
}

}  // namespace gradus::test
