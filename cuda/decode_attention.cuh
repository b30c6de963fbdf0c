// SPDX-License-Identifier: Apache-2.0
// What the kernels of decode attention share: splits of a sequence, paged addresses, tensor core products
// of bfloat16 and asynchronous copies.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "context.hpp"
#include "vector.cuh"

namespace gradus::cuda {

/// Tokens of a split. A constant, so that a row's result depends on that row alone.
constexpr int kSplit = 512;
constexpr float kLog2e = 1.44269504088896341f;  ///< scores are kept times this: exponents of two

struct Decode {
    const void *q, *keys, *values;
    void* out;
    const std::int32_t *page_table, *lengths;
    std::int64_t rows;
    int heads, kv_heads, head_dim, value_dim;
    int page_size, max_pages;
    float scale;  ///< with kLog2e
    int splits;   ///< of the longest possible row
    float* sums;  ///< [rows, heads, splits, Dv]: sum of 2^(s - max) v over a split
    float2* tops; ///< [rows, heads, splits]: max, sum of 2^(s - max)

    __device__ int group() const { return heads / kv_heads; }
    __device__ int length(std::int64_t row) const {
        const int tokens = lengths[row];
        if (tokens > max_pages * page_size) __trap();  // better no run than memory of others
        return tokens;
    }
    /// The slot of token t of a row; without meaning beyond its length.
    __device__ int slot(std::int64_t row, int t) const {
        const int page = t / page_size;
        const int at = page < max_pages ? page_table[row * max_pages + page] : 0;
        return at * page_size + t % page_size;
    }
    __device__ std::int64_t place(std::int64_t row, int head, int split) const {
        return (row * heads + head) * splits + split;
    }
};

/// Writes the sums of one head over one split, `count` numbers from dimension `begin` on: the result where
/// there is no other split.
template <class T, int kCount>
__device__ void write_decoded(const Decode& in, std::int64_t row, int head, int split, bool alone,
                              int begin, const float (&x)[kCount], float total) {
    if (alone) {
        T* to = static_cast<T*>(in.out) + (row * in.heads + head) * in.value_dim + begin;
        const float inverse = 1.0f / total;
        for (int i = 0; i < kCount; ++i) to[i] = from_float<T>(x[i] * inverse);
    } else {
        float* to = in.sums + in.place(row, head, split) * in.value_dim + begin;
        for (int i = 0; i < kCount; ++i) to[i] = x[i];
    }
}

/// d[16, 8] += a[16, 16] b[16, 8]. With lane = 4 g + c: a0 a1 a2 a3 are rows g, g + 8, g, g + 8 and columns
/// 2c, 2c, 2c + 8, 2c + 8 (and the next); b0 b1 are rows 2c, 2c + 8 (and the next), column g; d is
/// row g, columns 2c, 2c + 1, then row g + 8. Any order of the 16 summands serves, the same in a and b.
__device__ inline void multiply(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
/// A block of 32 summands, of which lane (g, c) holds the eight 8c .. 8c + 7 of its rows and column.
__device__ inline void multiply(float (&d)[4], const uint4& a, const uint4& a8, const uint4& b) {
    multiply(d, a.x, a8.x, a.y, a8.y, b.x, b.y);
    multiply(d, a.z, a8.z, a.w, a8.w, b.z, b.w);
}

__device__ inline unsigned pack(float low, float high) {
    const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const unsigned&>(x);
}

/// Values of 16 tokens times their weights. Lane (g, c) holds the dimensions 8g .. 8g + 7 of the tokens
/// 2c, 2c + 1, 2c + 8, 2c + 9: its numbers j are column g of product j. So d[j] is dimensions 8 (2c) + j and
/// 8 (2c + 1) + j.
__device__ inline void multiply_values(float (&d)[8][4], const uint4& weights, const uint4 (&v)[4]) {
    const auto part = [](const uint4& x, int i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; };
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const unsigned order = j % 2 == 0 ? 0x5410 : 0x7632;
        multiply(d[j], weights.x, weights.y, weights.z, weights.w,
                 __byte_perm(part(v[0], j / 2), part(v[1], j / 2), order),
                 __byte_perm(part(v[2], j / 2), part(v[3], j / 2), order));
    }
}

/// 16 bytes to shared memory; zeros where `from` is not to be read. The neighbours are wanted soon.
__device__ inline void copy_async(void* to, const void* from, bool read) {
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(to))),
                 "l"(from), "r"(read ? 16 : 0)
                 : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Scores of 16 tokens, scaled, -inf where there is no token; their maximum by row (g, g + 8).
struct TileScores {
    float s[2][4] = {};
    float top[2] = {-INFINITY, -INFINITY};

    __device__ void finish(float scale, int tokens) {
        const int c = threadIdx.x % 4;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                s[n][i] = 8 * n + 2 * c + i % 2 < tokens ? s[n][i] * scale : -INFINITY;
                top[i / 2] = fmaxf(top[i / 2], s[n][i]);
            }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
        }
    }
    /// Weights 2^(s - max) as the left side of multiply_values(); this lane's share is added to `sum`.
    __device__ uint4 weights(const float (&max)[2], float (&sum)[2]) const {
        float p[2][4];
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                p[n][i] = exp2f(s[n][i] - max[i / 2]);
                sum[i / 2] += p[n][i];
            }
        return {pack(p[0][0], p[0][1]), pack(p[0][2], p[0][3]), pack(p[1][0], p[1][1]),
                pack(p[1][2], p[1][3])};
    }
};

/// The sum over the four lanes that share a row.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// Blocks a split loop is spread over: grid.y. Enough to fill the device; few, since those beyond a row's
/// length find nothing to do, but take their time to find out.
inline unsigned split_blocks(const Context& c, std::int64_t units, int splits) {
    const std::int64_t fill = 8 * std::int64_t{c.multiprocessors} / units + 1;
    const std::int64_t most = std::max<std::int64_t>(4, fill);
    return static_cast<unsigned>(std::min<std::int64_t>({splits, most, 65535}));
}

// decode_grouped.cu: whether there is a kernel, and the splits' sums.
bool has_grouped_decode(const Decode& in);
void decode_grouped(const Context& c, const Decode& in);
// decode_latent.cu
bool has_latent_decode(const Decode& in);
void decode_latent(const Context& c, const Decode& in);

}  // namespace gradus::cuda
