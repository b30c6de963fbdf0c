// SPDX-License-Identifier: Apache-2.0
// Causal attention over packed sequences. Scores of a block of rows of one (sequence, head) are one
// product with strided leading dimensions; columns above the diagonal of the last block only are
// wasted. Backward (Dao et al. 2022, FlashAttention, section B.2):
//   P = exp(scale q k^T - lse), dP = dO v^T, dS = scale P (dP - rowsum(dO o)),
//   dV = P^T dO, dQ = dS k, dK = dS^T q.
// Bound: FLOPs.
#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu_math.hpp"
#include "cpu_ops.hpp"
#include "gradus/base/error.hpp"

namespace gradus::cpu {

namespace {

struct Matrix {
    float* data;
    std::int64_t stride;
};

/// C[m,n] = alpha op(A) op(B) + beta C
void product(Matrix c, std::int64_t m, std::int64_t n, std::int64_t k, Matrix a, CBLAS_TRANSPOSE ta,
             Matrix b, CBLAS_TRANSPOSE tb, float alpha, float beta) {
    auto i = [](std::int64_t value) { return static_cast<int>(value); };
    cblas_sgemm(CblasRowMajor, ta, tb, i(m), i(n), i(k), alpha, a.data, i(a.stride), b.data,
                i(b.stride), beta, c.data, i(c.stride));
}

/// Rows of scores have room for whole vectors, so that loops over them have no remainder.
constexpr std::int64_t kLane = 16;
std::int64_t padded(std::int64_t n) { return (n + kLane - 1) & ~(kLane - 1); }

/// row[n .. padded(n)) becomes `value`.
void pad(float* row, std::int64_t n, float value) {
    const auto end = padded(n);
    for (auto j = n; j < end; ++j) row[j] = value;
}

/// row[0 .. n) becomes e^(row - max), the rest up to `width` zero. Returns {max, sum}.
struct RowSoftmax {
    float max, sum;
};
RowSoftmax exponentiate(float* row, std::int64_t n, std::int64_t width) {
    pad(row, n, -std::numeric_limits<float>::infinity());
    const auto end = padded(n);
    float max = row[0];
#pragma omp simd reduction(max : max)
    for (std::int64_t j = 0; j < end; ++j) max = row[j] > max ? row[j] : max;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < end; ++j) {
        const float e = exp_f32(row[j] - max);
        row[j] = e;
        sum += e;
    }
    if (end < width) std::fill(row + end, row + width, 0.0f);
    return {max, sum};
}

/// The same row of P and dS from scaled scores and scale dP.
void differentiate(float* p, float* dp, std::int64_t n, std::int64_t width, float log_sum,
                   float delta) {
    pad(p, n, -std::numeric_limits<float>::infinity());
    pad(dp, n, 0.0f);
    const auto end = padded(n);
#pragma omp simd
    for (std::int64_t j = 0; j < end; ++j) {
        const float e = exp_f32(p[j] - log_sum);
        p[j] = e;
        dp[j] = e * (dp[j] - delta);
    }
    if (end < width) {
        std::fill(p + end, p + width, 0.0f);
        std::fill(dp + end, dp + width, 0.0f);
    }
}

void multiply(float* x, std::int64_t n, float factor) {
    for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

float dot(const float* a, const float* b, std::int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

/// Calls body(first token, row block begin, row block end) for every block of rows; begin and end
/// count from the sequence's first token.
template <class Body>
void for_each_block(const Packing& packing, std::int64_t longest, Body body) {
    const std::int32_t* starts = packing.starts.i32();
    for (std::int64_t s = 0; s < packing.sequences; ++s) {
        const std::int64_t length = starts[s + 1] - starts[s];
        require(length >= 0 && length <= longest,
                "attention: sequence of {} tokens, the workspace holds {}", length, longest);
        const auto step = length <= kWhole ? kWhole : kBlock;
        for (std::int64_t begin = 0; begin < length; begin += step) {
            body(std::int64_t{starts[s]}, begin, std::min(begin + step, length));
        }
    }
}

}  // namespace

void CpuOps::attention(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const Packing& packing,
                       const AttentionShape& shape) {
    const auto nh = shape.heads;
    const auto d = shape.head_dim, dv = shape.width_of_value();
    const auto scale = shape.scale;
    const auto group = nh / shape.kv_heads;
    const auto q_stride = nh * d, o_stride = nh * dv;
    const auto k_stride = shape.kv_heads * d, v_stride = shape.kv_heads * dv;
    for_each_block(packing, limits_.max_length, [&](auto first, auto begin, auto end) {
        const auto rows = end - begin;
        const auto width = padded(end);
        const Matrix scores{scores_.f32(), width};
        for (std::int64_t h = 0; h < nh; ++h) {
            const auto q_at = (first + begin) * q_stride + h * d;
            const auto k_at = first * k_stride + h / group * d;
            const auto v_at = first * v_stride + h / group * dv;
            const Matrix o{out.f32() + (first + begin) * o_stride + h * dv, o_stride};
            product(scores, rows, end, d, {q.f32() + q_at, q_stride}, CblasNoTrans,
                    {k.f32() + k_at, k_stride}, CblasTrans, scale, 0.0f);
            float inverse[kWhole];
            for (std::int64_t i = 0; i < rows; ++i) {
                const auto [max, sum] =
                    exponentiate(scores.data + i * width, begin + i + 1, end);
                inverse[i] = 1.0f / sum;
                lse.f32()[(first + begin + i) * nh + h] = max + std::log(sum);
            }
            product(o, rows, dv, end, scores, CblasNoTrans, {v.f32() + v_at, v_stride},
                    CblasNoTrans, 1.0f, 0.0f);
            for (std::int64_t i = 0; i < rows; ++i) multiply(o.data + i * o_stride, dv, inverse[i]);
        }
    });
}

void CpuOps::attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                                Tensor k, Tensor v, Tensor out, Tensor lse, const Packing& packing,
                                const AttentionShape& shape) {
    const auto nh = shape.heads;
    const auto d = shape.head_dim, dv = shape.width_of_value();
    const auto scale = shape.scale;
    const auto group = nh / shape.kv_heads;
    const auto q_stride = nh * d, o_stride = nh * dv;
    const auto k_stride = shape.kv_heads * d, v_stride = shape.kv_heads * dv;
    std::fill_n(d_k.f32(), d_k.elements(), 0.0f);
    std::fill_n(d_v.f32(), d_v.elements(), 0.0f);
    for_each_block(packing, limits_.max_length, [&](auto first, auto begin, auto end) {
        const auto rows = end - begin;
        const auto width = padded(end);
        const Matrix p{scores_.f32(), width};
        const Matrix dp{scores_.f32() + scores_.dim(1), width};
        for (std::int64_t h = 0; h < nh; ++h) {
            const auto q_at = (first + begin) * q_stride + h * d;
            const auto o_at = (first + begin) * o_stride + h * dv;
            const auto k_at = first * k_stride + h / group * d;
            const auto v_at = first * v_stride + h / group * dv;
            const Matrix q_rows{q.f32() + q_at, q_stride};
            const Matrix g_rows{d_out.f32() + o_at, o_stride};
            const Matrix k_rows{k.f32() + k_at, k_stride};
            product(p, rows, end, d, q_rows, CblasNoTrans, k_rows, CblasTrans, scale, 0.0f);
            product(dp, rows, end, dv, g_rows, CblasNoTrans, {v.f32() + v_at, v_stride},
                    CblasTrans, scale, 0.0f);
            for (std::int64_t i = 0; i < rows; ++i) {
                float* p_row = p.data + i * width;
                float* dp_row = dp.data + i * width;
                const auto n = begin + i + 1;
                const float log_sum = lse.f32()[(first + begin + i) * nh + h];
                const float delta =
                    scale * dot(g_rows.data + i * o_stride, out.f32() + o_at + i * o_stride, dv);
                differentiate(p_row, dp_row, n, end, log_sum, delta);
            }
            product({d_v.f32() + v_at, v_stride}, end, dv, rows, p, CblasTrans, g_rows,
                    CblasNoTrans, 1.0f, 1.0f);
            product({d_q.f32() + q_at, q_stride}, rows, d, end, dp, CblasNoTrans, k_rows,
                    CblasNoTrans, 1.0f, 0.0f);
            product({d_k.f32() + k_at, k_stride}, end, d, rows, dp, CblasTrans, q_rows,
                    CblasNoTrans, 1.0f, 1.0f);
        }
    });
}

}  // namespace gradus::cpu
