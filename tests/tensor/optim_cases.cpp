// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>

#include "op_case.hpp"

namespace gradus::test {

namespace {

/// Algorithm 2 of Loshchilov and Hutter 2019, with the schedule inside lr as PyTorch has it.
/// Outputs: parameter, moments, the gradient afterwards, and the weight that receives the parameter
/// where that is not of its type.
OpCase adamw_case(std::int64_t n, const AdamWStep& step) {
    OpCase c;
    c.name = fmt::format("adamw [{}] step {}", n, step.step);
    c.in = {Shape{n}, Shape{n}, Shape{n}, Shape{n}};
    c.out = {Shape{n}, Shape{n}, Shape{n}, Shape{n}, Shape{n}};
    c.f32_in = {0, 1, 2, 3};
    c.f32_out = {0, 1, 2, 3};
    c.positive = {3};
    c.reference = [=](const Arrays& x) {
        auto out = Arrays{x[0], x[2], x[3], zeros(n), {}};
        const double b1 = step.beta1, b2 = step.beta2, lr = step.lr;
        for (std::size_t i = 0; i < x[0].size(); ++i) {
            const double g = x[1][i] * step.grad_scale;
            const double m = out[1][i] = b1 * x[2][i] + (1 - b1) * g;
            const double v = out[2][i] = b2 * x[3][i] + (1 - b2) * g * g;
            const double mean = m / (1 - std::pow(b1, step.step));
            const double square = v / (1 - std::pow(b2, step.step));
            out[0][i] = x[0][i] - lr * step.weight_decay * x[0][i] -
                        lr * mean / (std::sqrt(square) + step.eps);
        }
        out[4] = out[0];
        return out;
    };
    c.forward = [=](Ops& ops, Data& d) {
        ops.copy(d.out[0], d.in[0]);
        ops.copy(d.out[1], d.in[2]);
        ops.copy(d.out[2], d.in[3]);
        ops.copy(d.out[3], d.in[1]);
        const bool same = d.out[4].dtype() == DType::f32;
        ops.adamw(d.out[0], same ? Tensor() : d.out[4], d.out[3], d.out[1], d.out[2], step);
        if (same) ops.copy(d.out[4], d.out[0]);
    };
    c.bytes = 28.0 * static_cast<double>(n);
    c.rate_only = n > 100'000;
    return c;
}

OpCase sum_squares_case(std::int64_t n) {
    OpCase c;
    c.name = fmt::format("sum_squares [{}]", n);
    c.in = {Shape{n}};
    c.out = {Shape{1}};
    c.reference = [](const Arrays& x) {
        double sum = 2;
        for (double v : x[0]) sum += v * v;
        return Arrays{{sum}};
    };
    c.forward = [](Ops& ops, Data& d) {
        ops.fill(d.out[0], 2);
        ops.sum_squares(d.out[0], d.in[0]);
    };
    c.tolerance = 1e-7;
    c.all_f32 = true;
    c.bytes = 4.0 * static_cast<double>(n);
    return c;
}

}  // namespace

std::vector<OpCase> optim_cases() {
    AdamWStep step{.lr = 1e-2F, .beta1 = 0.9F, .beta2 = 0.95F, .eps = 1e-8F, .weight_decay = 0.1F,
                   .grad_scale = 0.3F, .step = 1};
    std::vector<OpCase> cases{adamw_case(1, step), adamw_case(1001, step)};
    step.step = 1000;
    step.beta2 = 0.999F;
    cases.push_back(adamw_case(77, step));
    cases.push_back(large(adamw_case(300 * 1536 + 3, step)));
    cases.push_back(adamw_case(1'000'000, step));
    cases.push_back(sum_squares_case(1));
    cases.push_back(sum_squares_case(77));
    cases.push_back(sum_squares_case(100'003));
    return cases;
}

}  // namespace gradus::test
