// SPDX-License-Identifier: Apache-2.0
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numbers>

#include "op_case.hpp"

namespace gradus::test {

double Lcg::normal() {
    const double u = (bits() + 1.0) / 4294967297.0;
    const double v = bits() / 4294967296.0;
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
}

namespace {

Ints starts_of(const std::vector<std::int64_t>& lengths) {
    std::vector<std::int32_t> starts{0};
    for (auto n : lengths) starts.push_back(starts.back() + static_cast<std::int32_t>(n));
    return Ints(starts);
}

Ints positions_of(const std::vector<std::int64_t>& lengths) {
    std::vector<std::int32_t> positions;
    for (auto n : lengths) {
        for (std::int32_t i = 0; i < n; ++i) positions.push_back(i);
    }
    return Ints(positions);
}

std::vector<OpCase> all_cases() {
    std::vector<OpCase> all;
    for (auto part : {dense_cases, block_cases, rows_cases, expert_cases, attention_cases, decode_cases,
                      head_cases, optim_cases}) {
        for (auto& c : part()) all.push_back(std::move(c));
    }
    return all;
}

/// A case with its memory.
class Run {
  public:
    explicit Run(const OpCase& c) : case_(c) {
        for (std::size_t i = 0; i < c.in.size(); ++i) {
            auto x = random(c.in[i], c.spread);
            for (int p : c.positive) {
                if (static_cast<std::size_t>(p) == i) {
                    for (auto& v : x) v = std::abs(v) + 0.01;
                }
            }
            inputs.push_back(x);
            data.in.push_back(tensor("in", c.in[i]));
            data.d_in.push_back(tensor("d_in", c.in[i]));
        }
        for (std::size_t i = 0; i < c.out.size(); ++i) {
            const bool graded = static_cast<int>(i) < c.graded;
            d_outputs.push_back(graded ? random(c.out[i], 1) : zeros(c.out[i].elements()));
            data.out.push_back(tensor("out", c.out[i]));
            data.d_out.push_back(tensor("d_out", c.out[i]));
        }
        reset();
    }

    /// Operations may overwrite what they are given, so everything is written anew.
    void reset() {
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            write(data.in[i], inputs[i]);
            ops->fill(data.d_in[i], kStale);
        }
        for (int i : case_.accumulated) ops->fill(data.d_in[static_cast<std::size_t>(i)], kBefore);
        for (std::size_t i = 0; i < d_outputs.size(); ++i) {
            write(data.d_out[i], d_outputs[i]);
            ops->fill(data.out[i], kStale);
        }
    }

    double loss(const Arrays& x) const {
        double sum = 0;
        const auto out = case_.reference(x);
        for (std::size_t o = 0; o < out.size(); ++o) {
            for (std::size_t i = 0; i < out[o].size(); ++i) sum += out[o][i] * d_outputs[o][i];
        }
        return sum;
    }

    static constexpr float kStale = std::numeric_limits<float>::quiet_NaN();
    static constexpr float kBefore = 0.5F;
    Arrays inputs, d_outputs;
    Data data;
    std::unique_ptr<Device> device = make_cpu_device();
    Arena arena{device.get()};
    std::unique_ptr<Ops> ops = make_cpu_ops(kLimits, arena);
    Lcg random_{17};

  private:
    Tensor tensor(const char* name, Shape shape) { return arena.take(name, DType::f32, shape); }
    Doubles random(Shape shape, double spread) {
        auto x = zeros(shape.elements());
        for (auto& v : x) v = static_cast<float>(spread * random_.normal());
        return x;
    }
    static void write(Tensor t, const Doubles& x) {
        for (std::size_t i = 0; i < x.size(); ++i) t.f32()[i] = static_cast<float>(x[i]);
    }

    const OpCase& case_;
};

double rms(const Doubles& x) {
    double sum = 0;
    for (double v : x) sum += v * v;
    return std::sqrt(sum / static_cast<double>(std::max<std::size_t>(1, x.size())));
}

}  // namespace

Packed::Packed(std::vector<std::int64_t> l)
    : lengths(std::move(l)), starts(starts_of(lengths)), positions(positions_of(lengths)) {
    for (auto n : lengths) {
        tokens += n;
        longest = std::max(longest, n);
    }
}

Packing Packed::packing() const {
    return {starts.tensor(), positions.tensor(), static_cast<std::int64_t>(lengths.size()),
            longest};
}

BOOST_AUTO_TEST_SUITE(ops)

BOOST_AUTO_TEST_CASE(agree_with_float64) {
    int count = 0;
    for (const auto& c : all_cases()) {
        if (c.rate_only) continue;
        Run run(c);
        c.forward(*run.ops, run.data);
        const auto expected = c.reference(run.inputs);
        BOOST_REQUIRE_EQUAL(expected.size(), c.out.size());
        for (std::size_t o = 0; o < expected.size(); ++o) {
            BOOST_REQUIRE_EQUAL(static_cast<std::int64_t>(expected[o].size()), c.out[o].elements());
            const double floor = rms(expected[o]);
            double worst = 0;
            for (std::size_t i = 0; i < expected[o].size(); ++i) {
                const double e = expected[o][i];
                const double error = std::abs(run.data.out[o].f32()[i] - e);
                if (!(error <= c.tolerance * (std::abs(e) + floor))) {
                    BOOST_ERROR(c.name << " output " << o << " [" << i
                                       << "]: " << run.data.out[o].f32()[i] << " for " << e);
                    break;
                }
                worst = std::max(worst, error);
            }
            BOOST_TEST_MESSAGE(c.name << " output " << o << ": worst error " << worst);
        }
        ++count;
    }
    BOOST_TEST(count > 60);
}

namespace {

/// d loss / d (direction) by central differences of the float64 reference.
double slope(const Run& run, std::size_t input, const Doubles& direction) {
    constexpr double kStep = 1e-5;
    auto low = run.inputs;
    auto high = run.inputs;
    for (std::size_t i = 0; i < direction.size(); ++i) {
        low[input][i] -= kStep * direction[i];
        high[input][i] += kStep * direction[i];
    }
    return (run.loss(high) - run.loss(low)) / (2 * kStep);
}

void check_gradient(const OpCase& c, Run& run, std::size_t input) {
    auto gradient = zeros(c.in[input].elements());
    bool added = false;
    for (int i : c.accumulated) added = added || static_cast<std::size_t>(i) == input;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
        gradient[i] = run.data.d_in[input].f32()[i] - (added ? Run::kBefore : 0.0F);
    }
    // Where terms cancel (a single key, say), their rounding remains.
    const double size = rms(gradient) + 0.05;
    const double tolerance = 10 * c.tolerance;
    // Single elements, so that a misplaced one shows, and a direction, so that each counts.
    const auto n = static_cast<std::int64_t>(gradient.size());
    for (std::int64_t trial = 0; trial < std::min<std::int64_t>(n, 10); ++trial) {
        const auto i = n <= 10 ? trial : run.random_.below(n);
        auto direction = zeros(n);
        at(direction, i) = 1;
        const double expected = slope(run, input, direction);
        BOOST_TEST(std::abs(at(gradient, i) - expected) <= tolerance * (std::abs(expected) + size),
                   c.name << ": gradient of input " << input << " [" << i << "] is "
                          << at(gradient, i) << ", differences give " << expected);
    }
    auto direction = zeros(n);
    double along = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        at(direction, i) = run.random_.normal();
        along += at(direction, i) * at(gradient, i);
    }
    const double expected = slope(run, input, direction);
    const double scale = size * std::sqrt(static_cast<double>(n));
    BOOST_TEST(std::abs(along - expected) <= tolerance * (std::abs(expected) + scale),
               c.name << ": gradient of input " << input << " along a direction is " << along
                      << ", differences give " << expected);
}

}  // namespace

BOOST_AUTO_TEST_CASE(gradients_are_finite_differences) {
    int count = 0;
    for (const auto& c : all_cases()) {
        if (c.rate_only || !c.backward) continue;
        Run run(c);
        c.forward(*run.ops, run.data);
        c.backward(*run.ops, run.data);
        for (std::size_t i = 0; i < c.in.size() && static_cast<int>(i) < c.graded_in; ++i) {
            check_gradient(c, run, i);
        }
        ++count;
    }
    BOOST_TEST(count > 25);
}

BOOST_AUTO_TEST_CASE(the_same_bits_twice) {
    for (const auto& c : all_cases()) {
        if (c.rate_only) continue;
        Run first(c), second(c);
        for (auto* run : {&first, &second}) {
            c.forward(*run->ops, run->data);
            if (c.backward) c.backward(*run->ops, run->data);
        }
        for (std::size_t o = 0; o < c.out.size(); ++o) {
            BOOST_TEST(std::memcmp(first.data.out[o].data(), second.data.out[o].data(),
                                   static_cast<std::size_t>(first.data.out[o].bytes())) == 0,
                       c.name);
        }
    }
}

BOOST_AUTO_TEST_CASE(rate, *boost::unit_test::label("perf") * boost::unit_test::disabled()) {
    auto seconds_of = [](const OpCase& c, Run& run, bool backward) {
        double best = 1e9;
        double spent = 0;
        while (spent < 0.15) {
            run.reset();
            if (backward) c.forward(*run.ops, run.data);
            const auto start = std::chrono::steady_clock::now();
            backward ? c.backward(*run.ops, run.data) : c.forward(*run.ops, run.data);
            const double s =
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            best = std::min(best, s);
            spent += s + 1e-3;
        }
        return best;
    };
    std::printf("%-48s %12s %10s %10s %14s\n", "case", "forward us", "GFLOP/s", "GB/s",
                "backward us");
    for (const auto& c : all_cases()) {
        if (c.flops + c.bytes == 0) continue;
        Run run(c);
        const double forward = seconds_of(c, run, false);
        std::printf("%-48s %12.1f %10.1f %10.1f", c.name.c_str(), forward * 1e6,
                    c.flops / forward * 1e-9, c.bytes / forward * 1e-9);
        if (c.backward) std::printf(" %14.1f", seconds_of(c, run, true) * 1e6);
        std::printf("\n");
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus::test
