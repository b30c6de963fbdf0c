// SPDX-License-Identifier: Apache-2.0
// How a token is drawn from logits (Ops::sample), in whole numbers: sums have no order, so that a CPU
// and a GPU draw the same token. What both must compute alike is written here once.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "gradus/tensor/ops.hpp"

#ifdef __CUDACC__
#define GRADUS_HOST_DEVICE __host__ __device__
#else
#define GRADUS_HOST_DEVICE
#endif

namespace gradus {

struct SampledToken {
    std::int32_t token = 0;
    float log_prob = 0;  ///< after division by the temperature, before top-k and top-p
};

/// Draws a token from `logits` [V], V > 0, with the uniform number bits / 2^32, as Ops::sample says. The
/// token is -1 and the log-prob NaN where a logit is not finite.
SampledToken draw_token(std::span<const float> logits, const SamplingOptions& options, std::uint32_t bits);

/// What (z - max) is multiplied by. A temperature of 0 is greedy, with log-probs at temperature 1.
inline float inverse_temperature(const SamplingOptions& options) {
    if (options.temperature <= 0) return 1;
    constexpr double kMost = std::numeric_limits<float>::max();
    return static_cast<float>(std::min(1 / options.temperature, kMost));
}

constexpr double kMassOfOne = 0x1p44;

/// floor(2^44 e^z) for z <= 0; 0 also where z is -inf or NaN. Every sum is a fused one, so that no
/// compiler's choice of contractions changes a bit. Cody-Waite reduction to |r| <= ln(2) / 2, then the
/// Taylor series: its rest, r^14 / 14!, is below 2^-57.
GRADUS_HOST_DEVICE inline std::uint64_t mass_of(float z) {
    constexpr double kRound = 0x1.8p52;  // adding it leaves the integer in the low bits
    const double x = z >= -31.0f ? z : -31.0f;  // 2^44 e^-31 < 1
    const double shifted = std::fma(x, 0x1.71547652b82fep+0, kRound);
    const double n = shifted - kRound;
    const double r = std::fma(n, -0x1.abc9e3b39803fp-56, std::fma(n, -0x1.62e42fefa39efp-1, x));
    double p = 1.0 / 6227020800.0;
    p = std::fma(p, r, 1.0 / 479001600.0);
    p = std::fma(p, r, 1.0 / 39916800.0);
    p = std::fma(p, r, 1.0 / 3628800.0);
    p = std::fma(p, r, 1.0 / 362880.0);
    p = std::fma(p, r, 1.0 / 40320.0);
    p = std::fma(p, r, 1.0 / 5040.0);
    p = std::fma(p, r, 1.0 / 720.0);
    p = std::fma(p, r, 1.0 / 120.0);
    p = std::fma(p, r, 1.0 / 24.0);
    p = std::fma(p, r, 1.0 / 6.0);
    p = std::fma(p, r, 0.5);
    p = std::fma(p, r, 1.0);
    p = std::fma(p, r, 1.0);
    std::uint64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023 + 44) << 52;  // 2^(n + 44)
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(p * power));
}

/// ceil(top_p * kept), at least one and at most all of it: masses are kept until they reach this.
GRADUS_HOST_DEVICE inline std::uint64_t mass_to_reach(double top_p, std::uint64_t kept) {
    const double wanted = std::ceil(top_p * static_cast<double>(kept));
    if (!(wanted > 1)) return 1;
    return wanted < static_cast<double>(kept) ? static_cast<std::uint64_t>(wanted) : kept;
}

/// floor(bits / 2^32 * kept), kept < 2^63.
GRADUS_HOST_DEVICE inline std::uint64_t share_of_mass(std::uint32_t bits, std::uint64_t kept) {
    return bits * (kept >> 32) + (bits * (kept & 0xffffffffu) >> 32);
}

/// Of a token whose scaled logit is z below the largest.
GRADUS_HOST_DEVICE inline float log_prob_of(float z, std::uint64_t total) {
    return static_cast<float>(z - std::log(static_cast<double>(total) / kMassOfOne));
}

}  // namespace gradus
