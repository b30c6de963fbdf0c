// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <string>

#include "cudnn_graph.hpp"

namespace gradus::cuda {

/// A part of the sequences and heads of attention's tensors, which one execution of a plan does.
struct AttentionPart {
    std::int64_t sequences = 0;
    std::int64_t length = 0;               ///< of each, or, ragged, of the longest
    std::int64_t heads = 0, kv_heads = 0;  ///< of the part: one key/value head, or whole groups
    std::int64_t all_heads = 0, all_kv_heads = 0;  ///< of the tensors
    std::int64_t head_dim = 0, value_dim = 0;
    bool ragged = false, backward = false, deterministic = false;
    auto operator<=>(const AttentionPart&) const = default;
};

/// A plan and the names of its tensors, in the forms of Ops::attention() but for
///   lse, dots    where not ragged: [sequences, heads, length] of the part
///   d_q_sums     f32, in d_q's form; where not ragged: [sequences, heads, length, head_dim] of the
///   part d_k, d_v     one of each query head: [T, nh, ..]
/// Where ragged, offsets are the places of sequences' first numbers in a tensor; those of d_k and
/// d_v, which cuDNN takes for gradients by key/value head and multiplies, are divided by heads /
/// kv_heads.
struct AttentionPlan {
    using Id = CudnnGraph::Id;
    AttentionPart part;
    std::unique_ptr<CudnnPlan> plan;  ///< null where cuDNN declines
    std::string why;                  ///< it does
    Id q = 0, k = 0, v = 0, out = 0, lse = 0, scale = 0;
    Id q_lengths = 0, k_lengths = 0;
    Id q_offsets = 0, k_offsets = 0, v_offsets = 0, out_offsets = 0, lse_offsets = 0;
    Id d_k_offsets = 0, d_v_offsets = 0;
    Id d_out = 0, d_q = 0, d_k = 0, d_v = 0, dots = 0;
    Id d_q_sums = 0;  ///< not where deterministic
};

std::unique_ptr<AttentionPlan> make_attention_plan(const AttentionPart& part,
                                                   const Descriptor& device);

}  // namespace gradus::cuda
