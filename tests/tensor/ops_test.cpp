// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numbers>

#include "gradus/tensor/convert.hpp"
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
    for (auto part : {dense_cases, block_cases, heads_cases, rows_cases, expert_cases, attention_cases, decode_cases,
                      head_cases, optim_cases}) {
        for (auto& c : part()) all.push_back(std::move(c));
    }
    return all;
}

bool left_out(const OpCase& c) {
    return c.rate_only || (c.cuda_only && !on_cuda()) ||
           (c.large && !on_cuda() && std::getenv("GRADUS_LONG") == nullptr);
}

bool contains(const std::vector<int>& numbers, std::size_t number) {
    return std::find(numbers.begin(), numbers.end(), static_cast<int>(number)) != numbers.end();
}

void write(Ops& ops, Tensor t, const Doubles& x) {
    std::vector<float> floats(x.begin(), x.end());
    if (t.dtype() == DType::f32) return ops.upload(t, floats.data());
    std::vector<std::uint16_t> halves(x.size());
    from_f32(t.dtype(), floats.data(), halves.data(), t.elements());
    ops.upload(t, halves.data());
}

/// After all work before.
std::vector<float> read(Ops& ops, Tensor t) {
    std::vector<float> floats(static_cast<std::size_t>(t.elements()));
    std::vector<char> bytes(static_cast<std::size_t>(t.bytes()));
    ops.download(bytes.data(), t);
    to_f32(t.dtype(), bytes.data(), floats.data(), t.elements());
    return floats;
}

/// The operations of a GPU take long to set up: all cases share them, which a restart would not be.
std::shared_ptr<Ops> ops_for(Arena& arena) {
    if (!on_cuda()) return make_test_ops(kLimits, arena);
    static auto* const shared =
        new std::shared_ptr<Ops>(make_test_ops(kLimits, arena, Waiting::never));
    return *shared;
}

/// A case with its memory.
class Run {
  public:
    explicit Run(const OpCase& c) : dtype(c.all_f32 ? DType::f32 : test_dtype()), case_(c) {
        for (std::size_t i = 0; i < c.in.size(); ++i) {
            const DType of = contains(c.f32_in, i) ? DType::f32 : dtype;
            auto x = random(c.in[i], c.spread);
            if (contains(c.positive, i)) {
                for (auto& v : x) v = std::abs(v) + 0.01;
            }
            inputs.push_back(rounded(x, of));
            data.in.push_back(arena.take("in", of, c.in[i]));
            const DType of_gradient = contains(c.f32_gradients, i)    ? DType::f32
                                      : contains(c.bf16_gradients, i) ? dtype
                                                                      : of;
            data.d_in.push_back(arena.take("d_in", of_gradient, c.in[i]));
        }
        for (std::size_t i = 0; i < c.out.size(); ++i) {
            const DType of = contains(c.f32_out, i) ? DType::f32 : dtype;
            const bool graded = static_cast<int>(i) < c.graded;
            d_outputs.push_back(graded ? rounded(random(c.out[i], 1), of) : zeros(c.out[i].elements()));
            data.out.push_back(arena.take("out", of, c.out[i]));
            data.d_out.push_back(arena.take("d_out", of, c.out[i]));
        }
        ops->synchronize();
        reset();
    }
    ~Run() { ops->synchronize(); }
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

    /// Operations may overwrite what they are given, so everything is written anew.
    void reset() {
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            write(*ops, data.in[i], inputs[i]);
            ops->fill(data.d_in[i], kStale);
        }
        for (int i : case_.accumulated) ops->fill(data.d_in[static_cast<std::size_t>(i)], kBefore);
        for (std::size_t i = 0; i < d_outputs.size(); ++i) {
            write(*ops, data.d_out[i], d_outputs[i]);
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

    double tolerance() const {
        return dtype == DType::f32 ? case_.tolerance : std::max(case_.tolerance, case_.bf16_tolerance);
    }
    /// Of gradients.
    double slack() const {
        return dtype == DType::f32 ? 10 * case_.tolerance : 3 * tolerance();
    }

    static constexpr float kStale = std::numeric_limits<float>::quiet_NaN();
    static constexpr float kBefore = 0.5F;
    DType dtype;
    Arrays inputs, d_outputs;
    Data data;
    std::unique_ptr<Device> device = make_compute_device();
    Arena arena{device.get()};
    std::shared_ptr<Ops> ops = ops_for(arena);
    Lcg random_{17};

  private:
    Doubles random(Shape shape, double spread) {
        auto x = zeros(shape.elements());
        for (auto& v : x) v = static_cast<float>(spread * random_.normal());
        return x;
    }
    /// What a tensor of that type holds of x.
    static Doubles rounded(const Doubles& x, DType dtype) {
        if (dtype == DType::f32) return x;
        std::vector<float> floats(x.begin(), x.end());
        std::vector<std::uint16_t> halves(x.size());
        from_f32(dtype, floats.data(), halves.data(), std::ssize(x));
        to_f32(dtype, halves.data(), floats.data(), std::ssize(x));
        return {floats.begin(), floats.end()};
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
        if (left_out(c)) continue;
        Run run(c);
        c.forward(*run.ops, run.data);
        const auto expected = c.reference(run.inputs);
        BOOST_REQUIRE_EQUAL(expected.size(), c.out.size());
        for (std::size_t o = 0; o < expected.size(); ++o) {
            BOOST_REQUIRE_EQUAL(static_cast<std::int64_t>(expected[o].size()), c.out[o].elements());
            const double floor = rms(expected[o]);
            const auto got = read(*run.ops, run.data.out[o]);
            double worst = 0;
            for (std::size_t i = 0; i < expected[o].size(); ++i) {
                const double e = expected[o][i];
                const double error = std::abs(got[i] - e);
                if (!(error <= run.tolerance() * (std::abs(e) + floor))) {
                    BOOST_ERROR(c.name << " output " << o << " [" << i << "]: " << got[i] << " for "
                                       << e);
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
    const auto got = read(*run.ops, run.data.d_in[input]);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
        gradient[i] = got[i] - (contains(c.accumulated, input) ? Run::kBefore : 0.0F);
    }
    // Where terms cancel (a single key, say), their rounding remains.
    const double size = rms(gradient) + 0.05;
    const double tolerance = run.slack();
    // Single elements, so that a misplaced one shows, and a direction, so that each counts.
    const auto n = static_cast<std::int64_t>(gradient.size());
    for (std::int64_t trial = 0; trial < std::min<std::int64_t>(n, c.large ? 1 : 10); ++trial) {
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
        if (left_out(c) || !c.backward) continue;
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
        if (left_out(c)) continue;
        const auto bits = [&] {
            Run run(c);
            c.forward(*run.ops, run.data);
            if (c.backward) c.backward(*run.ops, run.data);
            std::vector<std::vector<char>> all;
            for (const auto* tensors : {&run.data.out, &run.data.d_in}) {
                for (const Tensor& t : *tensors) {
                    all.emplace_back(static_cast<std::size_t>(t.bytes()));
                    run.ops->download(all.back().data(), t);
                }
            }
            return all;
        };
        BOOST_TEST((bits() == bits()), c.name);
    }
}

BOOST_AUTO_TEST_CASE(rate, *boost::unit_test::label("perf") * boost::unit_test::disabled()) {
    const int repeats = on_cuda() ? 20 : 1;  // so that launches overlap
    auto seconds_of = [&](const OpCase& c, Run& run, bool backward) {
        double best = 1e9;
        double spent = 0;
        while (spent < 0.15) {
            run.reset();
            if (backward) c.forward(*run.ops, run.data);
            run.ops->synchronize();
            const auto start = std::chrono::steady_clock::now();
            for (int i = 0; i < repeats; ++i)
                backward ? c.backward(*run.ops, run.data) : c.forward(*run.ops, run.data);
            run.ops->synchronize();
            const double s =
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / repeats;
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
