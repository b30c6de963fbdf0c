// SPDX-License-Identifier: Apache-2.0
// The backward pass of RMSNorm: with r = inv_rms and u = x r,
//   d_x (+)= r (d_y w - u mean(d_y w u)),  d_w += sum over rows of d_y u
// Layout: as the forward pass, but the grid is persistent: threads keep the sums over their rows of d_w
// in registers, and each copies its pieces of the next row to shared memory while it works on this one.
// Partial sums [blocks, N] are added in a second pass in order of blocks.
// Bound: bytes: x, d_y and d_x (twice where accumulated), each once.
#include <cuda_pipeline.h>

#include "kernels.hpp"
#include "rms_norm.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kMaxThreads = 512;            // of a block that holds a row
constexpr std::int64_t kMaxPartials = 512;  // blocks of the persistent grid

template <class T>
struct Backward {
    T* d_x;
    float* partial;  // [blocks, columns]
    const T* d_out;
    const T* x;
    const T* weight;
    const float* inv_rms;
    std::int64_t rows;
    int columns;
    bool accumulate;
};

/// The piece's part of sum(d_out w x); d_w += d_out x inv.
template <class T>
__device__ float weigh(const Packed<T>& g, const Packed<T>& x, const Packed<T>& w, float inv,
                       float (&d_w)[Packed<T>::kSize]) {
    float dot = 0;
#pragma unroll
    for (int k = 0; k < Packed<T>::kSize; ++k) {
        const float gx = g.get(k) * x.get(k);
        dot += gx * w.get(k);
        d_w[k] += gx * inv;
    }
    return dot;
}
template <class T>
__device__ void write_gradient(T* d_x, const Packed<T>& old, const Packed<T>& g, const Packed<T>& x,
                               const Packed<T>& w, float inv, float back) {
    float y[Packed<T>::kSize];
#pragma unroll
    for (int k = 0; k < Packed<T>::kSize; ++k)
        y[k] = old.get(k) + (g.get(k) * w.get(k) * inv - x.get(k) * back);
    store_packed(d_x, pack<T>(y));
}

/// Two stages of pieces in shared memory, of d_out, x and, where it is accumulated into, d_x. A thread
/// reads only what it copied itself.
template <class T, int kPieces>
struct Stages {
    static constexpr int kBytes = 2 * kPieces * 16;  // a thread and array
    Packed<T>* slots;
    int arrays;
    __device__ Packed<T>* slot(int stage, int array, int piece) const {
        return slots + ((stage * arrays + array) * kPieces + piece) * blockDim.x + threadIdx.x;
    }
    /// Zero where not inside.
    __device__ void request(int stage, int piece, const Backward<T>& p, std::int64_t at,
                            bool inside) const {
        const std::int64_t from = inside ? at : 0;
        const int zeros = inside ? 0 : 16;
        __pipeline_memcpy_async(slot(stage, 0, piece), p.d_out + from, 16, zeros);
        __pipeline_memcpy_async(slot(stage, 1, piece), p.x + from, 16, zeros);
        if (p.accumulate) __pipeline_memcpy_async(slot(stage, 2, piece), p.d_x + from, 16, zeros);
    }
    __device__ Packed<T> read(int stage, int array, int piece) const {
        return *slot(stage, array, piece);
    }
};

/// kLanes lanes take kRows rows at once, kVecs pieces of each, and go on to further rows.
template <class T, int kLanes, int kVecs, int kRows, int kBlock>
__global__ void __launch_bounds__(kBlock, 1) rms_norm_backward_lanes_kernel(Backward<T> p) {
    extern __shared__ uint4 shared[];
    constexpr int kSize = Packed<T>::kSize, kGroups = kBlock / kLanes;
    const Stages<T, kRows * kVecs> stages{reinterpret_cast<Packed<T>*>(shared), p.accumulate ? 3 : 2};
    const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes, vecs = p.columns / kSize;
    Packed<T> w[kVecs];
    float d_w[kVecs][kSize] = {};
#pragma unroll
    for (int v = 0; v < kVecs; ++v)
        w[v] = load_packed_if(lane + v * kLanes < vecs, p.weight + (lane + v * kLanes) * kSize);

    const auto request = [&](std::int64_t base, int stage, float (&inv)[kRows]) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const std::int64_t row = base + r * kGroups + group;
            inv[r] = row < p.rows ? p.inv_rms[row] : 0.0f;
#pragma unroll
            for (int v = 0; v < kVecs; ++v) {
                const int vec = lane + v * kLanes;
                stages.request(stage, r * kVecs + v, p, row * p.columns + vec * kSize,
                               row < p.rows && vec < vecs);
            }
        }
        __pipeline_commit();
    };
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * (kGroups * kRows);
    std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * (kGroups * kRows);
    float next[kRows];
    request(base, 0, next);
    for (int stage = 0; base < p.rows; base += step, stage ^= 1) {
        float inv[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) inv[r] = next[r];
        request(base + step, stage ^ 1, next);
        __pipeline_wait_prior(1);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const std::int64_t row = base + r * kGroups + group;
            Packed<T> g[kVecs], x[kVecs];
            float dot = 0;
#pragma unroll
            for (int v = 0; v < kVecs; ++v) {
                g[v] = stages.read(stage, 0, r * kVecs + v);
                x[v] = stages.read(stage, 1, r * kVecs + v);
                dot += weigh(g[v], x[v], w[v], inv[r], d_w[v]);
                g[v].keep_packed();
                x[v].keep_packed();
            }
            const float back = lanes_sum<kLanes>(dot) * inv[r] * inv[r] * inv[r] /
                               static_cast<float>(p.columns);
            if (row >= p.rows) continue;
#pragma unroll
            for (int v = 0; v < kVecs; ++v) {
                const int vec = lane + v * kLanes;
                if (vec >= vecs) continue;
                Packed<T> old = {};
                if (p.accumulate) old = stages.read(stage, 2, r * kVecs + v);
                write_gradient(p.d_x + row * p.columns + vec * kSize, old, g[v], x[v], w[v], inv[r],
                               back);
            }
        }
    }

    // Sums over the groups of a warp, then over the warps in turn, in memory that the stages leave:
    // [kSize, vecs], so that lanes do not meet in a bank.
    __pipeline_wait_prior(0);
    __syncthreads();
    float* sums = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int v = 0; v < kVecs; ++v)
#pragma unroll
        for (int k = 0; k < kSize; ++k)
#pragma unroll
            for (int other = kLanes; other < 32; other *= 2)
                d_w[v][k] += __shfl_xor_sync(0xffffffffu, d_w[v][k], other);
    for (int warp = 0; warp < kBlock / 32; ++warp) {
        if (static_cast<int>(threadIdx.x) / 32 == warp && threadIdx.x % 32 < kLanes) {
#pragma unroll
            for (int v = 0; v < kVecs; ++v) {
                const int vec = lane + v * kLanes;
                if (vec >= vecs) continue;
#pragma unroll
                for (int k = 0; k < kSize; ++k) {
                    float& sum = sums[k * vecs + vec];
                    sum = (warp > 0 ? sum : 0.0f) + d_w[v][k];
                }
            }
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < p.columns; i += kBlock)
        p.partial[blockIdx.x * static_cast<std::int64_t>(p.columns) + i] =
            sums[i % kSize * vecs + i / kSize];
}

/// A block takes a row and goes on to further ones.
template <class T>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_backward_block_kernel(Backward<T> p) {
    extern __shared__ uint4 shared[];
    __shared__ float of_warps[33];
    constexpr int kSize = Packed<T>::kSize;
    const Stages<T, kBlockVecs> stages{reinterpret_cast<Packed<T>*>(shared), p.accumulate ? 3 : 2};
    const int vecs = p.columns / kSize;
    const auto vec_of = [](int v) { return static_cast<int>(threadIdx.x + v * blockDim.x); };
    Packed<T> w[kBlockVecs];
    float d_w[kBlockVecs][kSize] = {};
#pragma unroll
    for (int v = 0; v < kBlockVecs; ++v)
        w[v] = load_packed_if(vec_of(v) < vecs, p.weight + vec_of(v) * kSize);

    const auto request = [&](std::int64_t row, int stage, float& inv) {
        inv = row < p.rows ? p.inv_rms[row] : 0.0f;
#pragma unroll
        for (int v = 0; v < kBlockVecs; ++v)
            stages.request(stage, v, p, row * p.columns + vec_of(v) * kSize,
                           row < p.rows && vec_of(v) < vecs);
        __pipeline_commit();
    };
    float next;
    request(blockIdx.x, 0, next);
    int stage = 0;
    for (std::int64_t row = blockIdx.x; row < p.rows; row += gridDim.x, stage ^= 1) {
        const float inv = next;
        request(row + gridDim.x, stage ^ 1, next);
        __pipeline_wait_prior(1);
        Packed<T> g[kBlockVecs], x[kBlockVecs];
        float dot = 0;
#pragma unroll
        for (int v = 0; v < kBlockVecs; ++v) {
            g[v] = stages.read(stage, 0, v);
            x[v] = stages.read(stage, 1, v);
            dot += weigh(g[v], x[v], w[v], inv, d_w[v]);
            g[v].keep_packed();
            x[v].keep_packed();
        }
        const float back =
            block_sum(dot, of_warps) * inv * inv * inv / static_cast<float>(p.columns);
#pragma unroll
        for (int v = 0; v < kBlockVecs; ++v) {
            if (vec_of(v) >= vecs) continue;
            Packed<T> old = {};
            if (p.accumulate) old = stages.read(stage, 2, v);
            write_gradient(p.d_x + row * p.columns + vec_of(v) * kSize, old, g[v], x[v], w[v], inv,
                           back);
        }
    }
#pragma unroll
    for (int v = 0; v < kBlockVecs; ++v) {
        if (vec_of(v) >= vecs) continue;
        float* to = p.partial + blockIdx.x * static_cast<std::int64_t>(p.columns) + vec_of(v) * kSize;
#pragma unroll
        for (int k = 0; k < kSize; ++k) to[k] = d_w[v][k];
    }
}

/// d_x of any row; d_w comes from WeightTerm.
template <class T>
__global__ void __launch_bounds__(kThreads) rms_norm_backward_any_kernel(Backward<T> p) {
    __shared__ float shared[33];
    const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * p.columns;
    const T* g = p.d_out + start;
    const T* x = p.x + start;
    const float inv = p.inv_rms[blockIdx.x];
    float dot = 0;
    for (int i = threadIdx.x; i < p.columns; i += kThreads)
        dot += to_float(g[i]) * to_float(x[i]) * to_float(p.weight[i]);
    const float back = block_sum(dot, shared) * inv * inv * inv / static_cast<float>(p.columns);
    for (int i = threadIdx.x; i < p.columns; i += kThreads) {
        const float old = p.accumulate ? to_float(p.d_x[start + i]) : 0.0f;
        p.d_x[start + i] = from_float<T>(
            old + (to_float(g[i]) * to_float(p.weight[i]) * inv - to_float(x[i]) * back));
    }
}
template <class T>
struct WeightTerm {
    const T* d_out;
    const T* x;
    const float* inv_rms;
    std::int64_t columns;
    struct Raw {
        T d_out, x;
        float inv;
    };
    __device__ Raw load(std::int64_t row, std::int64_t column) const {
        const std::int64_t at = row * columns + column;
        return {d_out[at], x[at], inv_rms[row]};
    }
    __device__ float value(const Raw& raw, int) const {
        return to_float(raw.d_out) * to_float(raw.x) * raw.inv;
    }
};

template <class T>
void launch_backward(const Context& c, Backward<T> p, float* d_weight) {
    const int vecs = p.columns / Packed<T>::kSize;
    const bool wide = vectorizes<T>(p.columns, p.d_x, p.d_out, p.x, p.weight);
    int blocks = 0;
    // The persistent grid: blocks of `threads` that take rows_a_block rows at once.
    const auto launch = [&](auto* kernel, int threads, int bytes_a_thread, int per_multiprocessor,
                            std::int64_t rows_a_block) {
        const std::int64_t resident = std::int64_t{c.multiprocessors} * per_multiprocessor;
        blocks = static_cast<int>(
            std::min({resident, kMaxPartials, (p.rows + rows_a_block - 1) / rows_a_block}));
        p.partial = c.scratch<float>(std::int64_t{blocks} * p.columns);
        const int bytes = threads * bytes_a_thread * (p.accumulate ? 3 : 2);
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
        kernel<<<blocks, threads, bytes, c.stream>>>(p);
    };
    if (wide && vecs <= kMaxLanesVecs) {
        with_lanes(vecs, [&]<int kLanes, int kVecs, int kRows>() {
            // As many warps as registers and shared memory allow, in one block: fewer partial sums.
            constexpr int kBlock = kVecs == 8 ? 256 : kVecs == 6 ? 384 : 512;
            launch(rms_norm_backward_lanes_kernel<T, kLanes, kVecs, kRows, kBlock>, kBlock,
                   Stages<T, kRows * kVecs>::kBytes, 1, kBlock / kLanes * kRows);
        });
    } else if (wide && threads_for(vecs) <= kMaxThreads) {
        const int threads = threads_for(vecs);
        launch(rms_norm_backward_block_kernel<T>, threads, Stages<T, kBlockVecs>::kBytes,
               threads <= 256 ? std::max(2, 448 / threads) : 1, 1);
    } else {
        // d_w first: d_x may be d_out.
        add_column_sums<1>(c, d_weight, p.rows, p.columns,
                           WeightTerm<T>{p.d_out, p.x, p.inv_rms, p.columns});
        rms_norm_backward_any_kernel<<<static_cast<unsigned>(p.rows), kThreads, 0, c.stream>>>(p);
        return check_launch();
    }
    check_launch();
    add_column_partials(c, d_weight, p.partial, blocks, p.columns);
}

}  // namespace

std::int64_t rms_norm_workspace(const OpsLimits& limits) {
    static_assert(kMaxPartials >= kMaxColumnChunks);
    return kMaxPartials * std::max(limits.max_width, limits.max_head_dim) *
           static_cast<std::int64_t>(sizeof(float));
}

void rms_norm_backward(const Context& c, Tensor d_x, Tensor d_weight, Tensor d_out, Tensor x,
                       Tensor weight, Tensor inv_rms, bool accumulate) {
    const std::int64_t n = weight.elements(), rows = inv_rms.elements();
    require(x.elements() == rows * n && d_out.elements() == rows * n && d_x.elements() == rows * n &&
                d_weight.elements() == n,
            "rms_norm_backward: {} rows of {} from {} and {}", rows, n, x.shape().text(),
            d_out.shape().text());
    if (rows == 0) return;
    dispatch(x.dtype(), [&]<class T>(T) {
        launch_backward<T>(c,
                           {data<T>(d_x), nullptr, data<T>(d_out), data<T>(x), data<T>(weight),
                            inv_rms.f32(), rows, static_cast<int>(n), accumulate},
                           d_weight.f32());
    });
}

}  // namespace gradus::cuda
