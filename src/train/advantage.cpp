// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/advantage.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

using Doubles = std::vector<double>;

/// verl's whitening adds this to the count of tokens and to the variance.
constexpr double kWhitenEps = 1e-8;

/// Statistics of what is not NaN.
struct Statistics {
    double count = 0, mean = 0, squares = 0;  ///< squares: sum of (x - mean)^2
    bool spread = false;

    explicit Statistics(std::span<const double> values) {
        double low = std::numeric_limits<double>::infinity(), high = -low, sum = 0;
        for (const double x : values) {
            if (std::isnan(x)) continue;
            ++count;
            sum += x;
            low = std::min(low, x);
            high = std::max(high, x);
        }
        if (count == 0) return;
        mean = sum / count;
        // Compared, not computed: rounding of the mean must not make an advantage.
        spread = low < high;
        for (const double x : values)
            if (!std::isnan(x)) squares += (x - mean) * (x - mean);
    }
    double sample_std() const { return count > 1 ? std::sqrt(squares / (count - 1)) : 0; }
    double population_std() const { return count > 0 ? std::sqrt(squares / count) : 0; }
};

/// (x - mean) / (sample std + eps); 0 for NaN and where there is no spread.
Doubles standardised(std::span<const double> values, double eps) {
    const Statistics s(values);
    Doubles out(values.size(), 0.0);
    if (!s.spread) return out;
    for (std::size_t i = 0; i < values.size(); ++i)
        if (!std::isnan(values[i])) out[i] = (values[i] - s.mean) / (s.sample_std() + eps);
    return out;
}

double divisor(const AdvantageOptions& o, const Statistics& s) {
    switch (o.std) {
        case GroupStd::sample: return s.sample_std() + o.eps;
        case GroupStd::population: return s.population_std() + o.eps;
        case GroupStd::mean: return s.mean + o.eps;
        case GroupStd::none:
        case GroupStd::batch: break;
    }
    return 1;
}

/// Against the mean of the others, divided by their standard deviation where there is one (NeMo-RL).
Doubles left_out(const AdvantageOptions& o, std::span<const double> rewards, const Statistics& all) {
    Doubles out(rewards.size(), 0.0);
    for (std::size_t i = 0; i < rewards.size(); ++i) {
        if (std::isnan(rewards[i])) continue;
        Doubles others(rewards.begin(), rewards.end());
        others[i] = std::numeric_limits<double>::quiet_NaN();
        const Statistics s(others);
        out[i] = rewards[i] - (all.mean * all.count - rewards[i]) / (all.count - 1);
        if (s.spread) out[i] /= divisor(o, s);
    }
    return out;
}

/// ln C(n, k), -inf where there is none.
double log_choose(double n, double k) {
    if (k > n) return -std::numeric_limits<double>::infinity();
    return std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1);
}

/// Right is a reward above half of the highest; with n responses, c of them right, a set of k holds a right
/// one with chance p = 1 - C(n - c, k) / C(n, k), and sigma = sqrt(p (1 - p)).
Doubles pass_at_k(const AdvantageOptions& o, std::span<const double> rewards) {
    Doubles out(rewards.size(), 0.0);
    const Statistics s(rewards);
    const double k = o.pass_k;
    if (!s.spread || s.count < k) return out;
    double high = -std::numeric_limits<double>::infinity(), low = -high, right = 0;
    for (const double r : rewards)
        if (!std::isnan(r)) high = std::max(high, r), low = std::min(low, r);
    const double bar = (low + high) / 2;
    for (const double r : rewards) right += r > bar;
    const double none = std::exp(log_choose(s.count - right, k) - log_choose(s.count, k));
    const double sigma = std::sqrt(none * (1 - none));
    if (sigma == 0) return out;
    const double with_wrong = std::exp(log_choose(s.count - right - 1, k - 1) - log_choose(s.count - 1, k - 1));
    for (std::size_t i = 0; i < rewards.size(); ++i)
        if (!std::isnan(rewards[i])) out[i] = (rewards[i] > bar ? none : none - with_wrong) / sigma;
    return out;
}

/// [first, end) of each group.
std::vector<std::pair<std::size_t, std::size_t>> groups_of(const std::vector<ScoredResponse>& responses) {
    std::vector<std::pair<std::size_t, std::size_t>> groups;
    for (std::size_t i = 0; i < responses.size(); ++i) {
        if (i == 0 || responses[i].group != responses[i - 1].group) groups.emplace_back(i, i);
        groups.back().second = i + 1;
    }
    return groups;
}

/// The reward of each response with its token rewards.
Doubles outcomes(const std::vector<ScoredResponse>& responses) {
    Doubles out;
    for (const ScoredResponse& r : responses)
        out.push_back(std::accumulate(r.token_rewards.begin(), r.token_rewards.end(), r.reward));
    return out;
}

/// Of each response one number, from its group's.
template <class OfGroup>
Doubles by_group(const std::vector<ScoredResponse>& responses, const Doubles& rewards, const OfGroup& of_group) {
    Doubles out;
    for (const auto& [first, end] : groups_of(responses)) {
        const Doubles part = of_group(std::span(rewards).subspan(first, end - first));
        out.insert(out.end(), part.begin(), part.end());
    }
    return out;
}

/// GDPO.
Doubles of_each_reward(const AdvantageOptions& o, const std::vector<ScoredResponse>& responses) {
    Doubles sum(responses.size(), 0.0);
    const std::size_t parts = responses.empty() ? 0 : responses.front().parts.size();
    for (std::size_t k = 0; k < parts; ++k) {
        Doubles column;
        for (const ScoredResponse& r : responses) column.push_back(r.parts[k]);
        const Doubles z = by_group(responses, column,
                                   [&](std::span<const double> part) { return standardised(part, o.eps); });
        for (std::size_t i = 0; i < z.size(); ++i) sum[i] += z[i];
    }
    for (std::size_t i = 0; i < sum.size(); ++i)
        if (std::isnan(responses[i].reward)) sum[i] = std::numeric_limits<double>::quiet_NaN();
    return standardised(sum, o.eps);
}

Doubles one_a_response(const AdvantageOptions& o, const std::vector<ScoredResponse>& responses) {
    if (o.kind == AdvantageKind::rewards) return of_each_reward(o, responses);
    const Doubles rewards = outcomes(responses);
    Doubles out = by_group(responses, rewards, [&](std::span<const double> part) {
        return o.kind == AdvantageKind::pass_at_k ? pass_at_k(o, part) : group_advantages(o, part);
    });
    const Statistics all(rewards);
    if (o.std == GroupStd::batch && all.spread)
        for (double& a : out) a /= all.sample_std() + o.eps;
    return out;
}

/// DeepSeekMath, 4.1.3.
void fill_process(const AdvantageOptions& o, const std::vector<ScoredResponse>& responses,
                  std::vector<TokenAdvantages>& out) {
    for (const auto& [first, end] : groups_of(responses)) {
        Doubles steps;
        for (std::size_t i = first; i < end; ++i)
            for (const StepReward& s : responses[i].steps) steps.push_back(s.reward);
        const Statistics all(steps);
        if (!all.spread) continue;
        for (std::size_t i = first; i < end; ++i)
            for (const StepReward& s : responses[i].steps) {
                if (std::isnan(s.reward)) continue;
                const double z = (s.reward - all.mean) / divisor(o, all);
                const auto last = std::min<std::int64_t>(s.end, responses[i].tokens - 1);
                for (std::int64_t t = 0; t <= last; ++t) out[i].advantage[static_cast<std::size_t>(t)] += z;
            }
    }
}

/// From the last token back: the error of each value, discounted. Without values these are returns.
void fill_by_time(const AdvantageOptions& o, const ScoredResponse& r, TokenAdvantages& out) {
    const bool gae = o.kind == AdvantageKind::gae;
    require(!gae || r.values.size() == out.advantage.size(), "gae: {} values for {} tokens", r.values.size(),
            out.advantage.size());
    const double lambda = gae ? o.lambda : 1.0;
    double running = 0, next_value = 0;
    for (std::size_t t = out.advantage.size(); t-- > 0;) {
        double reward = t + 1 == out.advantage.size() ? r.reward : 0.0;
        if (!r.token_rewards.empty()) reward += r.token_rewards[t];
        const double value = gae ? r.values[t] : 0.0;
        running = reward + o.gamma * next_value - value + o.gamma * lambda * running;
        next_value = value;
        out.advantage[t] = running;
    }
    if (!gae) return;
    for (std::size_t t = 0; t < out.advantage.size(); ++t)
        out.returns[t] = out.advantage[t] + r.values[t];
}

void whiten(Whitening kind, const std::vector<ScoredResponse>& responses, std::vector<TokenAdvantages>& out) {
    if (kind == Whitening::none) return;
    Doubles all;
    for (std::size_t i = 0; i < out.size(); ++i)
        if (!std::isnan(responses[i].reward)) all.insert(all.end(), out[i].advantage.begin(), out[i].advantage.end());
    const bool spread = Statistics(all).spread;
    const auto n = static_cast<double>(all.size());
    const double mean = std::accumulate(all.begin(), all.end(), 0.0) / (n + kWhitenEps);
    double variance = 0;
    for (const double a : all) variance += (a - mean) * (a - mean) / (n + kWhitenEps);
    if (kind == Whitening::sample) variance *= n / (n - 1);
    for (std::size_t i = 0; i < out.size(); ++i)
        for (double& a : out[i].advantage)
            a = spread && !std::isnan(responses[i].reward) ? (a - mean) / std::sqrt(variance + kWhitenEps) : 0.0;
}

}  // namespace

std::vector<double> group_advantages(const AdvantageOptions& o, std::span<const double> rewards) {
    const Statistics s(rewards);
    Doubles out(rewards.size(), 0.0);
    if (s.count == 1 && o.lone_reward) {
        for (std::size_t i = 0; i < rewards.size(); ++i)
            if (!std::isnan(rewards[i])) out[i] = rewards[i] / (o.std == GroupStd::none ? 1.0 : 1.0 + o.eps);
        return out;
    }
    if (!s.spread) return out;
    if (o.kind == AdvantageKind::leave_one_out) return left_out(o, rewards, s);
    for (std::size_t i = 0; i < rewards.size(); ++i)
        if (!std::isnan(rewards[i])) out[i] = (rewards[i] - s.mean) / divisor(o, s);
    return out;
}

std::vector<TokenAdvantages> token_advantages(const AdvantageOptions& o,
                                              const std::vector<ScoredResponse>& responses) {
    std::vector<TokenAdvantages> out(responses.size());
    const bool gae = o.kind == AdvantageKind::gae;
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i].advantage.assign(static_cast<std::size_t>(responses[i].tokens), 0.0);
        if (gae) out[i].returns.assign(out[i].advantage.size(), 0.0);
    }
    if (o.kind == AdvantageKind::process) {
        fill_process(o, responses, out);
    } else if (gae || o.kind == AdvantageKind::reinforce) {
        for (std::size_t i = 0; i < out.size(); ++i) {
            if (!std::isnan(responses[i].reward))
                fill_by_time(o, responses[i], out[i]);
            else if (gae)
                std::fill(out[i].returns.begin(), out[i].returns.end(), std::numeric_limits<double>::quiet_NaN());
        }
    } else {
        const Doubles each = one_a_response(o, responses);
        for (std::size_t i = 0; i < out.size(); ++i)
            std::fill(out[i].advantage.begin(), out[i].advantage.end(), each[i]);
    }
    whiten(o.whitening, responses, out);
    return out;
}

}  // namespace gradus
