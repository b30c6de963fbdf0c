// SPDX-License-Identifier: Apache-2.0
// Conversions against the formats' definitions: sign, exponent and mantissa as numbers, in double.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/tensor/convert.hpp"

namespace gradus {
namespace {

/// A format: bits of exponent and mantissa; `finite`: an exponent of all ones holds numbers too,
/// but for one NaN.
struct Format {
    DType dtype;
    int exponent, mantissa;
    bool finite = false;

    /// IEEE 754's definition (section 3.4); NaN where `code` is one.
    double value(unsigned code) const {
        const int bias = (1 << (exponent - 1)) - 1, top = (1 << exponent) - 1;
        const int e = static_cast<int>(code >> mantissa) & top;
        const unsigned m = code & ((1u << mantissa) - 1);
        const double sign = (code >> (exponent + mantissa)) & 1u ? -1 : 1;
        const double fraction = static_cast<double>(m) / (1 << mantissa);
        if (finite && e == top && m + 1 == 1u << mantissa) return std::nan("");
        if (!finite && e == top) return m == 0 ? sign * INFINITY : std::nan("");
        return sign *
               (e == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, e - bias));
    }
    unsigned codes() const { return 1u << (1 + exponent + mantissa); }
};

constexpr Format kBf16{DType::bf16, 8, 7}, kF16{DType::f16, 5, 10}, kF8{DType::f8_e4m3, 4, 3, true};

float decoded(const Format& f, unsigned code) {
    float out = 0;
    const auto narrow = static_cast<std::uint16_t>(code);  // little-endian: its first byte is an f8
    to_f32(f.dtype, &narrow, &out, 1);
    return out;
}

std::uint16_t encoded(const Format& f, float x) {
    std::uint16_t code = 0;
    from_f32(f.dtype, &x, &code, 1);
    return code;
}

/// Of the two codes around |x| the nearer, of equally near ones the even: found by bisection over
/// the values, which grow with the code.
std::uint16_t nearest(const Format& f, float x) {
    const unsigned sign = std::signbit(x) ? f.codes() / 2 : 0;
    const unsigned infinity = ((1u << f.exponent) - 1) << f.mantissa;
    const double size = std::abs(static_cast<double>(x));
    unsigned below = 0, above = infinity;
    while (above - below > 1) {
        const unsigned middle = (below + above) / 2;
        (f.value(middle) <= size ? below : above) = middle;
    }
    if (size == INFINITY) return static_cast<std::uint16_t>(sign | infinity);
    // Infinity stands where the next number would be.
    const double a = f.value(below);
    const double b = above == infinity ? a + (a - f.value(below - 1)) : f.value(above);
    const bool up = size - a > b - size || (size - a == b - size && below % 2 == 1);
    return static_cast<std::uint16_t>(sign | (up ? above : below));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(convert)

BOOST_AUTO_TEST_CASE(every_small_number_is_read_exactly) {
    for (const Format& f : {kBf16, kF16, kF8}) {
        int wrong = 0, nan = 0;
        for (unsigned code = 0; code < f.codes(); ++code) {
            const double want = f.value(code);
            const float got = decoded(f, code);
            nan += std::isnan(want);
            if (std::isnan(want))
                wrong += !std::isnan(got);
            else
                wrong +=
                    static_cast<double>(got) != want || std::signbit(got) != std::signbit(want);
        }
        BOOST_TEST(wrong == 0, name_of(f.dtype));
        BOOST_TEST(nan == (f.finite ? 2 : 2 * ((1 << f.mantissa) - 1)));
    }
    BOOST_TEST(decoded(kF8, 0x7e) == 448);  // the paper's largest
    BOOST_TEST(decoded(kF8, 0x01) == 0x1p-9f);
    BOOST_TEST(decoded(kF16, 0x7bff) == 65504);
}

BOOST_AUTO_TEST_CASE(every_small_number_comes_back) {
    for (const Format& f : {kBf16, kF16}) {
        int wrong = 0;
        for (unsigned code = 0; code < f.codes(); ++code) {
            const float x = decoded(f, code);
            const std::uint16_t back = encoded(f, x);
            wrong += std::isnan(x) ? !std::isnan(f.value(back)) : back != code;
        }
        BOOST_TEST(wrong == 0, name_of(f.dtype));
    }
}

BOOST_AUTO_TEST_CASE(rounds_to_nearest_ties_to_even) {
    for (const Format& f : {kBf16, kF16}) {
        int wrong = 0;
        const auto check = [&](float x) {
            if (std::isnan(x))
                wrong += !std::isnan(f.value(encoded(f, x)));
            else
                wrong += encoded(f, x) != nearest(f, x);
        };
        // Every number, the middle to the next one, and what lies just beside the middle.
        for (unsigned code = 0; code < f.codes() / 2 - 1; ++code) {
            const auto middle = static_cast<float>((f.value(code) + f.value(code + 1)) / 2);
            for (const float x :
                 {middle, std::nextafterf(middle, 0.0f), std::nextafterf(middle, INFINITY)})
                for (const float signed_x : {x, -x}) check(signed_x);
        }
        for (std::uint32_t i = 0; i < 200000; ++i) {
            const PhiloxBlock bits =
                random_bits({.seed = 1, .stream = Stream::test, .position = i});
            float x;
            std::memcpy(&x, &bits[0], sizeof x);
            check(x);
        }
        for (const float x :
             {65504.0f, 65519.996f, 65520.0f, 65536.0f, 3.3895314e38f, 3.4028235e38f, INFINITY,
              std::numeric_limits<float>::denorm_min(), 0.0f, -0.0f, NAN})
            check(x);
        BOOST_TEST(wrong == 0, name_of(f.dtype));
    }
}

BOOST_AUTO_TEST_CASE(whole_arrays_at_any_alignment) {
    for (const Format& f : {kBf16, kF16, kF8}) {
        const auto size = static_cast<std::size_t>(size_of(f.dtype));
        std::vector<char> bytes(1 + 1000 * size);
        for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 37 % 101);
        std::vector<float> out(1000);
        to_f32(f.dtype, bytes.data() + 1, out.data(), 1000);
        for (std::size_t i = 0; i < out.size(); ++i) {
            unsigned code = static_cast<unsigned char>(bytes[1 + i * size]);
            if (size == 2)
                code |= static_cast<unsigned>(static_cast<unsigned char>(bytes[2 + i * size])) << 8;
            BOOST_REQUIRE(static_cast<double>(out[i]) == f.value(code));
        }
        if (f.finite) continue;
        std::vector<char> back(bytes.size(), bytes[0]);
        from_f32(f.dtype, out.data(), back.data() + 1, 1000);
        BOOST_TEST(back == bytes);
    }
    float x = 0;
    BOOST_CHECK_THROW(to_f32(DType::i32, &x, &x, 1), InternalError);
    BOOST_CHECK_THROW(from_f32(DType::f8_e4m3, &x, &x, 1), InternalError);
}

BOOST_AUTO_TEST_CASE(blocks_have_their_scales) {
    constexpr std::int64_t kRows = 300, kColumns = 260;
    BOOST_TEST(scale_blocks(256) == 2);
    BOOST_TEST(scale_blocks(257) == 3);
    const std::int64_t wide = scale_blocks(kColumns);
    std::vector<float> scales;
    for (std::int64_t i = 0; i < scale_blocks(kRows) * wide; ++i)
        scales.push_back(static_cast<float>(i + 1));
    for (const auto& [row, column, rows, columns] :
         {std::array<std::int64_t, 4>{0, 0, kRows, kColumns},
          {100, 120, 57, 140},
          {256, 255, 44, 5}}) {
        std::vector<float> values(static_cast<std::size_t>(rows * columns), 0.5f);
        scale_by_blocks(values.data(), rows, columns, row, column, scales.data(), wide);
        for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t c = 0; c < columns; ++c) {
                const std::int64_t block = (row + r) / 128 * wide + (column + c) / 128;
                BOOST_REQUIRE(values[static_cast<std::size_t>(r * columns + c)] ==
                              0.5f * static_cast<float>(block + 1));
            }
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
