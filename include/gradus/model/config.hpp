// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "gradus/base/json_lines.hpp"

namespace gradus {

/// Shape of a decoder with RMSNorm, grouped-query attention, RoPE and SwiGLU.
struct ModelConfig {
    std::int64_t vocab_size = 0;
    std::int64_t hidden = 0;
    std::int64_t layers = 0;
    std::int64_t heads = 0;
    std::int64_t kv_heads = 0;
    std::int64_t head_dim = 0;
    std::int64_t intermediate = 0;
    std::int64_t max_positions = 0;
    double rope_theta = 10000;
    double norm_eps = 1e-5;
    bool qkv_bias = false;
    bool qk_norm = false;
    bool tied = true;

    /// Throws DeckError naming each size that does not divide as it must on `tensor_size` ranks.
    void check(int tensor_size) const;
    /// Trainable numbers in the whole model.
    std::int64_t parameters() const;
    /// FLOPs of a forward pass a token that attends to `context` positions in the mean (half the
    /// length of a causal sequence): products only; the backward pass is twice that.
    double forward_flops(double context) const;

    Json to_json() const;
    static ModelConfig from_json(const Json& json);
    bool operator==(const ModelConfig&) const = default;
};

}  // namespace gradus
