// SPDX-License-Identifier: Apache-2.0
// What cuDNN's attention wants to be told in its own form: where sequences begin in each tensor,
// and log-sum-exps by head. Bound: launches; at most 8 bytes a token and head are moved.
#include "check.hpp"
#include "cudnn_attention_kernels.hpp"
#include "vector.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void sequence_offsets_kernel(std::int64_t* offsets, std::int32_t* lengths,
                                        const std::int32_t* starts, std::int64_t sequences,
                                        std::int64_t padded, SequenceWidths widths) {
    const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i > padded) return;
    const std::int64_t start = starts[min(i, sequences)];
    const std::int64_t n = padded + 1;
    for (int a = 0; a < SequenceWidths::kCount; ++a) offsets[a * n + i] = start * widths.at[a];
    if (i < padded) lengths[i] = i < sequences ? starts[i + 1] - starts[i] : 0;
}

/// Threads follow `out`; the reads of a warp lie apart and meet again in L2.
__global__ void transpose_kernel(float* out, const float* in, std::int64_t elements,
                                 std::int64_t rows, std::int64_t columns) {
    const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i >= elements) return;
    const std::int64_t row = i % rows, rest = i / rows;
    const std::int64_t column = rest % columns, matrix = rest / columns;
    out[i] = in[(matrix * rows + row) * columns + column];
}

}  // namespace

void sequence_offsets(const Context& c, std::int64_t* offsets, std::int32_t* lengths,
                      const std::int32_t* starts, std::int64_t sequences, std::int64_t padded,
                      const SequenceWidths& widths) {
    sequence_offsets_kernel<<<blocks_for(padded + 1, kThreads), kThreads, 0, c.stream>>>(
        offsets, lengths, starts, sequences, padded, widths);
    check_launch();
}

void transpose(const Context& c, float* out, const float* in, std::int64_t count, std::int64_t rows,
               std::int64_t columns) {
    const std::int64_t elements = count * rows * columns;
    if (elements == 0) return;
    transpose_kernel<<<blocks_for(elements, kThreads), kThreads, 0, c.stream>>>(out, in, elements,
                                                                                rows, columns);
    check_launch();
}

}  // namespace gradus::cuda
