// SPDX-License-Identifier: Apache-2.0
// What the kernels of causal attention over packed sequences share: which rows a block works on,
// tiles of bfloat16 in shared memory, and products of such tiles on the tensor cores.
#pragma once

#include <cstdint>

#include "context.hpp"
#include "gradus/tensor/ops.hpp"
#include "vector.cuh"

namespace gradus::cuda {

constexpr float kLog2E = 1.4426950408889634f;

/// How blocks number the tiles of `rows` rows of all sequences. The lengths are known to the device
/// alone, so some of the `slots` numbers name no tile.
struct TilePlan {
    int rows = 0;
    int slots = 0;
    /// Slot i S + s is tile i of sequence s; otherwise a sequence's tiles follow each other from
    /// slot starts[s] / rows + s on.
    bool rectangle = false;
    /// Backwards: blocks start in order of their number, and the long ones should come first.
    bool last_first = false;
};

inline TilePlan plan_tiles(const Packing& packing, std::int64_t tokens, int rows, bool last_first) {
    const auto line = tokens / rows + packing.sequences;
    const auto rectangle = packing.sequences * ((packing.max_length + rows - 1) / rows);
    // A rectangle sorts tiles by their work; it is sparse where few sequences are long.
    const bool dense = packing.max_length > 0 && rectangle <= 2 * line;
    return {rows, static_cast<int>(dense ? rectangle : line), dense, last_first};
}

/// A view of all arguments; what a pass does not use is null.
template <class T>
struct AttentionArgs {
    const T *q = nullptr, *k = nullptr, *v = nullptr, *d_out = nullptr;
    T *out = nullptr, *d_q = nullptr, *d_k = nullptr, *d_v = nullptr;
    float* lse = nullptr;
    float2* stats = nullptr;  ///< [nh, T] of {lse log2 e, rowsum(d_out * out)}
    const std::int32_t* starts = nullptr;
    int sequences = 0, tokens = 0;
    int heads = 0, kv_heads = 0, head_dim = 0, value_dim = 0;
    float scale = 0;

    __device__ int group() const { return heads / kv_heads; }
    __device__ int q_stride() const { return heads * head_dim; }
    __device__ int o_stride() const { return heads * value_dim; }
    __device__ int k_stride() const { return kv_heads * head_dim; }
    __device__ int v_stride() const { return kv_heads * value_dim; }
    // Where the rows of one head begin, at a token.
    __device__ std::int64_t q_at(int token, int head) const {
        return std::int64_t{token} * q_stride() + head * head_dim;
    }
    __device__ std::int64_t o_at(int token, int head) const {
        return std::int64_t{token} * o_stride() + head * value_dim;
    }
    __device__ std::int64_t k_at(int token, int head) const {
        return std::int64_t{token} * k_stride() + head * head_dim;
    }
    __device__ std::int64_t v_at(int token, int head) const {
        return std::int64_t{token} * v_stride() + head * value_dim;
    }
};

template <class T>
AttentionArgs<T> attention_args(Tensor q, Tensor k, Tensor v, const Packing& packing,
                                const AttentionShape& shape) {
    AttentionArgs<T> a;
    a.q = data<T>(q), a.k = data<T>(k), a.v = data<T>(v);
    a.starts = packing.starts.i32();
    a.sequences = static_cast<int>(packing.sequences);
    a.tokens = static_cast<int>(q.dim(0));
    a.heads = static_cast<int>(shape.heads), a.kv_heads = static_cast<int>(shape.kv_heads);
    a.head_dim = static_cast<int>(shape.head_dim);
    a.value_dim = static_cast<int>(shape.width_of_value());
    a.scale = shape.scale;
    return a;
}

/// Whose gradients a block of the backward pass makes: it stays at a tile of their rows and walks
/// over the tiles of the other side, its columns.
enum class Side { queries, keys };

/// Whether the tensor cores serve; else the plain kernels below do.
inline bool on_tensor_cores(const AttentionArgs<bf16>& a) {
    return a.scale > 0 && a.head_dim <= 256 && a.value_dim <= 256 &&
           vectorizes<bf16>(a.head_dim, a.q, a.k, a.d_q, a.d_k) &&
           vectorizes<bf16>(a.value_dim, a.v, a.out, a.d_out, a.d_v);
}
// flash_attention_plain.cu: float32 arithmetic, any widths up to 256
template <class T>
void plain_attention(const Context& c, const AttentionArgs<T>& a, const Packing& packing);
template <class T>
void plain_attention_backward(const Context& c, const AttentionArgs<T>& a, const Packing& packing);

/// Rows [begin, min(begin + rows, length)) of the sequence that starts at token `first`.
struct Tile {
    int first = 0, length = 0, begin = 0;
    __device__ bool empty() const { return begin >= length; }
};

/// All lanes of a warp call it together.
__device__ inline Tile find_tile(const TilePlan& plan, const std::int32_t* starts, int sequences,
                                 int slot) {
    if (plan.last_first) slot = plan.slots - 1 - slot;
    int s = 0, i = 0;
    if (plan.rectangle) {
        i = slot / sequences;
        s = slot % sequences;
    } else {
        // The last s whose first slot is not after this one: it is in [s, s + width).
        const int lane = static_cast<int>(threadIdx.x) % 32;
        for (int width = sequences; width > 1;) {
            const int step = (width + 31) / 32, at = lane * step;
            const bool before = at < width && starts[s + at] / plan.rows + s + at <= slot;
            const int chosen = max(__popc(__ballot_sync(0xffffffffu, before)) - 1, 0) * step;
            s += chosen;
            width = min(step, width - chosen);
        }
        i = slot - (starts[s] / plan.rows + s);
    }
    const int first = starts[s];
    return {first, starts[s + 1] - first, i * plan.rows};
}

// Tensor cores (PTX ISA, "Matrix fragments for mma.m16n8k16"): lane l holds rows l / 4 and l / 4 +
// 8 of an accumulator, columns 2 (l % 4) and the next.

__device__ inline std::uint32_t shared_address(const void* p) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// 2^x; the largest error is 2 units in the last place, subnormal results are zero.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline std::uint32_t pack(float low, float high) {
    std::uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

/// Bytes global -> shared, without waiting; zeros where not `inside`: `from` is not read then.
template <int kBytes>
__device__ inline void copy_async(std::uint32_t to, const void* from, bool inside) {
    const int bytes = inside ? kBytes : 0;
    if constexpr (kBytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                     "r"(bytes));
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from),
                     "n"(kBytes), "r"(bytes));
    }
}
__device__ inline void copy_commit() {
    asm volatile("cp.async.commit_group;");
}
/// All copies of this thread have arrived; a barrier must follow before others read them.
__device__ inline void copy_wait() {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

/// d += a b
__device__ inline void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                           std::uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Rows of kWidth bfloat16 in shared memory. Of the 16-byte pieces of row r, piece c is at place
/// c ^ (r % 8), so that eight rows' pieces lie in different banks. `base` is a multiple of 128.
template <int kWidth>
struct SharedTile {
    static_assert(kWidth % 64 == 0);
    static constexpr std::uint32_t kRowBytes = kWidth * 2;

    std::uint32_t base;     ///< of the tile
    std::uint32_t at_lane;  ///< of the piece whose address this lane gives to ldmatrix

    __device__ explicit SharedTile(std::uint32_t base) : base(base) {
        const std::uint32_t lane = threadIdx.x % 32;
        at_lane = base + (lane % 16) * kRowBytes + (((lane / 16) ^ (lane % 8)) << 4);
    }
    /// Rows 16 i .., columns 16 j ..
    __device__ std::uint32_t block(int i, int j) const {
        return (at_lane ^ ((j & 3) << 5)) + i * 16 * kRowBytes + (j >> 2) * 128;
    }
    /// f[0], f[1]: columns 0 .. 7 of rows 0 .. 7 and 8 .. 15; f[2], f[3]: columns 8 .. 15.
    __device__ void load(std::uint32_t (&f)[4], int i, int j) const {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                     : "r"(block(i, j)));
    }
    /// The same four matrices, each transposed.
    __device__ void load_transposed(std::uint32_t (&f)[4], int i, int j) const {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                     : "r"(block(i, j)));
    }
    /// Starts copies of kRows rows of `width` numbers; rows from `rows` on and columns from `width`
    /// on become zero.
    template <int kRows, int kThreads>
    __device__ void fill(const bf16* from, int stride, int rows, int width) const {
        constexpr int kPieces = kWidth / 8;
        static_assert(kRows * kPieces % kThreads == 0);
        const int thread = static_cast<int>(threadIdx.x);
        if constexpr (kThreads % kPieces == 0) {  // a thread copies one column of pieces
            constexpr int kStep = kThreads / kPieces;
            const int c = thread % kPieces;
            int r = thread / kPieces;
            from += r * stride + c * 8;
            if (c * 8 >= width) rows = 0;
#pragma unroll
            for (int i = 0; i < kRows / kStep; ++i, r += kStep, from += kStep * stride) {
                copy_async<16>(piece(r, c), from, r < rows);
            }
        } else {
#pragma unroll
            for (int i = 0; i < kRows * kPieces / kThreads; ++i) {
                const int r = (thread + i * kThreads) / kPieces,
                          c = (thread + i * kThreads) % kPieces;
                copy_async<16>(piece(r, c), from + r * stride + c * 8, r < rows && c * 8 < width);
            }
        }
    }
    __device__ std::uint32_t piece(int r, int c) const {
        return base + r * kRowBytes + ((c ^ (r & 7)) << 4);
    }
};

/// c[16 kM, 8 kN] += a[16 kM, 16 kSteps] b^T; b's rows are c's columns. `a_block(f, m, step)` gives
/// a's block. One load of b serves kM products: with kM = 1 shared memory, not the tensor cores, is
/// the bound.
template <int kSteps, int kM, int kN, int kWidth, class Block>
__device__ inline void multiply_transposed(float (&c)[kM][kN][4], const Block& a_block,
                                           const SharedTile<kWidth>& b) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        std::uint32_t a[kM][4], f[4];
#pragma unroll
        for (int m = 0; m < kM; ++m) a_block(a[m], m, step);
#pragma unroll
        for (int n = 0; n < kN / 2; ++n) {
            b.load(f, n, step);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                mma(c[m][2 * n], a[m], f[0], f[2]);
                mma(c[m][2 * n + 1], a[m], f[1], f[3]);
            }
        }
    }
}

/// c[16 kM, 8 kN] += bf16(a)[16 kM, 8 kK] b; an accumulator's layout is that of two operands'
/// halves.
template <int kM, int kN, int kK, int kWidth>
__device__ inline void multiply(float (&c)[kM][kN][4], const float (&a)[kM][kK][4],
                                const SharedTile<kWidth>& b) {
#pragma unroll
    for (int step = 0; step < kK / 2; ++step) {
        std::uint32_t p[kM][4], f[4];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
            const auto &left = a[m][2 * step], &right = a[m][2 * step + 1];
            p[m][0] = pack(left[0], left[1]), p[m][1] = pack(left[2], left[3]);
            p[m][2] = pack(right[0], right[1]), p[m][3] = pack(right[2], right[3]);
        }
#pragma unroll
        for (int n = 0; n < kN / 2; ++n) {
            b.load_transposed(f, step, n);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                mma(c[m][2 * n], p[m], f[0], f[1]);
                mma(c[m][2 * n + 1], p[m], f[2], f[3]);
            }
        }
    }
}

}  // namespace gradus::cuda
