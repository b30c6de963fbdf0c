// SPDX-License-Identifier: Apache-2.0
// RMSNorm (Zhang and Sennrich 2019) of rows of N numbers:
//   rms_norm      y = x r w, r = 1 / sqrt(mean(x^2) + eps)
//   add_rms_norm  s = x + delta, rounded to its type; y = the norm of s
// Layout: a row lies in the registers of 8, 16 or 32 lanes (N up to 2048 bfloat16 or 1024 float) or of a
// block (up to 16 times that), in pieces of 16 bytes; a block reads any other row number by number, twice.
// Bound: bytes: x and y, or x, delta, s and y, each once.
#include "kernels.hpp"
#include "rms_norm.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kMaxThreads = 1024;  // of a block that holds a row

template <class T>
struct Forward {
    T* out;
    float* inv_rms;
    T* sum;          // null without delta
    const T* x;
    const T* delta;
    const T* weight;
    std::int64_t rows;
    int columns;
    float eps;
};
__device__ float inverse_rms(float squares, int columns, float eps) {
    return 1.0f / sqrtf(squares / static_cast<float>(columns) + eps);
}

/// x = round(x + delta), written to `sum`.
template <class T>
__device__ void add_piece(Packed<T>& x, const Packed<T>& delta, T* sum) {
    float s[Packed<T>::kSize];
#pragma unroll
    for (int k = 0; k < Packed<T>::kSize; ++k) s[k] = x.get(k) + delta.get(k);
    x = pack<T>(s);
    store_packed(sum, x);
}
template <class T>
__device__ float squares_of(const Packed<T>& x) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < Packed<T>::kSize; ++k) sum += x.get(k) * x.get(k);
    return sum;
}
template <class T>
__device__ void write_normed(T* out, const Packed<T>& x, const Packed<T>& w, float inv) {
    float y[Packed<T>::kSize];
#pragma unroll
    for (int k = 0; k < Packed<T>::kSize; ++k) y[k] = x.get(k) * inv * w.get(k);
    store_packed(out, pack<T>(y));
}
/// kLanes lanes take kRows rows at once, kVecs pieces each.
template <class T, int kLanes, int kVecs, int kRows, bool kAdd>
__global__ void __launch_bounds__(kThreads, kVecs > 4 ? 2 : 4) rms_norm_lanes_kernel(Forward<T> p) {
    constexpr int kSize = Packed<T>::kSize, kGroups = kThreads / kLanes;
    const int lane = threadIdx.x % kLanes, vecs = p.columns / kSize;
    const std::int64_t first =
        static_cast<std::int64_t>(blockIdx.x) * (kGroups * kRows) + threadIdx.x / kLanes;
    Packed<T> x[kRows][kVecs], d[kRows][kVecs];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const std::int64_t row = first + r * kGroups;
#pragma unroll
        for (int v = 0; v < kVecs; ++v) {
            const int vec = lane + v * kLanes;
            const bool inside = row < p.rows && vec < vecs;
            const std::int64_t at = row * p.columns + vec * kSize;
            x[r][v] = load_packed_if(inside, p.x + at);
            if constexpr (kAdd) d[r][v] = load_packed_if(inside, p.delta + at);
        }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const std::int64_t row = first + r * kGroups;
        float squares = 0;
#pragma unroll
        for (int v = 0; v < kVecs; ++v) {
            const int vec = lane + v * kLanes;
            if constexpr (kAdd)
                if (row < p.rows && vec < vecs)
                    add_piece(x[r][v], d[r][v], p.sum + row * p.columns + vec * kSize);
            squares += squares_of(x[r][v]);
        }
#pragma unroll
        for (int v = 0; v < kVecs; ++v) x[r][v].keep_packed();
        const float inv = inverse_rms(lanes_sum<kLanes>(squares), p.columns, p.eps);
        if (row >= p.rows) continue;
        if (lane == 0) p.inv_rms[row] = inv;
#pragma unroll
        for (int v = 0; v < kVecs; ++v) {
            const int vec = lane + v * kLanes;
            if (vec >= vecs) continue;
            write_normed(p.out + row * p.columns + vec * kSize, x[r][v],
                         load_packed(p.weight + vec * kSize), inv);
        }
    }
}

/// A block takes a row.
template <class T, bool kAdd>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_block_kernel(Forward<T> p) {
    __shared__ float shared[33];
    constexpr int kSize = Packed<T>::kSize;
    const int vecs = p.columns / kSize;
    const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * p.columns;
    Packed<T> x[kBlockVecs], d[kBlockVecs];
#pragma unroll
    for (int v = 0; v < kBlockVecs; ++v) {
        const int vec = static_cast<int>(threadIdx.x + v * blockDim.x);
        x[v] = load_packed_if(vec < vecs, p.x + start + vec * kSize);
        if constexpr (kAdd) d[v] = load_packed_if(vec < vecs, p.delta + start + vec * kSize);
    }
    float squares = 0;
#pragma unroll
    for (int v = 0; v < kBlockVecs; ++v) {
        const int vec = static_cast<int>(threadIdx.x + v * blockDim.x);
        if constexpr (kAdd)
            if (vec < vecs) add_piece(x[v], d[v], p.sum + start + vec * kSize);
        squares += squares_of(x[v]);
    }
#pragma unroll
    for (int v = 0; v < kBlockVecs; ++v) x[v].keep_packed();
    const float inv = inverse_rms(block_sum(squares, shared), p.columns, p.eps);
    if (threadIdx.x == 0) p.inv_rms[blockIdx.x] = inv;
#pragma unroll
    for (int v = 0; v < kBlockVecs; ++v) {
        const int vec = static_cast<int>(threadIdx.x + v * blockDim.x);
        if (vec < vecs)
            write_normed(p.out + start + vec * kSize, x[v], load_packed(p.weight + vec * kSize), inv);
    }
}

/// Any row: a block reads it twice.
template <class T, bool kAdd>
__global__ void __launch_bounds__(kThreads) rms_norm_any_kernel(Forward<T> p) {
    __shared__ float shared[33];
    const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * p.columns;
    const T* x = (kAdd ? p.sum : p.x) + start;
    float squares = 0;
    for (int i = threadIdx.x; i < p.columns; i += kThreads) {
        if constexpr (kAdd)
            p.sum[start + i] =
                from_float<T>(to_float(p.x[start + i]) + to_float(p.delta[start + i]));
        squares += to_float(x[i]) * to_float(x[i]);
    }
    const float inv = inverse_rms(block_sum(squares, shared), p.columns, p.eps);
    if (threadIdx.x == 0) p.inv_rms[blockIdx.x] = inv;
    for (int i = threadIdx.x; i < p.columns; i += kThreads)
        p.out[start + i] = from_float<T>(to_float(x[i]) * inv * to_float(p.weight[i]));
}

template <class T, bool kAdd>
void launch_forward(const Context& c, const Forward<T>& p) {
    const int vecs = p.columns / Vec<T>::kSize;
    const bool wide = vectorizes<T>(p.columns, p.out, p.sum, p.x, p.delta, p.weight);
    if (wide && vecs <= kMaxLanesVecs)
        with_lanes(vecs, [&]<int kLanes, int kVecs, int kRows>() {
            const int blocks = blocks_for(p.rows, kThreads / kLanes * kRows);
            rms_norm_lanes_kernel<T, kLanes, kVecs, kRows, kAdd>
                <<<blocks, kThreads, 0, c.stream>>>(p);
        });
    else if (wide && threads_for(vecs) <= kMaxThreads)
        rms_norm_block_kernel<T, kAdd>
            <<<static_cast<unsigned>(p.rows), threads_for(vecs), 0, c.stream>>>(p);
    else
        rms_norm_any_kernel<T, kAdd>
            <<<static_cast<unsigned>(p.rows), kThreads, 0, c.stream>>>(p);
    check_launch();
}

}  // namespace

void rms_norm(const Context& c, Tensor out, Tensor inv_rms, Tensor x, Tensor weight, float eps) {
    const std::int64_t n = weight.elements(), rows = inv_rms.elements();
    require(x.elements() == rows * n && out.elements() == rows * n, "rms_norm: {} rows of {} from {}",
            rows, n, x.shape().text());
    if (rows == 0) return;
    dispatch(x.dtype(), [&]<class T>(T) {
        launch_forward<T, false>(c, {data<T>(out), inv_rms.f32(), nullptr, data<T>(x), nullptr,
                                     data<T>(weight), rows, static_cast<int>(n), eps});
    });
}

void add_rms_norm(const Context& c, Tensor out, Tensor inv_rms, Tensor sum, Tensor x, Tensor delta,
                  Tensor weight, float eps) {
    const std::int64_t n = weight.elements(), rows = inv_rms.elements();
    require(x.elements() == rows * n && delta.elements() == rows * n && sum.elements() == rows * n &&
                out.elements() == rows * n,
            "add_rms_norm: {} rows of {} from {} and {}", rows, n, x.shape().text(),
            delta.shape().text());
    if (rows == 0) return;
    dispatch(x.dtype(), [&]<class T>(T) {
        launch_forward<T, true>(c, {data<T>(out), inv_rms.f32(), data<T>(sum), data<T>(x),
                                    data<T>(delta), data<T>(weight), rows, static_cast<int>(n), eps});
    });
}

}  // namespace gradus::cuda
