// SPDX-License-Identifier: Apache-2.0
// Mixture of experts: routing, the order of tokens by expert, a product an expert.
// Bound: FLOPs for the products, else bytes.
#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu_math.hpp"
#include "cpu_ops.hpp"
#include "gradus/base/error.hpp"

namespace gradus::cpu {

namespace {

constexpr float kTiny = 1e-20f;  // DeepSeek-V3's own code adds it to the sum of the weights

void softmax(float* out, const float* z, std::int64_t n) {
    const float max = *std::max_element(z, z + n);
    float sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += out[i] = exp_f32(z[i] - max);
    for (std::int64_t i = 0; i < n; ++i) out[i] /= sum;
}

/// The `count` best of x in descending order; of equals the lower number.
void best_of(const float* x, std::int64_t n, std::int64_t count, std::int32_t* out,
             std::vector<std::int32_t>& order) {
    order.resize(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + count, order.end(),
                      [&](std::int32_t a, std::int32_t b) {
                          return x[a] != x[b] ? x[a] > x[b] : a < b;
                      });
    std::copy_n(order.begin(), count, out);
}

/// Experts outside the best groups cannot be chosen.
void mask_groups(std::vector<float>& choice, const RouterShape& shape,
                 std::vector<std::int32_t>& order) {
    if (shape.groups <= 1 || shape.top_groups >= shape.groups) return;
    const std::int64_t size = shape.experts / shape.groups;
    std::vector<float> group(static_cast<std::size_t>(shape.groups));
    std::vector<std::int32_t> best(static_cast<std::size_t>(std::max(shape.group_best, shape.groups)));
    for (std::int64_t g = 0; g < shape.groups; ++g) {
        const float* first = choice.data() + g * size;
        best_of(first, size, shape.group_best, best.data(), order);
        float sum = 0;
        for (std::int64_t i = 0; i < shape.group_best; ++i) sum += first[best[static_cast<std::size_t>(i)]];
        group[static_cast<std::size_t>(g)] = sum;
    }
    best_of(group.data(), shape.groups, shape.groups, best.data(), order);
    for (std::int64_t i = shape.top_groups; i < shape.groups; ++i)
        std::fill_n(choice.begin() + best[static_cast<std::size_t>(i)] * size, size,
                    -std::numeric_limits<float>::infinity());
}

}  // namespace

void CpuOps::route(Tensor scores, Tensor chosen, Tensor weights, Tensor logits, Tensor bias,
                   const RouterShape& shape) {
    const std::int64_t tokens = logits.dim(0), e = shape.experts, k = shape.per_token;
    std::vector<float> choice(static_cast<std::size_t>(e));
    std::vector<std::int32_t> order;
    for (std::int64_t t = 0; t < tokens; ++t) {
        const float* z = logits.f32() + t * e;
        float* s = scores.f32() + t * e;
        if (shape.sigmoid)
            for (std::int64_t i = 0; i < e; ++i) s[i] = sigmoid_f32(z[i]);
        else
            softmax(s, z, e);
        std::copy_n(s, e, choice.begin());
        if (bias)
            for (std::int64_t i = 0; i < e; ++i) choice[static_cast<std::size_t>(i)] += bias.f32()[i];
        mask_groups(choice, shape, order);
        std::int32_t* c = chosen.i32() + t * k;
        best_of(choice.data(), e, k, c, order);
        float* w = weights.f32() + t * k;
        float sum = kTiny;
        for (std::int64_t j = 0; j < k; ++j) sum += w[j] = s[c[j]];
        const float factor = shape.normalize ? shape.scale / sum : shape.scale;
        for (std::int64_t j = 0; j < k; ++j) w[j] *= factor;
    }
}

/// w_j = a s_j / S (S = sum of the chosen s): ds_j = a (dw_j - sum_i dw_i s_i / S) / S; without
/// normalisation ds_j = a dw_j. Then through the sigmoid, s (1 - s) ds, or the softmax,
/// s (ds - sum_i s_i ds_i).
void CpuOps::route_backward(Tensor d_logits, Tensor d_weights, Tensor d_scores, Tensor scores,
                            Tensor chosen, const RouterShape& shape) {
    const std::int64_t tokens = d_logits.dim(0), e = shape.experts, k = shape.per_token;
    for (std::int64_t t = 0; t < tokens; ++t) {
        float* d = d_logits.f32() + t * e;
        const float* s = scores.f32() + t * e;
        const float* dw = d_weights.f32() + t * k;
        const std::int32_t* c = chosen.i32() + t * k;
        if (d_scores)
            std::copy_n(d_scores.f32() + t * e, e, d);
        else
            std::fill_n(d, e, 0.0f);
        float sum = kTiny, dot = 0;
        for (std::int64_t j = 0; j < k; ++j) {
            sum += s[c[j]];
            dot += dw[j] * s[c[j]];
        }
        for (std::int64_t j = 0; j < k; ++j)
            d[c[j]] += shape.normalize ? shape.scale * (dw[j] - dot / sum) / sum : shape.scale * dw[j];
        if (shape.sigmoid) {
            for (std::int64_t i = 0; i < e; ++i) d[i] *= s[i] * (1 - s[i]);
        } else {
            float mean = 0;
            for (std::int64_t i = 0; i < e; ++i) mean += s[i] * d[i];
            for (std::int64_t i = 0; i < e; ++i) d[i] = s[i] * (d[i] - mean);
        }
    }
}

/// With p_i = s_i / sum s of a token and n tokens in the sequence: dp_i = coef f_i / n, and
/// ds_i = (dp_i - sum_j dp_j p_j) / sum s.
void CpuOps::route_balance(Tensor loss, Tensor d_scores, Tensor scores, const Packing& packing,
                           const RouterShape& shape, float coef) {
    const std::int64_t e = shape.experts, k = shape.per_token;
    std::vector<double> f(static_cast<std::size_t>(e)), p(f.size());
    std::vector<std::int32_t> best(static_cast<std::size_t>(k)), order;
    double total = 0;
    for (std::int64_t q = 0; q < packing.sequences; ++q) {
        const std::int64_t begin = packing.starts.i32()[q], end = packing.starts.i32()[q + 1];
        const double n = static_cast<double>(end - begin);
        std::fill(f.begin(), f.end(), 0.0);
        std::fill(p.begin(), p.end(), 0.0);
        for (std::int64_t t = begin; t < end; ++t) {
            best_of(scores.f32() + t * e, e, k, best.data(), order);
            for (const std::int32_t i : best)
                f[static_cast<std::size_t>(i)] += static_cast<double>(e) / (static_cast<double>(k) * n);
        }
        for (std::int64_t t = begin; t < end; ++t) {
            const float* s = scores.f32() + t * e;
            const double sum = std::accumulate(s, s + e, 0.0);
            double mean = 0;
            for (std::int64_t i = 0; i < e; ++i) {
                const auto at = static_cast<std::size_t>(i);
                p[at] += s[i] / sum / n;
                mean += coef * f[at] / n * s[i] / sum;
            }
            for (std::int64_t i = 0; i < e; ++i)
                d_scores.f32()[t * e + i] = static_cast<float>(
                    (coef * f[static_cast<std::size_t>(i)] / n - mean) / sum);
        }
        total += std::inner_product(f.begin(), f.end(), p.begin(), 0.0);
    }
    loss.f32()[0] += static_cast<float>(coef * total);
}

void CpuOps::sort_by_expert(Tensor order, Tensor source, Tensor place, Tensor rows,
                            Tensor chosen) {
    const std::int64_t k = chosen.shape().row_elements();
    const std::int64_t places = chosen.elements(), e = rows.elements();
    std::fill_n(rows.i32(), e, 0);
    for (std::int64_t i = 0; i < places; ++i) ++rows.i32()[chosen.i32()[i]];
    std::vector<std::int32_t> next(static_cast<std::size_t>(e), 0);
    for (std::int64_t i = 1; i < e; ++i)
        next[static_cast<std::size_t>(i)] = next[static_cast<std::size_t>(i - 1)] + rows.i32()[i - 1];
    for (std::int64_t i = 0; i < places; ++i) {
        const std::int32_t at = next[static_cast<std::size_t>(chosen.i32()[i])]++;
        order.i32()[at] = static_cast<std::int32_t>(i);
        source.i32()[at] = static_cast<std::int32_t>(i / k);
        place.i32()[i] = at;
    }
}

void CpuOps::expert_gemm(Tensor out, Tensor in, Tensor weight, Transpose transpose,
                         std::span<const std::int64_t> rows, float beta) {
    std::int64_t at = 0;
    for (std::size_t e = 0; e < rows.size(); ++e) {
        const Shape matrix{weight.dim(1), weight.dim(2)};
        gemm(out.rows(at, rows[e]), in.rows(at, rows[e]), Transpose::no,
             weight.rows(static_cast<std::int64_t>(e), 1).as(matrix),
             transpose == Transpose::no ? Transpose::yes : Transpose::no, 1, beta);
        at += rows[e];
    }
}

void CpuOps::expert_gemm_backward(Tensor d_weight, Tensor d_out, Tensor in,
                                  std::span<const std::int64_t> rows) {
    std::int64_t at = 0;
    for (std::size_t e = 0; e < rows.size(); ++e) {
        if (rows[e] > 0)
            gemm(d_weight.rows(static_cast<std::int64_t>(e), 1).as({d_weight.dim(1), d_weight.dim(2)}),
                 d_out.rows(at, rows[e]), Transpose::yes, in.rows(at, rows[e]), Transpose::no, 1, 1);
        at += rows[e];
    }
}

}  // namespace gradus::cpu
