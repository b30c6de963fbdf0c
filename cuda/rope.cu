// SPDX-License-Identifier: Apache-2.0
// Rotary embedding (Su et al. 2021). A pair (a, b) of a head at position p with frequency f turns by the
// angle p f, rounded to float32:
//   a' = a cos - b sin,  b' = b cos + a sin,  cos and sin times `scale`, sin times `sign`
//   rope         turns x [T, heads, D] in place
//   split_heads  packed [T, (nq + 2 nkv) D] + bias -> q, k, v, q and k turned
//   merge_heads  its backward: d_q, d_k, d_v -> packed, d_q and d_k turned back
// All three are one kernel, which takes heads from one place, turns some and leaves them at another.
// Layout: a block takes a few tokens. It computes the sines of those tokens once, for all their heads,
// while its first loads are on their way. A thread takes 16 bytes of one half of a head and the 16 bytes
// that turn with them.
// Bound: bytes, each head read and written once.
#include "kernels.hpp"
#include "rows.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256, kUnroll = 2;
constexpr int kItemsPerBlock = 1024;
constexpr std::int64_t kMaxTable = 48 * 1024;  // bytes of cosines and sines a block

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
    int tokens_per_block;
};

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

struct Item {
    std::int64_t token;
    int head, local_token, number, piece;
};

/// Item `i` of the block.
template <class T, int kCount, bool kPairs>
__device__ Item item_of(const Turning<T>& p, const Layout<T, kCount, kPairs>& layout, int i) {
    const unsigned items = layout.items(p), heads = p.heads;
    const unsigned row = static_cast<unsigned>(i) / items;
    Item item;
    item.number = static_cast<int>(i - row * items);
    item.local_token = static_cast<int>(row / heads);
    item.head = static_cast<int>(row - item.local_token * heads);
    item.token = static_cast<std::int64_t>(blockIdx.x) * p.tokens_per_block + item.local_token;
    item.piece = layout.piece(item.number);
    return item;
}

template <class T, int kCount>
__device__ void add_bias_piece(Vec<T, kCount>& x, float (&y)[kCount], const T* bias) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) y[k] = x.get(k);
    if (bias == nullptr) return;
    const Vec<T, kCount> b = load_vec<kCount>(bias);
#pragma unroll
    for (int k = 0; k < kCount; ++k) y[k] += b.get(k);
}
template <class T, int kCount>
__device__ void write_piece(T* to, const float (&x)[kCount]) {
    Vec<T, kCount> y;
#pragma unroll
    for (int k = 0; k < kCount; ++k) y.set(k, x[k]);
    store_vec(to, y);
}
__device__ inline void turn(float& a, float& b, float2 angle) {
    const float x = a, y = b;
    a = x * angle.x - y * angle.y;
    b = y * angle.x + x * angle.y;
}

template <class T, int kCount, bool kPairs>
__global__ void __launch_bounds__(kThreads) turn_heads_kernel(Turning<T> p) {
    extern __shared__ float2 angles[];  // a token: [kAngles, turned], so that lanes read neighbours
    using L = Layout<T, kCount, kPairs>;
    const L layout(p);
    const std::int64_t first_token = static_cast<std::int64_t>(blockIdx.x) * p.tokens_per_block;
    const int tokens =
        static_cast<int>(min(static_cast<std::int64_t>(p.tokens_per_block), p.tokens - first_token));
    const int items = tokens * p.heads * layout.items(p);
    for (int base = 0; base < items; base += kThreads * kUnroll) {
        Vec<T, kCount> x[kUnroll], y[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int i = base + u * kThreads + threadIdx.x;
            if (i >= items) continue;
            const Item item = item_of(p, layout, i);
            const T* from = p.from.at(item.token, item.head, p.width) + item.piece * kCount;
            x[u] = load_vec<kCount>(from);
            if (kPairs && item.number < layout.turned)
                y[u] = load_vec<kCount>(from + layout.partner * kCount);
        }
        if (base == 0) {
            for (int e = threadIdx.x; e < tokens * p.half; e += kThreads) {
                const int token = e / p.half, i = e - token * p.half;
                const float angle =
                    static_cast<float>(p.positions[first_token + token]) * p.inv_freq[i];
                float sine, cosine;
                sincosf(angle, &sine, &cosine);
                angles[token * p.half + i % L::kAngles * layout.turned + i / L::kAngles] = {
                    cosine * p.scale, sine * p.sign * p.scale};
            }
            __syncthreads();
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int i = base + u * kThreads + threadIdx.x;
            if (i >= items) continue;
            const Item item = item_of(p, layout, i);
            const bool pair = item.number < layout.turned;
            const bool turns = pair && item.head < p.turned_heads;
            const T* bias = p.bias;
            if (bias != nullptr) bias += item.head * p.width + item.piece * kCount;
            T* to = p.to.at(item.token, item.head, p.width) + item.piece * kCount;
            const float2* angle = angles + item.local_token * p.half + item.number;
            float a[kCount];
            add_bias_piece(x[u], a, bias);
            if constexpr (kPairs) {
                if (pair) {
                    const int partner = layout.partner * kCount;
                    float b[kCount];
                    add_bias_piece(y[u], b, bias == nullptr ? bias : bias + partner);
                    if (turns) {
#pragma unroll
                        for (int k = 0; k < kCount; ++k) turn(a[k], b[k], angle[k * layout.turned]);
                    }
                    write_piece(to + partner, b);
                }
            } else if (turns) {
#pragma unroll
                for (int k = 0; k < L::kAngles; ++k)
                    turn(a[2 * k], a[2 * k + 1], angle[k * layout.turned]);
            }
            write_piece(to, a);
        }
    }
}

template <class T, int kCount, bool kPairs>
void launch(const Context& c, Turning<T> p) {
    const int items = p.heads * Layout<T, kCount, kPairs>(p).items(p);
    if (items == 0) return;
    // Few tokens spread over all multiprocessors.
    p.tokens_per_block = static_cast<int>(std::clamp<std::int64_t>(
        std::min<std::int64_t>(kItemsPerBlock / items, p.tokens / (4 * c.multiprocessors)), 1,
        std::max<std::int64_t>(1, kMaxTable / 8 / std::max(p.half, 1))));
    const std::int64_t table = p.tokens_per_block * p.half * static_cast<std::int64_t>(sizeof(float2));
    require(table <= kMaxTable, "rope: {} frequencies", p.half);
    turn_heads_kernel<T, kCount, kPairs>
        <<<blocks_for(p.tokens, p.tokens_per_block), kThreads, static_cast<std::size_t>(table),
           c.stream>>>(p);
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
