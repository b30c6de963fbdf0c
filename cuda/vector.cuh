// SPDX-License-Identifier: Apache-2.0
// What kernels share: 16-byte vectors of float or bfloat16, reductions over warps and blocks, dispatch
// by DType.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "gradus/base/error.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus::cuda {

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
    return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

/// 16 bytes of T, 4 float or 8 bfloat16; or as many T as said, 1 where rows do not vectorize.
template <class T, int kCount = 16 / static_cast<int>(sizeof(T))>
struct alignas(kCount * sizeof(T)) Vec {
    static constexpr int kSize = kCount;
    T at[kCount];
    __device__ float get(int i) const { return to_float(at[i]); }
    __device__ void set(int i, float x) { at[i] = from_float<T>(x); }
};
template <class T>
__device__ inline Vec<T> load_vec(const T* from) {
    return *reinterpret_cast<const Vec<T>*>(from);
}
template <int kCount, class T>
__device__ inline Vec<T, kCount> load_vec(const T* from) {
    return *reinterpret_cast<const Vec<T, kCount>*>(from);
}
template <class T, int kCount>
__device__ inline void store_vec(T* to, const Vec<T, kCount>& x) {
    *reinterpret_cast<Vec<T, kCount>*>(to) = x;
}
/// Whether rows of `columns` T that begin at `pointers` can be read in 16-byte pieces.
template <class T, class... Pointers>
bool vectorizes(std::int64_t columns, const Pointers*... pointers) {
    return columns % Vec<T>::kSize == 0 &&
           ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

/// The sum over a warp, in all lanes, in a fixed order.
__device__ inline float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
__device__ inline float warp_max(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}
/// The sum over a block of up to 1024 threads (a multiple of 32), in all threads, in a fixed order.
/// `shared`: 33 floats. All threads call it.
__device__ inline float block_sum(float x, float* shared) {
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    x = warp_sum(x);
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = warp_sum(lane < warps ? shared[lane] : 0.0f);
        if (lane == 0) shared[32] = x;
    }
    __syncthreads();
    x = shared[32];
    __syncthreads();
    return x;
}

/// Calls body(T{}) with the T of a tensor of activations.
template <class Body>
void dispatch(DType dtype, const Body& body) {
    if (dtype == DType::f32) return body(float{});
    if (dtype == DType::bf16) return body(bf16{});
    throw InternalError(fmt::format("no kernel for {}", name_of(dtype)));
}
template <class T>
T* data(const Tensor& x) {
    return static_cast<T*>(x.data());
}

inline int blocks_for(std::int64_t items, std::int64_t per_block) {
    return static_cast<int>((items + per_block - 1) / per_block);
}

}  // namespace gradus::cuda
