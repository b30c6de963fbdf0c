// SPDX-License-Identifier: Apache-2.0
// Inline float32 mathematics that compilers turn into vector code.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace gradus::cpu {

/// e^x with a relative error below 2e-7. Cody-Waite reduction to |r| <= ln(2)/2 and the polynomial
/// of Cephes' expf (Moshier 1989). Results below 2^-125 are zero, above the range infinity; NaN
/// stays NaN.
inline float exp_f32(float x) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
    const float shifted = x * 1.44269504088896341f + kRound;
    const float n = shifted - kRound;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    // 2^(n - 1), so that n = 128 does not overflow the exponent field; the missing 2 comes after.
    const auto power = (std::bit_cast<std::uint32_t>(shifted) << 23) + (126u << 23);
    const float y = p * std::bit_cast<float>(power) * 2.0f;
    const float low = x < -86.6f ? 0.0f : y;
    return x > 88.7228394f ? std::numeric_limits<float>::infinity() : low;
}

inline float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

}  // namespace gradus::cpu
