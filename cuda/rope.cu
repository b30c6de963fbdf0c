// SPDX-License-Identifier: Apache-2.0
// Rotary embedding (Su et al. 2021). A pair (a, b) of a head at position p with frequency f turns by the
// angle p f, rounded to float32:
//   a' = a cos - b sin,  b' = b cos + a sin,  cos and sin times `scale`, sin times `sign`
//   rope         turns x [T, heads, D] in place
//   split_heads  packed [T, (nq + 2 nkv) D] + bias -> q, k, v, q and k turned
//   merge_heads  its backward: d_q, d_k, d_v -> packed, d_q and d_k turned back
// All three are one kernel, which takes heads from one place, turns some and leaves them at another.
// Layout: a block takes a few tokens and computes their sines once for all heads, while its first loads
// are on their way. A thread takes 16 bytes of one half of a head and the 16 bytes that turn with them, in
// every fourth or so of the heads.
// Bound: bytes, each head read and written once.
#include "kernels.hpp"
#include "rows.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256, kUnroll = 2;
constexpr int kHeads = 4;  // a thread, about
constexpr int kMaxAngles = 6144;  // a block: 48 KiB

/// q [T, nq, D], k and v [T, nkv, D]; or heads of one tensor [T, nq, D], without k and v.
template <class T>
struct Heads {
    T* q;
    T* k;
    T* v;
    int nq, nkv;
    __device__ T* at(std::int64_t token, int head, int width) const {
        if (head < nq) return q + (token * nq + head) * width;
        head -= nq;
        if (head < nkv) return k + (token * nkv + head) * width;
        return v + (token * nkv + head - nkv) * width;
    }
};

template <class T>
struct Turning {
    Heads<T> from, to;
    const T* bias;  // [heads, D], null: none
    const std::int32_t* positions;
    const float* inv_freq;
    std::int64_t tokens;
    int heads, turned_heads, width;
    int half;      // frequencies, 0: nothing turns
    int begin;     // of the turned numbers in a head
    bool whole;    // moves the numbers that do not turn, too
    bool interleaved;
    float scale, sign;
    int number_lanes, head_lanes, tokens_per_block;  // a block, their product is its threads
};

/// 16 bytes, or one number.
template <class T, int kCount>
using PieceOf = std::conditional_t<kCount == 1, Vec<T, 1>, Packed<T>>;

/// The pieces of one head are items. With kPairs an item of turned numbers is a piece and its partner, of
/// the other half or, for single numbers, of the pair; else it is a piece that holds neighbouring pairs.
template <class T, int kCount, bool kPairs>
struct Layout {
    static constexpr int kAngles = kPairs ? kCount : kCount / 2;  // an item
    int turned, begin, partner;  // items; pieces
    int step;                    // pieces between turned items
    __device__ __host__ explicit Layout(const Turning<T>& p)
        : turned(p.half / kAngles), begin(p.begin / kCount) {
        const bool neighbours = kPairs && p.interleaved;  // of single numbers
        partner = neighbours ? 1 : turned;
        step = neighbours ? 2 : 1;
    }
    __device__ __host__ int items(const Turning<T>& p) const {
        return turned + (p.whole ? p.width / kCount - (kPairs ? 2 : 1) * turned : 0);
    }
    /// The first piece of an item.
    __device__ int piece(int item) const {
        if (item < turned) return begin + item * step;
        const int other = item - turned;
        return other < begin ? other : other + (kPairs ? 2 : 1) * turned;
    }
};

template <class T, int kCount>
__device__ void unpack(float (&y)[kCount], const PieceOf<T, kCount>& x, const T* bias) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) y[k] = x.get(k);
    if (bias == nullptr) return;
    const auto b = *reinterpret_cast<const PieceOf<T, kCount>*>(bias);
#pragma unroll
    for (int k = 0; k < kCount; ++k) y[k] += b.get(k);
}
template <class T, int kCount>
__device__ void write_piece(T* to, const float (&x)[kCount]) {
    if constexpr (kCount == 1)
        *to = from_float<T>(x[0]);
    else
        store_packed(to, pack<T>(x));
}
__device__ inline void turn(float& a, float& b, float2 angle) {
    const float x = a, y = b;
    a = x * angle.x - y * angle.y;
    b = y * angle.x + x * angle.y;
}

template <class T, int kCount, bool kPairs>
__global__ void __launch_bounds__(kThreads, 3) turn_heads_kernel(Turning<T> p) {
    extern __shared__ float2 angles[];  // a token: [kAngles, turned], so that lanes read neighbours
    using L = Layout<T, kCount, kPairs>;
    using P = PieceOf<T, kCount>;
    const L layout(p);
    const int thread = static_cast<int>(threadIdx.x), row = thread / p.number_lanes;
    const int number = static_cast<int>(blockIdx.y) * p.number_lanes + thread % p.number_lanes;
    const int first_head = row % p.head_lanes, local_token = row / p.head_lanes;
    const std::int64_t first_token = static_cast<std::int64_t>(blockIdx.x) * p.tokens_per_block;
    const std::int64_t token = first_token + local_token;
    const bool works = number < layout.items(p) && token < p.tokens;
    const bool pair = number < layout.turned;
    const int at = layout.piece(number) * kCount, partner = layout.partner * kCount;

    P x[kUnroll], y[kUnroll];
    const auto load = [&](int base) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int head = base + u * p.head_lanes;
            if (head >= p.heads) continue;
            const T* piece = p.from.at(token, head, p.width) + at;
            x[u] = *reinterpret_cast<const P*>(piece);
            if (kPairs && pair) y[u] = *reinterpret_cast<const P*>(piece + partner);
        }
    };
    if (works) load(first_head);
    const int tokens = static_cast<int>(
        min(static_cast<std::int64_t>(p.tokens_per_block), p.tokens - first_token));
    for (int e = thread; e < tokens * p.half; e += static_cast<int>(blockDim.x)) {
        const int t = e / p.half, i = e - t * p.half;
        float sine, cosine;
        sincosf(static_cast<float>(p.positions[first_token + t]) * p.inv_freq[i], &sine, &cosine);
        angles[t * p.half + i % L::kAngles * layout.turned + i / L::kAngles] = {
            cosine * p.scale, sine * p.sign * p.scale};
    }
    __syncthreads();
    if (!works) return;

    float2 angle[L::kAngles] = {};
    if (pair) {
#pragma unroll
        for (int k = 0; k < L::kAngles; ++k)
            angle[k] = angles[local_token * p.half + k * layout.turned + number];
    }
    for (int base = first_head; base < p.heads; base += kUnroll * p.head_lanes) {
        if (base != first_head) load(base);
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int head = base + u * p.head_lanes;
            if (head >= p.heads) continue;
            const bool turns = pair && head < p.turned_heads;
            const T* bias = p.bias;
            if (bias != nullptr) bias += head * p.width + at;
            T* piece = p.to.at(token, head, p.width) + at;
            float a[kCount];
            unpack<T>(a, x[u], bias);
            if constexpr (kPairs) {
                if (pair) {
                    float b[kCount];
                    unpack<T>(b, y[u], bias == nullptr ? bias : bias + partner);
                    if (turns) {
#pragma unroll
                        for (int k = 0; k < kCount; ++k) turn(a[k], b[k], angle[k]);
                    }
                    write_piece(piece + partner, b);
                }
            } else if (turns) {
#pragma unroll
                for (int k = 0; k < L::kAngles; ++k) turn(a[2 * k], a[2 * k + 1], angle[k]);
            }
            write_piece(piece, a);
        }
    }
}

template <class T, int kCount, bool kPairs>
void launch(const Context& c, Turning<T> p) {
    const int items = Layout<T, kCount, kPairs>(p).items(p);
    if (items == 0 || p.heads == 0) return;
    p.number_lanes = std::min(items, kThreads);
    p.head_lanes =
        std::clamp((p.heads + kHeads - 1) / kHeads, 1, kThreads / p.number_lanes);
    // Few tokens spread over all multiprocessors.
    const std::int64_t most = std::max<std::int64_t>(1, p.tokens / (4 * c.multiprocessors));
    p.tokens_per_block = static_cast<int>(std::min<std::int64_t>(
        std::max(1, std::min(kThreads / (p.number_lanes * p.head_lanes),
                             kMaxAngles / std::max(p.half, 1))),
        most));
    require(p.half <= kMaxAngles, "rope: {} frequencies", p.half);
    const dim3 grid(blocks_for(p.tokens, p.tokens_per_block), blocks_for(items, p.number_lanes));
    turn_heads_kernel<T, kCount, kPairs>
        <<<grid, p.number_lanes * p.head_lanes * p.tokens_per_block,
           p.tokens_per_block * p.half * sizeof(float2), c.stream>>>(p);
    check_launch();
}

template <class T>
void turn_heads(const Context& c, const Turning<T>& p) {
    constexpr int kWide = Vec<T>::kSize;
    if (p.tokens == 0) return;
    const bool wide = vectorizes<T>(p.width | p.begin, p.from.q, p.from.k, p.from.v, p.to.q, p.to.k,
                                    p.to.v, p.bias);
    if (wide && p.half > 0 && !p.interleaved && p.half % kWide == 0)
        launch<T, kWide, true>(c, p);
    else if (wide && (p.half == 0 || p.interleaved) && 2 * p.half % kWide == 0)
        launch<T, kWide, false>(c, p);
    else
        launch<T, 1, true>(c, p);
}

/// What all three have in common.
template <class T>
Turning<T> turning(Tensor positions, Tensor inv_freq, const RotaryForm& form, std::int64_t tokens,
                   std::int64_t width, float sign) {
    Turning<T> p = {};
    p.tokens = tokens;
    p.width = static_cast<int>(width);
    p.scale = form.scale;
    p.sign = sign;
    p.interleaved = form.interleaved;
    if (!inv_freq || inv_freq.elements() == 0) return p;
    p.half = static_cast<int>(inv_freq.elements());
    p.begin = static_cast<int>(form.begin);
    p.positions = positions.i32();
    p.inv_freq = inv_freq.f32();
    require(form.begin + 2 * p.half <= width && positions.elements() >= tokens,
            "rope: heads of {}, {} frequencies from {}, {} positions for {} tokens", width, p.half,
            form.begin, positions.elements(), tokens);
    return p;
}

/// Heads q, k, v and the one tensor `packed` of them all, in either direction.
template <class T>
Turning<T> packing_of(const Tensor& packed, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& positions, const Tensor& inv_freq, const RotaryForm& form,
                      bool split) {
    const std::int64_t tokens = q.dim(0), width = q.dim(2), nq = q.dim(1), nkv = k.dim(1);
    require(packed.elements() == tokens * (nq + 2 * nkv) * width && k.dim(2) == width &&
                v.shape() == k.shape() && k.dim(0) == tokens,
            "heads of {}, {} and {} packed as {}", q.shape().text(), k.shape().text(),
            v.shape().text(), packed.shape().text());
    Turning<T> p = turning<T>(positions, inv_freq, form, tokens, width, split ? 1.0f : -1.0f);
    p.heads = static_cast<int>(nq + 2 * nkv);
    p.turned_heads = static_cast<int>(nq + nkv);
    p.whole = true;
    const Heads<T> one = {data<T>(packed), nullptr, nullptr, p.heads, 0};
    const Heads<T> many = {data<T>(q), data<T>(k), data<T>(v), static_cast<int>(nq),
                           static_cast<int>(nkv)};
    p.from = split ? one : many;
    p.to = split ? many : one;
    return p;
}

}  // namespace

void rope(const Context& c, Tensor x, Tensor positions, Tensor inv_freq, const RotaryForm& form,
          float sign) {
    dispatch(x.dtype(), [&]<class T>(T) {
        Turning<T> p = turning<T>(positions, inv_freq, form, x.dim(0), x.dim(2), sign);
        if (p.half == 0) return;
        p.heads = p.turned_heads = static_cast<int>(x.dim(1));
        p.from = p.to = {data<T>(x), nullptr, nullptr, p.heads, 0};
        turn_heads(c, p);
    });
}

void split_heads(const Context& c, Tensor q, Tensor k, Tensor v, Tensor packed, Tensor bias,
                 Tensor positions, Tensor inv_freq, const RotaryForm& form) {
    dispatch(q.dtype(), [&]<class T>(T) {
        Turning<T> p = packing_of<T>(packed, q, k, v, positions, inv_freq, form, true);
        if (bias) {
            require(bias.elements() == p.heads * q.dim(2) && bias.dtype() == q.dtype(),
                    "split_heads: bias {} for {} heads", bias.shape().text(), p.heads);
            p.bias = data<T>(bias);
        }
        turn_heads(c, p);
    });
}

void merge_heads(const Context& c, Tensor packed, Tensor d_q, Tensor d_k, Tensor d_v,
                 Tensor positions, Tensor inv_freq, const RotaryForm& form) {
    dispatch(d_q.dtype(), [&]<class T>(T) {
        turn_heads(c, packing_of<T>(packed, d_q, d_k, d_v, positions, inv_freq, form, false));
    });
}

}  // namespace gradus::cuda
