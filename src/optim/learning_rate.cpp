// SPDX-License-Identifier: Apache-2.0
#include "gradus/optim/learning_rate.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "gradus/base/error.hpp"

namespace gradus {

double LearningRate::at(std::int64_t step) const {
    if (step < warmup) {
        return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
    }
    if (kind == LearningRateKind::constant) return peak;
    // The step that has the peak: the warm-up's last, or the first of all.
    const std::int64_t top = std::max<std::int64_t>(warmup - 1, 0);
    const std::int64_t last = total - 1;
    if (last <= top) return peak;
    const double done =
        std::min(1.0, static_cast<double>(step - top) / static_cast<double>(last - top));
    const double share = kind == LearningRateKind::linear
                             ? 1.0 - done
                             : 0.5 * (1.0 + std::cos(std::numbers::pi * done));
    return floor + (peak - floor) * share;
}

LearningRateKind parse_learning_rate_kind(const std::string& name) {
    if (name == "constant") return LearningRateKind::constant;
    if (name == "linear") return LearningRateKind::linear;
    if (name == "cosine") return LearningRateKind::cosine;
    throw DeckError(
        fmt::format("unknown learning rate schedule `{}`: constant, linear or cosine", name));
}

}  // namespace gradus
