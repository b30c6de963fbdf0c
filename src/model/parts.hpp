// SPDX-License-Identifier: Apache-2.0
// The two parts of a block, attention and feed-forward, each in two kinds. A part works on the
// block's normalised input and leaves the residual stream to the block. It owns the activations that
// its backward pass needs, one slot a layer (or one for all layers, where they are computed again),
// and scratch that all layers share.
#pragma once

#include <memory>
#include <vector>

#include "gradus/model/transformer.hpp"

namespace gradus {

struct MlpWeights {
    Parameter *gate = nullptr, *up = nullptr, *down = nullptr;
    JoinedParameters gate_up;  ///< of an MLP; experts have theirs apart
};

/// The parameters of one block, looked up once a set; null where its kind has none.
struct BlockWeights {
    Parameter *norm1 = nullptr, *norm2 = nullptr;
    // Grouped-query attention.
    Parameter *q = nullptr, *k = nullptr, *v = nullptr, *o = nullptr;
    Parameter *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;
    Parameter *q_norm = nullptr, *k_norm = nullptr;
    JoinedParameters qkv, qkv_bias;
    // Latent attention (q, where queries are projected directly, and o as above).
    Parameter *q_a = nullptr, *q_a_norm = nullptr, *q_b = nullptr;
    Parameter *kv_a = nullptr, *kv_a_norm = nullptr, *kv_b = nullptr;
    // Feed-forward: the MLP, or the experts.
    MlpWeights mlp, shared, experts;
    Parameter *router = nullptr, *router_bias = nullptr;
};
BlockWeights find_block_weights(const ModelConfig& config, ParameterSet& parameters,
                                std::int64_t layer);

/// What the parts of a model are built with.
struct PartContext {
    const ModelConfig& config;
    const Grid& grid;
    Ops& ops;
    Arena& arena;
    std::int64_t tokens = 0;      ///< of a pass, at most
    std::int64_t decode_rows = 0; ///< of a decode step, at most
    bool train = true;
    DType dtype = DType::f32;     ///< of weights and activations
    void sum_over_tensor_ranks(Tensor x) const {
        if (grid.tensor_size() > 1) ops.all_reduce(grid.tensor(), x, Reduce::sum);
    }
    /// Beside later operations, which leave x alone until the sum is finished.
    void start_sum_over_tensor_ranks(Tensor x) const {
        if (grid.tensor_size() > 1) ops.start_sum(grid.tensor(), x);
    }
    void finish_sum_over_tensor_ranks() const {
        if (grid.tensor_size() > 1) ops.finish_sums();
    }
    /// Memory for activations.
    Tensor take(const char* name, Shape shape, Phase phase = Phase::always) const {
        return arena.take(name, dtype, shape, phase);
    }
    /// For statistics, whatever the type of the activations.
    Tensor take_f32(const char* name, Shape shape, Phase phase = Phase::always) const {
        return arena.take(name, DType::f32, shape, phase);
    }
    Tensor take_i32(const char* name, Shape shape, Phase phase = Phase::always) const {
        return arena.take(name, DType::i32, shape, phase);
    }
    /// Uploads the angles a position of the rotated pairs: f32 [rope_dim / 2].
    Tensor take_rotary_frequencies() const;
};
/// A pass that keeps nothing goes through the first slot of each part. The others, and what backward
/// passes alone use, hold something from a pass that keeps its activations to the backward pass that
/// follows it: generation comes in between never, and may have their memory.
inline Phase phase_of_slot(std::size_t slot) { return slot == 0 ? Phase::always : Phase::training; }
inline constexpr const char* kKeptMemory = "activations.blocks";
inline constexpr const char* kScratchMemory = "activations.scratch";

/// One decode step's rows (Transformer::decode).
struct DecodeRows {
    Tensor positions, slot, page_table, lengths;
};

class Attention {
  public:
    virtual ~Attention() = default;
    /// h [T, H] -> out [T, H], this tensor rank's part of the sum. Keys and values go to `cache` at
    /// `cache_slot` where it is given.
    virtual void forward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor out,
                         const Packing& packing, const PagedCache* cache, Tensor cache_slot) = 0;
    /// The same for one new token a row against the cache.
    virtual void decode(const BlockWeights& w, Tensor h, Tensor out, const DecodeRows& rows,
                        const PagedCache& cache) = 0;
    /// d_out [T, H] -> d_h [T, H], this tensor rank's part of the sum; gradients of the weights +=, but for
    /// those that can wait until d_h is on its way to the other ranks: backward_weights, called next, adds these.
    virtual void backward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out, Tensor d_h,
                          const Packing& packing) = 0;
    virtual void backward_weights(const BlockWeights& /*w*/, std::size_t /*slot*/, Tensor /*h*/, Tensor /*d_out*/) {}
};
std::unique_ptr<Attention> make_attention(const PartContext& context, std::size_t slots);
std::unique_ptr<Attention> make_latent_attention(const PartContext& context, std::size_t slots);

class FeedForward {
  public:
    virtual ~FeedForward() = default;
    /// Fills the slot from h [T, H]; `finish` gives out [T, H], this tensor rank's part of the sum.
    virtual void prepare(const BlockWeights& w, std::size_t slot, Tensor h) = 0;
    virtual void finish(const BlockWeights& w, std::size_t slot, Tensor out) = 0;
    /// As Attention::backward.
    virtual void backward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out, Tensor d_h,
                          const Packing& packing) = 0;
    virtual void backward_weights(const BlockWeights& /*w*/, std::size_t /*slot*/, Tensor /*h*/, Tensor /*d_out*/) {}
};

/// A mixture of experts has more to tell.
class Experts : public FeedForward {
  public:
    /// Weight of the sequence-wise balance loss in backward passes, 0: none.
    virtual void set_balance(double coef) = 0;
    /// The balance loss of the backward passes since the last call; resets.
    virtual double take_balance_loss() = 0;
    /// Tokens that were sent to each expert of a slot's layer in the last prepare().
    virtual std::span<const std::int32_t> loads(std::size_t slot) const = 0;
};

/// SwiGLU of `width` columns on this rank; picks its weights out of a block's.
using PickMlp = const MlpWeights& (*)(const BlockWeights&);
std::unique_ptr<FeedForward> make_mlp(const PartContext& context, std::size_t slots,
                                      std::int64_t width, PickMlp pick);
std::unique_ptr<Experts> make_experts(const PartContext& context, std::size_t slots);

}  // namespace gradus
