// SPDX-License-Identifier: Apache-2.0
// Numbers of smaller types to and from float32.
#pragma once

#include <cstdint>

#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// `n` numbers of type f32, bf16, f16 or f8_e4m3 at `from` (any alignment) as float32; exact.
/// Throws InternalError for other types.
void to_f32(DType dtype, const void* from, float* to, std::int64_t n);

/// float32 rounded to f32, bf16 or f16, to nearest, ties to even; beyond the largest: infinity; a
/// NaN stays one. `to` may have any alignment. Throws InternalError for other types.
void from_f32(DType dtype, const float* from, void* to, std::int64_t n);

/// Block-scaled weights (DeepSeek-V3, arXiv 2412.19437, section 3.3): one scale for each block of
/// 128 x 128 numbers, the last ones of a row or column smaller.
constexpr std::int64_t kScaleBlock = 128;
/// Blocks that `n` rows or columns make.
constexpr std::int64_t scale_blocks(std::int64_t n) {
    return (n + kScaleBlock - 1) / kScaleBlock;
}

/// Multiplies [rows, columns] numbers in place by the scales of their blocks. They are the part of
/// a matrix that begins at (`row`, `column`); `scales` is the whole matrix's, `scale_columns` wide.
void scale_by_blocks(float* values, std::int64_t rows, std::int64_t columns, std::int64_t row,
                     std::int64_t column, const float* scales, std::int64_t scale_columns);

}  // namespace gradus
