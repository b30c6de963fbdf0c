// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace gradus {

enum class LearningRateKind { constant, linear, cosine };

/// Learning rate over steps 0 .. total - 1: linear warm-up over `warmup` steps to `peak` (step s of
/// the warm-up has peak (s + 1) / warmup), then constant, or linear or cosine decay to `floor` at
/// the last step.
struct LearningRate {
    LearningRateKind kind = LearningRateKind::constant;
    double peak = 0, floor = 0;
    std::int64_t warmup = 0, total = 0;
    double at(std::int64_t step) const;
};
LearningRateKind parse_learning_rate_kind(const std::string& name);

}  // namespace gradus
