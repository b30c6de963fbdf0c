// SPDX-License-Identifier: Apache-2.0
// Decode attention of a group of query heads that share keys and values, bfloat16, 64 or 128 wide. Online
// softmax over tiles of 16 tokens: S = Q K^T, O = O 2^(m - m') + 2^(S - m') V on the tensor cores, with up
// to 16 heads of the group as rows; K and V are read once for them.
// A block is (row, kv head, 16 heads), and a split of the sequence; each of its four warps has every fourth
// tile, and sums of its own that are merged at the end. A lane copies to shared memory, three tiles deep,
// the very 16-byte pieces that it needs: the order of summands (decode_attention.cuh) makes them operands
// without a transposition. So there is no bank conflict and no barrier in the loop.
// Bound: bytes of the cache, 4 D a token and kv head; the products of a tile (8 KiB at D = 128) take 32
// instructions, an eighth of what the tensor cores do in the time of its bytes.
#include <algorithm>

#include "check.hpp"
#include "decode_attention.cuh"

namespace gradus::cuda {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kTile = 16, kHeads = 16, kStages = 3;

/// Pieces of a lane in a tile: keys of 2 tokens, values of 4.
template <int kDim>
struct Pieces {
    static constexpr int kKeys = 2 * kDim / 32, kAll = kKeys + 4 * kDim / 64;
};
template <int kDim>
constexpr int kRingBytes = kWarps * kStages * Pieces<kDim>::kAll * 32 * 16;
/// A row of merged sums, padded against bank conflicts.
template <int kDim>
constexpr int kMergedRow = kDim + 4;

/// One warp's online softmax.
template <int kDim>
struct WarpSums {
    float o[kDim / 64][8][4] = {};
    float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};

    /// `ring`: this lane's pieces of the tile, 32 apart.
    __device__ void add(const uint4 (&q)[kDim / 32][2], const uint4* ring, float scale, int tokens) {
        TileScores tile;
#pragma unroll
        for (int j = 0; j < kDim / 32; ++j)
#pragma unroll
            for (int n = 0; n < 2; ++n)
                multiply(tile.s[n], q[j][0], q[j][1], ring[(n * (kDim / 32) + j) * 32]);
        tile.finish(scale, tokens);
        if (__any_sync(0xffffffffu, tile.top[0] > max[0] || tile.top[1] > max[1])) {
            float keep[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const float top = fmaxf(max[r], tile.top[r]);
                keep[r] = exp2f(max[r] - top);
                max[r] = top;
                sum[r] *= keep[r];
            }
#pragma unroll
            for (auto& block : o)
#pragma unroll
                for (auto& d : block)
#pragma unroll
                    for (int i = 0; i < 4; ++i) d[i] *= keep[i / 2];
        }
        const uint4 weights = tile.weights(max, sum);
#pragma unroll
        for (int block = 0; block < kDim / 64; ++block) {
            uint4 v[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) v[k] = ring[(Pieces<kDim>::kKeys + 4 * block + k) * 32];
            multiply_values(o[block], weights, v);
        }
    }
};

template <int kDim>
__global__ void __launch_bounds__(kThreads, 2) decode_grouped_kernel(Decode in) {
    extern __shared__ __align__(16) char dynamic[];
    __shared__ int slots[kSplit];
    __shared__ float2 tops[kWarps][kHeads];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    const int tiles_of_heads = (in.group() + kHeads - 1) / kHeads;
    const int head_tile = static_cast<int>(blockIdx.x % tiles_of_heads);
    const int kv_head = static_cast<int>(blockIdx.x / tiles_of_heads % in.kv_heads);
    const std::int64_t row = blockIdx.x / tiles_of_heads / in.kv_heads;
    const int first_head = kv_head * in.group() + head_tile * kHeads;
    const int heads = min(kHeads, in.group() - head_tile * kHeads);
    // The page table does not wait for the length.
    constexpr int kOfThread = kSplit / kThreads;
    int split = static_cast<int>(blockIdx.y), of_thread[kOfThread];
    const auto find_slots = [&] {
#pragma unroll
        for (int i = 0; i < kOfThread; ++i)
            of_thread[i] = in.slot(row, split * kSplit + threadIdx.x + i * kThreads);
    };
    find_slots();
    const int length = in.length(row);
    if (split > 0 && split * kSplit >= length) return;

    const auto* q = static_cast<const bf16*>(in.q) + (row * in.heads + first_head) * kDim;
    if (length <= 0) {
        auto* out = static_cast<bf16*>(in.out) + (row * in.heads + first_head) * kDim;
        for (int i = threadIdx.x; i < heads * kDim; i += kThreads) out[i] = from_float<bf16>(0);
        return;
    }
    uint4 a[kDim / 32][2];
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int head = g + 8 * r;
            a[j][r] = make_uint4(0, 0, 0, 0);
            if (head < heads)
                a[j][r] = *reinterpret_cast<const uint4*>(q + head * kDim + 32 * j + 8 * c);
        }

    const std::int64_t stride = static_cast<std::int64_t>(in.kv_heads) * kDim;
    const auto* keys = static_cast<const bf16*>(in.keys) + kv_head * kDim + 8 * c;
    const auto* values = static_cast<const bf16*>(in.values) + kv_head * kDim + 8 * g;
    constexpr int kPieces = Pieces<kDim>::kAll;
    uint4* const ring = reinterpret_cast<uint4*>(dynamic) + warp * (kStages * kPieces * 32) + lane;
    const auto issue = [&](int tile, int stage, int count) {
        uint4* to = ring + stage * (kPieces * 32);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const int token = tile * kTile + 8 * n + g;
            const bf16* from = keys + (token < count ? slots[token] * stride : 0);
#pragma unroll
            for (int j = 0; j < kDim / 32; ++j)
                copy_async(to + (n * (kDim / 32) + j) * 32, from + 32 * j, token < count);
        }
        to += Pieces<kDim>::kKeys * 32;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int token = tile * kTile + 8 * (k / 2) + 2 * c + k % 2;
            const bf16* from = values + (token < count ? slots[token] * stride : 0);
#pragma unroll
            for (int block = 0; block < kDim / 64; ++block)
                copy_async(to + (4 * block + k) * 32, from + 64 * block, token < count);
        }
    };

    for (; split * kSplit < length; split += gridDim.y) {
        const int count = min(length - split * kSplit, kSplit);
        if (split >= static_cast<int>(gridDim.y)) find_slots();
#pragma unroll
        for (int i = 0; i < kOfThread; ++i) slots[threadIdx.x + i * kThreads] = of_thread[i];
        __syncthreads();
        const int tiles = (count + kTile - 1) / kTile;
        int next = warp;
        for (int stage = 0; stage < kStages - 1; ++stage, next += kWarps) {
            if (next < tiles) issue(next, stage, count);
            commit_copies();
        }
        WarpSums<kDim> sums;
        int stage = 0;
        for (int tile = warp; tile < tiles; tile += kWarps, next += kWarps) {
            if (next < tiles) issue(next, (stage + kStages - 1) % kStages, count);
            commit_copies();
            wait_copies<kStages - 1>();
            sums.add(a, ring + stage * (kPieces * 32), in.scale, count - tile * kTile);
            stage = (stage + 1) % kStages;
        }
        wait_copies<0>();

        // The warps' sums, brought to one maximum, are added in the order of the warps.
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float total = row_sum(sums.sum[r]);
            if (c == 0) tops[warp][g + 8 * r] = {sums.max[r], total};
        }
        __syncthreads();
        constexpr int kRow = kMergedRow<kDim>;
        float* const merged = reinterpret_cast<float*>(dynamic);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int head = g + 8 * r;
            float max = tops[0][head].x;
            for (int w = 1; w < kWarps; ++w) max = fmaxf(max, tops[w][head].x);
            const float factor = exp2f(sums.max[r] - max);
            if (head >= heads) continue;
            float* const to = merged + (warp * kHeads + head) * kRow + 16 * c;
#pragma unroll
            for (int block = 0; block < kDim / 64; ++block)
#pragma unroll
                for (int i = 0; i < 2; ++i)
#pragma unroll
                    for (int j = 0; j < 8; ++j)
                        to[64 * block + 8 * i + j] = sums.o[block][j][2 * r + i] * factor;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < heads * (kDim / 4); i += kThreads) {
            const int head = i / (kDim / 4), d = i % (kDim / 4) * 4;
            float max = tops[0][head].x, total = 0, x[4] = {};
            for (int w = 1; w < kWarps; ++w) max = fmaxf(max, tops[w][head].x);
#pragma unroll
            for (int w = 0; w < kWarps; ++w) {
                total += exp2f(tops[w][head].x - max) * tops[w][head].y;
                const auto part = load_vec(merged + (w * kHeads + head) * kRow + d);
                for (int k = 0; k < 4; ++k) x[k] += part.at[k];
            }
            write_decoded<bf16>(in, row, first_head + head, split, length <= kSplit, d, x, total);
            if (d == 0 && length > kSplit)
                in.tops[in.place(row, first_head + head, split)] = {max, total};
        }
        __syncthreads();
    }
}

template <int kDim>
void launch(const Context& c, const Decode& in) {
    static_assert(kRingBytes<kDim> >= kWarps * kHeads * kMergedRow<kDim> * 4);
    check(cudaFuncSetAttribute(decode_grouped_kernel<kDim>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, kRingBytes<kDim>));
    const int group = in.heads / in.kv_heads;
    const std::int64_t units = in.rows * in.kv_heads * ((group + kHeads - 1) / kHeads);
    const dim3 grid(static_cast<unsigned>(units), split_blocks(c, units, in.splits));
    decode_grouped_kernel<kDim><<<grid, kThreads, kRingBytes<kDim>, c.stream>>>(in);
    check_launch();
}

}  // namespace

bool has_grouped_decode(const Decode& in) {
    return in.values != nullptr && in.head_dim == in.value_dim &&
           (in.head_dim == 64 || in.head_dim == 128) &&
           vectorizes<bf16>(in.head_dim, static_cast<const char*>(in.q),
                            static_cast<const char*>(in.keys), static_cast<const char*>(in.values));
}

void decode_grouped(const Context& c, const Decode& in) {
    in.head_dim == 64 ? launch<64>(c, in) : launch<128>(c, in);
}

}  // namespace gradus::cuda
