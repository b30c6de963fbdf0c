// SPDX-License-Identifier: Apache-2.0
// What the kernels that go over rows share: pieces as they lie in registers, pieces dealt to threads,
// rows found by index, and sums of columns in two passes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "check.hpp"
#include "context.hpp"
#include "vector.cuh"

namespace gradus::cuda {

/// 16 bytes of T as words: bfloat16 stays two a register until it is used.
template <class T>
struct alignas(16) Packed {
    static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
    std::uint32_t word[4];

    __device__ float get(int i) const {
        if constexpr (std::is_same_v<T, float>) return __uint_as_float(word[i]);
        const std::uint32_t pair = word[i / 2];
        return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    }
    /// Keeps the compiler from holding the numbers unpacked from one use to the next.
    __device__ void keep_packed() {
        asm volatile("" : "+r"(word[0]), "+r"(word[1]), "+r"(word[2]), "+r"(word[3]));
    }
};
template <class T>
__device__ Packed<T> load_packed(const T* from) {
    return *reinterpret_cast<const Packed<T>*>(from);
}
template <class T>
__device__ Packed<T> load_packed_if(bool inside, const T* from) {
    return inside ? load_packed(from) : Packed<T>{};
}
template <class T>
__device__ Packed<T> pack(const float (&x)[Packed<T>::kSize]) {
    Packed<T> y;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (std::is_same_v<T, float>) {
            y.word[i] = __float_as_uint(x[i]);
        } else {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
            y.word[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
        }
    }
    return y;
}
template <class T>
__device__ void store_packed(T* to, const Packed<T>& x) {
    *reinterpret_cast<Packed<T>*>(to) = x;
}

/// A block takes consecutive pieces of rows of `width` pieces each, from number `first` on. One long
/// division finds the first; those after it are short ones.
struct RowWalk {
    struct Place {
        std::int64_t row;
        std::int64_t column;  ///< in pieces
    };
    std::int64_t row;
    unsigned column, width;

    __device__ RowWalk(std::int64_t first, std::int64_t width_)
        : row(first / width_),
          column(static_cast<unsigned>(first % width_)),
          width(static_cast<unsigned>(width_)) {}
    __device__ Place at(int piece) const {
        const unsigned i = column + static_cast<unsigned>(piece);
        return {row + i / width, i % width};
    }
};

/// out[r, :] = in[index[r] - offset, :], any type. Rows that `in` does not have are zero where `slice`
/// (another rank has them); otherwise those of a negative index are zero, and those of an index too
/// large are NaN, because a kernel cannot throw.
void gather_slice(const Context& c, Tensor out, Tensor in, Tensor index, std::int64_t offset,
                  bool slice);

// Column sums: a grid of chunks of rows leaves partial sums [chunks, columns], and a second kernel adds
// them in order of chunks. Bound: the bytes of the terms.

constexpr int kColumnWarps = 8;
constexpr int kColumnRows = 8;  // in flight a thread
constexpr std::int64_t kMaxColumnChunks = 512;

/// partial[chunk, column] = sum of terms over the chunk's rows. Term reads kCount neighbouring columns of
/// a row at once: load(row, column), of which value(raw, k) is the k-th term. Warps of a block take rows
/// in turn.
template <int kCount, class Term>
__global__ void __launch_bounds__(32 * kColumnWarps, 3)
    column_partials_kernel(float* partial, std::int64_t rows, std::int64_t columns, Term term) {
    __shared__ float sums[kColumnWarps][32 * kCount];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * 32 * kCount;
    const std::int64_t column = first + lane * kCount;
    const std::int64_t begin = rows * blockIdx.y / gridDim.y;
    const std::int64_t end = rows * (blockIdx.y + 1) / gridDim.y;
    float sum[kCount] = {};
    if (column < columns) {
        for (std::int64_t r = begin + warp; r < end; r += kColumnWarps * kColumnRows) {
            typename Term::Raw raw[kColumnRows];
#pragma unroll
            for (int i = 0; i < kColumnRows; ++i)
                if (r + i * kColumnWarps < end) raw[i] = term.load(r + i * kColumnWarps, column);
#pragma unroll
            for (int i = 0; i < kColumnRows; ++i) {
                if (r + i * kColumnWarps >= end) break;
#pragma unroll
                for (int k = 0; k < kCount; ++k) sum[k] += term.value(raw[i], k);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) sums[warp][lane * kCount + k] = sum[k];
    __syncthreads();
    for (int i = threadIdx.x; i < 32 * kCount; i += 32 * kColumnWarps) {
        if (first + i >= columns) return;
        float all = 0;
        for (int w = 0; w < kColumnWarps; ++w) all += sums[w][i];
        partial[blockIdx.y * columns + first + i] = all;
    }
}

/// out[column] += sum over chunks of partial[chunk, column]; blocks are 32 columns times 32 chunks.
template <class Out>
__global__ void __launch_bounds__(1024)
    add_column_partials_kernel(Out* out, const float* partial, int chunks, std::int64_t columns) {
    __shared__ float sums[32][32];
    const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.x;
    float sum = 0;
    if (column < columns) {
#pragma unroll 4
        for (int i = threadIdx.y; i < chunks; i += 32) sum += partial[i * columns + column];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= columns) return;
    float all = 0;
#pragma unroll
    for (int i = 0; i < 32; ++i) all += sums[i][threadIdx.x];
    out[column] += all;
}

inline void add_column_partials(const Context& c, float* out, const float* partial, int chunks,
                                std::int64_t columns) {
    add_column_partials_kernel<<<blocks_for(columns, 32), dim3(32, 32), 0, c.stream>>>(
        out, partial, chunks, columns);
    check_launch();
}

/// out[column] += sum of terms over all rows. Takes kMaxColumnChunks * columns floats of
/// the workspace at most, and no more than the larger of 2^17 and `columns`.
template <int kCount, class Term>
void add_column_sums(const Context& c, float* out, std::int64_t rows, std::int64_t columns,
                     const Term& term) {
    const int across = blocks_for(columns, 32 * kCount);
    // About 384 blocks, which are resident at once, of 32 rows at least.
    const std::int64_t chunks = std::clamp<std::int64_t>(
        std::min<std::int64_t>(384 / across, rows / (4 * kColumnWarps)), 1, kMaxColumnChunks);
    float* partial = c.scratch<float>(chunks * columns);
    column_partials_kernel<kCount>
        <<<dim3(across, static_cast<unsigned>(chunks)), 32 * kColumnWarps, 0, c.stream>>>(
            partial, rows, columns, term);
    check_launch();
    add_column_partials(c, out, partial, static_cast<int>(chunks), columns);
}

}  // namespace gradus::cuda
