// SPDX-License-Identifier: Apache-2.0
// What the operations of Ops (ops.hpp, which also names the sizes) are told beside tensors and numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// A tensor of which bytes offsets[r] .. offsets[r + 1] (size + 1 entries) are the block of rank r of a group.
struct BlockedTensor {
    Tensor x;
    std::vector<std::int64_t> offsets;

    /// The offsets in elements.
    std::vector<std::int64_t> elements() const {
        std::vector<std::int64_t> counts = offsets;
        for (std::int64_t& n : counts) n /= static_cast<std::int64_t>(size_of(x.dtype()));
        return counts;
    }
    /// Whether all blocks are of one size and fill the tensor from its start.
    bool even() const {
        for (std::size_t r = 0; r < offsets.size(); ++r)
            if (offsets[r] != static_cast<std::int64_t>(r) * offsets[1]) return false;
        return true;
    }
};

enum class Transpose : bool { no, yes };

/// Sequence s of a packed batch is rows starts[s] .. starts[s + 1] of [T, ...] tensors.
struct Packing {
    Tensor starts;                 ///< i32 [S + 1]
    Tensor positions;              ///< i32 [T], position of a token within its sequence
    std::int64_t sequences = 0;    ///< S
    std::int64_t max_length = 0;   ///< longest sequence
};

struct AttentionShape {
    std::int64_t heads = 0;     ///< nh on this rank
    std::int64_t kv_heads = 0;  ///< nkv on this rank
    std::int64_t head_dim = 0;  ///< D
    float scale = 0;            ///< usually 1 / sqrt(D)
    std::int64_t value_dim = 0; ///< Dv, width of values and outputs; 0: D
    std::int64_t width_of_value() const { return value_dim > 0 ? value_dim : head_dim; }
};

/// Which numbers of a head are turned: [begin, begin + 2 * frequencies), as pairs (i, i + half) or,
/// interleaved, (2i, 2i + 1); cos and sin are multiplied by `scale` (YaRN).
struct RotaryForm {
    bool interleaved = false;
    std::int64_t begin = 0;
    float scale = 1;
};

/// Key/value pages of one layer: keys are [pages, page_size, nkv, D], values [.., Dv]. Without
/// values (latent attention) a token's values are the first Dv numbers of its keys.
struct PagedCache {
    Tensor keys, values;
    std::int64_t page_size = 0;
};

/// out[t, h, out_begin + j] = sum_i in[t, h, in_begin + i] W_h[i, j], where W_h, or its transpose,
/// is weight[h, row .. row + rows, :].
struct HeadProduct {
    std::int64_t in_begin = 0, out_begin = 0;
    std::int64_t row = 0, rows = 0;
    Transpose transpose = Transpose::no;
};

/// How a router chooses (model/config.hpp, MixtureOfExperts).
struct RouterShape {
    std::int64_t experts = 0, per_token = 0;  ///< E, K
    bool sigmoid = false;    ///< scores: sigmoid or softmax of the logits
    bool normalize = false;  ///< weights of the chosen sum to one, before `scale`
    float scale = 1;
    std::int64_t groups = 1, top_groups = 1, group_best = 1;
};

/// How a token is drawn from logits.
struct SamplingOptions {
    double temperature = 1;  ///< 0: greedy, the lowest id among equals; log-probs at temperature 1
    double top_p = 1;        ///< 1: off
    int top_k = 0;           ///< 0: off
};

/// Normal numbers addressed by their place in a whole tensor: row r, column c of x is element
/// (matrix(r) * global_rows + row_begin + r % rows) * global_columns + column_begin + c of it, where
/// matrix(r) = matrix_begin + r / rows. Pair i of elements is random_normal() of (seed, init, step =
/// tensor, prompt = i), times std.
struct NormalFill {
    std::uint64_t seed = 0, tensor = 0;
    double std = 1;
    std::int64_t rows = 0, global_rows = 0, global_columns = 0;
    std::int64_t matrix_begin = 0, row_begin = 0, column_begin = 0;
};

struct AdamWStep {
    float lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
    float grad_scale = 1;         ///< multiplies the gradient (clipping)
    std::int64_t step = 1;        ///< counts from 1: bias correction
};

}  // namespace gradus
