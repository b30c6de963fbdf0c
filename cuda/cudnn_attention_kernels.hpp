// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "context.hpp"

namespace gradus::cuda {

/// Numbers of a token in seven tensors.
struct SequenceWidths {
    static constexpr int kCount = 7;
    std::int64_t at[kCount] = {};
};
/// For sequence i <= padded: offsets[a (padded + 1) + i] = its first token (that of the end for i >
/// sequences) times widths.at[a]; lengths[i] = its tokens, 0 from `sequences` on.
void sequence_offsets(const Context& c, std::int64_t* offsets, std::int32_t* lengths,
                      const std::int32_t* starts, std::int64_t sequences, std::int64_t padded,
                      const SequenceWidths& widths);
/// out[i, c, r] = in[i, r, c] for i < count.
void transpose(const Context& c, float* out, const float* in, std::int64_t count, std::int64_t rows,
               std::int64_t columns);

}  // namespace gradus::cuda
