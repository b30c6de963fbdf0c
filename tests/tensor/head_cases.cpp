// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "op_case.hpp"

namespace gradus::test {

namespace {

/// The head over `cuts.size() - 1` slices of the vocabulary, reduced as ranks would.
struct SlicedHead {
    std::vector<std::int64_t> cuts;
    float inv_temperature;
    std::vector<Floats> parts{};
    Floats row_max{}, sums{};

    Tensor part(std::size_t s, std::int64_t rows) {
        return view(parts[s], {rows, cuts[s + 1] - cuts[s]});
    }
    Tensor sums_tensor() { return view(sums, {std::ssize(row_max), 3}); }

    void forward(Ops& ops, Data& d, Tensor targets) {
        const auto rows = d.in[0].dim(0);
        ops.synchronize();  // of an earlier pass, before its memory goes
        parts.clear();
        row_max.assign(static_cast<std::size_t>(rows), -INFINITY);
        sums.assign(static_cast<std::size_t>(3 * rows), 0);
        for (std::size_t s = 0; s + 1 < cuts.size(); ++s) {
            const auto width = cuts[s + 1] - cuts[s];
            parts.emplace_back(static_cast<std::size_t>(rows * width));
            ops.copy_columns(part(s, rows), 0, d.in[0], cuts[s], width);
            Floats own(row_max.size());
            ops.head_max(view(own), part(s, rows), inv_temperature);
            ops.synchronize();
            for (std::size_t r = 0; r < own.size(); ++r) row_max[r] = std::max(row_max[r], own[r]);
        }
        for (std::size_t s = 0; s + 1 < cuts.size(); ++s) {
            Floats own(sums.size());
            ops.head_sums(view(own, {rows, 3}), part(s, rows), view(row_max), targets, cuts[s],
                          inv_temperature);
            ops.synchronize();
            for (std::size_t r = 0; r < own.size(); ++r) sums[r] += own[r];
        }
        ops.head_finish(d.out[0], d.out[1], sums_tensor());
    }

    void backward(Ops& ops, Data& d, Tensor targets) {
        for (std::size_t s = 0; s + 1 < cuts.size(); ++s) {
            auto slice = part(s, d.in[0].dim(0));
            ops.head_backward(slice, slice, view(row_max), sums_tensor(), targets, d.d_out[0],
                              d.d_out[1], cuts[s], inv_temperature);
            ops.copy_columns(d.d_in[0], cuts[s], slice, 0, cuts[s + 1] - cuts[s]);
        }
    }
};

OpCase head_case(std::int64_t rows, std::vector<std::int64_t> cuts, float inv_temperature,
                 double spread) {
    const auto v = cuts.back();
    std::vector<std::int32_t> chosen;
    Lcg random(3);
    for (std::int64_t r = 0; r < rows; ++r) {
        chosen.push_back(static_cast<std::int32_t>(random.below(v)));
    }
    const Ints targets(chosen);
    OpCase c;
    c.name = fmt::format("head [{}, {}] in {} slices, 1/temperature {} spread {}", rows, v,
                         cuts.size() - 1, inv_temperature, spread);
    c.in = {Shape{rows, v}};
    c.out = {Shape{rows}, Shape{rows}};
    c.graded = 2;
    c.spread = spread;
    c.reference = [=](const Arrays& x) {
        auto log_prob = zeros(rows);
        auto entropy = zeros(rows);
        for (std::int64_t r = 0; r < rows; ++r) {
            auto z = [&](std::int64_t j) { return at(x[0], r * v + j) * double{inv_temperature}; };
            double max = z(0);
            for (std::int64_t j = 1; j < v; ++j) max = std::max(max, z(j));
            double sum = 0;
            for (std::int64_t j = 0; j < v; ++j) sum += std::exp(z(j) - max);
            const double lse = max + std::log(sum);
            at(log_prob, r) = z(targets[r]) - lse;
            for (std::int64_t j = 0; j < v; ++j) at(entropy, r) -= std::exp(z(j) - lse) * (z(j) - lse);
        }
        return Arrays{log_prob, entropy};
    };
    auto head = std::make_shared<SlicedHead>(SlicedHead{cuts, inv_temperature});
    c.forward = [=](Ops& ops, Data& d) { head->forward(ops, d, targets.tensor()); };
    c.backward = [=](Ops& ops, Data& d) { head->backward(ops, d, targets.tensor()); };
    c.bytes = 8.0 * static_cast<double>(rows * v);
    c.tolerance = 1e-5;
    c.all_f32 = true;
    c.rate_only = rows * v > 100'000;
    return c;
}

/// The whole vocabulary at once; outputs: log-probs, entropies, row_max, sums, and the gradient by the
/// logits, which is another tensor than they, given the second and third input.
OpCase whole_head_case(std::int64_t rows, std::int64_t v, float inv_temperature) {
    OpCase c = head_case(rows, {0, v}, inv_temperature, 3);
    c.name = fmt::format("whole head [{}, {}], 1/temperature {}", rows, v, inv_temperature);
    std::vector<std::int32_t> chosen;
    for (std::int64_t r = 0; r < rows; ++r) chosen.push_back(static_cast<std::int32_t>(r * 7919 % v));
    const Ints targets(chosen);
    c.in = {Shape{rows, v}, Shape{rows}, Shape{rows}};
    c.out = {Shape{rows}, Shape{rows}, Shape{rows}, Shape{rows, 3}, Shape{rows, v}};
    c.graded_in = 1;
    c.reference = [=](const Arrays& x) {
        Arrays out{zeros(rows), zeros(rows), zeros(rows), zeros(3 * rows), zeros(rows * v)};
        for (std::int64_t r = 0; r < rows; ++r) {
            auto z = [&](std::int64_t j) { return at(x[0], r * v + j) * double{inv_temperature}; };
            double max = z(0), s0 = 0, s1 = 0;
            for (std::int64_t j = 1; j < v; ++j) max = std::max(max, z(j));
            for (std::int64_t j = 0; j < v; ++j) {
                const double e = std::exp(z(j) - max);
                s0 += e;
                s1 += e * (z(j) - max);
            }
            at(out[2], r) = max;
            at(out[3], 3 * r) = s0;
            at(out[3], 3 * r + 1) = s1;
            at(out[3], 3 * r + 2) = z(targets[r]) - max;
            at(out[0], r) = z(targets[r]) - max - std::log(s0);
            const double entropy = at(out[1], r) = std::log(s0) - s1 / s0;
            for (std::int64_t j = 0; j < v; ++j) {
                const double lp = z(j) - max - std::log(s0), p = std::exp(lp);
                at(out[4], r * v + j) = (at(x[1], r) * ((j == targets[r] ? 1 : 0) - p) -
                                         at(x[2], r) * p * (lp + entropy)) * double{inv_temperature};
            }
        }
        return out;
    };
    c.forward = [=](Ops& ops, Data& d) {
        ops.head_statistics(d.out[2], d.out[3], d.in[0], targets.tensor(), inv_temperature);
        ops.head_finish(d.out[0], d.out[1], d.out[3]);
        ops.head_backward(d.out[4], d.in[0], d.out[2], d.out[3], targets.tensor(), d.in[1], d.in[2], 0,
                          inv_temperature);
    };
    c.backward = [=](Ops& ops, Data& d) {
        ops.head_backward(d.d_in[0], d.in[0], d.out[2], d.out[3], targets.tensor(), d.d_out[0],
                          d.d_out[1], 0, inv_temperature);
    };
    c.all_f32 = false;
    c.f32_in = {0, 1, 2};
    c.f32_out = {0, 1, 2, 3};
    c.bf16_gradients = {0};
    return c;
}

}  // namespace

std::vector<OpCase> head_cases() {
    return {
        head_case(1, {0, 1}, 1, 1),
        head_case(1, {0, 5}, 1, 1),
        head_case(7, {0, 263}, 1, 1),
        head_case(7, {0, 132, 263}, 1, 1),
        head_case(7, {0, 1, 131, 263}, 1 / 0.6F, 3),
        head_case(5, {0, 1000}, 1 / 0.7F, 4),
        head_case(512, {0, 264}, 1, 2),
        head_case(64, {0, 32000}, 1, 2),
        large(head_case(64, {0, 2048, 4096, 5003}, 1, 2)),
        whole_head_case(1, 1, 1),
        whole_head_case(7, 263, 1 / 0.6F),
        whole_head_case(0, 16, 1),
        large(whole_head_case(300, 5003, 1)),
        large(whole_head_case(128, 4096, 1 / 0.7F)),
    };
}

}  // namespace gradus::test
