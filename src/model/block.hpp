// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "parts.hpp"

namespace gradus {

/// Where a layer's activations lie in the memory of each part.
struct LayerSlots {
    bool moe = false;
    std::size_t block = 0;  ///< of residual stream and attention
    std::size_t feed = 0;   ///< of the MLP or the experts
};

/// The blocks of a model on this rank, one at a time: m = x + attention(norm(x)),
/// y = m + feed_forward(norm(m)).
class Blocks {
  public:
    /// `layers` blocks, those of multi-token prediction included; `every_layer`: each keeps its own
    /// activations.
    Blocks(const PartContext& context, std::int64_t layers, bool every_layer);

    const LayerSlots& slots(std::int64_t layer) const {
        return slots_[static_cast<std::size_t>(layer)];
    }
    /// Residual stream x [T, H] -> out [T, H] (may be x). Keys and values go to `cache` at `slot`
    /// where it is given.
    void forward(const BlockWeights& w, std::int64_t layer, Tensor x, Tensor out,
                 const Packing& packing, const PagedCache* cache, Tensor slot);
    /// The same for one new token a row against the cache, in place.
    void decode(const BlockWeights& w, std::int64_t layer, Tensor x, const DecodeRows& rows,
                const PagedCache& cache);
    /// Fills the activations of an earlier forward pass again; the block's output is not computed.
    void recompute(const BlockWeights& w, std::int64_t layer, Tensor x, const Packing& packing);
    /// d_x [T, H]: gradient by the block's output, replaced by that of its input x.
    /// Gradients of the weights +=.
    void backward(const BlockWeights& w, std::int64_t layer, Tensor x, Tensor d_x,
                  const Packing& packing);
    /// Null where the model has none.
    Experts* experts() const { return experts_.get(); }

  private:
    FeedForward& feed(std::int64_t layer) const {
        return slots(layer).moe ? static_cast<FeedForward&>(*experts_) : *mlp_;
    }
    Tensor normalize(Tensor x, const Parameter& weight);
    void add_attention(Tensor x, Tensor mid);
    void feed_forward(const BlockWeights& w, std::int64_t layer, Tensor out);
    void through_norm(Tensor d_x, Tensor x, Parameter& weight);

    PartContext context_;
    Ops& ops_;
    float eps_;
    std::vector<LayerSlots> slots_;
    std::unique_ptr<Attention> attention_;
    std::unique_ptr<FeedForward> mlp_;
    std::unique_ptr<Experts> experts_;
    std::vector<Tensor> mid_;             ///< [T, H] a slot: residual stream after attention
    Tensor norm_, inv_rms_, projection_;  ///< scratch of one block at a time: [T, H], [T], [T, H]
};

}  // namespace gradus
