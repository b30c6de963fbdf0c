// SPDX-License-Identifier: Apache-2.0
// Causal attention over packed sequences, backward (Dao et al. 2022, FlashAttention, section B.2):
//   P = e^(scale Q K^T - lse), dP = dO V^T, dS = P (dP - rowsum(dO * O)),
//   dV = P^T dO, dQ = scale dS K, dK = scale dS^T Q.
// A first pass makes the row sums. Then nothing is added to memory by two blocks, so bits repeat:
// one pass makes dK and dV (a block stays at a tile of keys and walks over the later queries of all
// heads of the group), one dQ (a block stays at a tile of queries), and both compute P and dS. They
// are one kernel: seen from its block, with x, y = K, V or Q, dO,
//   S = x_rows x_columns^T, dP = y_rows y_columns^T, d_y = P y_columns, d_x = dS x_columns,
// where rows are the block's own side, and P and dS stay in registers.
//
// On tensor cores (as forward): four warps of 16 rows, two stages of columns in shared memory.
// Bound: shared memory, whose 512 bytes a load serve 4096 multiplications of a warp's 16 rows; 7
// products where 5 would do without the second P and dS. Reached on an H100, 4 sequences of 4096,
// 12 heads on 2, D 128: 240 TFLOP/s, counting 5 products; 16 of 1024: 196. Few tokens times key
// heads leave multiprocessors idle: a tile of 64 keys of one head is one block.
#include <type_traits>

#include "check.hpp"
#include "flash_attention.cuh"
#include "kernels.hpp"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kRows = 64;

/// stats[head, token] = {lse log2 e, rowsum(d_out * out)}: `lanes` (a power of 2) a row.
template <class T>
__global__ void __launch_bounds__(256)
    attention_row_sums_kernel(AttentionArgs<T> a, int lanes, bool vectors) {
    const std::int64_t rows = std::int64_t{a.tokens} * a.heads;
    const std::int64_t row = (std::int64_t{blockIdx.x} * 256 + threadIdx.x) / lanes;
    const int lane = static_cast<int>(threadIdx.x) % lanes;
    float sum = 0;
    if (row < rows) {
        const T* const out = a.out + row * a.value_dim;
        const T* const d_out = a.d_out + row * a.value_dim;
        if (vectors) {
            constexpr int kSize = Vec<T>::kSize;
            for (int i = lane * kSize; i < a.value_dim; i += lanes * kSize) {
                const auto x = load_vec(out + i), y = load_vec(d_out + i);
#pragma unroll
                for (int j = 0; j < kSize; ++j) sum += x.get(j) * y.get(j);
            }
        } else {
            for (int i = lane; i < a.value_dim; i += lanes)
                sum += to_float(out[i]) * to_float(d_out[i]);
        }
    }
    for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (row < rows && lane == 0) {
        const auto token = row / a.heads, head = row % a.heads;
        a.stats[head * a.tokens + token] = make_float2(a.lse[row] * kLog2E, sum);
    }
}

/// kWantX, kWantY: which gradients; both do not fit the registers where heads are wider than 192.
/// kKeepRows: the block's own x and y stay in registers.
template <Side kSide_, int kD, int kDv, int kC, bool kX, bool kY, bool kKeep>
struct BackwardForm {
    static constexpr Side kSide = kSide_;
    static constexpr int kHead = kD, kValue = kDv, kColumns = kC;
    static constexpr bool kWantX = kX, kWantY = kY, kKeepRows = kKeep;
    static constexpr int kStatsBytes = 2 * kC * static_cast<int>(sizeof(float2));
    static constexpr int kSharedBytes = 2 * (kRows + 2 * kC) * (kD + kDv) + kStatsBytes;
};

/// Rows of x and y, or of their gradients, of one head from a token on.
template <class T>
struct HeadRows {
    T *x, *y;
    int x_stride, y_stride;
};
template <class T>
__device__ HeadRows<const T> query_rows(const AttentionArgs<T>& a, int token, int head) {
    return {a.q + a.q_at(token, head), a.d_out + a.o_at(token, head), a.q_stride(), a.o_stride()};
}
template <class T>
__device__ HeadRows<const T> key_rows(const AttentionArgs<T>& a, int token, int head) {
    return {a.k + a.k_at(token, head), a.v + a.v_at(token, head), a.k_stride(), a.v_stride()};
}

/// Rows of a gradient from the accumulators of a warp; `row` is this lane's first.
template <int kN>
__device__ void store_rows(bf16* to, int stride, const float (&x)[1][kN][4], float factor, int row,
                           int rows, int width) {
#pragma unroll
    for (int half = 0; half < 2; ++half, row += 8) {
        if (row >= rows) return;
#pragma unroll
        for (int j = 0; j < kN; ++j) {
            const int column = 8 * j + 2 * (static_cast<int>(threadIdx.x) % 4);
            if (column >= width) continue;
            *reinterpret_cast<std::uint32_t*>(to + std::int64_t{row} * stride + column) =
                pack(x[0][j][2 * half] * factor, x[0][j][2 * half + 1] * factor);
        }
    }
}

template <class Form>
__global__ void __launch_bounds__(kThreads, 2)
    attention_backward_kernel(AttentionArgs<bf16> a, TilePlan plan) {
    constexpr int kD = Form::kHead, kDv = Form::kValue, kC = Form::kColumns;
    constexpr bool kKeySide = Form::kSide == Side::keys;
    extern __shared__ __align__(128) unsigned char shared[];
    const int heads = kKeySide ? a.kv_heads : a.heads;
    const int head = static_cast<int>(blockIdx.x) % heads;
    const Tile tile = find_tile(plan, a.starts, a.sequences, static_cast<int>(blockIdx.x) / heads);
    if (tile.empty()) return;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

    const SharedTile<kD> x_rows(shared_address(shared));
    const SharedTile<kDv> y_rows(x_rows.base + x_rows.kRowBytes * kRows);
    const std::uint32_t columns_at = y_rows.base + y_rows.kRowBytes * kRows;
    constexpr std::uint32_t kStage = 2 * kC * (kD + kDv);
    const std::uint32_t stats_at = columns_at + 2 * kStage;
    const float4* const stats = reinterpret_cast<const float4*>(shared + (stats_at - x_rows.base));

    // The other side: heads and rows of the sequence that this block walks over.
    const int group = a.group();
    const int head_begin = kKeySide ? head * group : head / group;
    const int head_end = kKeySide ? head_begin + group : head_begin + 1;
    const int column_begin = kKeySide ? tile.begin : 0;
    const int column_end = kKeySide ? tile.length : min(tile.begin + kRows, tile.length);
    const auto fill_columns = [&](int stage, int of_head, int column) {
        const auto from = kKeySide ? query_rows(a, tile.first + column, of_head)
                                   : key_rows(a, tile.first + column, of_head);
        const int rows = tile.length - column;
        const SharedTile<kD> x(columns_at + stage * kStage);
        const SharedTile<kDv> y(x.base + x.kRowBytes * kC);
        x.template fill<kC, kThreads>(from.x, from.x_stride, rows, a.head_dim);
        y.template fill<kC, kThreads>(from.y, from.y_stride, rows, a.value_dim);
        const int i = static_cast<int>(threadIdx.x);
        if (kKeySide && i < kC) {
            const auto at = std::int64_t{of_head} * a.tokens + tile.first + column;
            copy_async<8>(stats_at + (stage * kC + i) * 8, a.stats + at + (i < rows ? i : 0),
                          i < rows);
        }
        copy_commit();
    };
    const auto own = kKeySide ? key_rows(a, tile.first + tile.begin, head)
                              : query_rows(a, tile.first + tile.begin, head);
    x_rows.template fill<kRows, kThreads>(own.x, own.x_stride, tile.length - tile.begin,
                                          a.head_dim);
    y_rows.template fill<kRows, kThreads>(own.y, own.y_stride, tile.length - tile.begin,
                                          a.value_dim);
    fill_columns(0, head_begin, column_begin);

    const int warp_row = tile.begin + 16 * warp, lane_row = warp_row + lane / 4;
    float2 row_stats[2] = {};  // zeros, as the rows past the end: P there meets dO = 0
    if constexpr (!kKeySide) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = lane_row + 8 * half;
            if (row < tile.length) {
                row_stats[half] = a.stats[std::int64_t{head} * a.tokens + tile.first + row];
            }
        }
    }
    std::uint32_t x_kept[kD / 16][4], y_kept[kDv / 16][4];
    if constexpr (Form::kKeepRows) {
        copy_wait();
        __syncthreads();
#pragma unroll
        for (int step = 0; step < kD / 16; ++step) x_rows.load(x_kept[step], warp, step);
#pragma unroll
        for (int step = 0; step < kDv / 16; ++step) y_rows.load(y_kept[step], warp, step);
    }
    const auto block_of = [&](const auto& rows, const auto& kept) {
        return [&](std::uint32_t(&f)[4], int, int step) {
            if constexpr (Form::kKeepRows) {
#pragma unroll
                for (int i = 0; i < 4; ++i) f[i] = kept[step][i];
            } else {
                rows.load(f, warp, step);
            }
        };
    };
    const float scale = a.scale * kLog2E;
    float d_x[1][kD / 8][4] = {}, d_y[1][kDv / 8][4] = {};

    for (int of_head = head_begin, column = column_begin, stage = 0; of_head < head_end;
         stage ^= 1) {
        const int now = column;
        column += kC;
        if (column >= column_end) {
            column = column_begin;
            ++of_head;
        }
        copy_wait();
        __syncthreads();  // this stage is here, and no warp reads the other
        if (of_head < head_end) fill_columns(stage ^ 1, of_head, column);

        // Of a warp's rows and the columns now, is no pair (query before key) to be seen? Are all?
        const bool none = kKeySide ? now + kC - 1 < warp_row : now > warp_row + 15;
        const bool all = kKeySide ? now >= warp_row + 15 : now + kC - 1 <= warp_row;
        if (none || warp_row >= tile.length) continue;
        const SharedTile<kD> x(columns_at + stage * kStage);
        const SharedTile<kDv> y(x.base + x.kRowBytes * kC);
        float p[1][kC / 8][4] = {};
        multiply_transposed<kD / 16>(p, block_of(x_rows, x_kept), x);
        if (!all) {
            const int ahead =
                lane_row - now - 2 * (lane % 4);  // of this lane's row over its column
#pragma unroll
            for (int i = 0; i < kC / 8 * 4; ++i) {
                const int over = i / 4 * 8 + i % 2 - i % 4 / 2 * 8;  // of column over row
                if (kKeySide ? over < ahead : over > ahead) p[0][i / 4][i % 4] = -INFINITY;
            }
        }
        // Of the columns 2 (l % 4) and the next of eight, or of the two rows: {lse, sum, lse, sum}.
        const auto stats_of = [&](int j) {
            if constexpr (kKeySide) return stats[(stage * kC + 8 * j) / 2 + lane % 4];
            return make_float4(row_stats[0].x, row_stats[0].y, row_stats[1].x, row_stats[1].y);
        };
        const auto second = [](int i) { return kKeySide ? i % 2 : i / 2; };
#pragma unroll
        for (int j = 0; j < kC / 8; ++j) {
            const float4 of = stats_of(j);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                p[0][j][i] = exp2_fast(fmaf(p[0][j][i], scale, second(i) ? -of.z : -of.x));
            }
        }
        if constexpr (Form::kWantY) multiply(d_y, p, y);
        if constexpr (Form::kWantX) {
            float d_p[1][kC / 8][4] = {};
            multiply_transposed<kDv / 16>(d_p, block_of(y_rows, y_kept), y);
#pragma unroll
            for (int j = 0; j < kC / 8; ++j) {
                const float4 of = stats_of(j);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    p[0][j][i] *= d_p[0][j][i] - (second(i) ? of.w : of.y);
                }
            }
            multiply(d_x, p, x);
        }
    }

    const int first = tile.first, length = tile.length;
    if constexpr (Form::kWantX) {
        bf16* const to = kKeySide ? a.d_k + a.k_at(first, head) : a.d_q + a.q_at(first, head);
        store_rows(to, kKeySide ? a.k_stride() : a.q_stride(), d_x, a.scale, lane_row, length,
                   a.head_dim);
    }
    if constexpr (Form::kWantY) {
        store_rows(a.d_v + a.v_at(first, head), a.v_stride(), d_y, 1.0f, lane_row, length,
                   a.value_dim);
    }
}

template <class Form>
void launch_backward(const Context& c, const AttentionArgs<bf16>& a, const Packing& packing) {
    constexpr bool kKeySide = Form::kSide == Side::keys;
    const TilePlan plan = plan_tiles(packing, a.tokens, kRows, !kKeySide);
    const auto kernel = attention_backward_kernel<Form>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               Form::kSharedBytes));
    kernel<<<plan.slots*(kKeySide ? a.kv_heads : a.heads), kThreads, Form::kSharedBytes,
             c.stream>>>(a, plan);
    check_launch();
}

void tensor_core_backward(const Context& c, const AttentionArgs<bf16>& a, const Packing& packing) {
    constexpr auto kQueries = Side::queries, kKeys = Side::keys;
    if (a.head_dim <= 64 && a.value_dim <= 64) {
        launch_backward<BackwardForm<kKeys, 64, 64, 64, true, true, false>>(c, a, packing);
        launch_backward<BackwardForm<kQueries, 64, 64, 64, true, false, true>>(c, a, packing);
    } else if (a.head_dim <= 128 && a.value_dim <= 128) {
        launch_backward<BackwardForm<kKeys, 128, 128, 64, true, true, false>>(c, a, packing);
        launch_backward<BackwardForm<kQueries, 128, 128, 64, true, false, true>>(c, a, packing);
    } else if (a.head_dim <= 192 && a.value_dim <= 128) {
        launch_backward<BackwardForm<kKeys, 192, 128, 32, true, true, false>>(c, a, packing);
        launch_backward<BackwardForm<kQueries, 192, 128, 32, true, false, false>>(c, a, packing);
    } else {
        launch_backward<BackwardForm<kKeys, 256, 256, 32, true, false, false>>(c, a, packing);
        launch_backward<BackwardForm<kKeys, 256, 256, 32, false, true, false>>(c, a, packing);
        launch_backward<BackwardForm<kQueries, 256, 256, 32, true, false, false>>(c, a, packing);
    }
}

template <class T>
void row_sums(const Context& c, const AttentionArgs<T>& a) {
    const bool vectors = vectorizes<T>(a.value_dim, a.out, a.d_out);
    const int loads = vectors ? a.value_dim / Vec<T>::kSize : a.value_dim;
    int lanes = 1;
    while (lanes < 32 && lanes < loads) lanes *= 2;
    const auto rows = std::int64_t{a.tokens} * a.heads;
    attention_row_sums_kernel<<<blocks_for(rows * lanes, 256), 256, 0, c.stream>>>(a, lanes,
                                                                                   vectors);
    check_launch();
}

}  // namespace

void flash_attention_backward(const Context& c, Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out,
                              Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse,
                              const Packing& packing, const AttentionShape& shape) {
    if (q.dim(0) == 0 || packing.sequences == 0) return;
    dispatch(q.dtype(), [&](auto type) {
        using T = decltype(type);
        auto a = attention_args<T>(q, k, v, packing, shape);
        a.out = data<T>(out), a.lse = lse.f32(), a.d_out = data<T>(d_out);
        a.d_q = data<T>(d_q), a.d_k = data<T>(d_k), a.d_v = data<T>(d_v);
        a.stats = c.scratch<float2>(std::int64_t{a.tokens} * a.heads);
        row_sums(c, a);
        if constexpr (std::is_same_v<T, bf16>) {
            if (on_tensor_cores(a)) return tensor_core_backward(c, a, packing);
        }
        plain_attention_backward(c, a, packing);
    });
}

}  // namespace gradus::cuda
