// SPDX-License-Identifier: Apache-2.0
// Attention of one token a row over a paged cache: o = sum_t p_t v_t, p = softmax(scale q k_t).
// A row's sequence is cut into splits of kSplit tokens, whatever the batch. Each leaves, for each head, its
// maximum m (of scores times log2 e), sum of 2^(s - m) and sum of 2^(s - m) v; a second kernel brings
// them to one maximum and adds them in order. Rows of one split are finished by the first kernel. The grids
// depend on the shapes alone; blocks beyond a row's length return at once.
// decode_grouped.cu and decode_latent.cu hold the kernels for what models use in bfloat16. Here is the one
// for everything else: float32 and odd widths, up to 8 heads of a group in a block, no tensor cores.
// Bound: bytes of the cache, each read once a group of heads.
#include <algorithm>

#include "check.hpp"
#include "decode_attention.cuh"
#include "kernels.hpp"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kHeads = 8, kStep = 64;
constexpr std::int64_t kWorkspace = 64 << 20;  ///< of sums, unless one row needs more

/// Shared memory: q [heads, D], then sums [heads, Dv].
std::int64_t bytes_of_heads(const Decode& in, int heads) {
    return 4 * static_cast<std::int64_t>(heads) * (in.head_dim + in.value_dim);
}

template <class T>
__global__ void __launch_bounds__(kThreads) decode_any_kernel(Decode in, int most_heads) {
    extern __shared__ float dynamic[];
    __shared__ float scores[kHeads][kStep], keep[kHeads], maxima[kHeads], totals[kHeads];
    __shared__ int slots[kStep];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int tiles = (in.group() + most_heads - 1) / most_heads;
    const int tile = static_cast<int>(blockIdx.x % tiles);
    const int kv_head = static_cast<int>(blockIdx.x / tiles % in.kv_heads);
    const std::int64_t row = blockIdx.x / tiles / in.kv_heads;
    const int first_head = kv_head * in.group() + tile * most_heads;
    const int heads = min(most_heads, in.group() - tile * most_heads);
    const int length = in.length(row), dim = in.head_dim, value_dim = in.value_dim;
    if (length <= 0) {
        if (blockIdx.y > 0) return;
        T* out = static_cast<T*>(in.out) + (row * in.heads + first_head) * value_dim;
        for (int i = threadIdx.x; i < heads * value_dim; i += kThreads) out[i] = from_float<T>(0);
        return;
    }
    float* const q = dynamic;
    float* const sums = dynamic + heads * dim;
    const T* from = static_cast<const T*>(in.q) + (row * in.heads + first_head) * dim;
    for (int i = threadIdx.x; i < heads * dim; i += kThreads) q[i] = to_float(from[i]);
    const T* keys = static_cast<const T*>(in.keys) + kv_head * dim;
    const bool latent = in.values == nullptr;
    const T* values = latent ? keys : static_cast<const T*>(in.values) + kv_head * value_dim;
    const std::int64_t key_stride = static_cast<std::int64_t>(in.kv_heads) * dim;
    const std::int64_t value_stride =
        latent ? key_stride : static_cast<std::int64_t>(in.kv_heads) * value_dim;

    for (int split = static_cast<int>(blockIdx.y); split * kSplit < length; split += gridDim.y) {
        const int begin = split * kSplit, end = min(length, begin + kSplit);
        for (int i = threadIdx.x; i < heads * value_dim; i += kThreads) sums[i] = 0;
        if (threadIdx.x < kHeads) {
            maxima[threadIdx.x] = -INFINITY;
            totals[threadIdx.x] = 0;
        }
        for (int t = begin; t < end; t += kStep) {
            const int count = min(kStep, end - t);
            if (threadIdx.x < kStep) slots[threadIdx.x] = in.slot(row, t + threadIdx.x);
            __syncthreads();
            for (int i = warp; i < count; i += kWarps) {
                const T* k = keys + slots[i] * key_stride;
                float s[kHeads] = {};
                for (int d = lane; d < dim; d += 32) {
                    const float x = to_float(k[d]);
#pragma unroll
                    for (int h = 0; h < kHeads; ++h)
                        if (h < heads) s[h] += q[h * dim + d] * x;
                }
#pragma unroll
                for (int h = 0; h < kHeads; ++h) {
                    if (h >= heads) continue;
                    const float sum = warp_sum(s[h]);
                    if (lane == 0) scores[h][i] = sum * in.scale;
                }
            }
            __syncthreads();
            for (int h = warp; h < heads; h += kWarps) {
                float top = -INFINITY, part = 0;
                for (int i = lane; i < count; i += 32) top = fmaxf(top, scores[h][i]);
                top = fmaxf(maxima[h], warp_max(top));
                for (int i = lane; i < count; i += 32)
                    part += scores[h][i] = exp2f(scores[h][i] - top);
                part = warp_sum(part);
                __syncwarp();  // all lanes have read maxima[h]
                if (lane == 0) {
                    keep[h] = exp2f(maxima[h] - top);
                    totals[h] = totals[h] * keep[h] + part;
                    maxima[h] = top;
                }
            }
            __syncthreads();
            for (int d = threadIdx.x; d < value_dim; d += kThreads) {
                float o[kHeads];
#pragma unroll
                for (int h = 0; h < kHeads; ++h) o[h] = h < heads ? sums[h * value_dim + d] * keep[h] : 0;
#pragma unroll 4
                for (int i = 0; i < count; ++i) {
                    const float v = to_float(values[slots[i] * value_stride + d]);
#pragma unroll
                    for (int h = 0; h < kHeads; ++h)
                        if (h < heads) o[h] += scores[h][i] * v;
                }
#pragma unroll
                for (int h = 0; h < kHeads; ++h)
                    if (h < heads) sums[h * value_dim + d] = o[h];
            }
            __syncthreads();
        }
        for (int i = threadIdx.x; i < heads * value_dim; i += kThreads) {
            const int h = i / value_dim, d = i % value_dim;
            const float x[1] = {sums[i]};
            write_decoded<T>(in, row, first_head + h, split, length <= kSplit, d, x, totals[h]);
            if (d == 0 && length > kSplit)
                in.tops[in.place(row, first_head + h, split)] = {maxima[h], totals[h]};
        }
        __syncthreads();
    }
}

template <class T>
void decode_any(const Context& c, const Decode& in) {
    const int group = in.heads / in.kv_heads;
    int heads = std::min(kHeads, group);
    while (heads > 1 && bytes_of_heads(in, heads) > 40 << 10) --heads;
    require(bytes_of_heads(in, heads) <= 40 << 10, "decode_attention: heads of {} numbers", in.head_dim);
    const std::int64_t units = in.rows * in.kv_heads * ((group + heads - 1) / heads);
    const dim3 grid(static_cast<unsigned>(units), split_blocks(c, units, in.splits));
    decode_any_kernel<T>
        <<<grid, kThreads, static_cast<std::size_t>(bytes_of_heads(in, heads)), c.stream>>>(in, heads);
    check_launch();
}

/// A warp adds the splits of one head of one row.
template <class T>
__global__ void __launch_bounds__(kThreads) decode_combine_kernel(Decode in) {
    const int lane = threadIdx.x % 32;
    const std::int64_t unit = blockIdx.x * static_cast<std::int64_t>(kWarps) + threadIdx.x / 32;
    if (unit >= in.rows * in.heads) return;
    const int length = in.lengths[unit / in.heads], splits = (length + kSplit - 1) / kSplit;
    if (splits <= 1) return;
    const float2* tops = in.tops + unit * in.splits;
    const float* sums = in.sums + unit * in.splits * in.value_dim;
    float max = -INFINITY, total = 0;
    for (int s = lane; s < splits; s += 32) max = fmaxf(max, tops[s].x);
    max = warp_max(max);
    for (int s = lane; s < splits; s += 32) total += exp2f(tops[s].x - max) * tops[s].y;
    const float inverse = 1.0f / warp_sum(total);
    T* out = static_cast<T*>(in.out) + unit * in.value_dim;
    constexpr int kOfLane = 4;
    for (int begin = lane; begin < in.value_dim; begin += 32 * kOfLane) {
        float o[kOfLane] = {};
#pragma unroll 4
        for (int s = 0; s < splits; ++s) {
            const float factor = exp2f(tops[s].x - max);
#pragma unroll
            for (int i = 0; i < kOfLane; ++i)
                if (const int d = begin + 32 * i; d < in.value_dim)
                    o[i] += factor * sums[static_cast<std::int64_t>(s) * in.value_dim + d];
        }
#pragma unroll
        for (int i = 0; i < kOfLane; ++i)
            if (const int d = begin + 32 * i; d < in.value_dim) out[d] = from_float<T>(o[i] * inverse);
    }
}

/// Bytes of the sums of a row's splits.
std::int64_t bytes_of_row(std::int64_t heads, std::int64_t splits, std::int64_t value_dim) {
    return heads * splits * (value_dim + 2) * 4;
}

template <class T>
void decode_rows(const Context& c, const Decode& in) {
    if constexpr (std::is_same_v<T, bf16>) {
        if (has_grouped_decode(in))
            decode_grouped(c, in);
        else if (has_latent_decode(in))
            decode_latent(c, in);
        else
            decode_any<T>(c, in);
    } else {
        decode_any<T>(c, in);
    }
    if (in.splits <= 1) return;
    decode_combine_kernel<T><<<blocks_for(in.rows * in.heads, kWarps), kThreads, 0, c.stream>>>(in);
    check_launch();
}

}  // namespace

std::int64_t decode_attention_workspace(const OpsLimits& limits) {
    const std::int64_t splits = limits.max_length / kSplit + 2;  // a last page may be longer
    const std::int64_t row = bytes_of_row(limits.max_heads, splits, limits.max_head_dim);
    return std::min(limits.max_decode * row, std::max(row, kWorkspace));
}

void decode_attention(const Context& c, Tensor out, Tensor q, const PagedCache& cache,
                      Tensor page_table, Tensor lengths, const AttentionShape& shape) {
    const std::int64_t rows = q.dim(0), max_pages = page_table.dim(1);
    if (rows == 0 || shape.heads == 0) return;
    require(shape.heads % shape.kv_heads == 0, "decode_attention: {} heads for {}", shape.heads,
            shape.kv_heads);
    Decode in{};
    in.keys = cache.keys.data();
    in.values = cache.values ? cache.values.data() : nullptr;
    in.heads = static_cast<int>(shape.heads);
    in.kv_heads = static_cast<int>(shape.kv_heads);
    in.head_dim = static_cast<int>(shape.head_dim);
    in.value_dim = static_cast<int>(shape.width_of_value());
    in.page_size = static_cast<int>(cache.page_size);
    in.max_pages = static_cast<int>(max_pages);
    in.scale = shape.scale * kLog2e;
    in.splits = std::max(1, blocks_for(max_pages * cache.page_size, kSplit));
    // Rows whose splits do not fit into the workspace at once follow in another pass; no row's result
    // depends on that.
    std::int64_t together = rows;
    if (in.splits > 1) {
        const std::int64_t row = bytes_of_row(in.heads, in.splits, in.value_dim);
        together = std::clamp<std::int64_t>(c.workspace_bytes / row, 1, rows);
        in.sums = c.scratch<float>(together * row / 4);
        in.tops = reinterpret_cast<float2*>(in.sums + together * in.heads * in.splits * in.value_dim);
    }
    dispatch(q.dtype(), [&](auto zero) {
        using T = decltype(zero);
        for (std::int64_t first = 0; first < rows; first += together) {
            in.rows = std::min(together, rows - first);
            in.q = data<T>(q) + first * in.heads * in.head_dim;
            in.out = data<T>(out) + first * in.heads * in.value_dim;
            in.page_table = page_table.i32() + first * max_pages;
            in.lengths = lengths.i32() + first;
            decode_rows<T>(c, in);
        }
    });
}

}  // namespace gradus::cuda
