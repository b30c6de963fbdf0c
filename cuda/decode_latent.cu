// SPDX-License-Identifier: Apache-2.0
// Decode attention over latents, bfloat16 (DeepSeek-V2, arXiv 2405.04434, section 2.1, absorbed): one
// key of 576 numbers a token for all heads, whose first 512 are the value.
// A block has one or two tiles of 16 heads, four warps each, and a split of the sequence. Steps of 64
// tokens lie in shared memory once, two deep; of a step a warp computes the scores of 16 tokens, and,
// when the weights of all four have been exchanged, 128 of the 512 dimensions of the output. Pieces of 16
// bytes are swizzled so that lanes that read eight tokens times four pieces (keys) or eight pieces of each
// of four tokens (values) meet no bank twice.
// Bound: bytes, 1152 a token, up to about 32 heads; more heads read the cache again through L2 and are
// bound by the tensor cores, 2 * 1088 FLOP a head and token.
#include <algorithm>

#include "check.hpp"
#include "decode_attention.cuh"

namespace gradus::cuda {

namespace {

constexpr int kDim = 576, kValueDim = 512;
constexpr int kHeads = 16, kWarps = 4;  ///< of a tile of heads
constexpr int kStep = 64, kTile = 16;
constexpr int kRow = kDim / 8;       ///< pieces of a token
constexpr int kBlocks = kDim / 32;   ///< of 32 summands
constexpr int kStagePieces = kStep * kRow;

/// Where piece x of a token lies.
__device__ int piece_at(int token, int x) {
    const int turn = (((token >> 2) ^ token) & 1) << 2 | (token & 2);
    return token * kRow + (x ^ turn);
}

template <int kTiles>
struct LatentShared {
    uint4 stages[2][kStagePieces];
    uint4 q[kTiles][kBlocks][2][32];
    uint4 weights[kTiles][kWarps][32];
    float tops[kTiles][kWarps][kHeads], sums[kTiles][kWarps][kHeads];
    int slots[kSplit];
};

template <int kTiles>
__global__ void __launch_bounds__(kTiles* kWarps * 32, 1) decode_latent_kernel(Decode in) {
    constexpr int kThreads = kTiles * kWarps * 32;
    extern __shared__ __align__(16) char dynamic[];
    auto& shared = *reinterpret_cast<LatentShared<kTiles>*>(dynamic);
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    const int tile = threadIdx.x / 32 / kWarps, warp = threadIdx.x / 32 % kWarps;
    const int units = (in.heads + kTiles * kHeads - 1) / (kTiles * kHeads);
    const std::int64_t row = blockIdx.x / units;
    const int first_head = (static_cast<int>(blockIdx.x % units) * kTiles + tile) * kHeads;
    const int length = in.length(row);
    if (blockIdx.y > 0 && static_cast<int>(blockIdx.y) * kSplit >= length) return;
    if (length <= 0) {
        auto* out = static_cast<bf16*>(in.out) + row * in.heads * kValueDim;
        for (int head = first_head; head < min(first_head + kHeads, in.heads); ++head)
            for (int d = threadIdx.x % (32 * kWarps); d < kValueDim; d += 32 * kWarps)
                out[head * kValueDim + d] = from_float<bf16>(0);
        return;
    }
    const auto* q = static_cast<const bf16*>(in.q) + row * in.heads * kDim;
    for (int j = warp; j < kBlocks; j += kWarps)
        for (int r = 0; r < 2; ++r) {
            const int head = first_head + g + 8 * r;
            shared.q[tile][j][r][lane] =
                head < in.heads ? *reinterpret_cast<const uint4*>(q + head * kDim + 32 * j + 8 * c)
                                : make_uint4(0, 0, 0, 0);
        }
    const auto* keys = static_cast<const bf16*>(in.keys);
    const auto issue = [&](int step, int count) {
        uint4* const to = shared.stages[step % 2];
        constexpr int kTokens = kStep / (kTiles * kWarps);  // of a warp
        const int first = threadIdx.x / 32 * kTokens;
#pragma unroll
        for (int token = first; token < first + kTokens; ++token) {
            const bool there = step * kStep + token < count;
            const bf16* const from =
                keys + (there ? shared.slots[step * kStep + token] * std::int64_t{kDim} : 0);
#pragma unroll
            for (int x = lane; x < kRow; x += 32)
                copy_async(to + piece_at(token, x), from + 8 * x, there);
        }
    };

    for (int split = static_cast<int>(blockIdx.y); split * kSplit < length; split += gridDim.y) {
        const int begin = split * kSplit, count = min(length - begin, kSplit);
        for (int i = threadIdx.x; i < kSplit; i += kThreads)
            shared.slots[i] = in.slot(row, begin + i);
        __syncthreads();
        const int steps = (count + kStep - 1) / kStep;
        issue(0, count);
        commit_copies();
        float o[2][8][4] = {};
        float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
        for (int step = 0; step < steps; ++step) {
            wait_copies<0>();
            __syncthreads();  // this step is there, the other stage has been read
            if (step + 1 < steps) issue(step + 1, count);
            commit_copies();
            const uint4* const stage = shared.stages[step % 2];
            TileScores scores, odd;
#pragma unroll 6
            for (int j = 0; j < kBlocks; ++j) {
                const uint4 a = shared.q[tile][j][0][lane], a8 = shared.q[tile][j][1][lane];
#pragma unroll
                for (int n = 0; n < 2; ++n)
                    multiply(j % 2 == 0 ? scores.s[n] : odd.s[n], a, a8,
                             stage[piece_at(kTile * warp + 8 * n + g, 4 * j + c)]);
            }
#pragma unroll
            for (int n = 0; n < 2; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) scores.s[n][i] += odd.s[n][i];
            scores.finish(in.scale, count - step * kStep - kTile * warp);
            if (c == 0)
                for (int r = 0; r < 2; ++r) shared.tops[tile][warp][g + 8 * r] = scores.top[r];
            __syncthreads();
            float keep[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                float top = max[r];
                for (int w = 0; w < kWarps; ++w) top = fmaxf(top, shared.tops[tile][w][g + 8 * r]);
                keep[r] = exp2f(max[r] - top);
                max[r] = top;
                sum[r] *= keep[r];
            }
            shared.weights[tile][warp][lane] = scores.weights(max, sum);
            if (__any_sync(0xffffffffu, keep[0] != 1 || keep[1] != 1)) {
#pragma unroll
                for (auto& block : o)
#pragma unroll
                    for (auto& d : block)
#pragma unroll
                        for (int i = 0; i < 4; ++i) d[i] *= keep[i / 2];
            }
            __syncthreads();
#pragma unroll
            for (int t = 0; t < kStep / kTile; ++t) {
                const uint4 weights = shared.weights[tile][t][lane];
#pragma unroll
                for (int block = 0; block < 2; ++block) {
                    uint4 v[4];
#pragma unroll
                    for (int k = 0; k < 4; ++k)
                        v[k] = stage[piece_at(kTile * t + 8 * (k / 2) + 2 * c + k % 2,
                                              16 * warp + 8 * block + g)];
                    multiply_values(o[block], weights, v);
                }
            }
        }
        // The maximum is common to the four warps; each has the weights of its own tokens.
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float own = row_sum(sum[r]);
            if (c == 0) shared.sums[tile][warp][g + 8 * r] = own;
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int head = first_head + g + 8 * r;
            if (head >= in.heads) continue;
            float total = 0;
            for (int w = 0; w < kWarps; ++w) total += shared.sums[tile][w][g + 8 * r];
#pragma unroll
            for (int block = 0; block < 2; ++block)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float x[8];
#pragma unroll
                    for (int j = 0; j < 8; ++j) x[j] = o[block][j][2 * r + i];
                    write_decoded<bf16>(in, row, head, split, length <= kSplit,
                                        128 * warp + 64 * block + 8 * (2 * c + i), x, total);
                }
            if (warp == 0 && c == 0 && length > kSplit)
                in.tops[in.place(row, head, split)] = {max[r], total};
        }
        __syncthreads();
    }
}

template <int kTiles>
void launch(const Context& c, const Decode& in) {
    constexpr int kBytes = sizeof(LatentShared<kTiles>);
    check(cudaFuncSetAttribute(decode_latent_kernel<kTiles>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    const std::int64_t units = in.rows * ((in.heads + kTiles * kHeads - 1) / (kTiles * kHeads));
    const dim3 grid(static_cast<unsigned>(units), split_blocks(c, units, in.splits));
    decode_latent_kernel<kTiles><<<grid, kTiles * kWarps * 32, kBytes, c.stream>>>(in);
    check_launch();
}

}  // namespace

bool has_latent_decode(const Decode& in) {
    return in.values == nullptr && in.kv_heads == 1 && in.head_dim == kDim &&
           in.value_dim == kValueDim &&
           vectorizes<bf16>(kDim, static_cast<const char*>(in.q), static_cast<const char*>(in.keys));
}

void decode_latent(const Context& c, const Decode& in) {
    in.heads <= kHeads ? launch<1>(c, in) : launch<2>(c, in);
}

}  // namespace gradus::cuda
