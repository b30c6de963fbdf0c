// SPDX-License-Identifier: Apache-2.0
// The loss of a critic.
#pragma once

#include <array>
#include <span>

namespace gradus {

struct ValueLossOptions {
    double clip = 0.5;  ///< values count as at most this far from those of the rollout; 0: as they are
};

/// Sums over the tokens seen, to be added over sequences and ranks; divided by `tokens` the means.
struct ValueLossSums {
    double loss = 0;         ///< already normalised
    double value = 0;
    double clipped = 0;      ///< tokens whose clipped term is the larger one
    double returns = 0, return_squares = 0;
    double error = 0, error_squares = 0;  ///< of the rollout's values: return - value
    double tokens = 0;

    void add(const ValueLossSums& more);
    /// All of them, in a fixed order, for a reduction over ranks.
    std::array<double*, 8> summed();
    /// 1 - variance of the error / variance of the returns: 1 for a critic that knows all, 0 for one that
    /// knows as much as the mean; NaN where the returns do not vary.
    double explained_variance() const;
};

/// One sequence's trained tokens, spans of the same length.
template <class Real>
struct ValueTokens {
    std::span<const Real> value;      ///< now
    std::span<const Real> old_value;  ///< at the rollout
    std::span<const Real> returns;
};

/// 1/2 mean max((v - R)^2, (clip(v, old - c, old + c) - R)^2) over `count` tokens (of the whole update, on
/// all ranks): the value loss of PPO's code (Schulman et al. 2017, openai/baselines ppo2; as verl's
/// compute_value_loss). Added to `sums`; its derivative dL/dv is written.
template <class Real>
void value_loss(const ValueLossOptions& options, double count, const ValueTokens<Real>& tokens,
                std::span<Real> d_value, ValueLossSums& sums);

}  // namespace gradus
