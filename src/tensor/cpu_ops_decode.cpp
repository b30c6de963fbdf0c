// SPDX-License-Identifier: Apache-2.0
// Generation: pages of keys and values, and attention of one token a row. Bound: bytes of the cache.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu_math.hpp"
#include "cpu_ops.hpp"
#include "gradus/base/error.hpp"

namespace gradus::cpu {

void CpuOps::kv_store(const PagedCache& cache, Tensor k, Tensor v, Tensor slot) {
    // [page, row] is one index, because pages are contiguous.
    const auto slots = cache.keys.dim(0) * cache.page_size;
    const auto tokens = k.dim(0);
    const auto store = [&](Tensor to, Tensor from) {
        const auto n = from.shape().row_elements();
        for (std::int64_t t = 0; t < tokens; ++t) {
            const std::int64_t at = slot.i32()[t];
            if (at < 0) continue;
            require(at < slots, "kv_store: slot {} of {}", at, slots);
            std::memcpy(to.f32() + at * n, from.f32() + t * n,
                        static_cast<std::size_t>(n) * sizeof(float));
        }
    };
    store(cache.keys, k);
    if (cache.values) store(cache.values, v);
}

void CpuOps::kv_copy_pages(const PagedCache& cache, Tensor from, Tensor to) {
    const auto copy_page = [](Tensor pages, std::int64_t target, std::int64_t source) {
        const auto n = pages.shape().row_elements();
        std::memcpy(pages.f32() + target * n, pages.f32() + source * n,
                    static_cast<std::size_t>(n) * sizeof(float));
    };
    const auto count = from.elements();
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t source = from.i32()[i];
        const std::int64_t target = to.i32()[i];
        require(source >= 0 && target >= 0 && std::max(source, target) < cache.keys.dim(0),
                "kv_copy_pages: page {} to {} of {}", source, target, cache.keys.dim(0));
        if (source == target) continue;
        copy_page(cache.keys, target, source);
        if (cache.values) copy_page(cache.values, target, source);
    }
}

namespace {

constexpr std::int64_t kTokens = 64;  ///< tokens whose scores are held at once

float dot(const float* __restrict a, const float* __restrict b, std::int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

void add_scaled(float* __restrict out, const float* __restrict x, float factor, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) out[i] += factor * x[i];
}

/// One query head against one sequence: online softmax (Milakov and Gimelshein 2018) over chunks of
/// at most kTokens tokens that do not cross a page. The order of the sums depends on the length and
/// on the page size alone. kDim: width of keys and of values where the compiler knows it, else 0.
template <std::int64_t kDim>
struct DecodeHead {
    const PagedCache& cache;
    const AttentionShape& shape;
    const float* keys;      ///< of this head: token 0 of page 0
    const float* values;
    std::int64_t k_stride, v_stride;  ///< between tokens

    DecodeHead(const PagedCache& c, const AttentionShape& s, std::int64_t kv_head)
        : cache(c),
          shape(s),
          keys(c.keys.f32() + kv_head * s.head_dim),
          values(c.values ? c.values.f32() + kv_head * s.width_of_value() : keys),
          k_stride(s.kv_heads * s.head_dim),
          v_stride(c.values ? s.kv_heads * s.width_of_value() : k_stride) {}
    std::int64_t key_dim() const { return kDim > 0 ? kDim : shape.head_dim; }
    std::int64_t value_dim() const { return kDim > 0 ? kDim : shape.width_of_value(); }

    void run(float* __restrict out, const float* q, const std::int32_t* pages,
             std::int64_t length) const {
        std::fill_n(out, value_dim(), 0.0f);
        float max = -std::numeric_limits<float>::infinity();
        float sum = 0;
        for (std::int64_t t = 0; t < length;) {
            const auto row = t % cache.page_size;
            const auto n = std::min({kTokens, cache.page_size - row, length - t});
            chunk(out, q, pages[t / cache.page_size] * cache.page_size + row, n, max, sum);
            t += n;
        }
        const float inverse = length > 0 ? 1.0f / sum : 0.0f;
        for (std::int64_t i = 0; i < value_dim(); ++i) out[i] *= inverse;
    }

    void chunk(float* out, const float* q, std::int64_t at, std::int64_t n, float& max,
               float& sum) const {
        const float* k = keys + at * k_stride;
        const float* v = values + at * v_stride;
        float scores[kTokens];
        float top = max;
        for (std::int64_t j = 0; j < n; ++j) {
            scores[j] = shape.scale * dot(q, k + j * k_stride, key_dim());
            top = scores[j] > top ? scores[j] : top;
        }
        const float keep = exp_f32(max - top);
        if (keep != 1.0f) {
            for (std::int64_t i = 0; i < value_dim(); ++i) out[i] *= keep;
        }
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (std::int64_t j = 0; j < n; ++j) {
            scores[j] = exp_f32(scores[j] - top);
            part += scores[j];
        }
        for (std::int64_t j = 0; j < n; ++j) add_scaled(out, v + j * v_stride, scores[j], value_dim());
        sum = sum * keep + part;
        max = top;
    }
};

template <std::int64_t kDim>
void decode_rows(Tensor out, Tensor q, const PagedCache& cache, Tensor page_table, Tensor lengths,
                 const AttentionShape& shape) {
    const auto rows = q.dim(0);
    const auto group = shape.heads / shape.kv_heads;
    const auto max_pages = page_table.dim(1);
    for (std::int64_t b = 0; b < rows; ++b) {
        const std::int64_t length = lengths.i32()[b];
        require(length <= max_pages * cache.page_size,
                "attention_decode: {} tokens in {} pages of {}", length, max_pages,
                cache.page_size);
        for (std::int64_t h = 0; h < shape.heads; ++h) {
            const auto row = b * shape.heads + h;
            DecodeHead<kDim>(cache, shape, h / group)
                .run(out.f32() + row * shape.width_of_value(), q.f32() + row * shape.head_dim,
                     page_table.i32() + b * max_pages, length);
        }
    }
}

}  // namespace

void CpuOps::attention_decode(Tensor out, Tensor q, const PagedCache& cache, Tensor page_table,
                              Tensor lengths, const AttentionShape& shape) {
    const bool same = shape.width_of_value() == shape.head_dim;
    switch (same ? shape.head_dim : 0) {
        case 32: return decode_rows<32>(out, q, cache, page_table, lengths, shape);
        case 64: return decode_rows<64>(out, q, cache, page_table, lengths, shape);
        case 128: return decode_rows<128>(out, q, cache, page_table, lengths, shape);
        default: return decode_rows<0>(out, q, cache, page_table, lengths, shape);
    }
}

}  // namespace gradus::cpu
