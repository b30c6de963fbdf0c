// SPDX-License-Identifier: Apache-2.0
// Small models that between them use every feature, and sequences of odd lengths for them.
#pragma once

#include "instance.hpp"

namespace gradus::test {

/// Biases, q/k norm, a head of its own, grouped queries.
inline ModelConfig full_config() {
    return {.vocab_size = 28,
            .hidden = 12,
            .layers = 2,
            .heads = 4,
            .kv_heads = 2,
            .head_dim = 6,
            .intermediate = 20,
            .max_positions = 64,
            .rope_theta = 100,
            .norm_eps = 1e-3,
            .qkv_bias = true,
            .qk_norm = true,
            .tied = false};
}

/// None of those: one key/value head, head and embedding tied, odd sizes.
inline ModelConfig plain_config() {
    return {.vocab_size = 23,
            .hidden = 9,
            .layers = 3,
            .heads = 3,
            .kv_heads = 1,
            .head_dim = 4,
            .intermediate = 13,
            .max_positions = 64,
            .qkv_bias = false,
            .qk_norm = false,
            .tied = true};
}

/// Latent attention with both low-rank products, pairs side by side, YaRN with each of its factors.
inline ModelConfig latent_config() {
    ModelConfig c = full_config();
    c.qkv_bias = c.qk_norm = false;
    c.kv_heads = c.heads;
    c.latent = {.q_rank = 6, .kv_rank = 7, .nope_dim = 5, .rope_dim = 6, .value_dim = 3};
    c.head_dim = 11;
    c.rope_interleaved = true;
    // Pairs 0, 1, 2 keep all, 2/3 and 1/3 of their frequency.
    c.rope = {.scaling = RopeScaling::yarn,
              .factor = 4,
              .original_positions = 16,
              .beta_fast = 2,
              .beta_slow = 0.1,
              .mscale = 1,
              .mscale_all_dim = 0.7};
    return c;
}

/// Latent attention without the queries' low rank; a dense layer, then experts as DeepSeek-V3's:
/// sigmoid, correction bias, groups, a shared expert; a module of multi-token prediction.
inline ModelConfig deepseek_config() {
    ModelConfig c = latent_config();
    c.latent.q_rank = 0;
    c.rope = {};
    c.moe = {.experts = 8,
             .per_token = 3,
             .intermediate = 8,
             .shared = 1,
             .dense_layers = {0},
             .score = RouterScore::sigmoid,
             .bias = true,
             .normalize = true,
             .scale = 1.5,
             .groups = 4,
             .top_groups = 2,
             .group_best = 2};
    c.mtp_layers = 1;
    return c;
}

/// Experts in every layer as Qwen3's: softmax, weights that sum to one, nothing shared.
inline ModelConfig qwen_moe_config() {
    ModelConfig c = full_config();
    c.qkv_bias = false;
    c.tied = true;
    c.moe = {.experts = 4, .per_token = 2, .intermediate = 12, .normalize = true};
    return c;
}

/// The rest: plain attention with Llama 3's rotary scaling; softmax weights that are scaled and not
/// normalised, one group's best expert decides, two shared experts, the last layer dense; multi-token
/// prediction with the head tied.
inline ModelConfig mixed_moe_config() {
    ModelConfig c = full_config();
    c.qk_norm = false;
    c.tied = true;
    c.rope = {.scaling = RopeScaling::llama3,
              .factor = 8,
              .original_positions = 40,
              .low_freq_factor = 1,
              .high_freq_factor = 4};
    c.moe = {.experts = 6,
             .per_token = 2,
             .intermediate = 4,
             .shared = 2,
             .dense_layers = {1},
             .scale = 2,
             .groups = 3,
             .top_groups = 2};
    c.mtp_layers = 1;
    return c;
}

inline std::vector<ModelConfig> expert_configs() {
    return {deepseek_config(), qwen_moe_config(), mixed_moe_config()};
}

inline std::vector<ModelConfig> small_configs() {
    std::vector<ModelConfig> all{full_config(), plain_config(), latent_config()};
    ModelConfig mixed = full_config();
    mixed.qk_norm = false;
    mixed.tied = true;
    all.push_back(mixed);
    mixed.qk_norm = true;
    mixed.qkv_bias = false;
    all.push_back(mixed);
    for (const ModelConfig& c : expert_configs()) all.push_back(c);
    return all;
}

inline double uniform(std::uint64_t stream, std::int64_t i) {
    return 2 * random_uniform({.seed = 4,
                               .stream = Stream::test,
                               .step = stream,
                               .prompt = static_cast<std::uint64_t>(i)}) - 1;
}
inline Floats uniforms(std::uint64_t stream, std::int64_t n) {
    Floats out;
    for (std::int64_t i = 0; i < n; ++i) out.push_back(static_cast<float>(uniform(stream, i)));
    return out;
}

/// Weights large enough to make attention and gates uneven; norms and biases random as well, so that
/// nothing that they do goes unseen. The same on any grid.
inline void randomize(ParameterSet& parameters, Ops& ops) {
    parameters.initialize(ops, 3, 0.4);
    ops.synchronize();
    for (std::size_t i = 0; i < parameters.all().size(); ++i) {
        Parameter& p = parameters.all()[i];
        if (p.global.rank() != 1) continue;
        const double base = p.name.ends_with("norm.weight") ? 1 : 0;
        for (std::int64_t j = 0; j < p.box.count[0]; ++j)
            p.value.f32()[j] = static_cast<float>(base + 0.4 * uniform(100 + i, p.box.offset[0] + j));
    }
}

inline Tokens random_tokens(const ModelConfig& c, std::uint64_t which, std::int64_t length) {
    RandomSequence random({.seed = 6, .stream = Stream::test, .step = which});
    Tokens tokens;
    for (std::int64_t t = 0; t < length; ++t)
        tokens.push_back(static_cast<TokenId>(random.integer(0, c.vocab_size - 1)));
    return tokens;
}
inline std::vector<Tokens> random_sequences(const ModelConfig& c,
                                            const std::vector<std::int64_t>& lengths) {
    std::vector<Tokens> out;
    for (std::size_t i = 0; i < lengths.size(); ++i) out.push_back(random_tokens(c, i, lengths[i]));
    return out;
}

inline std::string describe(const ModelConfig& c) { return c.to_json().dump(); }

}  // namespace gradus::test
