// SPDX-License-Identifier: Apache-2.0
// What routing.cu and expert_order.cu share: bounds, and one token a warp. Lane l has the experts l,
// l + 32, ..., so that rows are read in whole lines.
#pragma once

#include <cmath>
#include <cstdint>

#include "vector.cuh"

namespace gradus::cuda {

constexpr int kMostExperts = 256, kMostChosen = 32;
constexpr int kPlacesOfBlock = 2048;  ///< of expert_order.cu
constexpr int kOfLane = kMostExperts / 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane_id() { return threadIdx.x % 32; }
__device__ inline int warp_id() { return threadIdx.x / 32; }
__device__ inline int expert_of(int k) { return lane_id() + 32 * k; }

/// Orders as the floats do; 0 is below all of them.
__device__ inline unsigned key_of(float x) {
    if (!(x == x)) x = -INFINITY;
    const unsigned bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// The number of the largest key over the warp, of equals the lowest; it is taken out.
__device__ inline int take_best(unsigned (&keys)[kOfLane]) {
    unsigned own = 0;
    int at = 0;
#pragma unroll
    for (int k = 0; k < kOfLane; ++k)
        if (keys[k] > own) {
            own = keys[k];
            at = expert_of(k);
        }
    const unsigned best = __reduce_max_sync(kAllLanes, own);
    const int expert = __reduce_min_sync(kAllLanes, own == best ? at : 0x7fffffff);
#pragma unroll
    for (int k = 0; k < kOfLane; ++k)
        if (expert_of(k) == expert) keys[k] = 0;
    return expert;
}

/// The number of `expert` among what the lanes hold, in all lanes.
__device__ inline float value_of(const float (&x)[kOfLane], int expert) {
    float own = 0;
#pragma unroll
    for (int k = 0; k < kOfLane; ++k)
        if (k == expert / 32) own = x[k];
    return __shfl_sync(kAllLanes, own, expert % 32);
}

__device__ inline void load_row(float (&x)[kOfLane], const float* row, int experts, float rest) {
#pragma unroll
    for (int k = 0; k < kOfLane; ++k) x[k] = expert_of(k) < experts ? row[expert_of(k)] : rest;
}
__device__ inline void store_row(float* row, const float (&x)[kOfLane], int experts) {
#pragma unroll
    for (int k = 0; k < kOfLane; ++k)
        if (expert_of(k) < experts) row[expert_of(k)] = x[k];
}
__device__ inline float sum_of(const float (&x)[kOfLane]) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kOfLane; ++k) sum += x[k];
    return warp_sum(sum);
}

}  // namespace gradus::cuda
