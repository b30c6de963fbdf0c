// SPDX-License-Identifier: Apache-2.0
// Products, element-wise operations, rows and the embedding. Bound: FLOPs for gemm, else bytes.
#include <cblas.h>

#include <algorithm>
#include <cstring>

#include "cpu_ops.hpp"
#include "gradus/base/error.hpp"

extern "C" __attribute__((weak)) void openblas_set_num_threads(int);

namespace gradus {

namespace cpu {

CpuOps::CpuOps(const OpsLimits& limits, Arena& arena) : limits_(limits) {
    // A rank is one core; other BLAS libraries do not have this function.
    if (&openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
    const auto length = std::max<std::int64_t>(1, limits.max_length);
    const auto row = (length + 15) / 16 * 16;
    const auto half = std::max<std::int64_t>(1, limits.max_head_dim / 2);
    const auto block = std::max(kBlock * row, kWhole * std::min(row, kWhole));
    scores_ = arena.take("workspace", DType::f32, {2, block});
    angles_ = arena.take("workspace", DType::f32, {length + 1, 2, half});
    frequencies_ = arena.take("workspace", DType::f32, {half});
}

void CpuOps::gemm(Tensor c, Tensor a, Transpose ta, Tensor b, Transpose tb, float alpha,
                  float beta) {
    const bool at = ta == Transpose::yes;
    const bool bt = tb == Transpose::yes;
    const auto m = c.dim(0);
    const auto n = c.shape().row_elements();
    const auto a_columns = a.shape().row_elements();
    const auto b_columns = b.shape().row_elements();
    const auto k = at ? a.dim(0) : a_columns;
    require((at ? a_columns : a.dim(0)) == m && (bt ? b.dim(0) : b_columns) == n &&
                (bt ? b_columns : b.dim(0)) == k,
            "gemm: {}{} times {}{} does not give {}", a.shape().text(), at ? "^T" : "",
            b.shape().text(), bt ? "^T" : "", c.shape().text());
    if (m == 0 || n == 0) return;
    auto ld = [](std::int64_t columns) { return static_cast<int>(std::max<std::int64_t>(1, columns)); };
    cblas_sgemm(CblasRowMajor, at ? CblasTrans : CblasNoTrans, bt ? CblasTrans : CblasNoTrans,
                static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), alpha, a.f32(),
                ld(a_columns), b.f32(), ld(b_columns), beta, c.f32(), ld(n));
}

void CpuOps::add_bias(Tensor x, Tensor bias) {
    const auto rows = x.dim(0);
    const auto n = x.shape().row_elements();
    const float* __restrict b = bias.f32();
    for (std::int64_t t = 0; t < rows; ++t) {
        float* __restrict row = x.f32() + t * n;
        for (std::int64_t i = 0; i < n; ++i) row[i] += b[i];
    }
}

void CpuOps::add_bias_backward(Tensor d_bias, Tensor d_out) {
    const auto rows = d_out.dim(0);
    const auto n = d_out.shape().row_elements();
    float* __restrict d = d_bias.f32();
    for (std::int64_t t = 0; t < rows; ++t) {
        const float* __restrict row = d_out.f32() + t * n;
        for (std::int64_t i = 0; i < n; ++i) d[i] += row[i];
    }
}

void CpuOps::head_gemm(Tensor out, Tensor in, Tensor weight, const HeadProduct& p) {
    const auto tokens = in.dim(0), heads = in.dim(1);
    const auto columns = weight.dim(2);
    const bool transposed = p.transpose == Transpose::yes;
    const auto k = transposed ? columns : p.rows;
    const auto n = transposed ? p.rows : columns;
    require(weight.dim(0) == heads && out.dim(0) == tokens && out.dim(1) == heads &&
                p.row + p.rows <= weight.dim(1) && p.in_begin + k <= in.dim(2) &&
                p.out_begin + n <= out.dim(2),
            "head_gemm: {} times {} (rows {} .. {}) to {}", in.shape().text(),
            weight.shape().text(), p.row, p.row + p.rows, out.shape().text());
    if (tokens == 0) return;
    for (std::int64_t h = 0; h < heads; ++h) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, transposed ? CblasTrans : CblasNoTrans,
                    static_cast<int>(tokens), static_cast<int>(n), static_cast<int>(k), 1.0f,
                    in.f32() + h * in.dim(2) + p.in_begin, static_cast<int>(heads * in.dim(2)),
                    weight.f32() + (h * weight.dim(1) + p.row) * columns, static_cast<int>(columns),
                    0.0f, out.f32() + h * out.dim(2) + p.out_begin,
                    static_cast<int>(heads * out.dim(2)));
    }
}

void CpuOps::fill(Tensor x, float value) { std::fill_n(x.f32(), x.elements(), value); }

void CpuOps::copy(Tensor out, Tensor in) {
    require(out.bytes() == in.bytes(), "copy: {} into {}", in.shape().text(), out.shape().text());
    if (out.data() != in.data() && in.bytes() > 0) {
        std::memmove(out.data(), in.data(), static_cast<std::size_t>(in.bytes()));
    }
}

void CpuOps::add(Tensor x, Tensor y) {
    require(x.elements() == y.elements(), "add: {} and {}", x.shape().text(), y.shape().text());
    float* a = x.f32();
    const float* b = y.f32();
    const auto n = x.elements();
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) a[i] += b[i];
}

void CpuOps::scale(Tensor x, float factor) {
    float* a = x.f32();
    const auto n = x.elements();
    for (std::int64_t i = 0; i < n; ++i) a[i] *= factor;
}

void CpuOps::gather_rows(Tensor out, Tensor in, Tensor index) {
    const auto bytes = static_cast<std::size_t>(in.shape().row_elements() * size_of(in.dtype()));
    const auto limit = in.dim(0);
    const auto count = index.elements();
    char* to = static_cast<char*>(out.data());
    const char* from = static_cast<const char*>(in.data());
    for (std::int64_t r = 0; r < count; ++r, to += bytes) {
        const std::int64_t i = index.i32()[r];
        require(i < limit, "gather_rows: row {} of a tensor of shape {}", i, in.shape().text());
        if (i < 0) {
            std::memset(to, 0, bytes);
        } else {
            std::memcpy(to, from + static_cast<std::size_t>(i) * bytes, bytes);
        }
    }
}

void CpuOps::scatter_add_rows(Tensor out, Tensor in, Tensor index) {
    const auto n = in.shape().row_elements();
    const auto limit = out.dim(0);
    const auto count = index.elements();
    for (std::int64_t r = 0; r < count; ++r) {
        const std::int64_t row = index.i32()[r];
        if (row < 0) continue;
        require(row < limit, "scatter_add_rows: row {} of a tensor of shape {}", row,
                out.shape().text());
        float* __restrict to = out.f32() + row * n;
        const float* __restrict from = in.f32() + r * n;
        for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
    }
}

void CpuOps::embedding(Tensor out, Tensor table, Tensor tokens, std::int64_t offset) {
    const auto n = table.shape().row_elements();
    const auto bytes = static_cast<std::size_t>(n) * sizeof(float);
    const auto slice = table.dim(0);
    const auto count = tokens.elements();
    for (std::int64_t t = 0; t < count; ++t) {
        const auto row = tokens.i32()[t] - offset;
        if (row < 0 || row >= slice) {
            std::memset(out.f32() + t * n, 0, bytes);
        } else {
            std::memcpy(out.f32() + t * n, table.f32() + row * n, bytes);
        }
    }
}

void CpuOps::embedding_backward(Tensor d_table, Tensor d_out, Tensor tokens,
                                std::int64_t offset) {
    const auto n = d_table.shape().row_elements();
    const auto slice = d_table.dim(0);
    const auto count = tokens.elements();
    for (std::int64_t t = 0; t < count; ++t) {
        const auto row = tokens.i32()[t] - offset;
        if (row < 0 || row >= slice) continue;
        float* __restrict to = d_table.f32() + row * n;
        const float* __restrict from = d_out.f32() + t * n;
        for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
    }
}

}  // namespace cpu

std::unique_ptr<Ops> make_cpu_ops(const OpsLimits& limits, Arena& arena) {
    return std::make_unique<cpu::CpuOps>(limits, arena);
}

}  // namespace gradus
