// SPDX-License-Identifier: Apache-2.0
// SwiGLU (Shazeer 2020), with s = sigmoid(g):
//   out = g s u
//   d_g = d_out u (s + g s (1 - s)),  d_u = d_out g s
// The gates and ups of a row are two tensors [T, I], or lie one after the other in one [T, 2 I].
// Layout: a block takes consecutive pieces of 16 bytes of [T, I]. Bound: bytes: g, u, out; g, u, d_out,
// d_g, d_u and, where asked for, out; each once.
#include "kernels.hpp"
#include "rows.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256, kUnroll = 2;

__device__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(T* out, const T* gate, const T* up, std::int64_t pieces, std::int64_t width,
                  std::int64_t stride) {
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kUnroll);
    const RowWalk walk(first, width);
    Vec<T, kCount> g[kUnroll], u[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
        const int piece = i * kThreads + threadIdx.x;
        if (first + piece >= pieces) continue;
        const auto place = walk.at(piece);
        const std::int64_t at = (place.row * stride + place.column) * kCount;
        g[i] = load_vec<kCount>(gate + at);
        u[i] = load_vec<kCount>(up + at);
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
        const std::int64_t piece = first + i * kThreads + threadIdx.x;
        if (piece >= pieces) continue;
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
            const float x = g[i].get(k);
            g[i].set(k, x * sigmoid(x) * u[i].get(k));
        }
        store_vec(out + piece * kCount, g[i]);
    }
}

/// A thread's reads come before its writes, so that d_gate and d_up may be gate and up.
template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(T* d_gate, T* d_up, T* product, const T* d_out, const T* gate, const T* up,
                           std::int64_t pieces, std::int64_t width, std::int64_t stride) {
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kUnroll);
    const RowWalk walk(first, width);
    Vec<T, kCount> d[kUnroll], g[kUnroll], u[kUnroll];
    std::int64_t at[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
        const int piece = i * kThreads + threadIdx.x;
        if (first + piece >= pieces) continue;
        const auto place = walk.at(piece);
        at[i] = (place.row * stride + place.column) * kCount;
        d[i] = load_vec<kCount>(d_out + (first + piece) * kCount);
        g[i] = load_vec<kCount>(gate + at[i]);
        u[i] = load_vec<kCount>(up + at[i]);
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
        const std::int64_t piece = first + i * kThreads + threadIdx.x;
        if (piece >= pieces) continue;
        Vec<T, kCount> out;
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
            const float x = g[i].get(k), y = u[i].get(k), slope = d[i].get(k);
            const float s = sigmoid(x), silu = x * s;
            g[i].set(k, slope * y * (s + silu * (1.0f - s)));
            u[i].set(k, slope * silu);
            out.set(k, silu * y);
        }
        store_vec(d_gate + at[i], g[i]);
        store_vec(d_up + at[i], u[i]);
        if (product != nullptr) store_vec(product + piece * kCount, out);
    }
}

/// Rows of `width` numbers; gate and up of a row are `stride` from those of the next.
struct Rows {
    std::int64_t width, stride;
};
Rows rows_of(const char* what, const Tensor& out, const Tensor& gate, const Tensor& up) {
    const std::int64_t width = out.dim(out.shape().rank() - 1), n = out.elements();
    require(up ? gate.elements() == n && up.elements() == n : gate.elements() == 2 * n,
            "{}: {} from gates {} and ups {}", what, out.shape().text(), gate.shape().text(),
            up ? up.shape().text() : "of the same tensor");
    return {width, up ? width : 2 * width};
}

}  // namespace

void swiglu(const Context& c, Tensor out, Tensor gate, Tensor up) {
    const auto [width, stride] = rows_of("swiglu", out, gate, up);
    const std::int64_t n = out.elements();
    if (n == 0) return;
    dispatch(out.dtype(), [&]<class T>(T) {
        const T* g = data<T>(gate);
        const T* u = up ? data<T>(up) : g + width;
        const auto launch = [&]<int kCount>() {
            swiglu_kernel<kCount><<<blocks_for(n / kCount, kThreads * kUnroll), kThreads, 0, c.stream>>>(
                data<T>(out), g, u, n / kCount, width / kCount, stride / kCount);
        };
        if (vectorizes<T>(width, data<T>(out), g, u))
            launch.template operator()<Vec<T>::kSize>();
        else
            launch.template operator()<1>();
    });
    check_launch();
}

void swiglu_backward(const Context& c, Tensor d_gate, Tensor d_up, Tensor product, Tensor d_out,
                     Tensor gate, Tensor up) {
    const auto [width, stride] = rows_of("swiglu_backward", d_out, gate, up);
    const std::int64_t n = d_out.elements();
    require(d_gate.elements() == gate.elements() && static_cast<bool>(d_up) == static_cast<bool>(up) &&
                (!product || product.elements() == n),
            "swiglu_backward: {} from {}", d_gate.shape().text(), gate.shape().text());
    if (n == 0) return;
    dispatch(d_out.dtype(), [&]<class T>(T) {
        const T* g = data<T>(gate);
        const T* u = up ? data<T>(up) : g + width;
        T* d_g = data<T>(d_gate);
        T* d_u = up ? data<T>(d_up) : d_g + width;
        const auto launch = [&]<int kCount>() {
            swiglu_backward_kernel<kCount>
                <<<blocks_for(n / kCount, kThreads * kUnroll), kThreads, 0, c.stream>>>(
                    d_g, d_u, data<T>(product), data<T>(d_out), g, u, n / kCount, width / kCount,
                    stride / kCount);
        };
        if (vectorizes<T>(width, d_g, d_u, data<T>(product), data<T>(d_out), g, u))
            launch.template operator()<Vec<T>::kSize>();
        else
            launch.template operator()<1>();
    });
    check_launch();
}

}  // namespace gradus::cuda
