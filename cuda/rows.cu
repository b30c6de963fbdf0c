// SPDX-License-Identifier: Apache-2.0
// Rows gathered, scattered, repeated, summed and scaled; the maths stands with each operation in
// tensor/ops.hpp. What only moves numbers does not look at their type: it moves pieces of 16, 4 or 2
// bytes. Layout: a block takes consecutive pieces of the output's rows, a thread four of them.
// Bound: bytes, each input read and each output written once.
#include "rows.cuh"

#include <type_traits>

#include "kernels.hpp"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256, kUnroll = 4;
constexpr int kPerBlock = kThreads * kUnroll;

/// A tensor as rows of its last dimension.
struct Columns {
    std::int64_t rows, width;
    explicit Columns(const Tensor& x) : width(x.dim(x.shape().rank() - 1)) {
        rows = width > 0 ? x.elements() / width : 0;
    }
};

/// Calls body(Unit{}) with the widest type that all byte counts and addresses are multiples of.
template <class Body>
void with_unit(std::uint64_t all_bits, const Body& body) {
    if (all_bits % 16 == 0) return body(uint4{});
    if (all_bits % 4 == 0) return body(std::uint32_t{});
    if (all_bits % 2 == 0) return body(std::uint16_t{});
    body(std::uint8_t{});
}
std::uint64_t bits_of(const Tensor& x) { return reinterpret_cast<std::uint64_t>(x.data()); }

template <class Unit>
__device__ Unit filled(std::uint32_t word) {
    if constexpr (std::is_same_v<Unit, uint4>)
        return {word, word, word, word};
    else
        return static_cast<Unit>(word);
}

template <class Unit>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(Unit* out, const Unit* in, const std::int32_t* index, std::int64_t pieces,
                  std::int64_t width, std::int64_t offset, std::int64_t limit, bool slice) {
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPerBlock;
    const RowWalk walk(first, width);
    Unit x[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const int piece = u * kThreads + threadIdx.x;
        if (first + piece >= pieces) continue;
        const auto place = walk.at(piece);
        const std::int64_t row = index[place.row] - offset;
        if (row >= 0 && row < limit)
            x[u] = in[row * width + place.column];
        else
            x[u] = filled<Unit>(slice || row < 0 ? 0u : ~0u);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = first + u * kThreads + threadIdx.x;
        if (i < pieces) out[i] = x[u];
    }
}

/// out[r, out_begin + j] = in[r / repeat, in_begin + j]; a width is in pieces.
template <class Unit>
__global__ void __launch_bounds__(kThreads)
    copy_columns_kernel(Unit* out, std::int64_t out_width, const Unit* in, std::int64_t in_width,
                        std::int64_t pieces, std::int64_t width, std::int64_t repeat) {
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPerBlock;
    const RowWalk walk(first, width);
    const bool once = repeat == 1;
    Unit x[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const int piece = u * kThreads + threadIdx.x;
        if (first + piece >= pieces) continue;
        const auto place = walk.at(piece);
        x[u] = in[(once ? place.row : place.row / repeat) * in_width + place.column];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const int piece = u * kThreads + threadIdx.x;
        if (first + piece >= pieces) continue;
        const auto place = walk.at(piece);
        out[place.row * out_width + place.column] = x[u];
    }
}

/// out[r, j] = sum of in[r * repeat + i, j] over i < repeat; a thread takes a piece of `out`.
template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    sum_columns_kernel(T* out, std::int64_t out_width, const T* in, std::int64_t in_width,
                       std::int64_t pieces, std::int64_t width, std::int64_t repeat) {
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads;
    if (first + threadIdx.x >= pieces) return;
    const auto place = RowWalk(first, width).at(static_cast<int>(threadIdx.x));
    const T* from = in + place.row * repeat * in_width + place.column * kCount;
    float sum[kCount] = {};
#pragma unroll 4
    for (std::int64_t i = 0; i < repeat; ++i) {
        const Vec<T, kCount> x = load_vec<kCount>(from + i * in_width);
#pragma unroll
        for (int k = 0; k < kCount; ++k) sum[k] += x.get(k);
    }
    Vec<T, kCount> y;
#pragma unroll
    for (int k = 0; k < kCount; ++k) y.set(k, sum[k]);
    store_vec(out + place.row * out_width + place.column * kCount, y);
}

/// out[t, j] (+)= sum_k in[place[t, k], j]; a thread takes a piece of `out`.
template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    sum_rows_kernel(T* out, const T* in, const std::int32_t* places, std::int64_t pieces,
                    std::int64_t width, int many, std::int64_t limit, bool accumulate) {
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads;
    if (first + threadIdx.x >= pieces) return;
    const auto place = RowWalk(first, width).at(static_cast<int>(threadIdx.x));
    T* to = out + (first + threadIdx.x) * kCount;
    const std::int32_t* rows = places + place.row * many;
    float sum[kCount] = {};
    if (accumulate) {
        const Vec<T, kCount> x = load_vec<kCount>(to);
#pragma unroll
        for (int k = 0; k < kCount; ++k) sum[k] = x.get(k);
    }
#pragma unroll 4
    for (int j = 0; j < many; ++j) {
        const std::int64_t row = rows[j];
        Vec<T, kCount> x;
        if (row >= 0 && row < limit) {
            x = load_vec<kCount>(in + (row * width + place.column) * kCount);
        } else {
#pragma unroll
            for (int k = 0; k < kCount; ++k) x.set(k, __int_as_float(0x7fffffff));
        }
#pragma unroll
        for (int k = 0; k < kCount; ++k) sum[k] += x.get(k);
    }
    Vec<T, kCount> y;
#pragma unroll
    for (int k = 0; k < kCount; ++k) y.set(k, sum[k]);
    store_vec(to, y);
}

template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    scale_rows_kernel(T* x, const float* factor, std::int64_t pieces, std::int64_t width) {
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPerBlock;
    const RowWalk walk(first, width);
    Vec<T, kCount> a[kUnroll];
    float f[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const int piece = u * kThreads + threadIdx.x;
        if (first + piece >= pieces) continue;
        a[u] = load_vec<kCount>(x + (first + piece) * kCount);
        f[u] = factor[walk.at(piece).row];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = first + u * kThreads + threadIdx.x;
        if (i >= pieces) continue;
#pragma unroll
        for (int k = 0; k < kCount; ++k) a[u].set(k, a[u].get(k) * f[u]);
        store_vec(x + i * kCount, a[u]);
    }
}

/// out[r] = sum_j a[r, j] b[r, j]; a warp takes a row.
template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    row_dots_kernel(float* out, const T* a, const T* b, std::int64_t rows, std::int64_t width) {
    const std::int64_t row =
        static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const T* x = a + row * width * kCount;
    const T* y = b + row * width * kCount;
    float sum = 0;
#pragma unroll 4
    for (std::int64_t i = threadIdx.x % 32; i < width; i += 32) {
        const Vec<T, kCount> p = load_vec<kCount>(x + i * kCount);
        const Vec<T, kCount> q = load_vec<kCount>(y + i * kCount);
#pragma unroll
        for (int k = 0; k < kCount; ++k) sum += p.get(k) * q.get(k);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) out[row] = sum;
}

/// Block (r, tile of columns): does nothing unless r is the first row of `in` that goes to its row of
/// `out`; then adds all of them in order. The search reads `index` once a block, from the L2.
template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    scatter_add_kernel(To* out, const From* in, const std::int32_t* index, std::int64_t count,
                       std::int64_t limit, std::int64_t columns) {
    __shared__ std::int32_t tile[kThreads];
    const std::int64_t r = blockIdx.x;
    const std::int32_t row = index[r];
    if (row < 0 || row >= limit) return;
    int earlier = 0;
    for (std::int64_t i = threadIdx.x; i < r; i += kThreads) earlier |= index[i] == row;
    if (__syncthreads_or(earlier)) return;
    const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * kThreads + threadIdx.x;
    float sum = column < columns ? to_float(out[row * columns + column]) : 0.0f;
    for (std::int64_t base = r; base < count; base += kThreads) {
        const std::int64_t i = base + threadIdx.x;
        tile[threadIdx.x] = i < count ? index[i] : -1;
        if (__syncthreads_or(tile[threadIdx.x] == row) && column < columns) {
            for (int j = 0; j < kThreads; ++j)
                if (tile[j] == row) sum += to_float(in[(base + j) * columns + column]);
        }
        __syncthreads();
    }
    if (column < columns) out[row * columns + column] = from_float<To>(sum);
}

/// body(T{}, size) with pieces of `size` numbers: 16 bytes where all of `columns`, `begins` and
/// `pointers` allow them, else single ones.
template <class Body, class... Pointers>
void with_pieces(DType dtype, std::int64_t columns, const Body& body, const Pointers*... pointers) {
    dispatch(dtype, [&]<class T>(T t) {
        if (vectorizes<T>(columns, pointers...))
            body(t, std::integral_constant<int, Vec<T>::kSize>{});
        else
            body(t, std::integral_constant<int, 1>{});
    });
}

/// Rows of `many` that belong to one of `few`.
std::int64_t repeat_of(const char* what, const Columns& many, const Columns& few, bool fits) {
    require(fits && few.rows > 0 && many.rows % few.rows == 0,
            "{}: rows of {} and {} numbers, {} and {} rows", what, many.width, few.width, many.rows,
            few.rows);
    return many.rows / few.rows;
}

}  // namespace

void gather_slice(const Context& c, Tensor out, Tensor in, Tensor index, std::int64_t offset,
                  bool slice) {
    const std::int64_t bytes = in.shape().row_elements() * size_of(in.dtype());
    const std::int64_t all = index.elements() * bytes;
    require(out.dtype() == in.dtype() && out.bytes() >= all, "gather: {} rows of {} into {}",
            index.elements(), in.shape().text(), out.shape().text());
    if (all == 0) return;
    with_unit(static_cast<std::uint64_t>(bytes) | bits_of(out) | bits_of(in), [&]<class Unit>(Unit) {
        constexpr std::int64_t kSize = sizeof(Unit);
        gather_kernel<<<blocks_for(all / kSize, kPerBlock), kThreads, 0, c.stream>>>(
            data<Unit>(out), data<Unit>(in), index.i32(), all / kSize, bytes / kSize, offset,
            in.dim(0), slice);
    });
    check_launch();
}

void gather_rows(const Context& c, Tensor out, Tensor in, Tensor index) {
    gather_slice(c, out, in, index, 0, false);
}

void scatter_add_rows(const Context& c, Tensor out, Tensor in, Tensor index) {
    const std::int64_t count = index.elements(), columns = in.shape().row_elements();
    require(out.shape().row_elements() == columns && in.elements() >= count * columns,
            "scatter_add_rows: {} rows of {} to {}", count, in.shape().text(), out.shape().text());
    if (count == 0 || columns == 0) return;
    dispatch(out.dtype(), [&]<class To>(To) {
        dispatch(in.dtype(), [&]<class From>(From) {
            const dim3 grid(static_cast<unsigned>(count), blocks_for(columns, kThreads));
            scatter_add_kernel<<<grid, kThreads, 0, c.stream>>>(
                data<To>(out), data<From>(in), index.i32(), count, out.dim(0), columns);
        });
    });
    check_launch();
}

void copy_columns(const Context& c, Tensor out, std::int64_t out_begin, Tensor in,
                  std::int64_t in_begin, std::int64_t width) {
    const Columns to(out), from(in);
    if (to.rows == 0 || width == 0) return;
    const std::int64_t repeat = repeat_of("copy_columns", to, from,
                                          out.dtype() == in.dtype() && out_begin + width <= to.width &&
                                              in_begin + width <= from.width);
    const std::int64_t size = size_of(out.dtype());
    const std::int64_t multiples = (to.width | from.width | out_begin | in_begin | width) * size;
    with_unit(static_cast<std::uint64_t>(multiples) | bits_of(out) | bits_of(in),
              [&]<class Unit>(Unit) {
                  const auto units = [&](std::int64_t numbers) {
                      return numbers * size / static_cast<std::int64_t>(sizeof(Unit));
                  };
                  const std::int64_t pieces = to.rows * units(width);
                  copy_columns_kernel<<<blocks_for(pieces, kPerBlock), kThreads, 0, c.stream>>>(
                      data<Unit>(out) + units(out_begin), units(to.width),
                      data<Unit>(in) + units(in_begin), units(from.width), pieces, units(width),
                      repeat);
              });
    check_launch();
}

void sum_columns(const Context& c, Tensor out, std::int64_t out_begin, Tensor in,
                 std::int64_t in_begin, std::int64_t width) {
    const Columns to(out), from(in);
    if (to.rows == 0 || width == 0) return;
    const std::int64_t repeat = repeat_of("sum_columns", from, to,
                                          out.dtype() == in.dtype() && out_begin + width <= to.width &&
                                              in_begin + width <= from.width);
    with_pieces(
        out.dtype(), to.width | from.width | out_begin | in_begin | width,
        [&]<class T, int kCount>(T, std::integral_constant<int, kCount>) {
            const std::int64_t pieces = to.rows * (width / kCount);
            sum_columns_kernel<kCount><<<blocks_for(pieces, kThreads), kThreads, 0, c.stream>>>(
                data<T>(out) + out_begin, to.width, data<T>(in) + in_begin, from.width, pieces,
                width / kCount, repeat);
        },
        static_cast<char*>(out.data()), static_cast<char*>(in.data()));
    check_launch();
}

void scale_rows(const Context& c, Tensor x, Tensor factor) {
    const std::int64_t rows = x.dim(0), n = x.shape().row_elements();
    require(factor.elements() >= rows, "scale_rows: {} rows, {} factors", rows, factor.elements());
    if (x.elements() == 0) return;
    with_pieces(
        x.dtype(), n,
        [&]<class T, int kCount>(T, std::integral_constant<int, kCount>) {
            const std::int64_t pieces = rows * (n / kCount);
            scale_rows_kernel<kCount><<<blocks_for(pieces, kPerBlock), kThreads, 0, c.stream>>>(
                data<T>(x), factor.f32(), pieces, n / kCount);
        },
        static_cast<char*>(x.data()));
    check_launch();
}

void row_dots(const Context& c, Tensor out, Tensor a, Tensor b) {
    const std::int64_t rows = a.dim(0), n = a.shape().row_elements();
    require(b.shape() == a.shape() && b.dtype() == a.dtype() && out.elements() >= rows,
            "row_dots: {} and {} to {}", a.shape().text(), b.shape().text(), out.shape().text());
    if (rows == 0) return;
    with_pieces(
        a.dtype(), n,
        [&]<class T, int kCount>(T, std::integral_constant<int, kCount>) {
            row_dots_kernel<kCount><<<blocks_for(rows, kThreads / 32), kThreads, 0, c.stream>>>(
                out.f32(), data<T>(a), data<T>(b), rows, n / kCount);
        },
        static_cast<char*>(a.data()), static_cast<char*>(b.data()));
    check_launch();
}

void sum_rows(const Context& c, Tensor out, Tensor in, Tensor place, bool accumulate) {
    const std::int64_t n = out.shape().row_elements(), many = place.shape().row_elements();
    require(in.shape().row_elements() == n && in.dtype() == out.dtype() &&
                place.elements() >= out.dim(0) * many,
            "sum_rows: {} from {} at {}", out.shape().text(), in.shape().text(),
            place.shape().text());
    if (out.elements() == 0) return;
    with_pieces(
        out.dtype(), n,
        [&]<class T, int kCount>(T, std::integral_constant<int, kCount>) {
            const std::int64_t pieces = out.elements() / kCount;
            sum_rows_kernel<kCount><<<blocks_for(pieces, kThreads), kThreads, 0, c.stream>>>(
                data<T>(out), data<T>(in), place.i32(), pieces, n / kCount, static_cast<int>(many),
                in.dim(0), accumulate);
        },
        static_cast<char*>(out.data()), static_cast<char*>(in.data()));
    check_launch();
}

}  // namespace gradus::cuda
