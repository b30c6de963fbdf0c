// SPDX-License-Identifier: Apache-2.0
// Statistics of logits over a slice of the vocabulary. Bound: bytes of the logits, and exp.
#include <algorithm>
#include <cmath>

#include "cpu_math.hpp"
#include "cpu_ops.hpp"
#include "gradus/base/error.hpp"

namespace gradus::cpu {

void CpuOps::head_max(Tensor row_max, Tensor logits, float inv_temperature) {
    const auto n = logits.shape().row_elements();
    const auto rows = logits.dim(0);
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* z = logits.f32() + r * n;
        float max = z[0];
#pragma omp simd reduction(max : max)
        for (std::int64_t j = 0; j < n; ++j) max = z[j] > max ? z[j] : max;
        // Scaling is monotonic, so the maximum of the scaled logits is the scaled maximum.
        row_max.f32()[r] = max * inv_temperature;
    }
}

namespace {

struct RowSums {
    double s0, s1;
};

/// float32 within a block, float64 over the blocks. (One loop that mixes the two widths with a
/// selection is miscompiled by GCC 12.2 at -O3 -fno-trapping-math.)
RowSums row_sums(const float* z, std::int64_t n, float inv_temperature, float max) {
    constexpr std::int64_t kBlockColumns = 512;
    RowSums total{0, 0};
    for (std::int64_t begin = 0; begin < n; begin += kBlockColumns) {
        const auto end = std::min(n, begin + kBlockColumns);
        float s0 = 0;
        float s1 = 0;
#pragma omp simd reduction(+ : s0, s1)
        for (std::int64_t j = begin; j < end; ++j) {
            const float y = z[j] * inv_temperature - max;
            const float e = exp_f32(y);
            s0 += e;
            s1 += e * (y < -200.0f ? -200.0f : y);  // an impossible token (-inf) adds 0, not NaN
        }
        total.s0 += static_cast<double>(s0);
        total.s1 += static_cast<double>(s1);
    }
    return total;
}

}  // namespace

void CpuOps::head_sums(Tensor sums, Tensor logits, Tensor row_max, Tensor targets,
                       std::int64_t offset, float inv_temperature) {
    const auto n = logits.shape().row_elements();
    const auto rows = logits.dim(0);
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* z = logits.f32() + r * n;
        const float max = row_max.f32()[r];
        const auto [s0, s1] = row_sums(z, n, inv_temperature, row_max.f32()[r]);
        const auto target = targets.i32()[r] - offset;
        const bool here = targets.i32()[r] >= 0 && target >= 0 && target < n;
        float* out = sums.f32() + 3 * r;
        out[0] = static_cast<float>(s0);
        out[1] = static_cast<float>(s1);
        out[2] = here ? z[target] * inv_temperature - max : 0.0f;
    }
}

void CpuOps::head_statistics(Tensor row_max, Tensor sums, Tensor logits, Tensor targets,
                             float inv_temperature) {
    head_max(row_max, logits, inv_temperature);
    head_sums(sums, logits, row_max, targets, 0, inv_temperature);
}

void CpuOps::head_finish(Tensor log_prob, Tensor entropy, Tensor sums) {
    const auto rows = log_prob.elements();
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* s = sums.f32() + 3 * r;
        const double log_sum = std::log(static_cast<double>(s[0]));
        log_prob.f32()[r] = static_cast<float>(s[2] - log_sum);
        entropy.f32()[r] = static_cast<float>(log_sum - static_cast<double>(s[1]) / s[0]);
    }
}

void CpuOps::head_backward(Tensor d_logits, Tensor logits, Tensor row_max, Tensor sums,
                           Tensor targets, Tensor d_log_prob, Tensor d_entropy, std::int64_t offset,
                           float inv_temperature) {
    const auto n = logits.shape().row_elements();
    const auto rows = logits.dim(0);
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* z = logits.f32() + r * n;
        float* d = d_logits.f32() + r * n;
        const float* s = sums.f32() + 3 * r;
        const float max = row_max.f32()[r];
        const float log_sum = std::log(s[0]);
        const float entropy = log_sum - s[1] / s[0];
        // A row without a target has no log-prob to pass a gradient through.
        const float g = targets.i32()[r] >= 0 ? d_log_prob.f32()[r] * inv_temperature : 0.0f;
        const float h = d_entropy.f32()[r] * inv_temperature;
        const float inverse = 1.0f / s[0];
        const float shift = entropy - log_sum;
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            const float y = z[j] * inv_temperature - max;
            const float p = exp_f32(y) * inverse;
            const float slope = p == 0.0f ? 0.0f : p * (y + shift);
            d[j] = -g * p - h * slope;
        }
        const auto target = targets.i32()[r] - offset;
        if (targets.i32()[r] >= 0 && target >= 0 && target < n) d[target] += g;
    }
}

}  // namespace gradus::cpu
