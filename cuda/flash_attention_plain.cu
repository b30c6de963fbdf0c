// SPDX-License-Identifier: Apache-2.0
// Causal attention in float32 arithmetic, for what the tensor cores do not take: float32, and
// bfloat16 of odd widths (converted as it is read). The algorithm is that of flash_attention.cu and
// flash_attention_backward.cu: a block of 16 x 16 threads computes a tile of 64 rows x 64 columns
// of scores, 4 x 4 a thread, widths in pieces. D and Dv up to 256. Bound: FLOPs of the FMA units,
// 16 a thread for two 16-byte reads of shared memory.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "check.hpp"
#include "flash_attention.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;         ///< rows and columns
constexpr int kDepth = 32;        ///< of a piece of a product over the width of heads
constexpr int kLead = kTile + 4;  ///< of arrays in shared memory: 16-byte rows, few bank conflicts
constexpr int kMaxWidth = 256;

struct Shared {
    float pieces[2 * kDepth * kLead];  ///< two of kDepth x kTile, or one of kTile x kTile
    float weights[kTile * kLead];      ///< P or dS, column after column
};
static_assert(2 * kDepth == kTile);

/// Rows of one head; those from `rows` on read as zeros.
template <class T>
struct Rows {
    const T* at;
    int stride, rows;
    __device__ float get(int r, int column, int width) const {
        return r < rows && column < width ? to_float(at[std::int64_t{r} * stride + column]) : 0.0f;
    }
};

__device__ inline int row_of_thread() {
    return 4 * (static_cast<int>(threadIdx.x) / 16);
}
__device__ inline int column_of_thread() {
    return 4 * (static_cast<int>(threadIdx.x) % 16);
}

/// c[i][j] += a[i] b[j]
__device__ inline void add_outer(float (&c)[4][4], const float* a, const float* b) {
    const auto x = load_vec(a), y = load_vec(b);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) c[i][j] = fmaf(x.at[i], y.at[j], c[i][j]);
    }
}

/// Writes columns [begin, begin + kDepth) of 64 rows, column after column. A warp reads 4 rows of 8
/// numbers, which lie in 32 different banks.
template <class T>
__device__ void stage_transposed(float* to, const Rows<T>& from, int begin, int width) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll 4
    for (int i = 0; i < kTile * kDepth / kThreads; ++i) {
        const int part = warp + kThreads / 32 * i;
        const int r = part % 16 * 4 + lane / 8, column = part / 16 * 8 + lane % 8;
        to[column * kLead + r] = from.get(r, begin + column, width);
    }
}

/// c += a b^T over `width`.
template <class T>
__device__ void multiply_rows(float (&c)[4][4], Shared& shared, const Rows<T>& a, const Rows<T>& b,
                              int width) {
    float *const x = shared.pieces, *const y = x + kDepth * kLead;
    for (int begin = 0; begin < width; begin += kDepth) {
        __syncthreads();
        stage_transposed(x, a, begin, width);
        stage_transposed(y, b, begin, width);
        __syncthreads();
#pragma unroll 8
        for (int i = 0; i < kDepth; ++i) {
            add_outer(c, x + i * kLead + row_of_thread(), y + i * kLead + column_of_thread());
        }
    }
}

/// c[n] += weights b[:, 64 n ..]; thread by thread as weights were written.
template <int kN, class T>
__device__ void multiply_weights(float (&c)[kN][4][4], Shared& shared, const Rows<T>& b,
                                 int width) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
        if (n * kTile >= width) break;
        __syncthreads();
#pragma unroll 4
        for (int i = 0; i < kTile * kTile / kThreads; ++i) {
            const int at = static_cast<int>(threadIdx.x) + i * kThreads;
            const int r = at / kTile, column = at % kTile;
            shared.pieces[r * kLead + column] = b.get(r, n * kTile + column, width);
        }
        __syncthreads();
#pragma unroll 8
        for (int i = 0; i < kTile; ++i) {
            add_outer(c[n], shared.weights + i * kLead + row_of_thread(),
                      shared.pieces + i * kLead + column_of_thread());
        }
    }
}

/// All threads must have left the last weights; multiply_weights() waits for these.
__device__ void write_weights(Shared& shared, const float (&p)[4][4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        Vec<float> x;
#pragma unroll
        for (int i = 0; i < 4; ++i) x.at[i] = p[i][j];
        store_vec(shared.weights + (column_of_thread() + j) * kLead + row_of_thread(), x);
    }
}

/// Row i of this thread's, times `factor`.
template <int kN, class T>
__device__ void store_row(T* to, const float (&x)[kN][4][4], int i, int width, float factor) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int column = n * kTile + column_of_thread() + j;
            if (column < width) to[column] = from_float<T>(x[n][i][j] * factor);
        }
    }
}

/// Of the 16 threads that share rows.
__device__ inline float max_of_row(float x) {
    for (int step = 8; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}
__device__ inline float sum_of_row(float x) {
    for (int step = 8; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

template <class T, int kN>
__global__ void __launch_bounds__(kThreads, kN <= 2 ? 2 : 1)
    plain_attention_forward_kernel(AttentionArgs<T> a, TilePlan plan) {
    __shared__ __align__(16) Shared shared;
    const int head = static_cast<int>(blockIdx.x) % a.heads;
    const Tile tile =
        find_tile(plan, a.starts, a.sequences, static_cast<int>(blockIdx.x) / a.heads);
    if (tile.empty()) return;
    const int kv_head = head / a.group();
    const Rows<T> q{a.q + a.q_at(tile.first + tile.begin, head), a.q_stride(),
                    tile.length - tile.begin};
    const int row = tile.begin + row_of_thread();
    float o[kN][4][4] = {}, row_sum[4] = {}, row_max[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) row_max[i] = -INFINITY;

    for (int key = 0; key < min(tile.begin + kTile, tile.length); key += kTile) {
        const int token = tile.first + key, keys = tile.length - key;
        const Rows<T> k{a.k + a.k_at(token, kv_head), a.k_stride(), keys};
        const Rows<T> v{a.v + a.v_at(token, kv_head), a.v_stride(), keys};
        float p[4][4] = {};
        multiply_rows(p, shared, q, k, a.head_dim);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float max = row_max[i];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const bool seen = key + column_of_thread() + j <= row + i;
                p[i][j] = seen ? p[i][j] * a.scale : -INFINITY;
                max = fmaxf(max, p[i][j]);
            }
            max = max_of_row(max);  // finite: key 0 is in the first tile and seen by all
            const float factor = expf(row_max[i] - max);
            row_max[i] = max;
            row_sum[i] *= factor;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                p[i][j] = expf(p[i][j] - max);
                row_sum[i] += p[i][j];
            }
#pragma unroll
            for (int n = 0; n < kN; ++n) {
#pragma unroll
                for (int j = 0; j < 4; ++j) o[n][i][j] *= factor;
            }
        }
        write_weights(shared, p);
        multiply_weights(o, shared, v, a.value_dim);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float sum = sum_of_row(row_sum[i]);
        if (row + i >= tile.length) continue;
        const int token = tile.first + row + i;
        store_row(a.out + a.o_at(token, head), o, i, a.value_dim, 1.0f / sum);
        if (column_of_thread() == 0) {
            a.lse[std::int64_t{token} * a.heads + head] = row_max[i] + logf(sum);
        }
    }
}

template <class T, Side kSide, int kN>
__global__ void __launch_bounds__(kThreads, kN == 1 ? 2 : 1)
    plain_attention_backward_kernel(AttentionArgs<T> a, TilePlan plan) {
    constexpr bool kKeySide = kSide == Side::keys;
    __shared__ __align__(16) Shared shared;
    const int heads = kKeySide ? a.kv_heads : a.heads;
    const int head = static_cast<int>(blockIdx.x) % heads;
    const Tile tile = find_tile(plan, a.starts, a.sequences, static_cast<int>(blockIdx.x) / heads);
    if (tile.empty()) return;
    // x and y of either side: q and d_out, or k and v.
    const auto x_of = [&](bool keys, int of_head, int begin) -> Rows<T> {
        const int token = tile.first + begin, rows = tile.length - begin;
        if (keys) return {a.k + a.k_at(token, of_head), a.k_stride(), rows};
        return {a.q + a.q_at(token, of_head), a.q_stride(), rows};
    };
    const auto y_of = [&](bool keys, int of_head, int begin) -> Rows<T> {
        const int token = tile.first + begin, rows = tile.length - begin;
        if (keys) return {a.v + a.v_at(token, of_head), a.v_stride(), rows};
        return {a.d_out + a.o_at(token, of_head), a.o_stride(), rows};
    };
    const int group = a.group();
    const int head_begin = kKeySide ? head * group : head / group;
    const int head_end = kKeySide ? head_begin + group : head_begin + 1;
    const int column_begin = kKeySide ? tile.begin : 0;
    const int column_end = kKeySide ? tile.length : min(tile.begin + kTile, tile.length);
    const int row = tile.begin + row_of_thread();
    float d_x[kN][4][4] = {}, d_y[kN][4][4] = {};

    for (int of_head = head_begin; of_head < head_end; ++of_head) {
        const int query_head = kKeySide ? of_head : head;
        for (int begin = column_begin; begin < column_end; begin += kTile) {
            const auto x = x_of(!kKeySide, of_head, begin), y = y_of(!kKeySide, of_head, begin);
            float p[4][4] = {}, d_p[4][4] = {};
            multiply_rows(p, shared, x_of(kKeySide, head, tile.begin), x, a.head_dim);
            multiply_rows(d_p, shared, y_of(kKeySide, head, tile.begin), y, a.value_dim);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int column = begin + column_of_thread() + j;
                    const int query = kKeySide ? column : row + i;
                    const int key = kKeySide ? row + i : column;
                    if (query < tile.length && key <= query) {
                        const float2 stats =
                            a.stats[std::int64_t{query_head} * a.tokens + tile.first + query];
                        p[i][j] = exp2f(fmaf(p[i][j], a.scale * kLog2E, -stats.x));
                        d_p[i][j] = p[i][j] * (d_p[i][j] - stats.y);
                    } else {
                        p[i][j] = d_p[i][j] = 0;
                    }
                }
            }
            if constexpr (kKeySide) {
                write_weights(shared, p);
                multiply_weights(d_y, shared, y, a.value_dim);
                __syncthreads();
            }
            write_weights(shared, d_p);
            multiply_weights(d_x, shared, x, a.head_dim);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (row + i >= tile.length) break;
        const int token = tile.first + row + i;
        T* const to = kKeySide ? a.d_k + a.k_at(token, head) : a.d_q + a.q_at(token, head);
        store_row(to, d_x, i, a.head_dim, a.scale);
        if constexpr (kKeySide) {
            store_row(a.d_v + a.v_at(token, head), d_y, i, a.value_dim, 1.0f);
        }
    }
}

/// Calls body(kN as a constant): the pieces of 64 that hold both widths.
template <class T, class Body>
void dispatch_pieces(const AttentionArgs<T>& a, const Body& body) {
    const int width = std::max(a.head_dim, a.value_dim);
    require(width <= kMaxWidth, "attention: heads of {} numbers; the kernels hold {}", width,
            kMaxWidth);
    if (width <= kTile) return body(std::integral_constant<int, 1>{});
    if (width <= 2 * kTile) return body(std::integral_constant<int, 2>{});
    return body(std::integral_constant<int, kMaxWidth / kTile>{});
}

}  // namespace

template <class T>
void plain_attention(const Context& c, const AttentionArgs<T>& a, const Packing& packing) {
    const TilePlan plan = plan_tiles(packing, a.tokens, kTile, true);
    dispatch_pieces(a, [&](auto pieces) {
        plain_attention_forward_kernel<T, pieces.value>
            <<<plan.slots * a.heads, kThreads, 0, c.stream>>>(a, plan);
    });
    check_launch();
}

template <class T>
void plain_attention_backward(const Context& c, const AttentionArgs<T>& a, const Packing& packing) {
    const TilePlan keys = plan_tiles(packing, a.tokens, kTile, false);
    const TilePlan queries = plan_tiles(packing, a.tokens, kTile, true);
    dispatch_pieces(a, [&](auto pieces) {
        plain_attention_backward_kernel<T, Side::keys, pieces.value>
            <<<keys.slots * a.kv_heads, kThreads, 0, c.stream>>>(a, keys);
        check_launch();
        plain_attention_backward_kernel<T, Side::queries, pieces.value>
            <<<queries.slots * a.heads, kThreads, 0, c.stream>>>(a, queries);
    });
    check_launch();
}

template void plain_attention(const Context&, const AttentionArgs<float>&, const Packing&);
template void plain_attention(const Context&, const AttentionArgs<bf16>&, const Packing&);
template void plain_attention_backward(const Context&, const AttentionArgs<float>&, const Packing&);
template void plain_attention_backward(const Context&, const AttentionArgs<bf16>&, const Packing&);

}  // namespace gradus::cuda
