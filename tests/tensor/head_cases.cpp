// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "op_case.hpp"

namespace gradus::test {

namespace {

/// Columns [begin, begin + count) of x, as a tensor rank holds them.
std::vector<float> columns(Tensor x, std::int64_t begin, std::int64_t count) {
    std::vector<float> out;
    for (std::int64_t r = 0; r < x.dim(0); ++r) {
        const float* row = x.f32() + r * x.dim(1) + begin;
        out.insert(out.end(), row, row + count);
    }
    return out;
}

/// The head over `cuts.size() - 1` slices of the vocabulary, reduced as ranks would.
struct SlicedHead {
    std::vector<std::int64_t> cuts;
    float inv_temperature;
    std::vector<std::vector<float>> parts{};
    std::vector<float> row_max{}, sums{};

    Tensor part(std::size_t s, std::int64_t rows) {
        return {parts[s].data(), DType::f32, Shape{rows, cuts[s + 1] - cuts[s]}};
    }
    Tensor max_tensor() { return {row_max.data(), DType::f32, Shape{std::ssize(row_max)}}; }
    Tensor sums_tensor() { return {sums.data(), DType::f32, Shape{std::ssize(row_max), 3}}; }

    void forward(Ops& ops, Data& d, Tensor targets) {
        const auto rows = d.in[0].dim(0);
        parts.clear();
        row_max.assign(static_cast<std::size_t>(rows), -INFINITY);
        sums.assign(static_cast<std::size_t>(3 * rows), 0);
        for (std::size_t s = 0; s + 1 < cuts.size(); ++s) {
            parts.push_back(columns(d.in[0], cuts[s], cuts[s + 1] - cuts[s]));
            std::vector<float> own(row_max.size());
            ops.head_max(Tensor(own.data(), DType::f32, Shape{rows}), part(s, rows),
                         inv_temperature);
            for (std::size_t r = 0; r < own.size(); ++r) row_max[r] = std::max(row_max[r], own[r]);
        }
        for (std::size_t s = 0; s + 1 < cuts.size(); ++s) {
            std::vector<float> own(sums.size());
            ops.head_sums(Tensor(own.data(), DType::f32, Shape{rows, 3}), part(s, rows),
                          max_tensor(), targets, cuts[s], inv_temperature);
            for (std::size_t r = 0; r < own.size(); ++r) sums[r] += own[r];
        }
        ops.head_finish(d.out[0], d.out[1], sums_tensor());
    }

    void backward(Ops& ops, Data& d, Tensor targets) {
        const auto rows = d.in[0].dim(0);
        for (std::size_t s = 0; s + 1 < cuts.size(); ++s) {
            auto slice = part(s, rows);
            ops.head_backward(slice, max_tensor(), sums_tensor(), targets, d.d_out[0], d.d_out[1],
                              cuts[s], inv_temperature);
            for (std::int64_t r = 0; r < rows; ++r) {
                std::copy_n(slice.f32() + r * slice.dim(1), slice.dim(1),
                            d.d_in[0].f32() + r * cuts.back() + cuts[s]);
            }
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
    c.rate_only = rows * v > 100'000;
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
    };
}

}  // namespace gradus::test
