// SPDX-License-Identifier: Apache-2.0
// Columns and rows moved, repeated and summed, and a product a head.
#include <fmt/format.h>

#include <cmath>

#include "op_case.hpp"

namespace gradus::test {

namespace {

/// `width` columns of `rows` rows of `in`, each `repeat` times, between other columns of `out`, which
/// have to stay as they are; backward is sum_columns.
struct ColumnMove {
    std::int64_t rows, repeat, in_width, in_begin, out_width, out_begin, width;
};

/// The columns of `few` that a move reads lie at in_begin, those of `many` at out_begin.
OpCase copy_columns_case(const ColumnMove& m) {
    const auto many = m.rows * m.repeat;
    OpCase c;
    c.name = fmt::format("copy_columns {} x {} rows, {} of {} to {}", m.rows, m.repeat, m.width,
                         m.in_width, m.out_width);
    c.in = {Shape{m.rows, m.in_width}, Shape{many, m.out_width}};
    c.out = {Shape{m.rows, m.repeat, m.out_width}};
    c.reference = [=](const Arrays& x) {
        auto out = x[1];
        for (std::int64_t r = 0; r < many; ++r) {
            for (std::int64_t i = 0; i < m.width; ++i) {
                at(out, r * m.out_width + m.out_begin + i) =
                    at(x[0], r / m.repeat * m.in_width + m.in_begin + i);
            }
        }
        return Arrays{out};
    };
    c.forward = [=](Ops& ops, Data& d) {
        ops.copy(d.out[0].as({many, m.out_width}), d.in[1]);
        ops.copy_columns(d.out[0], m.out_begin, d.in[0], m.in_begin, m.width);
    };
    c.backward = [=](Ops& ops, Data& d) {
        ops.fill(d.d_in[0], 0);
        ops.sum_columns(d.d_in[0], m.in_begin, d.d_out[0], m.out_begin, m.width);
    };
    c.graded_in = 1;
    c.bytes = 8.0 * static_cast<double>(many * m.width);
    c.rate_only = many > 1000;
    return c;
}

/// sum_columns itself against float64, its neighbours untouched; backward is copy_columns.
OpCase sum_columns_case(const ColumnMove& m) {
    const auto many = m.rows * m.repeat;
    OpCase c;
    c.name = fmt::format("sum_columns {} x {} rows, {} of {} to {}", m.rows, m.repeat, m.width,
                         m.in_width, m.out_width);
    c.in = {Shape{many, m.in_width}, Shape{m.rows, m.out_width}};
    c.out = {Shape{m.rows, m.out_width}};
    c.reference = [=](const Arrays& x) {
        auto out = x[1];
        for (std::int64_t r = 0; r < m.rows; ++r) {
            for (std::int64_t i = 0; i < m.width; ++i) {
                double sum = 0;
                for (std::int64_t j = 0; j < m.repeat; ++j)
                    sum += at(x[0], (r * m.repeat + j) * m.in_width + m.in_begin + i);
                at(out, r * m.out_width + m.out_begin + i) = sum;
            }
        }
        return Arrays{out};
    };
    c.forward = [=](Ops& ops, Data& d) {
        ops.copy(d.out[0], d.in[1]);
        ops.sum_columns(d.out[0], m.out_begin, d.in[0], m.in_begin, m.width);
    };
    c.backward = [=](Ops& ops, Data& d) {
        ops.fill(d.d_in[0], 0);
        ops.copy_columns(d.d_in[0], m.in_begin, d.d_out[0], m.out_begin, m.width);
    };
    c.graded_in = 1;
    c.bytes = 4.0 * static_cast<double>((many + m.rows) * m.width);
    c.rate_only = many > 1000;
    return c;
}

/// y = f x a row: by x it is scale_rows again, by f row_dots.
OpCase scale_rows_case(std::int64_t rows, std::int64_t n) {
    OpCase c;
    c.name = fmt::format("scale_rows, row_dots [{}, {}]", rows, n);
    c.in = {Shape{rows, n}, Shape{rows}};
    c.out = {Shape{rows, n}};
    c.f32_in = {1};
    c.reference = [=](const Arrays& x) {
        auto out = x[0];
        for (std::int64_t i = 0; i < rows * n; ++i) at(out, i) *= at(x[1], i / n);
        return Arrays{out};
    };
    c.forward = [](Ops& ops, Data& d) {
        ops.copy(d.out[0], d.in[0]);
        ops.scale_rows(d.out[0], d.in[1]);
    };
    c.backward = [](Ops& ops, Data& d) {
        ops.copy(d.d_in[0], d.d_out[0]);
        ops.scale_rows(d.d_in[0], d.in[1]);
        ops.row_dots(d.d_in[1], d.d_out[0], d.in[0]);
    };
    c.bytes = 8.0 * static_cast<double>(rows * n);
    c.rate_only = rows > 1000;
    return c;
}

/// Each token gathers `many` rows; every row of `in` stands in `place` as often as it may.
OpCase sum_rows_case(std::int64_t rows, std::int64_t n, std::int64_t tokens, std::int64_t many,
                     bool accumulate) {
    std::vector<std::int32_t> places;
    Lcg random(8);
    for (std::int64_t i = 0; i < tokens * many; ++i)
        places.push_back(static_cast<std::int32_t>(random.below(rows)));
    const Ints place(places, Shape{tokens, many}), flat(places);
    OpCase c;
    c.name = fmt::format("sum_rows {} of [{}, {}] for {} tokens{}", many, rows, n, tokens,
                         accumulate ? ", added" : "");
    c.in = {Shape{rows, n}, Shape{tokens, n}};
    c.out = {Shape{tokens, n}};
    c.reference = [=](const Arrays& x) {
        auto out = accumulate ? x[1] : zeros(tokens * n);
        for (std::int64_t i = 0; i < tokens * many * n; ++i)
            at(out, i / n / many * n + i % n) += at(x[0], place[i / n] * n + i % n);
        return Arrays{out};
    };
    c.forward = [=](Ops& ops, Data& d) {
        if (accumulate) ops.copy(d.out[0], d.in[1]);
        ops.sum_rows(d.out[0], d.in[0], place.tensor(), accumulate);
    };
    c.bytes = 4.0 * static_cast<double>((many + 1) * tokens * n);
    c.rate_only = tokens > 1000;
    return c;
}

/// One product a head, between other columns of `out`. Backward: by `in` the other transpose.
struct HeadCase {
    std::int64_t tokens, heads;
    std::int64_t in_width, in_begin, out_width, out_begin;
    std::int64_t all_rows, row, rows, columns;
    bool transpose;
};

OpCase head_gemm_case(const HeadCase& m) {
    // W_h is rows x columns; its transpose takes `columns` numbers to `rows`.
    const auto from = m.transpose ? m.columns : m.rows;
    const auto to = m.transpose ? m.rows : m.columns;
    OpCase c;
    c.name = fmt::format("head_gemm T {} heads {} {}x{}{}", m.tokens, m.heads, m.rows, m.columns,
                         m.transpose ? " transposed" : "");
    c.in = {Shape{m.tokens, m.heads, m.in_width}, Shape{m.heads, m.all_rows, m.columns},
            Shape{m.tokens, m.heads, m.out_width}};
    c.out = {Shape{m.tokens, m.heads, m.out_width}};
    c.reference = [=](const Arrays& x) {
        auto out = x[2];
        for (std::int64_t th = 0; th < m.tokens * m.heads; ++th) {
            const auto h = th % m.heads;
            for (std::int64_t j = 0; j < to; ++j) {
                double sum = 0;
                for (std::int64_t i = 0; i < from; ++i) {
                    const auto r = m.row + (m.transpose ? j : i);
                    const auto col = m.transpose ? i : j;
                    sum += at(x[0], th * m.in_width + m.in_begin + i) *
                           at(x[1], (h * m.all_rows + r) * m.columns + col);
                }
                at(out, th * m.out_width + m.out_begin + j) = sum;
            }
        }
        return Arrays{out};
    };
    const auto turned = [](bool t) { return t ? Transpose::yes : Transpose::no; };
    c.forward = [=](Ops& ops, Data& d) {
        ops.copy(d.out[0], d.in[2]);
        ops.head_gemm(d.out[0], d.in[0], d.in[1],
                      {m.in_begin, m.out_begin, m.row, m.rows, turned(m.transpose)});
    };
    c.backward = [=](Ops& ops, Data& d) {
        ops.fill(d.d_in[0], 0);
        ops.head_gemm(d.d_in[0], d.d_out[0], d.in[1],
                      {m.out_begin, m.in_begin, m.row, m.rows, turned(!m.transpose)});
    };
    c.graded_in = 1;
    c.flops = 2.0 * static_cast<double>(m.tokens * m.heads * m.rows * m.columns);
    c.rate_only = c.flops > 1e7;
    c.tolerance = 2e-5;
    return c;
}

}  // namespace

std::vector<OpCase> rows_cases() {
    std::vector<OpCase> cases;
    // rows, repeat, in: width, begin; out: width, begin; moved
    for (const ColumnMove& m : {ColumnMove{1, 1, 1, 0, 1, 0, 1}, ColumnMove{7, 1, 9, 2, 11, 6, 5},
                                ColumnMove{5, 3, 9, 4, 7, 0, 5}, ColumnMove{3, 4, 8, 0, 13, 5, 8},
                                ColumnMove{0, 2, 8, 0, 13, 5, 8}, ColumnMove{4, 2, 3, 1, 5, 2, 0},
                                ColumnMove{2048, 16, 576, 512, 192, 128, 64}}) {
        cases.push_back(copy_columns_case(m));
        cases.push_back(sum_columns_case(m));
    }
    for (const auto& [rows, n] : {std::pair{1, 1}, {77, 33}, {5, 128}, {0, 8}, {4096, 512}})
        cases.push_back(scale_rows_case(rows, n));
    for (const bool accumulate : {false, true}) {
        cases.push_back(sum_rows_case(1, 1, 1, 1, accumulate));
        cases.push_back(sum_rows_case(13, 7, 5, 3, accumulate));
        cases.push_back(sum_rows_case(6, 33, 17, 1, accumulate));
        cases.push_back(sum_rows_case(6, 5, 0, 2, accumulate));
    }
    cases.push_back(sum_rows_case(8192, 512, 2048, 4, false));
    cases.push_back(large(sum_rows_case(300, 1536, 120, 3, true)));
    cases.push_back(large(scale_rows_case(300, 1536)));
    cases.push_back(large(copy_columns_case({60, 5, 576, 512, 192, 128, 64})));
    cases.push_back(large(sum_columns_case({60, 5, 576, 512, 192, 128, 64})));
    for (const bool transpose : {false, true}) {
        cases.push_back(head_gemm_case({1, 1, 1, 0, 1, 0, 1, 0, 1, 1, transpose}));
        cases.push_back(head_gemm_case({5, 3, 16, 2, 17, 3, 11, 4, 5, 9, transpose}));
        cases.push_back(head_gemm_case({33, 2, 40, 7, 41, 0, 24, 0, 16, 31, transpose}));
        cases.push_back(head_gemm_case({1, 4, 8, 0, 8, 0, 16, 8, 8, 8, transpose}));  // decode
        cases.push_back(head_gemm_case({0, 4, 8, 0, 8, 0, 16, 8, 8, 8, transpose}));
        cases.push_back(head_gemm_case({64, 16, 576, 0, 576, 0, 256, 128, 128, 512, transpose}));
    }
    return cases;
}

}  // namespace gradus::test
