// SPDX-License-Identifier: Apache-2.0
// What the two passes of RMSNorm share: pieces of rows as they lie in registers, and how many lanes take
// a row.
#pragma once

#include "rows.cuh"

namespace gradus::cuda {

/// The sum over neighbouring kLanes lanes, in all of them.
template <int kLanes>
__device__ float lanes_sum(float x) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/// Calls body<kLanes, kVecs, kRows>(): kLanes lanes take kRows rows at once, kVecs pieces of each. For
/// rows of up to kMaxLanesVecs pieces.
constexpr int kMaxLanesVecs = 256;
template <class Body>
void with_lanes(int vecs, const Body& body) {
    if (vecs <= 8) return body.template operator()<8, 1, 4>();
    if (vecs <= 16) return body.template operator()<16, 1, 4>();
    if (vecs <= 32) return body.template operator()<32, 1, 4>();
    if (vecs <= 64) return body.template operator()<32, 2, 2>();
    if (vecs <= 128) return body.template operator()<32, 4, 1>();
    if (vecs <= 192) return body.template operator()<32, 6, 1>();
    body.template operator()<32, 8, 1>();
}

/// Threads of a block that holds a wider row, kBlockVecs pieces each.
constexpr int kBlockVecs = 4;
inline int threads_for(int vecs) { return (vecs + 32 * kBlockVecs - 1) / (32 * kBlockVecs) * 32; }

}  // namespace gradus::cuda
