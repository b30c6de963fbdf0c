// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "gradus/model/config.hpp"
#include "gradus/model/parameters.hpp"
#include "gradus/ranks/grid.hpp"
#include "gradus/tensor/arena.hpp"
#include "gradus/tensor/ops.hpp"
#include "gradus/text/tokenizer.hpp"

namespace gradus {

enum class Recompute { none, block };

/// Input of a pass: packed sequences of one micro-batch. Built on the host by train/packing.
struct PackedTokens {
    Tensor tokens;   ///< i32 [T]
    Packing packing;
};


/// A decoder-only transformer: explicit forward and backward over packed tokens, and decode steps
/// over a paged cache. Holds no parameters of its own: `parameters` may be swapped for another
/// model's of the same shape (the reference), so that activations are shared.
class Transformer {
  public:
    struct Limits {
        std::int64_t max_tokens = 0;   ///< of a forward pass
        std::int64_t max_length = 0;   ///< longest sequence
        bool train = true;             ///< whether a backward pass will follow
        Recompute recompute = Recompute::none;
        std::int64_t max_decode = 0;   ///< rows of a decode step, 0: none
        std::int64_t head_chunk = 512; ///< tokens whose logits exist at once
    };
    Transformer(const ModelConfig& config, const Grid& grid, Ops& ops, Arena& arena, Limits limits);
    ~Transformer();

    const ModelConfig& config() const;

    /// Hidden states after the final norm, [T, H], valid until the next pass. Where `keep` the
    /// activations for `backward` are kept.
    Tensor forward(const ParameterSet& parameters, const PackedTokens& batch, bool keep);
    /// Gradients of all parameters += given dL/dhidden [T, H] (overwritten). After forward(keep).
    void backward(ParameterSet& parameters, const PackedTokens& batch, Tensor d_hidden);

    /// Head over chunks of rows, fused with log-softmax; the logits of a full batch never exist.
    /// hidden [R, H], targets i32 [R] (< 0: none) -> log_prob, entropy f32 [R].
    void head_log_probs(const ParameterSet& parameters, Tensor hidden, Tensor targets,
                        float inv_temperature, Tensor log_prob, Tensor entropy);
    /// Recomputes the logits chunk by chunk. d_hidden [R, H] is written; the head's weight gradient
    /// +=. d_log_prob, d_entropy f32 [R].
    void head_backward(ParameterSet& parameters, Tensor hidden, Tensor targets,
                       float inv_temperature, Tensor d_log_prob, Tensor d_entropy, Tensor d_hidden);

    // Generation. Caches are one a layer, this rank's key/value heads.
    /// Prefill: a forward pass that also stores keys and values at slot i32 [T]. Returns hidden.
    Tensor prefill(const ParameterSet& parameters, const PackedTokens& batch,
                   std::span<const PagedCache> caches, Tensor slot);
    /// One token a row: tokens, positions, slot i32 [B]; lengths i32 [B] include the new token;
    /// page_table i32 [B, max_pages]. Returns hidden [B, H].
    Tensor decode(const ParameterSet& parameters, Tensor tokens, Tensor positions, Tensor slot,
                  Tensor page_table, Tensor lengths, std::span<const PagedCache> caches);
    /// Most rows that one call of logits() takes: head_chunk.
    std::int64_t logit_rows() const;
    /// Logits of hidden rows over the whole vocabulary, gathered over tensor ranks: [R, V] on the
    /// host, R <= head_chunk. Valid until the next call.
    std::span<const float> logits(const ParameterSet& parameters, Tensor hidden);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace gradus
