// SPDX-License-Identifier: Apache-2.0
// Statistics of rows of logits z [R, V] f32 and their gradient, with y_j = z_j / temperature - m:
//   m = max_j z_j / temperature,  s0 = sum_j e^y_j,  s1 = sum_j e^y_j y_j,
//   dz_j = (g (1[j = target] - p_j) - h p_j (log p_j + H)) / temperature,  p_j = e^y_j / s0,
// where log p_j + H = y_j - log s0 + H = y_j - s1 / s0.
// One block a row. head_statistics reads a row once: a thread keeps the maximum of what it has seen and
// sums relative to it; where the maximum rises by d, s1 becomes e^-d (s1 - d s0) and s0 becomes e^-d s0
// (Milakov and Gimelshein, arXiv 1805.02867, extended to s1). Sums are in a fixed order.
// Bound: bytes. Statistics read 4 R V; the gradient reads that and writes 4 R V or, in bf16, 2 R V. H100,
// [2048, 151936]: 3.0 TB/s and 2.8 TB/s (a copy: 3.0).
#include <cmath>

#include "check.hpp"
#include "kernels.hpp"
#include "vector.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int kLoads = 4;  ///< vectors in flight a thread
constexpr float kNone = -INFINITY;

/// z times 1 / temperature, never contracted with the subtraction of m: y of the largest is 0.
__device__ float scaled(float z, float inv_temperature) { return __fmul_rn(z, inv_temperature); }

/// Calls body(z[kCount], j): the next numbers of a thread and their first column; past the end -inf.
template <bool kVector, class Body>
__device__ void each_piece(const float* row, std::int64_t columns, const Body& body) {
    if constexpr (kVector) {
        constexpr int kWide = Vec<float>::kSize;
        for (std::int64_t begin = threadIdx.x * kWide; begin < columns;
             begin += kThreads * kWide * kLoads) {
            Vec<float> x[kLoads];
#pragma unroll
            for (int i = 0; i < kLoads; ++i) {
                const std::int64_t j = begin + i * kThreads * kWide;
                if (j < columns)
                    x[i] = load_vec(row + j);
                else
                    x[i] = {kNone, kNone, kNone, kNone};
            }
            float z[kLoads * kWide];
#pragma unroll
            for (int i = 0; i < kLoads * kWide; ++i) z[i] = x[i / kWide].at[i % kWide];
            body(z);
        }
    } else {
        constexpr int kCount = 4 * kLoads;
        for (std::int64_t begin = threadIdx.x; begin < columns; begin += kThreads * kCount) {
            float z[kCount];
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                const std::int64_t j = begin + i * kThreads;
                z[i] = j < columns ? row[j] : kNone;
            }
            body(z);
        }
    }
}

template <int kCount>
__device__ float largest(const float (&z)[kCount]) {
    float max = z[0];
#pragma unroll
    for (int i = 1; i < kCount; ++i) max = fmaxf(max, z[i]);
    return max;
}

/// What to subtract where no logit is possible yet: -inf stays -inf, NaN stays NaN.
__device__ float finite_base(float max) { return max == kNone ? 0.0f : max; }

struct RowSums {
    float s0 = 0, s1 = 0;
    /// An impossible token (-inf) adds 0, not NaN.
    __device__ void add(float y) {
        const float e = expf(y);
        s0 += e;
        s1 += e * (y < -200.0f ? -200.0f : y);
    }
};

__device__ float block_max(float x, float* shared) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared[0];
    for (int i = 1; i < kThreads / 32; ++i) x = fmaxf(x, shared[i]);
    __syncthreads();
    return x;
}

struct HeadRows {
    const float* logits;
    const std::int32_t* targets;
    std::int64_t columns, offset;
    float inv_temperature;

    __device__ const float* row() const { return logits + blockIdx.x * columns; }
    /// The target's column of this slice; -1 where it has none or another slice has it.
    __device__ std::int64_t target() const {
        const std::int64_t id = targets[blockIdx.x], at = id - offset;
        return id >= 0 && at >= 0 && at < columns ? at : -1;
    }
};

/// Thread 0 writes what the block has summed up.
__device__ void write_sums(float* sums, const HeadRows& in, RowSums total, float max) {
    if (threadIdx.x != 0) return;
    const std::int64_t target = in.target();
    float* out = sums + 3 * static_cast<std::int64_t>(blockIdx.x);
    out[0] = total.s0;
    out[1] = total.s1;
    out[2] = target >= 0 ? scaled(in.row()[target], in.inv_temperature) - max : 0.0f;
}

template <bool kVector>
__global__ void __launch_bounds__(kThreads) head_max_kernel(float* row_max, HeadRows in) {
    __shared__ float shared[33];
    float max = kNone;
    each_piece<kVector>(in.row(), in.columns,
                        [&](const auto& z) { max = fmaxf(max, largest(z)); });
    max = block_max(max, shared);
    if (threadIdx.x == 0) row_max[blockIdx.x] = scaled(max, in.inv_temperature);
}

template <bool kVector>
__global__ void __launch_bounds__(kThreads)
    head_sums_kernel(float* sums, const float* row_max, HeadRows in) {
    __shared__ float shared[33];
    const float max = row_max[blockIdx.x], base = finite_base(max);
    RowSums total;
    each_piece<kVector>(in.row(), in.columns, [&](const auto& z) {
#pragma unroll
        for (const float x : z) total.add(scaled(x, in.inv_temperature) - base);
    });
    total.s0 = block_sum(total.s0, shared);
    total.s1 = block_sum(total.s1, shared);
    write_sums(sums, in, total, max);
}

template <bool kVector>
__global__ void __launch_bounds__(kThreads)
    head_statistics_kernel(float* row_max, float* sums, HeadRows in) {
    __shared__ float shared[33];
    float max = kNone;
    RowSums total;
    // Moves the sums to a new maximum; without any sums yet there is nothing to move.
    const auto rise = [&](float to) {
        if (max > kNone) {
            const float d = to - max, factor = expf(-d);
            total.s1 = factor * (total.s1 - d * total.s0);
            total.s0 *= factor;
        }
        max = to;
    };
    each_piece<kVector>(in.row(), in.columns, [&](const auto& z) {
        const float top = scaled(largest(z), in.inv_temperature);
        if (top > max) rise(top);
        const float base = finite_base(max);
#pragma unroll
        for (const float x : z) total.add(scaled(x, in.inv_temperature) - base);
    });
    const float top = block_max(max, shared);
    if (top > max) rise(top);
    total.s0 = block_sum(total.s0, shared);
    total.s1 = block_sum(total.s1, shared);
    if (threadIdx.x == 0) row_max[blockIdx.x] = top;
    write_sums(sums, in, total, top);
}

__global__ void head_finish_kernel(float* log_prob, float* entropy, const float* sums,
                                   std::int64_t rows) {
    const std::int64_t r = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
    if (r >= rows) return;
    const float* s = sums + 3 * r;
    const double log_sum = log(static_cast<double>(s[0]));
    log_prob[r] = static_cast<float>(s[2] - log_sum);
    entropy[r] = static_cast<float>(log_sum - static_cast<double>(s[1]) / s[0]);
}

struct HeadGradient {
    const float *row_max, *sums, *d_log_prob, *d_entropy;
};

/// What the gradient of a row needs; dz of one logit.
struct RowGradient {
    float max, inverse, shift, g, h, inv_temperature;
    std::int64_t target;

    __device__ RowGradient(const HeadRows& in, const HeadGradient& d)
        : inv_temperature(in.inv_temperature), target(in.target()) {
        const std::int64_t r = blockIdx.x;
        const float* s = d.sums + 3 * r;
        max = d.row_max[r];
        inverse = 1.0f / s[0];
        shift = -s[1] / s[0];
        // A row without a target has no log-prob to pass a gradient through.
        g = in.targets[r] >= 0 ? d.d_log_prob[r] * inv_temperature : 0.0f;
        h = d.d_entropy[r] * inv_temperature;
    }
    __device__ float at(float z, std::int64_t j) const {
        const float y = scaled(z, inv_temperature) - max;
        const float p = expf(y) * inverse;
        const float slope = p == 0.0f ? 0.0f : p * (y + shift);
        return -g * p - h * slope + (j == target ? g : 0.0f);
    }
};

/// d_logits may be logits: each thread reads before it writes, and no other thread's numbers.
template <class Out, bool kVector>
__global__ void __launch_bounds__(kThreads)
    head_backward_kernel(Out* d_logits, HeadRows in, HeadGradient d) {
    const RowGradient gradient(in, d);
    const float* row = in.row();
    Out* to = d_logits + blockIdx.x * in.columns;
    if constexpr (kVector) {
        constexpr int kWide = Vec<Out>::kSize, kParts = kWide / Vec<float>::kSize;
        constexpr int kPieces = kLoads / kParts;
        for (std::int64_t begin = threadIdx.x * kWide; begin < in.columns;
             begin += kThreads * kWide * kPieces) {
            Vec<float> z[kPieces][kParts];
#pragma unroll
            for (int i = 0; i < kPieces; ++i) {
                const std::int64_t j = begin + i * kThreads * kWide;
                if (j < in.columns)
                    for (int k = 0; k < kParts; ++k) z[i][k] = load_vec(row + j + 4 * k);
            }
#pragma unroll
            for (int i = 0; i < kPieces; ++i) {
                const std::int64_t j = begin + i * kThreads * kWide;
                if (j >= in.columns) break;
                Vec<Out> out;
                for (int k = 0; k < kWide; ++k) out.set(k, gradient.at(z[i][k / 4].at[k % 4], j + k));
                store_vec(to + j, out);
            }
        }
    } else {
        for (std::int64_t j = threadIdx.x; j < in.columns; j += kThreads)
            to[j] = from_float<Out>(gradient.at(row[j], j));
    }
}

HeadRows rows_of(Tensor logits, Tensor targets, std::int64_t offset, float inv_temperature) {
    return {logits.f32(), targets ? targets.i32() : nullptr, logits.shape().row_elements(), offset,
            inv_temperature};
}

/// Calls launch(blocks, std::bool_constant) with whether rows can be read in 16-byte pieces.
template <class Launch>
void by_alignment(Tensor logits, bool more, const Launch& launch) {
    if (logits.dim(0) == 0) return;
    const auto blocks = static_cast<unsigned>(logits.dim(0));
    if (more && vectorizes<float>(logits.shape().row_elements(), logits.f32()))
        launch(blocks, std::true_type{});
    else
        launch(blocks, std::false_type{});
    check_launch();
}

}  // namespace

void head_max(const Context& c, Tensor row_max, Tensor logits, float inv_temperature) {
    const HeadRows in = rows_of(logits, {}, 0, inv_temperature);
    by_alignment(logits, true, [&](unsigned blocks, auto vector) {
        head_max_kernel<vector><<<blocks, kThreads, 0, c.stream>>>(row_max.f32(), in);
    });
}

void head_sums(const Context& c, Tensor sums, Tensor logits, Tensor row_max, Tensor targets,
               std::int64_t offset, float inv_temperature) {
    const HeadRows in = rows_of(logits, targets, offset, inv_temperature);
    by_alignment(logits, true, [&](unsigned blocks, auto vector) {
        head_sums_kernel<vector><<<blocks, kThreads, 0, c.stream>>>(sums.f32(), row_max.f32(), in);
    });
}

void head_statistics(const Context& c, Tensor row_max, Tensor sums, Tensor logits, Tensor targets,
                     float inv_temperature) {
    const HeadRows in = rows_of(logits, targets, 0, inv_temperature);
    by_alignment(logits, true, [&](unsigned blocks, auto vector) {
        head_statistics_kernel<vector>
            <<<blocks, kThreads, 0, c.stream>>>(row_max.f32(), sums.f32(), in);
    });
}

void head_finish(const Context& c, Tensor log_prob, Tensor entropy, Tensor sums) {
    const std::int64_t rows = log_prob.elements();
    if (rows == 0) return;
    head_finish_kernel<<<blocks_for(rows, 128), 128, 0, c.stream>>>(log_prob.f32(), entropy.f32(),
                                                                    sums.f32(), rows);
    check_launch();
}

void head_backward(const Context& c, Tensor d_logits, Tensor logits, Tensor row_max, Tensor sums,
                   Tensor targets, Tensor d_log_prob, Tensor d_entropy, std::int64_t offset,
                   float inv_temperature) {
    const HeadRows in = rows_of(logits, targets, offset, inv_temperature);
    const HeadGradient d{row_max.f32(), sums.f32(), d_log_prob.f32(), d_entropy.f32()};
    dispatch(d_logits.dtype(), [&](auto zero) {
        using Out = decltype(zero);
        Out* to = data<Out>(d_logits);
        by_alignment(logits, vectorizes<Out>(in.columns, to), [&](unsigned blocks, auto vector) {
            head_backward_kernel<Out, vector><<<blocks, kThreads, 0, c.stream>>>(to, in, d);
        });
    });
}

}  // namespace gradus::cuda
