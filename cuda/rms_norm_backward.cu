// SPDX-License-Identifier: Apache-2.0
// The backward pass of RMSNorm: with r = inv_rms and u = x r,
//   d_x (+)= r (d_y w - u mean(d_y w u)),  d_w += sum over rows of d_y u
// Layout: as the forward pass, but the grid is persistent: threads keep the sums over their rows of d_w
// in registers. Partial sums [blocks, N] are added in a second pass in order of blocks.
// Bound: bytes: x, d_y and d_x (twice where accumulated), each once.
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
__device__ void write_gradient(T* d_x, const Packed<T>& g, const Packed<T>& x, const Packed<T>& w, float inv,
                               float back, bool accumulate) {
    Packed<T> old = {};
    if (accumulate) old = load_packed(d_x);
    float y[Packed<T>::kSize];
#pragma unroll
    for (int k = 0; k < Packed<T>::kSize; ++k)
        y[k] = old.get(k) + (g.get(k) * w.get(k) * inv - x.get(k) * back);
    store_packed(d_x, pack<T>(y));
}

/// kLanes lanes take kRows rows at once, kVecs pieces of each, and go on to further rows.
template <class T, int kLanes, int kVecs, int kRows, int kBlock>
__global__ void __launch_bounds__(kBlock, 1) rms_norm_backward_lanes_kernel(Backward<T> p) {
    extern __shared__ float sums[];  // [kSize, vecs], so that lanes do not meet in a bank
    constexpr int kSize = Packed<T>::kSize, kGroups = kBlock / kLanes;
    const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes, vecs = p.columns / kSize;
    Packed<T> w[kVecs];
    float d_w[kVecs][kSize] = {};
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
        const int vec = lane + v * kLanes;
        w[v] = load_packed_if(vec < vecs, p.weight + vec * kSize);
    }
    constexpr int kTogether = kGroups * kRows;
    for (std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * kTogether; base < p.rows;
         base += static_cast<std::int64_t>(gridDim.x) * kTogether) {
        Packed<T> g[kRows][kVecs], x[kRows][kVecs];
        float inv[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const std::int64_t row = base + r * kGroups + group;
            inv[r] = row < p.rows ? p.inv_rms[row] : 0.0f;
#pragma unroll
            for (int v = 0; v < kVecs; ++v) {
                const int vec = lane + v * kLanes;
                const bool inside = row < p.rows && vec < vecs;
                const std::int64_t at = row * p.columns + vec * kSize;
                g[r][v] = load_packed_if(inside, p.d_out + at);
                x[r][v] = load_packed_if(inside, p.x + at);
            }
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const std::int64_t row = base + r * kGroups + group;
            float dot = 0;
#pragma unroll
            for (int v = 0; v < kVecs; ++v) dot += weigh(g[r][v], x[r][v], w[v], inv[r], d_w[v]);
#pragma unroll
            for (int v = 0; v < kVecs; ++v) g[r][v].keep_packed(), x[r][v].keep_packed();
            const float back = lanes_sum<kLanes>(dot) * inv[r] * inv[r] * inv[r] /
                               static_cast<float>(p.columns);
            if (row >= p.rows) continue;
#pragma unroll
            for (int v = 0; v < kVecs; ++v) {
                const int vec = lane + v * kLanes;
                if (vec < vecs)
                    write_gradient(p.d_x + row * p.columns + vec * kSize, g[r][v], x[r][v], w[v],
                                   inv[r], back, p.accumulate);
            }
        }
    }
    for (int i = 0; i < kGroups; ++i) {
        if (group == i) {
#pragma unroll
            for (int v = 0; v < kVecs; ++v) {
                const int vec = lane + v * kLanes;
                if (vec >= vecs) continue;
#pragma unroll
                for (int k = 0; k < kSize; ++k) {
                    float& sum = sums[k * vecs + vec];
                    sum = (i > 0 ? sum : 0.0f) + d_w[v][k];
                }
            }
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < p.columns; i += kBlock)
        p.partial[blockIdx.x * static_cast<std::int64_t>(p.columns) + i] =
            sums[i % kSize * vecs + i / kSize];
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_backward_block_kernel(Backward<T> p) {
    __shared__ float shared[33];
    constexpr int kSize = Packed<T>::kSize;
    const int vecs = p.columns / kSize;
    Packed<T> w[kBlockVecs];
    float d_w[kBlockVecs][kSize] = {};
#pragma unroll
    for (int v = 0; v < kBlockVecs; ++v) {
        const int vec = static_cast<int>(threadIdx.x + v * blockDim.x);
        w[v] = load_packed_if(vec < vecs, p.weight + vec * kSize);
    }
    for (std::int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const std::int64_t start = row * p.columns;
        const float inv = p.inv_rms[row];
        Packed<T> g[kBlockVecs], x[kBlockVecs];
#pragma unroll
        for (int v = 0; v < kBlockVecs; ++v) {
            const int vec = static_cast<int>(threadIdx.x + v * blockDim.x);
            g[v] = load_packed_if(vec < vecs, p.d_out + start + vec * kSize);
            x[v] = load_packed_if(vec < vecs, p.x + start + vec * kSize);
        }
        float dot = 0;
#pragma unroll
        for (int v = 0; v < kBlockVecs; ++v) dot += weigh(g[v], x[v], w[v], inv, d_w[v]);
#pragma unroll
        for (int v = 0; v < kBlockVecs; ++v) g[v].keep_packed(), x[v].keep_packed();
        const float back =
            block_sum(dot, shared) * inv * inv * inv / static_cast<float>(p.columns);
#pragma unroll
        for (int v = 0; v < kBlockVecs; ++v) {
            const int vec = static_cast<int>(threadIdx.x + v * blockDim.x);
            if (vec < vecs)
                write_gradient(p.d_x + start + vec * kSize, g[v], x[v], w[v], inv, back,
                               p.accumulate);
        }
    }
#pragma unroll
    for (int v = 0; v < kBlockVecs; ++v) {
        const int vec = static_cast<int>(threadIdx.x + v * blockDim.x);
        if (vec >= vecs) continue;
        float* to = p.partial + blockIdx.x * static_cast<std::int64_t>(p.columns) + vec * kSize;
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
    __device__ void operator()(std::int64_t row, std::int64_t column, float (&term)[1]) const {
        const std::int64_t at = row * columns + column;
        term[0] = to_float(d_out[at]) * to_float(x[at]) * inv_rms[row];
    }
};

template <class T>
void launch_backward(const Context& c, Backward<T> p, float* d_weight) {
    const int vecs = p.columns / Vec<T>::kSize;
    const bool wide = vectorizes<T>(p.columns, p.d_x, p.d_out, p.x, p.weight);
    int blocks = 0;
    const auto take_partials = [&](int per_multiprocessor, std::int64_t rows_a_block) {
        const std::int64_t resident = std::int64_t{c.multiprocessors} * per_multiprocessor;
        blocks = static_cast<int>(std::min(
            {resident, kMaxPartials, (p.rows + rows_a_block - 1) / rows_a_block}));
        p.partial = c.scratch<float>(std::int64_t{blocks} * p.columns);
    };
    if (wide && vecs <= kMaxLanesVecs) {
        with_lanes(vecs, [&]<int kLanes, int kVecs, int kRows>() {
            // As many warps as their registers allow, in one block: fewer partial sums.
            constexpr int kBlock = kVecs == 8 ? 256 : kVecs == 6 ? 384 : kVecs > 1 ? 512 : 768;
            take_partials(1, kBlock / kLanes * kRows);
            rms_norm_backward_lanes_kernel<T, kLanes, kVecs, kRows, kBlock>
                <<<blocks, kBlock, p.columns * sizeof(float), c.stream>>>(p);
        });
    } else if (wide && threads_for(vecs) <= kMaxThreads) {
        const int threads = threads_for(vecs);
        take_partials(threads <= 256 ? std::max(2, 448 / threads) : 1, 1);
        rms_norm_backward_block_kernel<<<blocks, threads, 0, c.stream>>>(p);
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
