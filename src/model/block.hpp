// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "gradus/model/transformer.hpp"

namespace gradus {

/// The parameters of one block (or head), looked up once a set.
struct BlockWeights {
    Parameter *norm1 = nullptr, *q = nullptr, *k = nullptr, *v = nullptr;
    Parameter *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;  ///< null without biases
    Parameter *q_norm = nullptr, *k_norm = nullptr;                     ///< null without q/k norm
    Parameter *o = nullptr, *norm2 = nullptr, *gate = nullptr, *up = nullptr, *down = nullptr;
};

/// What a block keeps from its forward for its backward pass, beside its input. Shapes are this
/// rank's: nh, nkv heads, I columns.
struct BlockActivations {
    Tensor q_raw, k_raw, q_inv_rms, k_inv_rms;  ///< before the q/k norm; null without it
    Tensor q, k, v;                             ///< after norm and rotation
    Tensor attention, lse;                      ///< [T, nh D], [T, nh]
    Tensor mid;                                 ///< [T, H], residual stream after attention
    Tensor gate, up;                            ///< [T, I]
    BlockActivations(const ModelConfig& config, int tensor_size, std::int64_t tokens,
                     Arena& arena, const std::string& name);
};

/// One block on this tensor rank: x + attention(norm(x)), then x + mlp(norm(x)).
class Block {
  public:
    Block(const ModelConfig& config, const Grid& grid, Ops& ops, Arena& arena, std::int64_t tokens,
          std::int64_t max_length, bool train);

    /// Residual stream x [T, H] -> out [T, H] (may be x). Keys and values go to `cache` at `slot`
    /// where it is given.
    void forward(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor out,
                 const PackedTokens& batch, const PagedCache* cache, Tensor slot);
    /// The same for one new token a row against the cache.
    void decode(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor positions, Tensor slot,
                Tensor page_table, Tensor lengths, const PagedCache& cache);
    /// Fills the activations of an earlier forward pass again; the block's output is not computed.
    void recompute(const BlockWeights& w, BlockActivations& a, Tensor x, const PackedTokens& batch);
    /// d_x [T, H]: gradient by the block's output, replaced by that of its input x.
    /// Gradients of the weights +=.
    void backward(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor d_x,
                  const PackedTokens& batch);

  private:
    void project_qkv(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor positions);
    void attend(const BlockWeights& w, BlockActivations& a, Tensor x, const PackedTokens& batch,
                const PagedCache* cache, Tensor slot);
    void finish_attention(const BlockWeights& w, BlockActivations& a, Tensor x);
    void gate_and_up(const BlockWeights& w, BlockActivations& a, std::int64_t tokens);
    void mlp(const BlockWeights& w, BlockActivations& a, Tensor out);
    void mlp_backward(const BlockWeights& w, BlockActivations& a, Tensor d_x);
    void attention_backward(const BlockWeights& w, BlockActivations& a, Tensor x, Tensor d_x,
                            const PackedTokens& batch);
    /// Backward of y = norm(x W^T + b) for q or k: d_y -> gradient by x W^T + b, in place.
    void qk_norm_backward(Parameter& weight, Tensor d_y, Tensor raw, Tensor inv_rms,
                          std::int64_t heads);
    void sum_over_tensor_ranks(Tensor x);

    const ModelConfig& config_;
    const Grid& grid_;
    Ops& ops_;
    AttentionShape shape_;
    float eps_;
    Tensor inv_freq_;
    // Scratch of one block at a time.
    Tensor norm_, inv_rms_, projection_, mlp_;      // [T,H], [T], [T,H], [T,I]
    Tensor d_mlp_, d_q_, d_k_, d_v_, d_attention_, d_qk_weight_;
};

}  // namespace gradus
