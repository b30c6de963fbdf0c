// SPDX-License-Identifier: Apache-2.0
// Causal attention over packed sequences, forward: o_i = sum_j<=i p_ij v_j, p_ij = e^(scale q_i k_j
// - lse_i). Scores are never whole: a block stays at a tile of queries of one (sequence, head),
// walks over the tiles of keys, and keeps of each row the maximum m and the sum so far; a larger
// maximum multiplies what is there by e^(m_old - m_new) (Milakov and Gimelshein 2018; Dao 2023,
// FlashAttention-2, section 3.1). Exponentials are powers of 2.
//
// On tensor cores (bfloat16, widths multiples of 8, up to 256): mma.m16n8k16, four warps of 32 rows
// (16 where values are wider than 128). Q stays in shared memory; while K is used V arrives, while
// V is used the next K does. Widths are rounded up to 64, 128, 192/128 or 256 with zeros. Bound:
// FLOPs, 2 (D + Dv) a pair of query and key; mma.sync reaches some 60 % of the tensor cores' rate,
// and softmax does not overlap with it inside a warp. The rest: flash_attention_plain.cu.
#include <cmath>
#include <type_traits>

#include "check.hpp"
#include "flash_attention.cuh"
#include "kernels.hpp"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kKeys = 64;  ///< keys a tile

template <int kD, int kDv, int kM>
struct ForwardForm {
    static constexpr int kHead = kD, kValue = kDv, kTiles = kM;
    static constexpr int kRows = 4 * 16 * kM;
    static constexpr int kSharedBytes = 2 * (kRows * kD + kKeys * (kD + kDv));
};

template <class Form>
__global__ void __launch_bounds__(kThreads, 2)
    attention_forward_kernel(AttentionArgs<bf16> a, TilePlan plan) {
    constexpr int kD = Form::kHead, kDv = Form::kValue, kM = Form::kTiles, kRows = Form::kRows;
    extern __shared__ __align__(128) unsigned char shared[];
    const int head = static_cast<int>(blockIdx.x) % a.heads;
    const Tile tile =
        find_tile(plan, a.starts, a.sequences, static_cast<int>(blockIdx.x) / a.heads);
    if (tile.empty()) return;
    const int kv_head = head / a.group();
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

    const SharedTile<kD> q_tile(shared_address(shared));
    const SharedTile<kD> k_tile(q_tile.base + q_tile.kRowBytes * kRows);
    const SharedTile<kDv> v_tile(k_tile.base + k_tile.kRowBytes * kKeys);
    const auto fill_k = [&](int key) {
        k_tile.template fill<kKeys, kThreads>(a.k + a.k_at(tile.first + key, kv_head), a.k_stride(),
                                              tile.length - key, a.head_dim);
    };
    const auto fill_v = [&](int key) {
        v_tile.template fill<kKeys, kThreads>(a.v + a.v_at(tile.first + key, kv_head), a.v_stride(),
                                              tile.length - key, a.value_dim);
    };
    q_tile.template fill<kRows, kThreads>(a.q + a.q_at(tile.first + tile.begin, head), a.q_stride(),
                                          tile.length - tile.begin, a.head_dim);
    fill_k(0);
    copy_commit();

    const int warp_row = tile.begin + warp * 16 * kM;
    const int lane_row = warp_row + lane / 4, lane_column = 2 * (lane % 4);
    const int key_end = min(tile.begin + kRows, tile.length);
    const float scale = a.scale * kLog2E;
    float o[kM][kDv / 8][4] = {}, row_sum[kM][2] = {}, row_max[kM][2];
#pragma unroll
    for (int m = 0; m < kM; ++m) row_max[m][0] = row_max[m][1] = -INFINITY;

    for (int key = 0; key < key_end; key += kKeys) {
        copy_wait();
        __syncthreads();  // K is here, and no warp reads the last V
        fill_v(key);
        copy_commit();
        // Every row sees key 0, so its maximum is finite from the first tile on.
        const bool active = key < warp_row + 16 * kM && warp_row < tile.length;
        float s[kM][kKeys / 8][4] = {};
        if (active) {
            multiply_transposed<kD / 16>(
                s, [&](auto& f, int m, int step) { q_tile.load(f, warp * kM + m, step); }, k_tile);
        }
        copy_wait();
        __syncthreads();  // V is here, and no warp reads K
        if (key + kKeys < key_end) fill_k(key + kKeys);
        copy_commit();
        if (!active) continue;
        if (key + kKeys - 1 > warp_row) {
            const int ahead = lane_row - key - lane_column;  // of the first row over the first key
#pragma unroll
            for (int m = 0; m < kM; ++m) {
#pragma unroll
                for (int i = 0; i < kKeys / 8 * 4; ++i) {
                    const int column = i / 4 * 8 + i % 2, row = 16 * m + i % 4 / 2 * 8;
                    if (column - row > ahead) s[m][i / 4][i % 4] = -INFINITY;
                }
            }
        }
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float max = row_max[m][half];
#pragma unroll
                for (int j = 0; j < kKeys / 8; ++j) {
                    max = fmaxf(max, fmaxf(s[m][j][2 * half], s[m][j][2 * half + 1]));
                }
                max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
                max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
                const float factor = exp2_fast((row_max[m][half] - max) * scale);
                row_max[m][half] = max;
                const float shift = -max * scale;
                float sum = row_sum[m][half] * factor;  // of this lane's columns
#pragma unroll
                for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; ++i) {
                        s[m][j][i] = exp2_fast(fmaf(s[m][j][i], scale, shift));
                        sum += s[m][j][i];
                    }
                }
                row_sum[m][half] = sum;
#pragma unroll
                for (int j = 0; j < kDv / 8; ++j) {
                    o[m][j][2 * half] *= factor;
                    o[m][j][2 * half + 1] *= factor;
                }
            }
        }
        multiply(o, s, v_tile);
    }
    copy_wait();

#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = row_sum[m][half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const int row = lane_row + 16 * m + 8 * half;
            if (row >= tile.length) continue;
            const float inverse = 1.0f / sum;
            bf16* const out = a.out + a.o_at(tile.first + row, head);
#pragma unroll
            for (int j = 0; j < kDv / 8; ++j) {
                const int column = 8 * j + lane_column;
                if (column >= a.value_dim) continue;
                *reinterpret_cast<std::uint32_t*>(out + column) =
                    pack(o[m][j][2 * half] * inverse, o[m][j][2 * half + 1] * inverse);
            }
            if (lane % 4 == 0) {
                a.lse[std::int64_t{tile.first + row} * a.heads + head] =
                    row_max[m][half] * a.scale + logf(sum);
            }
        }
    }
}

template <class Form>
void launch_forward(const Context& c, const AttentionArgs<bf16>& a, const Packing& packing) {
    const TilePlan plan = plan_tiles(packing, a.tokens, Form::kRows, true);
    const auto kernel = attention_forward_kernel<Form>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               Form::kSharedBytes));
    kernel<<<plan.slots * a.heads, kThreads, Form::kSharedBytes, c.stream>>>(a, plan);
    check_launch();
}

void tensor_core_attention(const Context& c, const AttentionArgs<bf16>& a, const Packing& packing) {
    if (a.head_dim <= 64 && a.value_dim <= 64) {
        launch_forward<ForwardForm<64, 64, 2>>(c, a, packing);
    } else if (a.head_dim <= 128 && a.value_dim <= 128) {
        launch_forward<ForwardForm<128, 128, 2>>(c, a, packing);
    } else if (a.head_dim <= 192 && a.value_dim <= 128) {
        launch_forward<ForwardForm<192, 128, 2>>(c, a, packing);
    } else {
        launch_forward<ForwardForm<256, 256, 1>>(c, a, packing);
    }
}

}  // namespace

std::int64_t flash_attention_workspace(const OpsLimits& limits) {
    return limits.max_tokens * limits.max_heads * static_cast<std::int64_t>(sizeof(float2));
}

void flash_attention(const Context& c, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                     const Packing& packing, const AttentionShape& shape) {
    if (q.dim(0) == 0 || packing.sequences == 0) return;
    dispatch(q.dtype(), [&](auto type) {
        using T = decltype(type);
        auto a = attention_args<T>(q, k, v, packing, shape);
        a.out = data<T>(out), a.lse = lse.f32();
        if constexpr (std::is_same_v<T, bf16>) {
            if (on_tensor_cores(a)) return tensor_core_attention(c, a, packing);
        }
        plain_attention(c, a, packing);
    });
}

}  // namespace gradus::cuda
