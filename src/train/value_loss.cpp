// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/value_loss.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gradus {

std::array<double*, 8> ValueLossSums::summed() {
    return {&loss, &value, &clipped, &returns, &return_squares, &error, &error_squares, &tokens};
}

void ValueLossSums::add(const ValueLossSums& more) {
    ValueLossSums other = more;
    const auto mine = summed(), its = other.summed();
    for (std::size_t i = 0; i < mine.size(); ++i) *mine[i] += *its[i];
}

double ValueLossSums::explained_variance() const {
    const auto variance = [this](double sum, double squares) {
        return squares / tokens - (sum / tokens) * (sum / tokens);
    };
    const double whole = variance(returns, return_squares);
    // Of returns that are all alike rounding leaves something.
    if (!(whole > 1e-12 * return_squares / tokens)) return std::numeric_limits<double>::quiet_NaN();
    return 1 - variance(error, error_squares) / whole;
}

template <class Real>
void value_loss(const ValueLossOptions& options, double count, const ValueTokens<Real>& tokens,
                std::span<Real> d_value, ValueLossSums& sums) {
    for (std::size_t t = 0; t < d_value.size(); ++t) {
        const auto v = static_cast<double>(tokens.value[t]), old = static_cast<double>(tokens.old_value[t]);
        const auto target = static_cast<double>(tokens.returns[t]);
        const double held = options.clip > 0 ? std::clamp(v, old - options.clip, old + options.clip) : v;
        const double plain = (v - target) * (v - target), clipped = (held - target) * (held - target);
        sums.loss += 0.5 * std::max(plain, clipped) / count;
        // A value beyond the bound that the clipped term rules has no gradient.
        d_value[t] = static_cast<Real>(clipped > plain ? 0.0 : (v - target) / count);
        sums.clipped += clipped > plain ? 1 : 0;
        sums.value += v;
        sums.returns += target;
        sums.return_squares += target * target;
        sums.error += target - old;
        sums.error_squares += (target - old) * (target - old);
        sums.tokens += 1;
    }
}

template void value_loss<float>(const ValueLossOptions&, double, const ValueTokens<float>&, std::span<float>,
                                ValueLossSums&);
template void value_loss<double>(const ValueLossOptions&, double, const ValueTokens<double>&, std::span<double>,
                                 ValueLossSums&);

}  // namespace gradus
