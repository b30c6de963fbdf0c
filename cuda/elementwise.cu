// SPDX-License-Identifier: Apache-2.0
// Element-wise operations on flat arrays:
//   fill         x = value
//   add          x = x + y
//   scale        x = x factor
//   copy         out = in, rounded to out's type
//   fill_normal  x = std times the normal numbers of base/philox.hpp, addressed by element
// Layout: a block takes 1024 pieces of 16 bytes, a thread four of them, loaded before the first is used.
// Bound: bytes, each input read and each output written once; fill_normal: float64 logarithm, sine and
// cosine of a pair of elements.
#include <bit>
#include <numbers>

#include "gradus/base/philox.hpp"
#include "kernels.hpp"
#include "rows.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256, kUnroll = 4;

struct Fill {
    static constexpr bool kReadsX = false, kReadsY = false;
    float value;
    __device__ float operator()(float, float) const { return value; }
};
struct Add {
    static constexpr bool kReadsX = true, kReadsY = true;
    __device__ float operator()(float x, float y) const { return x + y; }
};
struct Scale {
    static constexpr bool kReadsX = true, kReadsY = false;
    float factor;
    __device__ float operator()(float x, float) const { return x * factor; }
};

/// x = op(x, y)
template <int kCount, class T, class Op>
__global__ void __launch_bounds__(kThreads)
    map_kernel(T* x, const T* y, std::int64_t pieces, Op op) {
    const std::int64_t first =
        static_cast<std::int64_t>(blockIdx.x) * (kThreads * kUnroll) + threadIdx.x;
    Vec<T, kCount> a[kUnroll] = {}, b[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = first + u * kThreads;
        if (i >= pieces) continue;
        if constexpr (Op::kReadsX) a[u] = load_vec<kCount>(x + i * kCount);
        if constexpr (Op::kReadsY) b[u] = load_vec<kCount>(y + i * kCount);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = first + u * kThreads;
        if (i >= pieces) continue;
#pragma unroll
        for (int k = 0; k < kCount; ++k) a[u].set(k, op(a[u].get(k), b[u].get(k)));
        store_vec(x + i * kCount, a[u]);
    }
}

template <int kCount, class T, class Op>
void launch_map(const Context& c, T* x, const T* y, std::int64_t pieces, const Op& op) {
    if (pieces == 0) return;
    map_kernel<kCount>
        <<<blocks_for(pieces, kThreads * kUnroll), kThreads, 0, c.stream>>>(x, y, pieces, op);
    check_launch();
}

/// The part that divides into pieces of 16 bytes, then the few numbers after it.
template <class Op>
void map(const Context& c, const Tensor& x, const Tensor& y, const Op& op) {
    dispatch(x.dtype(), [&]<class T>(T) {
        constexpr int kWide = Vec<T>::kSize;
        T* a = data<T>(x);
        const T* b = Op::kReadsY ? data<T>(y) : a;
        const std::int64_t n = x.elements();
        const std::int64_t main = vectorizes<T>(0, a, b) ? n / kWide * kWide : 0;
        launch_map<kWide>(c, a, b, main / kWide, op);
        launch_map<1>(c, a + main, b + main, n - main, op);
    });
}

template <int kCount, class To, class From>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(To* out, const From* in, std::int64_t pieces) {
    const std::int64_t first =
        static_cast<std::int64_t>(blockIdx.x) * (kThreads * kUnroll) + threadIdx.x;
    Vec<From, kCount> x[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = first + u * kThreads;
        if (i < pieces) x[u] = load_vec<kCount>(in + i * kCount);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = first + u * kThreads;
        if (i >= pieces) continue;
        Vec<To, kCount> y;
#pragma unroll
        for (int k = 0; k < kCount; ++k) y.set(k, x[u].get(k));
        store_vec(out + i * kCount, y);
    }
}

template <int kCount, class To, class From>
void launch_convert(const Context& c, To* out, const From* in, std::int64_t pieces) {
    if (pieces == 0) return;
    convert_kernel<kCount>
        <<<blocks_for(pieces, kThreads * kUnroll), kThreads, 0, c.stream>>>(out, in, pieces);
    check_launch();
}

struct Bits {
    std::uint32_t at[4];
};

/// philox4x32() of base/philox.cpp.
__device__ Bits philox(Bits c, std::uint32_t key0, std::uint32_t key1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const std::uint32_t high0 = __umulhi(0xD2511F53u, c.at[0]), low0 = 0xD2511F53u * c.at[0];
        const std::uint32_t high1 = __umulhi(0xCD9E8D57u, c.at[2]), low1 = 0xCD9E8D57u * c.at[2];
        c = {high1 ^ c.at[1] ^ key0, low1, high0 ^ c.at[3] ^ key1, low0};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return c;
}

/// random_normal() of base/philox.cpp at (seed, init, step = tensor, prompt = pair).
__device__ double2 normal_pair(std::uint64_t seed, std::uint64_t tensor, std::uint64_t pair) {
    const auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
    const auto high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
    const Bits key = philox({static_cast<std::uint32_t>(Stream::init), high(tensor), high(pair), 0},
                            low(seed), high(seed));
    const Bits bits = philox({low(tensor), low(pair), 0, 0}, key.at[0], key.at[1]);
    const double u = (bits.at[0] + 0.5) * 0x1p-32, v = bits.at[1] * 0x1p-32;
    const double radius = sqrt(-2 * log(u));
    double sine, cosine;
    sincos(2 * std::numbers::pi * v, &sine, &cosine);
    return {radius * cosine, radius * sine};
}

/// A thread makes a pair. Rows of `columns` numbers may begin or end inside a pair: a row has
/// columns / 2 + 1 pairs at most.
template <class T>
__global__ void __launch_bounds__(kThreads)
    normal_kernel(T* x, std::int64_t rows, std::int64_t columns, NormalFill fill) {
    const std::int64_t pairs = columns / 2 + 1;
    const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (item >= rows * pairs) return;
    const std::int64_t r = item / pairs;
    const std::int64_t matrix = fill.matrix_begin + r / fill.rows;
    const std::int64_t row = matrix * fill.global_rows + fill.row_begin + r % fill.rows;
    const std::int64_t first = row * fill.global_columns + fill.column_begin;
    const std::int64_t pair = first / 2 + item % pairs;
    const std::int64_t column = 2 * pair - first;  // of the pair's first number: -1 at least
    if (column >= columns) return;
    const double2 draws = normal_pair(fill.seed, fill.tensor, static_cast<std::uint64_t>(pair));
    T* to = x + r * columns;
    if (column >= 0) to[column] = from_float<T>(static_cast<float>(fill.std * draws.x));
    if (column + 1 < columns) to[column + 1] = from_float<T>(static_cast<float>(fill.std * draws.y));
}

}  // namespace

void fill(const Context& c, Tensor x, float value) {
    if (std::bit_cast<std::uint32_t>(value) != 0) return map(c, x, x, Fill{value});
    // Zero is zero bytes in every type.
    if (x.elements() > 0)
        check(cudaMemsetAsync(x.data(), 0, static_cast<std::size_t>(x.bytes()), c.stream));
}

void copy(const Context& c, Tensor out, Tensor in) {
    const std::int64_t n = out.elements();
    require(in.elements() == n, "copy: {} into {}", in.shape().text(), out.shape().text());
    if (n == 0) return;
    if (out.dtype() == in.dtype()) {
        if (out.data() == in.data()) return;
        return check(cudaMemcpyAsync(out.data(), in.data(), static_cast<std::size_t>(in.bytes()),
                                     cudaMemcpyDeviceToDevice, c.stream));
    }
    dispatch(out.dtype(), [&]<class To>(To) {
        dispatch(in.dtype(), [&]<class From>(From) {
            if constexpr (!std::is_same_v<To, From>) {
                constexpr int kWide = 4;  // 16 bytes of float, 8 of bfloat16
                To* to = data<To>(out);
                const From* from = data<From>(in);
                const std::int64_t main = vectorizes<float>(0, to, from) ? n / kWide * kWide : 0;
                launch_convert<kWide>(c, to, from, main / kWide);
                launch_convert<1>(c, to + main, from + main, n - main);
            }
        });
    });
}

void add(const Context& c, Tensor x, Tensor y) {
    require(x.elements() == y.elements() && x.dtype() == y.dtype(), "add: {} {} and {} {}",
            name_of(x.dtype()), x.shape().text(), name_of(y.dtype()), y.shape().text());
    map(c, x, y, Add{});
}

void scale(const Context& c, Tensor x, float factor) { map(c, x, x, Scale{factor}); }

void fill_normal(const Context& c, Tensor x, const NormalFill& fill) {
    if (x.elements() == 0) return;
    const std::int64_t columns = x.dim(x.shape().rank() - 1), rows = x.elements() / columns;
    require(fill.rows > 0 && fill.column_begin + columns <= fill.global_columns,
            "fill_normal: {} at column {} of {}", x.shape().text(), fill.column_begin,
            fill.global_columns);
    dispatch(x.dtype(), [&]<class T>(T) {
        normal_kernel<<<blocks_for(rows * (columns / 2 + 1), kThreads), kThreads, 0, c.stream>>>(
            data<T>(x), rows, columns, fill);
    });
    check_launch();
}

}  // namespace gradus::cuda
