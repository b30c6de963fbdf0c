// SPDX-License-Identifier: Apache-2.0
// The order of tokens by expert (Ops::sort_by_expert): a stable counting sort in three kernels. Counts of
// each block's experts; their prefix sums over experts and blocks; each place's rank among those of its
// expert, by ballots within a warp and sums over warps. No result depends on the order of execution.
// Bound: bytes, 20 a place (read twice, three numbers written); in practice three launches.
#include "check.hpp"
#include "kernels.hpp"
#include "routing.cuh"

namespace gradus::cuda {

namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kTogether = 16;  ///< counts of blocks in flight

/// counts [blocks, E]: a block's places an expert.
__global__ void __launch_bounds__(kThreads)
    sort_count_kernel(std::int32_t* counts, const std::int32_t* chosen, std::int64_t places,
                      int experts) {
    __shared__ int count[kMostExperts];
    for (int e = threadIdx.x; e < experts; e += kThreads) count[e] = 0;
    __syncthreads();
    const std::int64_t begin = blockIdx.x * static_cast<std::int64_t>(kPlacesOfBlock);
    const std::int64_t end = min(begin + kPlacesOfBlock, places);
    for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) atomicAdd(&count[chosen[i]], 1);
    __syncthreads();
    for (int e = threadIdx.x; e < experts; e += kThreads)
        counts[static_cast<std::int64_t>(blockIdx.x) * experts + e] = count[e];
}

/// Counts become the place of a block's first token of an expert; rows are the experts' totals.
__global__ void __launch_bounds__(kMostExperts)
    sort_offset_kernel(std::int32_t* counts, std::int32_t* rows, std::int64_t blocks, int experts) {
    __shared__ int totals[kMostExperts];
    const int e = threadIdx.x;
    int total = 0;
    const auto each_block = [&](const auto& body) {
        if (e >= experts) return;
        for (std::int64_t b = 0; b < blocks; b += kTogether) {
            int count[kTogether];
#pragma unroll
            for (int i = 0; i < kTogether; ++i)
                count[i] = b + i < blocks ? counts[(b + i) * experts + e] : 0;
#pragma unroll
            for (int i = 0; i < kTogether; ++i)
                if (b + i < blocks) body(counts[(b + i) * experts + e], count[i]);
        }
    };
    each_block([&](std::int32_t&, int count) { total += count; });
    if (e < experts) rows[e] = total;
    totals[e] = total;
    __syncthreads();
    int at = 0;
    for (int i = 0; i < e; ++i) at += totals[i];
    each_block([&](std::int32_t& offset, int count) {
        offset = at;
        at += count;
    });
}

struct Sorted {
    std::int32_t *order, *source, *place;
};

/// A warp has kPlacesOfBlock / kWarps places that follow each other, 32 at a time.
__global__ void __launch_bounds__(kThreads)
    sort_place_kernel(Sorted out, const std::int32_t* counts, const std::int32_t* chosen,
                      std::int64_t places, int per_token, int experts) {
    __shared__ int next[kWarps][kMostExperts];
    for (int i = threadIdx.x; i < kWarps * kMostExperts; i += kThreads)
        next[i / kMostExperts][i % kMostExperts] = 0;
    __syncthreads();
    constexpr int kSteps = kPlacesOfBlock / kThreads;
    const std::int64_t begin =
        blockIdx.x * static_cast<std::int64_t>(kPlacesOfBlock) +
        warp_id() * (kPlacesOfBlock / kWarps) + lane_id();
    int expert[kSteps], rank[kSteps];
    int* const own = next[warp_id()];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        const std::int64_t i = begin + 32 * step;
        const int e = i < places ? chosen[i] : -1;
        const unsigned same = __match_any_sync(kAllLanes, e);
        const int before = __popc(same & ((1u << lane_id()) - 1));
        expert[step] = e;
        rank[step] = e >= 0 ? own[e] + before : 0;
        __syncwarp();
        if (e >= 0 && before == 0) own[e] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
    for (int e = threadIdx.x; e < experts; e += kThreads) {
        int at = counts[static_cast<std::int64_t>(blockIdx.x) * experts + e];
        for (int w = 0; w < kWarps; ++w) {
            const int count = next[w][e];
            next[w][e] = at;
            at += count;
        }
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        if (expert[step] < 0) continue;
        const std::int64_t i = begin + 32 * step;
        const int at = own[expert[step]] + rank[step];
        out.order[at] = static_cast<std::int32_t>(i);
        out.source[at] = static_cast<std::int32_t>(i / per_token);
        out.place[i] = at;
    }
}

}  // namespace

void sort_by_expert(const Context& c, Tensor order, Tensor source, Tensor place, Tensor rows,
                    Tensor chosen) {
    const std::int64_t places = chosen.elements(), experts = rows.elements();
    require(experts <= kMostExperts, "sort_by_expert: {} experts, at most {} have a kernel", experts,
            kMostExperts);
    if (experts == 0) return;
    const int blocks = blocks_for(places, kPlacesOfBlock), e = static_cast<int>(experts);
    auto* const counts = c.scratch<std::int32_t>(blocks * experts);
    if (blocks > 0) {
        sort_count_kernel<<<blocks, kThreads, 0, c.stream>>>(counts, chosen.i32(), places, e);
        check_launch();
    }
    sort_offset_kernel<<<1, kMostExperts, 0, c.stream>>>(counts, rows.i32(), blocks, e);
    check_launch();
    if (blocks == 0) return;
    sort_place_kernel<<<blocks, kThreads, 0, c.stream>>>(
        {order.i32(), source.i32(), place.i32()}, counts, chosen.i32(), places,
        static_cast<int>(chosen.shape().row_elements()), e);
    check_launch();
}

}  // namespace gradus::cuda
