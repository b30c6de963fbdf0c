// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gradus/model/transformer.hpp"

namespace gradus {

/// A sequence to train on: loss inputs belong to tokens 1 .. n - 1 (each predicted from those
/// before it). All per-token vectors have the sequence's length; entry t speaks of token t.
struct Sequence {
    std::vector<TokenId> tokens;
    std::vector<float> weight;        ///< 0: no loss on this token
    std::vector<float> advantage;     ///< policy loss only
    std::vector<float> old_log_prob;  ///< policy loss only
    std::vector<float> ref_log_prob;  ///< policy loss with KL only
    std::vector<float> sampler_log_prob;  ///< for the trainer-sampler gap; empty: not measured
    std::vector<float> value;    ///< value loss only: the critic's at the rollout, of the state before the token
    std::vector<float> returns;  ///< value loss only; NaN: the critic is not trained on this token
    std::int64_t address = 0;         ///< place in the global batch
};

/// Which sequences (indices into the global batch) each micro-batch of each data rank takes.
/// Longest first, best fit into bins of `micro_tokens`; every rank gets the same number of
/// micro-batches and nearly the same tokens. A pure function of the lengths.
/// Throws DataError where a sequence is longer than micro_tokens.
struct BatchPlan {
    std::vector<std::vector<std::vector<std::int64_t>>> micro;  ///< [data rank][micro-batch][..]
};
BatchPlan plan_batch(std::span<const std::int64_t> lengths, std::int64_t micro_tokens,
                     int data_size);

/// Fixed memory for one micro-batch on the device.
class MicroBatch {
  public:
    MicroBatch(std::int64_t max_tokens, Ops& ops, Arena& arena);
    /// Packs the sequences; row t of the model's output predicts targets[t] = token t + 1 of the
    /// same sequence, -1 at a sequence's end and where the weight of that token is 0 (unless
    /// `all_targets`).
    void fill(std::span<const Sequence* const> sequences, bool all_targets);

    const PackedTokens& packed() const { return packed_; }
    const Tensor& targets() const { return targets_; }
    /// For multi-token prediction: the next token of each row (-1 at a sequence's end), and as
    /// targets() the one after it.
    const Tensor& next() const { return next_; }
    const Tensor& second_targets() const { return second_targets_; }
    std::int64_t tokens() const { return tokens_; }
    /// Row of the output that predicts token `t` >= 1 of the i-th sequence.
    std::int64_t row(std::size_t i, std::int64_t t) const {
        return starts_host_[i] + t - 1;
    }

  private:
    Ops& ops_;
    std::int64_t max_tokens_, tokens_ = 0;
    Tensor token_buffer_, position_buffer_, start_buffer_, target_buffer_, next_buffer_,
        second_buffer_;
    PackedTokens packed_;
    Tensor targets_, next_, second_targets_;
    std::vector<std::int64_t> starts_host_;
};

}  // namespace gradus
