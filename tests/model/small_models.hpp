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

inline std::vector<ModelConfig> small_configs() {
    std::vector<ModelConfig> all{full_config(), plain_config()};
    ModelConfig mixed = full_config();
    mixed.qk_norm = false;
    mixed.tied = true;
    all.push_back(mixed);
    mixed.qk_norm = true;
    mixed.qkv_bias = false;
    all.push_back(mixed);
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
inline void randomize(ParameterSet& parameters) {
    parameters.initialize(3, 0.4);
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
