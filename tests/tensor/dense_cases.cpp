// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>

#include "gradus/tensor/convert.hpp"
#include "op_case.hpp"

namespace gradus::test {

namespace {

/// `c_f32`: the product is float32 where the factors are not.
OpCase gemm_case(std::int64_t m, std::int64_t n, std::int64_t k, bool ta, bool tb, float alpha,
                 float beta, bool c_f32 = false) {
    OpCase c;
    c.name = fmt::format("gemm {}x{}x{} {}{} alpha {} beta {}{}", m, n, k, ta ? "T" : "N",
                         tb ? "T" : "N", alpha, beta, c_f32 ? " to f32" : "");
    c.in = {ta ? Shape{k, m} : Shape{m, k}, tb ? Shape{n, k} : Shape{k, n}, Shape{m, n}};
    c.out = {Shape{m, n}};
    c.reference = [=](const Arrays& x) {
        auto out = zeros(m * n);
        for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t j = 0; j < n; ++j) {
                double sum = 0;
                for (std::int64_t l = 0; l < k; ++l) {
                    sum += at(x[0], ta ? l * m + i : i * k + l) * at(x[1], tb ? j * k + l : l * n + j);
                }
                at(out, i * n + j) = alpha * sum + (beta != 0 ? beta * at(x[2], i * n + j) : 0);
            }
        }
        return Arrays{out};
    };
    const auto to = [](bool t) { return t ? Transpose::yes : Transpose::no; };
    c.forward = [=](Ops& ops, Data& d) {
        if (beta != 0) ops.copy(d.out[0], d.in[2]);  // beta 0 must not read what stands there
        ops.gemm(d.out[0], d.in[0], to(ta), d.in[1], to(tb), alpha, beta);
    };
    c.flops = 2.0 * static_cast<double>(m * n * k);
    c.tolerance = 2e-6 * std::sqrt(static_cast<double>(k) + 16);
    c.rate_only = m * n * k > 10'000'000;
    if (c_f32) {
        c.f32_in = {2};
        c.f32_out = {0};
        c.bf16_tolerance = c.tolerance;  // products of bfloat16 are exact
    }
    return c;
}

/// out = in[index] and its transpose, out[index] += d_out.
OpCase rows_case(std::int64_t rows, std::int64_t n, std::vector<std::int32_t> index) {
    const Ints ix(std::move(index));
    OpCase c;
    c.name = fmt::format("gather_rows {} of [{}, {}]", ix.size(), rows, n);
    c.in = {Shape{rows, n}};
    c.out = {Shape{ix.size(), n}};
    c.reference = [=](const Arrays& x) {
        auto out = zeros(ix.size() * n);
        for (std::int64_t r = 0; r < ix.size(); ++r) {
            for (std::int64_t i = 0; i < n && ix[r] >= 0; ++i) {
                at(out, r * n + i) = at(x[0], ix[r] * n + i);
            }
        }
        return Arrays{out};
    };
    c.forward = [=](Ops& ops, Data& d) { ops.gather_rows(d.out[0], d.in[0], ix.tensor()); };
    c.backward = [=](Ops& ops, Data& d) { ops.scatter_add_rows(d.d_in[0], d.d_out[0], ix.tensor()); };
    c.accumulated = {0};
    return c;
}

OpCase embedding_case(std::int64_t slice, std::int64_t offset, std::int64_t hidden,
                      std::vector<std::int32_t> tokens) {
    const Ints ids(std::move(tokens));
    OpCase c;
    c.name = fmt::format("embedding [{}, {}] from {}", slice, hidden, offset);
    c.in = {Shape{slice, hidden}};
    c.out = {Shape{ids.size(), hidden}};
    c.reference = [=](const Arrays& x) {
        auto out = zeros(ids.size() * hidden);
        for (std::int64_t t = 0; t < ids.size(); ++t) {
            const auto row = ids[t] - offset;
            if (row < 0 || row >= slice) continue;
            for (std::int64_t i = 0; i < hidden; ++i) {
                at(out, t * hidden + i) = at(x[0], row * hidden + i);
            }
        }
        return Arrays{out};
    };
    c.forward = [=](Ops& ops, Data& d) {
        ops.embedding(d.out[0], d.in[0], ids.tensor(), offset);
    };
    c.backward = [=](Ops& ops, Data& d) {
        ops.embedding_backward(d.d_in[0], d.d_out[0], ids.tensor(), offset);
    };
    c.accumulated = {0};
    c.f32_gradients = {0};
    return c;
}

OpCase bias_case(std::int64_t rows, std::int64_t n) {
    OpCase c;
    c.name = fmt::format("add_bias [{}, {}]", rows, n);
    c.in = {Shape{n}, Shape{rows, n}};
    c.out = {Shape{rows, n}};
    c.reference = [=](const Arrays& x) {
        auto out = x[1];
        for (std::int64_t i = 0; i < rows * n; ++i) at(out, i) += at(x[0], i % n);
        return Arrays{out};
    };
    c.forward = [](Ops& ops, Data& d) {
        ops.copy(d.out[0], d.in[1]);
        ops.add_bias(d.out[0], d.in[0]);
    };
    c.backward = [](Ops& ops, Data& d) { ops.add_bias_backward(d.d_in[0], d.d_out[0]); };
    c.accumulated = {0};
    c.f32_gradients = {0};
    c.graded_in = 1;
    c.bytes = 16.0 * static_cast<double>(rows * n);
    return c;
}

/// x = 3 fill, then (in0 + in1) * 0.25 + 3
OpCase element_case(std::int64_t n) {
    OpCase c;
    c.name = fmt::format("fill, copy, add, scale [{}]", n);
    c.in = {Shape{n}, Shape{n}};
    c.out = {Shape{n}, Shape{n}};
    c.reference = [](const Arrays& x) {
        auto out = x[0];
        for (std::size_t i = 0; i < out.size(); ++i) out[i] = 3 + 0.25 * (x[0][i] + x[1][i]);
        return Arrays{out, Doubles(x[0].size(), 3.0)};
    };
    c.forward = [](Ops& ops, Data& d) {
        ops.fill(d.out[1], 3.0F);
        ops.copy(d.out[0], d.in[0]);
        ops.add(d.out[0], d.in[1]);
        ops.scale(d.out[0], 0.25F);
        ops.add(d.out[0], d.out[1]);
    };
    return c;
}

/// Through bfloat16 and back: rounded to nearest, ties to even.
OpCase copy_case(std::int64_t n) {
    OpCase c;
    c.name = fmt::format("copy to bf16 and back [{}]", n);
    c.in = {Shape{n}};
    c.out = {Shape{n}};
    c.reference = [](const Arrays& x) {
        auto out = x;
        for (double& v : out[0]) {
            const auto f = static_cast<float>(v);
            std::uint16_t half = 0;
            from_f32(DType::bf16, &f, &half, 1);
            float back = 0;
            to_f32(DType::bf16, &half, &back, 1);
            v = double{back};
        }
        return out;
    };
    c.forward = [=, own = OwnMemory()](Ops& ops, Data& d) mutable {
        const Tensor half = own.take(DType::bf16, Shape{n});
        ops.synchronize();
        ops.copy(half, d.in[0]);
        ops.copy(d.out[0], half);
    };
    c.tolerance = 0;
    c.all_f32 = c.cuda_only = true;
    return c;
}

/// The same numbers as a CPU's, whatever part of the tensor is asked for.
OpCase fill_normal_case(Shape shape, const NormalFill& fill) {
    OpCase c;
    c.name = fmt::format("fill_normal {} of rows {} from {}, {}", shape.text(), fill.global_rows,
                         fill.row_begin, fill.column_begin);
    c.out = {shape};
    c.reference = [=](const Arrays&) {
        const auto device = make_cpu_device();
        Arena arena(device.get());
        const Tensor x = arena.take("x", DType::f32, shape);
        make_cpu_ops({}, arena)->fill_normal(x, fill);
        return Arrays{{x.floats().begin(), x.floats().end()}};
    };
    c.forward = [=](Ops& ops, Data& d) { ops.fill_normal(d.out[0], fill); };
    c.tolerance = 1e-6;
    return c;
}

}  // namespace

std::vector<OpCase> dense_cases() {
    std::vector<OpCase> cases;
    for (bool ta : {false, true}) {
        for (bool tb : {false, true}) {
            cases.push_back(gemm_case(1, 1, 1, ta, tb, 1, 0));
            cases.push_back(gemm_case(1, 33, 17, ta, tb, 1, 0));
            cases.push_back(gemm_case(77, 5, 64, ta, tb, -0.5F, 1));
            cases.push_back(gemm_case(80, 96, 97, ta, tb, 1, 0.25F));
            for (const float beta : {0.0F, 1.0F}) {
                cases.push_back(gemm_case(200, 136, 72, ta, tb, 1, beta));
                cases.push_back(gemm_case(200, 136, 72, ta, tb, 1, beta, true));
            }
        }
    }
    cases.push_back(gemm_case(2048, 384, 128, false, true, 1, 0));
    cases.push_back(gemm_case(2048, 128, 384, false, false, 1, 0));
    cases.push_back(gemm_case(384, 128, 2048, true, false, 1, 1));
    cases.push_back(gemm_case(1024, 1024, 1024, false, true, 1, 0));
    cases.push_back(rows_case(9, 7, {3, -1, 8, 3, 0, -1, 3}));
    cases.push_back(rows_case(1, 1, {0}));
    cases.push_back(embedding_case(11, 0, 5, {0, 10, 3, 3, 7, 3}));
    cases.push_back(embedding_case(6, 5, 8, {0, 10, 3, 5, 7, 3, 4, 11}));
    cases.push_back(embedding_case(4, 0, 1, {2}));
    std::vector<std::int32_t> often(3000, 7);
    for (std::int32_t i = 0; i < 500; ++i) often.push_back(i % 11);
    cases.push_back(large(embedding_case(11, 0, 64, often)));
    cases.push_back(large(embedding_case(9, 1, 33, often)));
    cases.push_back(large(rows_case(300, 1536, {7, -1, 299, 7, 0, 150})));
    cases.push_back(large(bias_case(300, 1536)));
    cases.push_back(large(bias_case(3, 8960)));
    cases.push_back(large(element_case(300 * 1536 + 5)));
    cases.push_back(copy_case(1));
    cases.push_back(copy_case(300 * 1536 + 5));
    cases.push_back(fill_normal_case({5, 7}, {.seed = 3, .tensor = 2, .std = 0.5, .rows = 5,
                                              .global_rows = 5, .global_columns = 7}));
    cases.push_back(fill_normal_case({3, 4, 5}, {.seed = 9, .tensor = 1, .std = 2, .rows = 4,
                                                 .global_rows = 11, .global_columns = 13,
                                                 .matrix_begin = 2, .row_begin = 3, .column_begin = 6}));
    cases.push_back(large(fill_normal_case({300, 1536}, {.seed = 9, .tensor = 1, .rows = 300,
                                                         .global_rows = 600, .global_columns = 3072,
                                                         .row_begin = 300, .column_begin = 1536})));
    cases.push_back(bias_case(1, 1));
    cases.push_back(bias_case(77, 33));
    cases.push_back(element_case(1));
    cases.push_back(element_case(1001));
    return cases;
}

}  // namespace gradus::test
