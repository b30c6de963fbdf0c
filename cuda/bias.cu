// SPDX-License-Identifier: Apache-2.0
// Biases of x [T, N]:
//   add_bias           x[t, i] = x[t, i] + bias[i]
//   add_bias_backward  d_bias[i] += sum_t d_out[t, i], in float32
// Layout: pieces of 16 bytes; the sums as in rows.cuh. Bound: bytes of x, read and written once, or of
// d_out, read once.
#include "kernels.hpp"
#include "rows.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256, kUnroll = 4;

template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    add_bias_kernel(T* x, const T* bias, std::int64_t pieces, std::int64_t width) {
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kUnroll);
    const RowWalk walk(first, width);
    Vec<T, kCount> a[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = first + u * kThreads + threadIdx.x;
        if (i < pieces) a[u] = load_vec<kCount>(x + i * kCount);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const int piece = u * kThreads + threadIdx.x;
        if (first + piece >= pieces) continue;
        const Vec<T, kCount> b = load_vec<kCount>(bias + walk.at(piece).column * kCount);
#pragma unroll
        for (int k = 0; k < kCount; ++k) a[u].set(k, a[u].get(k) + b.get(k));
        store_vec(x + (first + piece) * kCount, a[u]);
    }
}

template <int kCount, class T>
void launch_add_bias(const Context& c, T* x, const T* bias, std::int64_t n, std::int64_t columns) {
    add_bias_kernel<kCount><<<blocks_for(n / kCount, kThreads * kUnroll), kThreads, 0, c.stream>>>(
        x, bias, n / kCount, columns / kCount);
    check_launch();
}

/// One column, or the columns of a piece of 16 bytes.
template <class T>
struct Single {
    using Raw = T;
    const T* d_out;
    std::int64_t columns;
    __device__ Raw load(std::int64_t row, std::int64_t column) const {
        return d_out[row * columns + column];
    }
    __device__ float value(Raw x, int) const { return to_float(x); }
};
template <class T>
struct Piece {
    using Raw = Packed<T>;
    const T* d_out;
    std::int64_t columns;
    __device__ Raw load(std::int64_t row, std::int64_t column) const {
        return load_packed(d_out + row * columns + column);
    }
    __device__ float value(const Raw& x, int k) const { return x.get(k); }
};

}  // namespace

std::int64_t bias_workspace(const OpsLimits& limits) {
    const std::int64_t width = 3 * limits.max_heads * limits.max_head_dim;
    return std::max<std::int64_t>({1 << 17, width, limits.max_width}) *
           static_cast<std::int64_t>(sizeof(float));
}

void add_bias(const Context& c, Tensor x, Tensor bias) {
    const std::int64_t n = x.elements(), columns = x.shape().row_elements();
    require(bias.elements() == columns && bias.dtype() == x.dtype(), "add_bias: {} to {}",
            bias.shape().text(), x.shape().text());
    if (n == 0) return;
    dispatch(x.dtype(), [&]<class T>(T) {
        T* a = data<T>(x);
        const T* b = data<T>(bias);
        if (vectorizes<T>(columns, a, b))
            launch_add_bias<Vec<T>::kSize>(c, a, b, n, columns);
        else
            launch_add_bias<1>(c, a, b, n, columns);
    });
}

void add_bias_backward(const Context& c, Tensor d_bias, Tensor d_out) {
    const std::int64_t columns = d_out.shape().row_elements();
    require(d_bias.elements() == columns && d_bias.dtype() == DType::f32,
            "add_bias_backward: {} from {}", d_bias.shape().text(), d_out.shape().text());
    if (d_out.elements() == 0) return;
    const std::int64_t rows = d_out.elements() / columns;
    dispatch(d_out.dtype(), [&]<class T>(T) {
        const T* g = data<T>(d_out);
        if (vectorizes<T>(columns, g))
            add_column_sums<Packed<T>::kSize>(c, d_bias.f32(), rows, columns, Piece<T>{g, columns});
        else
            add_column_sums<1>(c, d_bias.f32(), rows, columns, Single<T>{g, columns});
    });
}

}  // namespace gradus::cuda
