// SPDX-License-Identifier: Apache-2.0
// Columns and rows moved, repeated and summed. Bound: bytes.
#include <algorithm>
#include <cstring>

#include "cpu_ops.hpp"
#include "gradus/base/error.hpp"

namespace gradus::cpu {

namespace {

struct Columns {
    std::int64_t rows, width;
};

/// A tensor as rows of its last dimension.
Columns columns_of(const Tensor& x) {
    const std::int64_t width = x.dim(x.shape().rank() - 1);
    return {width > 0 ? x.elements() / width : 0, width};
}

void check_columns(const char* what, const Columns& many, const Columns& few, bool fits) {
    require(fits && (few.rows > 0 ? many.rows % few.rows == 0 : many.rows == 0),
            "{}: rows of {} and {} numbers, {} and {} rows", what, many.width, few.width, many.rows,
            few.rows);
}

}  // namespace

void CpuOps::copy_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                          std::int64_t width) {
    const Columns to = columns_of(out), from = columns_of(in);
    check_columns("copy_columns", to, from,
                  out_begin + width <= to.width && in_begin + width <= from.width);
    if (to.rows == 0) return;
    const std::int64_t repeat = to.rows / from.rows;
    for (std::int64_t r = 0; r < to.rows; ++r)
        std::memcpy(out.f32() + r * to.width + out_begin,
                    in.f32() + r / repeat * from.width + in_begin,
                    static_cast<std::size_t>(width) * sizeof(float));
}

void CpuOps::sum_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                         std::int64_t width) {
    const Columns to = columns_of(out), from = columns_of(in);
    check_columns("sum_columns", from, to,
                  out_begin + width <= to.width && in_begin + width <= from.width);
    if (to.rows == 0) return;
    const std::int64_t repeat = from.rows / to.rows;
    for (std::int64_t r = 0; r < to.rows; ++r) {
        float* __restrict sum = out.f32() + r * to.width + out_begin;
        std::fill_n(sum, width, 0.0f);
        for (std::int64_t j = 0; j < repeat; ++j) {
            const float* __restrict x = in.f32() + (r * repeat + j) * from.width + in_begin;
            for (std::int64_t i = 0; i < width; ++i) sum[i] += x[i];
        }
    }
}

void CpuOps::scale_rows(Tensor x, Tensor factor) {
    const std::int64_t rows = x.dim(0), n = x.shape().row_elements();
    require(factor.elements() >= rows, "scale_rows: {} rows, {} factors", rows, factor.elements());
    for (std::int64_t r = 0; r < rows; ++r) {
        const float f = factor.f32()[r];
        float* row = x.f32() + r * n;
        for (std::int64_t i = 0; i < n; ++i) row[i] *= f;
    }
}

void CpuOps::row_dots(Tensor out, Tensor a, Tensor b) {
    const std::int64_t rows = a.dim(0), n = a.shape().row_elements();
    require(b.shape() == a.shape() && out.elements() >= rows, "row_dots: {} and {} to {}",
            a.shape().text(), b.shape().text(), out.shape().text());
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* x = a.f32() + r * n;
        const float* y = b.f32() + r * n;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
        out.f32()[r] = sum;
    }
}

void CpuOps::sum_rows(Tensor out, Tensor in, Tensor place, bool accumulate) {
    const std::int64_t rows = out.dim(0), n = out.shape().row_elements();
    const std::int64_t many = place.shape().row_elements(), limit = in.dim(0);
    for (std::int64_t t = 0; t < rows; ++t) {
        float* __restrict sum = out.f32() + t * n;
        if (!accumulate) std::fill_n(sum, n, 0.0f);
        for (std::int64_t j = 0; j < many; ++j) {
            const std::int64_t at = place.i32()[t * many + j];
            require(at >= 0 && at < limit, "sum_rows: row {} of {}", at, limit);
            const float* __restrict x = in.f32() + at * n;
            for (std::int64_t i = 0; i < n; ++i) sum[i] += x[i];
        }
    }
}

}  // namespace gradus::cpu
