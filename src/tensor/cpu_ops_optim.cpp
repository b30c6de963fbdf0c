// SPDX-License-Identifier: Apache-2.0
// The optimiser's operations. Bound: bytes.
#include <cmath>

#include "cpu_ops.hpp"
#include "gradus/base/error.hpp"

namespace gradus::cpu {

void CpuOps::sum_squares(Tensor result, Tensor x) {
    const float* a = x.f32();
    const auto n = x.elements();
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < n; ++i) {
        const double value = a[i];
        sum += value * value;
    }
    result.f32()[0] = static_cast<float>(static_cast<double>(result.f32()[0]) + sum);
}

/// m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2,
/// param = param (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
void CpuOps::adamw(Tensor param, Tensor weight, Tensor grad, Tensor m, Tensor v,
                   const AdamWStep& step) {
    const auto n = param.elements();
    require(grad.elements() == n && m.elements() == n && v.elements() == n,
            "adamw: param {}, grad {}, m {}, v {}", param.shape().text(), grad.shape().text(),
            m.shape().text(), v.shape().text());
    require(!weight || weight.data() == param.data(), "adamw: weights are float32 on a CPU");
    const auto t = static_cast<double>(step.step);
    const double correction1 = 1.0 - std::pow(static_cast<double>(step.beta1), t);
    const double correction2 = 1.0 - std::pow(static_cast<double>(step.beta2), t);
    const auto rate = static_cast<float>(step.lr / correction1);
    const auto root = static_cast<float>(1.0 / std::sqrt(correction2));
    const float keep = 1.0f - step.lr * step.weight_decay;
    const float b1 = step.beta1;
    const float b2 = step.beta2;
    const float eps = step.eps;
    const float grad_scale = step.grad_scale;
    float* __restrict p = param.f32();
    float* __restrict g = grad.f32();
    float* __restrict m1 = m.f32();
    float* __restrict m2 = v.f32();
    for (std::int64_t i = 0; i < n; ++i) {
        const float gi = g[i] * grad_scale;
        g[i] = 0;
        m1[i] = b1 * m1[i] + (1.0f - b1) * gi;
        m2[i] = b2 * m2[i] + (1.0f - b2) * gi * gi;
        p[i] = p[i] * keep - rate * m1[i] / (std::sqrt(m2[i]) * root + eps);
    }
}

}  // namespace gradus::cpu
