// SPDX-License-Identifier: Apache-2.0
// What the two passes of RMSNorm share: pieces of rows as they lie in registers, and how many lanes take
// a row.
#pragma once

#include "rows.cuh"

namespace gradus::cuda {

/// 16 bytes of T as words: bfloat16 stays two a register until it is used.
template <class T>
struct Packed {
    static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
    std::uint32_t word[4];

    __device__ float get(int i) const {
        if constexpr (std::is_same_v<T, float>) return __uint_as_float(word[i]);
        const std::uint32_t pair = word[i / 2];
        return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    }
    /// Keeps the compiler from holding the numbers unpacked from one use to the next.
    __device__ void keep_packed() {
        asm volatile("" : "+r"(word[0]), "+r"(word[1]), "+r"(word[2]), "+r"(word[3]));
    }
};
template <class T>
__device__ Packed<T> load_packed(const T* from) {
    const uint4 x = *reinterpret_cast<const uint4*>(from);
    return {{x.x, x.y, x.z, x.w}};
}
template <class T>
__device__ Packed<T> load_packed_if(bool inside, const T* from) {
    return inside ? load_packed(from) : Packed<T>{};
}
template <class T>
__device__ Packed<T> pack(const float (&x)[Packed<T>::kSize]) {
    Packed<T> y;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (std::is_same_v<T, float>) {
            y.word[i] = __float_as_uint(x[i]);
        } else {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
            y.word[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
        }
    }
    return y;
}
template <class T>
__device__ void store_packed(T* to, const Packed<T>& x) {
    *reinterpret_cast<uint4*>(to) = uint4{x.word[0], x.word[1], x.word[2], x.word[3]};
}

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
