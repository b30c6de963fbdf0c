// SPDX-License-Identifier: Apache-2.0
// Bit arithmetic without branches, so that the loops vectorise. Bound: bytes read and written.
#include "gradus/tensor/convert.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

template <class T>
T load(const void* from, std::int64_t i) {
    T value;
    std::memcpy(&value, static_cast<const char*>(from) + i * static_cast<std::int64_t>(sizeof(T)),
                sizeof value);
    return value;
}
template <class T>
void store(void* to, std::int64_t i, T value) {
    std::memcpy(static_cast<char*>(to) + i * static_cast<std::int64_t>(sizeof(T)), &value,
                sizeof value);
}

float f32_of_bf16(std::uint16_t x) {
    return std::bit_cast<float>(std::uint32_t{x} << 16);
}

/// Exponent and mantissa moved to their places in a float32 make a number that is too small by the
/// difference of the biases, subnormal ones too; the product with a power of two is exact.
float f32_of_f16(std::uint16_t x) {
    const std::uint32_t sign = std::uint32_t{x & 0x8000u} << 16, rest = x & 0x7fffu;
    const float number = std::bit_cast<float>(rest << 13) * 0x1p112f;
    const std::uint32_t special = 0x7f800000u | (rest << 13);  // infinity or NaN
    const std::uint32_t bits = rest >= 0x7c00u ? special : std::bit_cast<std::uint32_t>(number);
    return std::bit_cast<float>(sign | bits);
}

float f32_of_f8(std::uint8_t x) {
    const std::uint32_t sign = std::uint32_t{x & 0x80u} << 24, rest = x & 0x7fu;
    const float number = std::bit_cast<float>(rest << 20) * 0x1p120f;
    const std::uint32_t bits = rest == 0x7fu ? 0x7fc00000u : std::bit_cast<std::uint32_t>(number);
    return std::bit_cast<float>(sign | bits);
}

/// Adds half of the last kept bit's worth, a little less where that bit is even; the carry goes
/// into the exponent as it should.
std::uint32_t round_bits(std::uint32_t bits, int dropped) {
    const std::uint32_t half = (1u << (dropped - 1)) - 1, odd = (bits >> dropped) & 1u;
    return (bits + half + odd) >> dropped;
}

std::uint16_t bf16_of_f32(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return static_cast<std::uint16_t>(nan ? (bits >> 16) | 0x40u : round_bits(bits, 16));
}

std::uint16_t f16_of_f32(float x) {
    const auto all = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = all & 0x80000000u, bits = all ^ sign;
    // Below 2^-14: the sum with 0.5 has its last bit at 2^-24, as subnormal halves have.
    const float shifted = std::bit_cast<float>(bits) + 0.5f;
    const std::uint32_t small = std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u;
    const std::uint32_t normal = round_bits(bits, 13) - (112u << 10);
    const std::uint32_t special = bits > 0x7f800000u ? 0x7e00u | ((bits >> 13) & 0x3ffu) : 0x7c00u;
    const std::uint32_t finite = bits < 0x38800000u ? small : normal;
    const std::uint32_t half = bits >= 0x47800000u ? special : finite;
    return static_cast<std::uint16_t>((sign >> 16) | half);
}

}  // namespace

void to_f32(DType dtype, const void* from, float* to, std::int64_t n) {
    switch (dtype) {
        case DType::f32:
            if (n > 0) std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
            return;
        case DType::bf16:
            for (std::int64_t i = 0; i < n; ++i) to[i] = f32_of_bf16(load<std::uint16_t>(from, i));
            return;
        case DType::f16:
            for (std::int64_t i = 0; i < n; ++i) to[i] = f32_of_f16(load<std::uint16_t>(from, i));
            return;
        case DType::f8_e4m3:
            for (std::int64_t i = 0; i < n; ++i) to[i] = f32_of_f8(load<std::uint8_t>(from, i));
            return;
        case DType::i32:
            break;
    }
    throw InternalError(fmt::format("{} numbers are not read as floats", name_of(dtype)));
}

void from_f32(DType dtype, const float* from, void* to, std::int64_t n) {
    switch (dtype) {
        case DType::f32:
            if (n > 0) std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
            return;
        case DType::bf16:
            for (std::int64_t i = 0; i < n; ++i) store(to, i, bf16_of_f32(from[i]));
            return;
        case DType::f16:
            for (std::int64_t i = 0; i < n; ++i) store(to, i, f16_of_f32(from[i]));
            return;
        case DType::f8_e4m3:
        case DType::i32:
            break;
    }
    throw InternalError(fmt::format("floats are not written as {}", name_of(dtype)));
}

void scale_by_blocks(float* values, std::int64_t rows, std::int64_t columns, std::int64_t row,
                     std::int64_t column, const float* scales, std::int64_t scale_columns) {
    for (std::int64_t r = 0; r < rows; ++r) {
        float* const line = values + r * columns;
        const float* const line_scales = scales + (row + r) / kScaleBlock * scale_columns;
        for (std::int64_t c = 0; c < columns;) {
            const std::int64_t block = (column + c) / kScaleBlock;
            const std::int64_t end = std::min(columns, (block + 1) * kScaleBlock - column);
            const float scale = line_scales[block];
            for (; c < end; ++c) line[c] *= scale;
        }
    }
}

}  // namespace gradus
