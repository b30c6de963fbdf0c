// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gradus/base/json_lines.hpp"

namespace gradus {

enum class RopeScaling { none, linear, llama3, yarn };

/// How rotary frequencies are stretched beyond the trained context. Names and formulas as in Hugging
/// Face's transformers (modeling_rope_utils) and, for `yarn`, Peng et al. 2023 (arXiv 2309.00071).
struct RopeOptions {
    RopeScaling scaling = RopeScaling::none;
    double factor = 1;
    std::int64_t original_positions = 0;  ///< llama3, yarn: context before stretching
    double low_freq_factor = 1, high_freq_factor = 4;  ///< llama3
    double beta_fast = 32, beta_slow = 1;              ///< yarn: rotations that bound the ramp
    double mscale = 0, mscale_all_dim = 0;             ///< yarn (DeepSeek); 0: absent
    double attention_factor = 0;  ///< yarn: multiplies cos and sin; 0: by mscale
    bool truncate = true;         ///< yarn: the ramp's ends are whole numbers
    bool operator==(const RopeOptions&) const = default;
};

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). kv_rank 0: not used.
struct LatentAttention {
    std::int64_t q_rank = 0;    ///< 0: queries are projected directly
    std::int64_t kv_rank = 0;   ///< width of the latent from which keys and values come
    std::int64_t nope_dim = 0;  ///< of a head, without rotation
    std::int64_t rope_dim = 0;  ///< of a head, rotated; the key's is shared by all heads
    std::int64_t value_dim = 0;
    bool operator==(const LatentAttention&) const = default;
};

enum class RouterScore { softmax, sigmoid };

/// Mixture of experts in the place of the MLP (DeepSeekMoE: arXiv 2401.06066, DeepSeek-V3:
/// arXiv 2412.19437 section 2.1.2, Qwen3-MoE). experts 0: not used.
struct MixtureOfExperts {
    std::int64_t experts = 0;
    std::int64_t per_token = 0;     ///< experts that a token goes to
    std::int64_t intermediate = 0;  ///< width of one expert
    std::int64_t shared = 0;        ///< experts that every token goes to, as one MLP of shared * intermediate
    std::vector<std::int64_t> dense_layers;  ///< layers that keep a plain MLP, ascending
    RouterScore score = RouterScore::softmax;
    bool bias = false;          ///< a correction bias is added for the choice only
    bool normalize = false;     ///< weights of the chosen sum to one (before `scale`)
    double scale = 1;           ///< multiplies the weights
    std::int64_t groups = 1;    ///< experts are chosen from the best `top_groups` of so many groups
    std::int64_t top_groups = 1;
    std::int64_t group_best = 1;  ///< a group counts by the sum of its best so many scores
    bool operator==(const MixtureOfExperts&) const = default;
};

/// Shape of a decoder with RMSNorm, RoPE and SwiGLU; attention grouped-query or latent, MLP dense or
/// a mixture of experts.
struct ModelConfig {
    std::int64_t vocab_size = 0;
    std::int64_t hidden = 0;
    std::int64_t layers = 0;
    std::int64_t heads = 0;
    std::int64_t kv_heads = 0;
    std::int64_t head_dim = 0;      ///< with latent attention nope_dim + rope_dim
    std::int64_t intermediate = 0;  ///< of dense layers
    std::int64_t max_positions = 0;
    double rope_theta = 10000;
    double norm_eps = 1e-5;
    bool qkv_bias = false;
    bool qk_norm = false;
    bool tied = true;
    bool rope_interleaved = false;  ///< rotation turns pairs (2i, 2i + 1), not (i, i + D/2)
    RopeOptions rope;
    LatentAttention latent;
    MixtureOfExperts moe;
    /// Multi-token prediction modules after the last block (DeepSeek-V3, section 2.2): 0 or 1.
    std::int64_t mtp_layers = 0;
    /// One number a token ("score.weight") in the place of the vocabulary: a critic or a reward model.
    bool scalar_head = false;

    /// The shape of a critic beside this policy.
    ModelConfig with_scalar_head() const;
    bool is_latent() const { return latent.kv_rank > 0; }
    bool is_moe(std::int64_t layer) const;
    /// Numbers that rotation turns in a head.
    std::int64_t rope_dim() const { return is_latent() ? latent.rope_dim : head_dim; }
    std::int64_t value_dim() const { return is_latent() ? latent.value_dim : head_dim; }

    /// Throws DeckError naming each size that does not divide as it must on `tensor_size` x
    /// `expert_size` ranks.
    void check(int tensor_size, int expert_size = 1) const;
    /// Numbers in the whole model (routers' correction biases among them).
    std::int64_t parameters() const;
    /// FLOPs of a forward pass a token that attends to `context` positions in the mean (half the
    /// length of a causal sequence): products only; the backward pass is twice that.
    double forward_flops(double context) const;

    Json to_json() const;
    static ModelConfig from_json(const Json& json);
    bool operator==(const ModelConfig&) const = default;
};

}  // namespace gradus
