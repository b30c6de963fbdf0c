// SPDX-License-Identifier: Apache-2.0
// Routing of tokens to experts: scores and choice, their gradient, the balance loss. The formulas are
// those of Ops::route and its neighbours; expert_order.cu has sort_by_expert. One warp a token. A choice is
// the largest 32-bit key in the order of floats (NaN counts as -inf, -0 as 0), found by a reduction
// over the warp; of equals the lowest number, by another.
// Bound: bytes of the scores: route reads 4 T E and writes 4 T E.
#include <algorithm>
#include <cmath>

#include "check.hpp"
#include "kernels.hpp"
#include "routing.cuh"

namespace gradus::cuda {

namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kChunk = 64;               ///< tokens of a partial sum of the balance loss
constexpr std::int64_t kSequences = 1024;  ///< of one pass of the balance loss
constexpr float kTiny = 1e-20f;  // DeepSeek-V3's own code adds it to the sum of the weights

struct Router {
    int experts, chosen, groups, top_groups, group_best;
    bool sigmoid, normalize;
    float scale;

    explicit Router(const RouterShape& s)
        : experts(static_cast<int>(s.experts)),
          chosen(static_cast<int>(s.per_token)),
          groups(static_cast<int>(s.groups)),
          top_groups(static_cast<int>(s.top_groups)),
          group_best(static_cast<int>(s.group_best)),
          sigmoid(s.sigmoid),
          normalize(s.normalize),
          scale(s.scale) {
        require(s.experts >= 1 && s.experts <= kMostExperts, "routing: {} experts, at most {} have a kernel",
                s.experts, kMostExperts);
        require(s.per_token >= 1 && s.per_token <= std::min<std::int64_t>(s.experts, kMostChosen),
                "routing: {} of {} experts a token", s.per_token, s.experts);
    }
    __host__ __device__ bool limits_groups() const { return groups > 1 && top_groups < groups; }
};

/// The sum of a group's best, largest first.
__device__ float best_of_group(const float* choice, int size, int best) {
    const int turn = lane_id() % size;  // lanes start at different places: their groups share banks
    if (best <= 2) {
        float first = -INFINITY, second = -INFINITY;
        for (int i = 0; i < size; ++i) {
            const float x = choice[i + turn < size ? i + turn : i + turn - size];
            second = fmaxf(second, fminf(first, x));
            first = fmaxf(first, x);
        }
        return best == 1 ? first : first + second;
    }
    float sum = 0, last = INFINITY;
    for (int left = best; left > 0;) {
        float next = -INFINITY;
        int count = 0;
        for (int i = 0; i < size; ++i) {
            const float x = choice[i + turn < size ? i + turn : i + turn - size];
            if (x == next && x < last) ++count;
            if (x > next && x < last) {
                next = x;
                count = 1;
            }
        }
        if (count == 0) return -INFINITY;  // nothing but -inf and NaN is left
        for (; count > 0 && left > 0; --count, --left) sum += next;
        last = next;
    }
    return sum;
}

/// Experts outside the best groups cannot be chosen. `choice` and `group`: the warp's shared rows.
__device__ void mask_groups(float (&x)[kOfLane], float* choice, float* group, const Router& router) {
    const int size = router.experts / router.groups;
    store_row(choice, x, router.experts);
    __syncwarp();
    for (int g = lane_id(); g < router.groups; g += 32)
        group[g] = best_of_group(choice + g * size, size, router.group_best);
    __syncwarp();
    for (int g = lane_id(); g < router.groups; g += 32) {
        int better = 0;
        for (int i = 0; i < router.groups; ++i)
            better += group[i] > group[g] || (group[i] == group[g] && i < g) ? 1 : 0;
        choice[g] = better < router.top_groups ? 0.0f : -INFINITY;
    }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < kOfLane; ++k)
        if (expert_of(k) < router.experts && choice[expert_of(k) / size] != 0.0f) x[k] = -INFINITY;
}

struct Routed {
    float* scores;
    std::int32_t* chosen;
    float* weights;
};

__global__ void __launch_bounds__(kThreads)
    route_kernel(Routed out, const float* logits, const float* bias, std::int64_t tokens,
                 Router router) {
    __shared__ float choices[kWarps][kMostExperts], groups[kWarps][kMostExperts];
    const std::int64_t t = blockIdx.x * static_cast<std::int64_t>(kWarps) + warp_id();
    if (t >= tokens) return;
    const int e = router.experts;
    float s[kOfLane], x[kOfLane];
    load_row(s, logits + t * e, e, -INFINITY);
    if (router.sigmoid) {
#pragma unroll
        for (int k = 0; k < kOfLane; ++k) s[k] = 1.0f / (1.0f + expf(-s[k]));
    } else {
        float max = s[0];
#pragma unroll
        for (int k = 1; k < kOfLane; ++k) max = fmaxf(max, s[k]);
        max = warp_max(max);
#pragma unroll
        for (int k = 0; k < kOfLane; ++k) s[k] = expf(s[k] - max);
        const float sum = sum_of(s);
#pragma unroll
        for (int k = 0; k < kOfLane; ++k) s[k] /= sum;
    }
    store_row(out.scores + t * e, s, e);
#pragma unroll
    for (int k = 0; k < kOfLane; ++k) {
        x[k] = s[k];
        if (bias != nullptr && expert_of(k) < e) x[k] += bias[expert_of(k)];
    }
    if (router.limits_groups()) mask_groups(x, choices[warp_id()], groups[warp_id()], router);
    unsigned keys[kOfLane];
#pragma unroll
    for (int k = 0; k < kOfLane; ++k) keys[k] = expert_of(k) < e ? key_of(x[k]) : 0;
    float sum = kTiny, weight = 0;
    int expert = 0;
    for (int j = 0; j < router.chosen; ++j) {
        const int best = take_best(keys);
        const float score = value_of(s, best);
        sum += score;
        if (lane_id() == j) {
            expert = best;
            weight = score;
        }
    }
    const float factor = router.normalize ? router.scale / sum : router.scale;
    if (lane_id() >= router.chosen) return;
    out.chosen[t * router.chosen + lane_id()] = expert;
    out.weights[t * router.chosen + lane_id()] = weight * factor;
}

/// With S = the sum of the chosen s: ds_j = a (dw_j - sum_i dw_i s_i / S) / S, without normalisation
/// ds_j = a dw_j; then through the sigmoid, s (1 - s) ds, or the softmax, s (ds - sum_i s_i ds_i).
__global__ void __launch_bounds__(kThreads)
    route_backward_kernel(float* d_logits, const float* d_weights, const float* d_scores,
                          const float* scores, const std::int32_t* chosen, std::int64_t tokens,
                          Router router) {
    const std::int64_t t = blockIdx.x * static_cast<std::int64_t>(kWarps) + warp_id();
    if (t >= tokens) return;
    const int e = router.experts;
    float s[kOfLane], d[kOfLane] = {};
    load_row(s, scores + t * e, e, 0);
    if (d_scores != nullptr) load_row(d, d_scores + t * e, e, 0);
    float sum = kTiny, dot = 0;
    for (int j = 0; j < router.chosen; ++j) {
        const float score = value_of(s, chosen[t * router.chosen + j]);
        sum += score;
        dot += d_weights[t * router.chosen + j] * score;
    }
    for (int j = 0; j < router.chosen; ++j) {
        const int expert = chosen[t * router.chosen + j];
        const float dw = d_weights[t * router.chosen + j];
        const float more = router.normalize ? router.scale * (dw - dot / sum) / sum : router.scale * dw;
#pragma unroll
        for (int k = 0; k < kOfLane; ++k)
            if (expert_of(k) == expert) d[k] += more;
    }
    if (router.sigmoid) {
#pragma unroll
        for (int k = 0; k < kOfLane; ++k) d[k] *= s[k] * (1 - s[k]);
    } else {
        float mean = 0;
#pragma unroll
        for (int k = 0; k < kOfLane; ++k) mean += s[k] * d[k];
        mean = warp_sum(mean);
#pragma unroll
        for (int k = 0; k < kOfLane; ++k) d[k] = s[k] * (d[k] - mean);
    }
    store_row(d_logits + t * e, d, e);
}

// The balance loss. Chunks of kChunk tokens of a sequence are summed up each in its own place of the
// workspace; chunk c of sequence q is place starts[q] / kChunk - starts[first] / kChunk + q - first + c,
// which no other chunk has, since a sequence of n tokens has at most n / kChunk + 1.
struct Balance {
    const float* scores;
    const std::int32_t* starts;
    std::int64_t first;  ///< sequence of this pass
    float* shares;       ///< [places, E]: sums of s_i / sum_j s_j
    float* counts;       ///< [places, E]: how often among the K best; in a sequence's first place later f
    float* losses;       ///< [sequences]: sum_i f_i P_i
    float coef;

    __device__ int begin(std::int64_t q) const { return starts[q]; }
    __device__ std::int64_t place(std::int64_t q) const {
        return starts[q] / kChunk - starts[first] / kChunk + (q - first);
    }
};

__global__ void __launch_bounds__(kThreads) balance_count_kernel(Balance b, Router router) {
    __shared__ float shares[kWarps][kMostExperts], counts[kWarps][kMostExperts];
    const std::int64_t q = b.first + blockIdx.y;
    const int begin = b.begin(q) + static_cast<int>(blockIdx.x) * kChunk, end = b.begin(q + 1);
    if (begin >= end) return;
    const int stop = min(begin + kChunk, end), e = router.experts;
    float share[kOfLane] = {}, count[kOfLane] = {};
    for (int t = begin + warp_id(); t < stop; t += kWarps) {
        float s[kOfLane];
        load_row(s, b.scores + static_cast<std::int64_t>(t) * e, e, 0);
        const float sum = sum_of(s);
        unsigned keys[kOfLane];
#pragma unroll
        for (int k = 0; k < kOfLane; ++k) {
            share[k] += s[k] / sum;
            keys[k] = expert_of(k) < e ? key_of(s[k]) : 0;
        }
        for (int j = 0; j < router.chosen; ++j) {
            const int expert = take_best(keys);
#pragma unroll
            for (int k = 0; k < kOfLane; ++k) count[k] += expert_of(k) == expert ? 1.0f : 0.0f;
        }
    }
    store_row(shares[warp_id()], share, e);
    store_row(counts[warp_id()], count, e);
    __syncthreads();
    const std::int64_t place = b.place(q) + blockIdx.x;
    for (int i = threadIdx.x; i < e; i += kThreads) {
        float sum = 0, all = 0;
        for (int w = 0; w < kWarps; ++w) {
            sum += shares[w][i];
            all += counts[w][i];
        }
        b.shares[place * e + i] = sum;
        b.counts[place * e + i] = all;
    }
}

/// f of a sequence, and its sum_i f_i P_i. One block a sequence.
__global__ void __launch_bounds__(kThreads) balance_sequence_kernel(Balance b, Router router) {
    __shared__ float shared[33];
    const std::int64_t q = b.first + blockIdx.x, place = b.place(q);
    const int n = b.begin(q + 1) - b.begin(q), e = router.experts;
    const int chunks = (n + kChunk - 1) / kChunk, i = threadIdx.x;
    float product = 0;
    if (i < e && n > 0) {
        float share = 0, count = 0;
        for (int c = 0; c < chunks; ++c) {
            share += b.shares[(place + c) * e + i];
            count += b.counts[(place + c) * e + i];
        }
        const auto tokens = static_cast<float>(n);
        const float f = static_cast<float>(e) / (static_cast<float>(router.chosen) * tokens) * count;
        b.counts[place * e + i] = f;
        product = f * (share / tokens);
    }
    product = block_sum(product, shared);
    if (threadIdx.x == 0) b.losses[blockIdx.x] = product;
}

/// With dp_i = coef f_i / n: ds_i = (dp_i - sum_j dp_j p_j) / sum s. The first block adds up the loss.
__global__ void __launch_bounds__(kThreads)
    balance_gradient_kernel(float* loss, float* d_scores, Balance b, Router router) {
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        double sum = 0;
        for (unsigned q = 0; q < gridDim.y; ++q) sum += static_cast<double>(b.losses[q]);
        *loss += static_cast<float>(b.coef * sum);
    }
    const std::int64_t q = b.first + blockIdx.y;
    const int start = b.begin(q), end = b.begin(q + 1), e = router.experts;
    const int begin = start + static_cast<int>(blockIdx.x) * kChunk, stop = min(begin + kChunk, end);
    if (begin >= end) return;
    float dp[kOfLane];
    load_row(dp, b.counts + b.place(q) * e, e, 0);
#pragma unroll
    for (int k = 0; k < kOfLane; ++k) dp[k] *= b.coef / static_cast<float>(end - start);
    for (int t = begin + warp_id(); t < stop; t += kWarps) {
        const std::int64_t at = static_cast<std::int64_t>(t) * e;
        float s[kOfLane], mean = 0;
        load_row(s, b.scores + at, e, 0);
        const float inverse = 1.0f / sum_of(s);
#pragma unroll
        for (int k = 0; k < kOfLane; ++k) mean += dp[k] * s[k];
        mean = warp_sum(mean) * inverse;
#pragma unroll
        for (int k = 0; k < kOfLane; ++k) s[k] = (dp[k] - mean) * inverse;
        store_row(d_scores + at, s, e);
    }
}

std::int64_t balance_places(std::int64_t tokens, std::int64_t sequences) {
    return tokens / kChunk + 1 + sequences;
}

}  // namespace

std::int64_t routing_workspace(const OpsLimits& limits) {
    const std::int64_t tokens = std::max(limits.max_tokens, limits.max_decode);
    const std::int64_t sequences = std::min(tokens, kSequences);
    const std::int64_t balance = 2 * balance_places(tokens, sequences) * kMostExperts + sequences;
    const std::int64_t sort = (tokens * kMostChosen / kPlacesOfBlock + 1) * kMostExperts;
    return 4 * std::max(balance, sort);
}

void route(const Context& c, Tensor scores, Tensor chosen, Tensor weights, Tensor logits, Tensor bias,
           const RouterShape& shape) {
    const std::int64_t tokens = logits.dim(0);
    if (tokens == 0) return;
    route_kernel<<<blocks_for(tokens, kWarps), kThreads, 0, c.stream>>>(
        {scores.f32(), chosen.i32(), weights.f32()}, logits.f32(), bias ? bias.f32() : nullptr, tokens,
        Router(shape));
    check_launch();
}

void route_backward(const Context& c, Tensor d_logits, Tensor d_weights, Tensor d_scores,
                    Tensor scores, Tensor chosen, const RouterShape& shape) {
    const std::int64_t tokens = d_logits.dim(0);
    if (tokens == 0) return;
    route_backward_kernel<<<blocks_for(tokens, kWarps), kThreads, 0, c.stream>>>(
        d_logits.f32(), d_weights.f32(), d_scores ? d_scores.f32() : nullptr, scores.f32(),
        chosen.i32(), tokens, Router(shape));
    check_launch();
}

void route_balance(const Context& c, Tensor loss, Tensor d_scores, Tensor scores,
                   const Packing& packing, const RouterShape& shape, float coef) {
    const std::int64_t tokens = scores.dim(0);
    if (tokens == 0 || packing.sequences == 0) return;
    const Router router(shape);
    const std::int64_t together = std::min(packing.sequences, kSequences);
    const std::int64_t numbers = balance_places(tokens, together) * shape.experts;
    auto* const scratch = c.scratch<float>(2 * numbers + together);
    for (std::int64_t first = 0; first < packing.sequences; first += together) {
        const Balance b{scores.f32(),      packing.starts.i32(), first, scratch, scratch + numbers,
                        scratch + 2 * numbers, coef};
        const auto count = static_cast<unsigned>(std::min(together, packing.sequences - first));
        const dim3 grid(static_cast<unsigned>(blocks_for(packing.max_length, kChunk)), count);
        balance_count_kernel<<<grid, kThreads, 0, c.stream>>>(b, router);
        check_launch();
        balance_sequence_kernel<<<count, kThreads, 0, c.stream>>>(b, router);
        check_launch();
        balance_gradient_kernel<<<grid, kThreads, 0, c.stream>>>(loss.f32(), d_scores.f32(), b, router);
        check_launch();
    }
}

}  // namespace gradus::cuda
