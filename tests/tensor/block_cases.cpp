// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>

#include "op_case.hpp"

namespace gradus::test {

namespace {

OpCase rms_norm_case(std::int64_t rows, std::int64_t n, bool in_place) {
    constexpr float kEps = 1e-5F;
    OpCase c;
    c.name = fmt::format("rms_norm [{}, {}]{}", rows, n, in_place ? " in place" : "");
    c.in = {Shape{rows, n}, Shape{n}};
    c.out = {Shape{rows, n}, Shape{rows}};
    c.reference = [=](const Arrays& x) {
        auto out = zeros(rows * n);
        auto inverse = zeros(rows);
        for (std::int64_t r = 0; r < rows; ++r) {
            double sum = 0;
            for (std::int64_t i = 0; i < n; ++i) sum += at(x[0], r * n + i) * at(x[0], r * n + i);
            at(inverse, r) = 1 / std::sqrt(sum / static_cast<double>(n) + double{kEps});
            for (std::int64_t i = 0; i < n; ++i) {
                at(out, r * n + i) = at(x[0], r * n + i) * at(inverse, r) * at(x[1], i);
            }
        }
        return Arrays{out, inverse};
    };
    c.forward = [=](Ops& ops, Data& d) {
        if (in_place) ops.copy(d.out[0], d.in[0]);
        ops.rms_norm(d.out[0], d.out[1], in_place ? d.out[0] : d.in[0], d.in[1], kEps);
    };
    c.backward = [=](Ops& ops, Data& d) {
        if (in_place) ops.copy(d.d_in[0], d.d_out[0]);
        ops.rms_norm_backward(d.d_in[0], d.d_in[1], in_place ? d.d_in[0] : d.d_out[0], d.in[0],
                              d.in[1], d.out[1], false);
    };
    c.accumulated = {1};
    c.f32_out = {1};
    c.f32_gradients = {1};
    c.bytes = 8.0 * static_cast<double>(rows * n);
    c.rate_only = rows * n > 100'000;
    return c;
}

/// Outputs: the norm, the sum, the norm's statistics. Backward: the gradient by the sum reaches x both
/// directly and through the norm, which adds to it.
OpCase add_rms_norm_case(std::int64_t rows, std::int64_t n, bool in_place) {
    constexpr float kEps = 1e-5F;
    OpCase c;
    c.name = fmt::format("add_rms_norm [{}, {}]{}", rows, n, in_place ? " in place" : "");
    c.in = {Shape{rows, n}, Shape{rows, n}, Shape{n}};
    c.out = {Shape{rows, n}, Shape{rows, n}, Shape{rows}};
    c.graded = 2;
    c.reference = [norm = rms_norm_case(rows, n, false).reference](const Arrays& x) {
        auto sum = x[0];
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += x[1][i];
        const auto out = norm({sum, x[2]});
        return Arrays{out[0], sum, out[1]};
    };
    c.forward = [=](Ops& ops, Data& d) {
        if (in_place) ops.copy(d.out[1], d.in[0]);
        ops.add_rms_norm(d.out[0], d.out[2], d.out[1], in_place ? d.out[1] : d.in[0], d.in[1], d.in[2],
                         kEps);
    };
    c.backward = [=](Ops& ops, Data& d) {
        ops.copy(d.d_in[0], d.d_out[1]);
        ops.rms_norm_backward(d.d_in[0], d.d_in[2], d.d_out[0], d.out[1], d.in[2], d.out[2], true);
        ops.copy(d.d_in[1], d.d_in[0]);
    };
    c.accumulated = {2};
    c.f32_out = {2};
    c.f32_gradients = {2};
    c.bytes = 16.0 * static_cast<double>(rows * n);
    c.rate_only = rows * n > 100'000;
    return c;
}

/// Rotates heads as complex numbers: pair i of the `turned` numbers from form.begin on by position *
/// theta^(-2i / turned), times form.scale; the rest of a head stays.
OpCase rope_case(const Packed& packed, std::int64_t heads, std::int64_t d, double theta,
                 std::int32_t shift = 0, RotaryForm form = {}, std::int64_t turned = 0) {
    if (turned == 0) turned = d;
    const auto tokens = packed.tokens;
    const auto half = turned / 2;
    auto frequencies = std::make_shared<Floats>();
    for (std::int64_t i = 0; i < half; ++i) {
        frequencies->push_back(static_cast<float>(
            std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(turned))));
    }
    std::vector<std::int32_t> moved;
    for (std::int64_t t = 0; t < tokens; ++t) moved.push_back(packed.positions[t] + shift);
    const Ints positions(moved);
    OpCase c;
    c.name = fmt::format("rope T {} heads {} D {} from {}, {} at {}{} times {}", tokens, heads, d,
                         shift, turned, form.begin, form.interleaved ? " interleaved" : "",
                         form.scale);
    c.in = {Shape{tokens, heads, d}};
    c.out = c.in;
    c.reference = [=](const Arrays& x) {
        auto out = x[0];
        for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t i = 0; i < half; ++i) {
                // float32 product, as the contract's source rounds it
                const double angle =
                    static_cast<float>(positions[t]) * (*frequencies)[static_cast<std::size_t>(i)];
                for (std::int64_t h = 0; h < heads; ++h) {
                    const auto head = (t * heads + h) * d + form.begin;
                    const auto first = head + (form.interleaved ? 2 * i : i);
                    const auto second = form.interleaved ? first + 1 : first + half;
                    const double a = at(x[0], first) * double{form.scale};
                    const double b = at(x[0], second) * double{form.scale};
                    at(out, first) = a * std::cos(angle) - b * std::sin(angle);
                    at(out, second) = b * std::cos(angle) + a * std::sin(angle);
                }
            }
        }
        return Arrays{out};
    };
    auto turn = [=](Ops& ops, Tensor to, Tensor from, float sign) {
        ops.copy(to, from);
        ops.rope(to, positions.tensor(), view(*frequencies), form,
                 sign);
    };
    c.forward = [=](Ops& ops, Data& data) { turn(ops, data.out[0], data.in[0], 1); };
    c.backward = [=](Ops& ops, Data& data) { turn(ops, data.d_in[0], data.d_out[0], -1); };
    c.bytes = 12.0 * static_cast<double>(tokens * heads * d);
    c.rate_only = tokens > 1000;
    return c;
}

OpCase swiglu_case(std::int64_t rows, std::int64_t n, bool in_place, double spread) {
    OpCase c;
    c.name = fmt::format("swiglu [{}, {}] spread {}{}", rows, n, spread,
                         in_place ? " in place" : "");
    c.in = {Shape{rows, n}, Shape{rows, n}};
    c.out = {Shape{rows, n}};
    c.spread = spread;
    c.reference = [](const Arrays& x) {
        auto out = x[0];
        for (std::size_t i = 0; i < out.size(); ++i) out[i] *= x[1][i] / (1 + std::exp(-x[0][i]));
        return Arrays{out};
    };
    c.forward = [](Ops& ops, Data& d) { ops.swiglu(d.out[0], d.in[0], d.in[1]); };
    c.backward = [=](Ops& ops, Data& d) {
        if (in_place) {
            ops.copy(d.d_in[0], d.in[0]);
            ops.copy(d.d_in[1], d.in[1]);
        }
        ops.swiglu_backward(d.d_in[0], d.d_in[1], {}, d.d_out[0], in_place ? d.d_in[0] : d.in[0],
                            in_place ? d.d_in[1] : d.in[1]);
    };
    c.bytes = 12.0 * static_cast<double>(rows * n);
    c.rate_only = rows * n > 100'000;
    return c;
}

/// Gates and ups in one tensor; the second output is what the backward pass gives again.
OpCase packed_swiglu_case(std::int64_t rows, std::int64_t n, bool in_place) {
    OpCase c;
    c.name = fmt::format("swiglu [{}, 2 x {}]{}", rows, n, in_place ? " in place" : "");
    c.in = {Shape{rows, 2 * n}};
    c.out = {Shape{rows, n}, Shape{rows, n}};
    c.reference = [=](const Arrays& x) {
        auto out = zeros(rows * n);
        for (std::int64_t i = 0; i < rows * n; ++i) {
            const double gate = at(x[0], i / n * 2 * n + i % n), up = at(x[0], i / n * 2 * n + n + i % n);
            at(out, i) = gate * up / (1 + std::exp(-gate));
        }
        return Arrays{out, out};
    };
    const auto backward = [=](Ops& ops, Data& d, Tensor product) {
        if (in_place) ops.copy(d.d_in[0], d.in[0]);
        ops.swiglu_backward(d.d_in[0], {}, product, d.d_out[0], in_place ? d.d_in[0] : d.in[0], {});
    };
    c.forward = [=](Ops& ops, Data& d) {
        ops.swiglu(d.out[0], d.in[0], {});
        backward(ops, d, d.out[1]);
    };
    c.backward = [=](Ops& ops, Data& d) { backward(ops, d, {}); };
    c.rate_only = rows * n > 100'000;
    return c;
}

}  // namespace

std::vector<OpCase> block_cases() {
    return {
        rms_norm_case(1, 1, false),
        rms_norm_case(1, 8, true),
        rms_norm_case(77, 33, false),
        rms_norm_case(80, 128, true),
        rms_norm_case(2048, 128, false),
        large(rms_norm_case(300, 1536, false)),
        large(rms_norm_case(300, 1536, true)),
        large(rms_norm_case(3, 8960, false)),
        large(rms_norm_case(301, 129, true)),
        rms_norm_case(0, 8, false),
        add_rms_norm_case(1, 1, false),
        add_rms_norm_case(77, 33, false),
        add_rms_norm_case(80, 128, true),
        add_rms_norm_case(0, 8, false),
        large(add_rms_norm_case(300, 1536, false)),
        large(add_rms_norm_case(300, 1536, true)),
        large(add_rms_norm_case(3, 8960, false)),
        add_rms_norm_case(2048, 128, false),
        rope_case(Packed({1}), 1, 8, 10000),
        rope_case(Packed({77}), 3, 8, 10000),
        rope_case(Packed({1, 80, 5}), 4, 32, 10000),
        rope_case(Packed({65, 2}), 2, 64, 1e6),
        rope_case(Packed({5}), 2, 128, 1e4, 2045),  // runs past the table of 2048 positions
        rope_case(Packed({}), 2, 8, 10000),
        rope_case(Packed({77}), 3, 8, 10000, 0, {.interleaved = true}),
        rope_case(Packed({9, 4}), 2, 13, 100, 0, {.begin = 5, .scale = 1.3F}, 6),
        rope_case(Packed({9, 4}), 2, 14, 100, 3, {.interleaved = true, .begin = 4, .scale = 0.7F}, 8),
        rope_case(Packed({5}), 1, 2, 100, 2046, {.interleaved = true, .scale = 1.3F}),
        rope_case(Packed({6}), 1, 20, 100, 0, {.begin = 0}, 6),  // heads wider than what turns
        rope_case(Packed({512, 512, 1024}), 4, 32, 10000),
        rope_case(Packed({512, 512, 1024}), 16, 192, 10000, 0, {.interleaved = true, .begin = 128}, 64),
        swiglu_case(1, 1, false, 1),
        swiglu_case(77, 33, false, 1),
        swiglu_case(80, 96, true, 1),
        swiglu_case(16, 31, false, 40),
        swiglu_case(2048, 384, false, 1),
        large(swiglu_case(300, 1536, true, 1)),
        large(swiglu_case(3, 8960, false, 1)),
        packed_swiglu_case(1, 1, false),
        packed_swiglu_case(77, 33, false),
        packed_swiglu_case(80, 96, true),
        packed_swiglu_case(0, 8, false),
        large(packed_swiglu_case(300, 1536, true)),
        large(packed_swiglu_case(3, 8960, false)),
    };
}

}  // namespace gradus::test
