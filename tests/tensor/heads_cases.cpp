// SPDX-License-Identifier: Apache-2.0
// Queries, keys and values out of one product and back.
#include <fmt/format.h>

#include <cmath>

#include "op_case.hpp"

namespace gradus::test {

namespace {

struct Heads {
    std::int64_t queries, keys, width;
    std::int64_t turned = 0;  ///< numbers of a head that are turned, 0: none
    RotaryForm form = {};
    bool bias = true;
};

/// Outputs q, k, v. Backward: merge_heads, and the column sums of that for the bias.
OpCase split_heads_case(const Packed& packed, const Heads& h) {
    const auto tokens = packed.tokens, half = h.turned / 2;
    const auto nq = h.queries * h.width, nkv = h.keys * h.width, all = nq + 2 * nkv;
    const auto frequencies = std::make_shared<Floats>();
    for (std::int64_t i = 0; i < half; ++i)
        frequencies->push_back(static_cast<float>(
            std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(h.turned))));
    OpCase c;
    c.name = fmt::format("split_heads T {} heads {}/{} D {}, {} turned from {}{} times {}{}", tokens,
                         h.queries, h.keys, h.width, h.turned, h.form.begin,
                         h.form.interleaved ? " interleaved" : "", h.form.scale,
                         h.bias ? ", bias" : "");
    c.in = {Shape{tokens, all}, Shape{all}};
    c.out = {Shape{tokens, h.queries, h.width}, Shape{tokens, h.keys, h.width},
             Shape{tokens, h.keys, h.width}};
    c.graded = 3;
    c.graded_in = h.bias ? 2 : 1;
    c.reference = [=](const Arrays& x) {
        Arrays out(3);
        const auto turn = [&](Doubles& part, std::int64_t t) {  // its last head
            const auto head = std::ssize(part) - h.width + h.form.begin;
            for (std::int64_t i = 0; i < half; ++i) {
                // float32 product, as the contract's source rounds it
                const double angle =
                    static_cast<float>(packed.positions[t]) * (*frequencies)[static_cast<std::size_t>(i)];
                const auto first = head + (h.form.interleaved ? 2 * i : i);
                const auto second = h.form.interleaved ? first + 1 : first + half;
                const double a = at(part, first) * double{h.form.scale};
                const double b = at(part, second) * double{h.form.scale};
                at(part, first) = a * std::cos(angle) - b * std::sin(angle);
                at(part, second) = b * std::cos(angle) + a * std::sin(angle);
            }
        };
        for (std::int64_t t = 0; t < tokens; ++t)
            for (std::int64_t i = 0; i < all; ++i) {
                const std::size_t part = i < nq ? 0 : i < nq + nkv ? 1 : 2;
                out[part].push_back(at(x[0], t * all + i) + (h.bias ? at(x[1], i) : 0));
                if ((i + 1) % h.width == 0 && part < 2) turn(out[part], t);
            }
        return out;
    };
    const auto turns = [=] { return half > 0 ? view(*frequencies) : Tensor(); };
    c.forward = [=](Ops& ops, Data& d) {
        ops.split_heads(d.out[0], d.out[1], d.out[2], d.in[0], h.bias ? d.in[1] : Tensor(),
                        packed.positions.tensor(), turns(), h.form);
    };
    c.backward = [=](Ops& ops, Data& d) {
        ops.merge_heads(d.d_in[0], d.d_out[0], d.d_out[1], d.d_out[2], packed.positions.tensor(),
                        turns(), h.form);
        if (h.bias) ops.add_bias_backward(d.d_in[1], d.d_in[0]);
    };
    if (h.bias) c.accumulated = {1};
    c.f32_gradients = {1};
    c.bytes = 8.0 * static_cast<double>(tokens * all);
    c.rate_only = tokens > 1000;
    return c;
}

}  // namespace

std::vector<OpCase> heads_cases() {
    const RotaryForm middle{.begin = 3, .scale = 1.3F}, pairs{.interleaved = true};
    return {
        split_heads_case(Packed({1}), {1, 1, 1, 0}),
        split_heads_case(Packed({9, 4}), {3, 3, 8, 8}),
        split_heads_case(Packed({9, 4}), {4, 2, 8, 8, {}, false}),
        split_heads_case(Packed({77}), {6, 1, 16, 16}),
        split_heads_case(Packed({5, 1, 7}), {4, 2, 13, 6, middle}),
        split_heads_case(Packed({5, 1, 7}), {2, 1, 10, 10, pairs}),
        split_heads_case(Packed({5, 1, 7}), {3, 1, 7, 0, {}, false}),
        split_heads_case(Packed({}), {2, 2, 8, 8}),
        large(split_heads_case(Packed({250, 50}), {12, 2, 128, 128})),
        large(split_heads_case(Packed({250, 50}), {12, 2, 128, 0, {}, false})),
        split_heads_case(Packed({1024, 1024}), {12, 2, 128, 128}),
    };
}

}  // namespace gradus::test
