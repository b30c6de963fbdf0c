// SPDX-License-Identifier: Apache-2.0
// The optimiser's operations, float32:
//   sum_squares  result += sum of x^2, in float64
//   adamw        AdamW (Loshchilov and Hutter 2019), the formula of cpu_ops_optim.cpp:
//     g' = g grad_scale,  m = b1 m + (1 - b1) g',  v = b2 v + (1 - b2) g'^2,
//     param = param (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps),  g = 0
// Layout: pieces of 16 bytes; sums in two kernels, blocks and then their sums in order of blocks.
// Bound: bytes: x, read once; param, g, m and v, read and written once, and weight, written once.
#include <cmath>

#include "kernels.hpp"
#include "rows.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kSumBlocks = 1024;  // one number for all devices: sums do not depend on the device

/// The sum over a block, in thread 0, in a fixed order.
__device__ double block_sum_f64(double x) {
    __shared__ double sums[kThreads / 32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    double all = 0;
    for (int w = 0; w < kThreads / 32; ++w) all += sums[w];
    return all;
}

template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    square_sums_kernel(double* partial, const T* x, std::int64_t pieces, std::int64_t n) {
    double sum = 0;
    const auto add = [&](float value) { sum += static_cast<double>(value) * value; };
    const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
    const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
#pragma unroll 4
    for (std::int64_t i = begin; i < pieces; i += stride) {
        const Vec<T, kCount> a = load_vec<kCount>(x + i * kCount);
#pragma unroll
        for (int k = 0; k < kCount; ++k) add(a.get(k));
    }
    // The numbers after the last piece.
    if (begin < n - pieces * kCount) add(to_float(x[pieces * kCount + begin]));
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class Out>
__global__ void __launch_bounds__(kThreads)
    add_square_sums_kernel(Out* result, const double* partial, int blocks) {
    double sum = 0;
    for (int i = threadIdx.x; i < blocks; i += kThreads) sum += partial[i];
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) *result = static_cast<Out>(static_cast<double>(*result) + sum);
}

struct Rates {
    float rate;  // lr / (1 - b1^t)
    float root;  // 1 / sqrt(1 - b2^t)
    float keep;  // 1 - lr wd
    float beta1, beta2, eps, grad_scale;
};

template <int kCount, bool kWeight>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(float* param, bf16* weight, float* grad, float* m, float* v, std::int64_t pieces,
                 Rates s) {
    constexpr int kUnroll = 2;
    const std::int64_t first =
        static_cast<std::int64_t>(blockIdx.x) * (kThreads * kUnroll) + threadIdx.x;
    Vec<float, kCount> p[kUnroll], g[kUnroll], m1[kUnroll], m2[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = (first + u * kThreads) * kCount;
        if (i >= pieces * kCount) continue;
        g[u] = load_vec<kCount>(grad + i);
        m1[u] = load_vec<kCount>(m + i);
        m2[u] = load_vec<kCount>(v + i);
        p[u] = load_vec<kCount>(param + i);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = (first + u * kThreads) * kCount;
        if (i >= pieces * kCount) continue;
        Vec<bf16, kCount> w;
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
            const float gi = g[u].at[k] * s.grad_scale;
            m1[u].at[k] = s.beta1 * m1[u].at[k] + (1.0f - s.beta1) * gi;
            m2[u].at[k] = s.beta2 * m2[u].at[k] + (1.0f - s.beta2) * gi * gi;
            p[u].at[k] =
                p[u].at[k] * s.keep - s.rate * m1[u].at[k] / (sqrtf(m2[u].at[k]) * s.root + s.eps);
            g[u].at[k] = 0;
            w.set(k, p[u].at[k]);
        }
        store_vec(param + i, p[u]);
        store_vec(m + i, m1[u]);
        store_vec(v + i, m2[u]);
        store_vec(grad + i, g[u]);
        if constexpr (kWeight) store_vec(weight + i, w);
    }
}

template <int kCount>
void launch_adamw(const Context& c, float* param, bf16* weight, float* grad, float* m, float* v,
                  std::int64_t pieces, const Rates& rates) {
    if (pieces == 0) return;
    const int blocks = blocks_for(pieces, kThreads * 2);
    if (weight != nullptr)
        adamw_kernel<kCount, true>
            <<<blocks, kThreads, 0, c.stream>>>(param, weight, grad, m, v, pieces, rates);
    else
        adamw_kernel<kCount, false>
            <<<blocks, kThreads, 0, c.stream>>>(param, weight, grad, m, v, pieces, rates);
    check_launch();
}

}  // namespace

std::int64_t optimizer_workspace(const OpsLimits&) {
    return kSumBlocks * static_cast<std::int64_t>(sizeof(double));
}

void sum_squares(const Context& c, Tensor result, Tensor x) {
    const std::int64_t n = x.elements();
    if (n == 0) return;
    double* partial = c.scratch<double>(kSumBlocks);
    int blocks = 0;
    dispatch(x.dtype(), [&]<class T>(T) {
        constexpr int kWide = Vec<T>::kSize;
        const bool wide = vectorizes<T>(0, data<T>(x));
        const std::int64_t pieces = wide ? n / kWide : n;
        blocks = static_cast<int>(
            std::clamp<std::int64_t>((pieces + 4 * kThreads - 1) / (4 * kThreads), 1, kSumBlocks));
        if (wide)
            square_sums_kernel<kWide>
                <<<blocks, kThreads, 0, c.stream>>>(partial, data<T>(x), pieces, n);
        else
            square_sums_kernel<1><<<blocks, kThreads, 0, c.stream>>>(partial, data<T>(x), pieces, n);
    });
    check_launch();
    add_square_sums_kernel<<<1, kThreads, 0, c.stream>>>(result.f32(), partial, blocks);
    check_launch();
}

void adamw(const Context& c, Tensor param, Tensor weight, Tensor grad, Tensor m, Tensor v,
           const AdamWStep& step) {
    const std::int64_t n = param.elements();
    const bool writes = weight && weight.data() != param.data();
    require(grad.elements() == n && m.elements() == n && v.elements() == n &&
                (!writes || (weight.elements() == n && weight.dtype() == DType::bf16)),
            "adamw: param {}, grad {}, m {}, v {}", param.shape().text(), grad.shape().text(),
            m.shape().text(), v.shape().text());
    // Bias corrections in float64, as on a CPU.
    const auto t = static_cast<double>(step.step);
    const double correction1 = 1.0 - std::pow(static_cast<double>(step.beta1), t);
    const double correction2 = 1.0 - std::pow(static_cast<double>(step.beta2), t);
    const Rates rates = {.rate = static_cast<float>(step.lr / correction1),
                         .root = static_cast<float>(1.0 / std::sqrt(correction2)),
                         .keep = 1.0f - step.lr * step.weight_decay,
                         .beta1 = step.beta1,
                         .beta2 = step.beta2,
                         .eps = step.eps,
                         .grad_scale = step.grad_scale};
    constexpr int kWide = 4;
    float* p = param.f32();
    bf16* w = writes ? data<bf16>(weight) : nullptr;
    float* g = grad.f32();
    // bfloat16 goes out in pieces of 8 bytes.
    const std::int64_t main =
        vectorizes<float>(0, p, g, m.f32(), v.f32()) && reinterpret_cast<std::uintptr_t>(w) % 8 == 0
            ? n / kWide * kWide
            : 0;
    launch_adamw<kWide>(c, p, w, g, m.f32(), v.f32(), main / kWide, rates);
    launch_adamw<1>(c, p + main, w == nullptr ? w : w + main, g + main, m.f32() + main,
                    v.f32() + main, n - main, rates);
}

}  // namespace gradus::cuda
