// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
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

/// What of a block is computed again in the backward pass instead of being kept: nothing, its attention
/// (with its projections), or all but its input.
enum class Recompute { none, attention, block };

/// Input of a pass: packed sequences of one micro-batch. Built on the host by train/packing.
struct PackedTokens {
    Tensor tokens;   ///< i32 [T]
    Packing packing;
};

/// What a layer's cache holds of a token on a tensor rank: `heads` keys of `key_dim` numbers and
/// values of `value_dim`, 0 where the keys hold the values (latent attention).
struct CacheShape {
    std::int64_t heads = 0, key_dim = 0, value_dim = 0;
};
CacheShape cache_shape(const ModelConfig& config, int tensor_size);

/// A decoder-only transformer: explicit forward and backward over packed tokens, and decode steps
/// over a paged cache. Holds no parameters of its own: `parameters` may be swapped for another
/// model's of the same shape (the reference), or one that differs in its head (the critic), so that
/// activations are shared.
class Transformer {
  public:
    struct Limits {
        std::int64_t max_tokens = 0;   ///< of a forward pass
        std::int64_t max_length = 0;   ///< longest sequence
        bool train = true;             ///< whether a backward pass will follow
        bool mtp = false;              ///< whether the multi-token prediction module is trained
        Recompute recompute = Recompute::none;
        std::int64_t max_decode = 0;   ///< rows of a decode step, 0: none
        std::int64_t head_chunk = 512; ///< tokens whose logits exist at once
        DType dtype = DType::f32;      ///< of weights and activations
    };
    Transformer(const ModelConfig& config, const Grid& grid, Ops& ops, Arena& arena, Limits limits);
    ~Transformer();

    const ModelConfig& config() const;
    /// Of weights and activations.
    DType dtype() const;

    /// Hidden states after the final norm, [T, H], valid until the next pass. Where `keep` the
    /// activations for `backward` are kept.
    Tensor forward(const ParameterSet& parameters, const PackedTokens& batch, bool keep);
    /// Gradients of all parameters += given dL/dhidden [T, H] (overwritten). After forward(keep).
    /// `balance`: weight of the sequence-wise balance loss of the routers, 0: none. `done`: called with
    /// the number of each block whose gradients this pass has finished.
    void backward(ParameterSet& parameters, const PackedTokens& batch, Tensor d_hidden,
                  double balance = 0, const std::function<void(std::int64_t)>& done = {});
    /// The balance loss of this rank's backward passes since the last call, times its weight; resets.
    double take_balance_loss();
    /// Moves each router's correction bias by `rate` towards experts with less than the mean load of
    /// the forward passes (with keep) since the last call, over all data ranks (DeepSeek-V3, section
    /// 2.1.2, auxiliary-loss-free balancing). Returns the largest load of an expert over the mean of
    /// its layer, 0 without experts. Collective over data ranks; resets.
    double balance_experts(ParameterSet& parameters, double rate);
    /// Whether passes exchange tokens with other expert ranks, so that all of them must make the same
    /// number of passes, with no tokens if need be.
    bool passes_are_collective() const;

    /// Multi-token prediction (DeepSeek-V3, section 2.2), after forward(keep) of the same batch: from
    /// its hidden states and the next token of each row, i32 [T] (-1: none), hidden states [T, H]
    /// that predict the token after that; valid until the next pass of the module.
    Tensor mtp_forward(const ParameterSet& parameters, const PackedTokens& batch, Tensor next);
    /// d_mtp_hidden [T, H] is overwritten; the gradient by forward()'s hidden states is added to
    /// d_hidden. Before backward() of the same batch. `balance` as there, of the module's router.
    void mtp_backward(ParameterSet& parameters, const PackedTokens& batch, Tensor next,
                      Tensor d_mtp_hidden, Tensor d_hidden, double balance = 0);

    /// Head over chunks of rows, fused with log-softmax; the logits of a full batch never exist.
    /// hidden [R, H], targets i32 [R] (< 0: none) -> log_prob, entropy f32 [R].
    void head_log_probs(const ParameterSet& parameters, Tensor hidden, Tensor targets,
                        float inv_temperature, Tensor log_prob, Tensor entropy);
    /// Recomputes the logits chunk by chunk. d_hidden [R, H] is written; the head's weight gradient
    /// +=. d_log_prob, d_entropy f32 [R].
    /// log_prob and entropy, where not null, are written as by head_log_probs: where the gradients do
    /// not depend on them, one pass gives both.
    void head_backward(ParameterSet& parameters, Tensor hidden, Tensor targets,
                       float inv_temperature, Tensor d_log_prob, Tensor d_entropy, Tensor d_hidden,
                       Tensor log_prob = {}, Tensor entropy = {});

    /// Scalar head of a set that has one (ModelConfig::scalar_head): hidden [R, H] -> value f32 [R].
    void values(const ParameterSet& parameters, Tensor hidden, Tensor value);
    /// d_value f32 [R]; d_hidden [R, H] is written; the head's weight gradient +=.
    void values_backward(ParameterSet& parameters, Tensor hidden, Tensor d_value, Tensor d_hidden);

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
    /// Logits of hidden rows over the whole vocabulary, gathered over tensor ranks: f32 [R, V],
    /// R <= head_chunk. Valid until the next call.
    Tensor logits(const ParameterSet& parameters, Tensor hidden);
    /// Whether decode() and logits() can be recorded (Ops::record): a layer with experts asks the host
    /// where tokens go.
    bool decode_is_recordable() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace gradus
