// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "parts.hpp"

namespace gradus {

/// Where a layer's activations lie in the memory of each part.
struct LayerSlots {
    bool moe = false;
    std::size_t attention = 0;
    std::size_t mid = 0;   ///< of the residual stream between the parts
    std::size_t feed = 0;  ///< of the MLP or the experts
};

/// The norm that follows a sum of the residual stream. Without `out`: of the block that comes next,
/// whose memory it goes to.
struct NextNorm {
    const Parameter* weight = nullptr;
    Tensor out, inv_rms;
};

/// The blocks of a model on this rank, one at a time: m = x + attention(norm(x)),
/// y = m + feed_forward(norm(m)). A sum and the norm after it are one operation, so that a block
/// leaves the norm of its output for whoever comes next.
class Blocks {
  public:
    /// `layers` blocks, those of multi-token prediction included; `recompute`: what of their
    /// activations is not kept.
    Blocks(const PartContext& context, std::int64_t layers, Recompute recompute);

    const LayerSlots& slots(std::int64_t layer) const {
        return slots_[static_cast<std::size_t>(layer)];
    }
    /// Before the first block: the norm of its input x [T, H].
    void begin(const BlockWeights& w, Tensor x);
    /// Residual stream x [T, H] -> out [T, H] (may be x), and its norm. Keys and values go to `cache`
    /// at `slot` where it is given. `keep`: for a backward pass; else through the first slots.
    void forward(const BlockWeights& w, std::int64_t layer, Tensor x, Tensor out,
                 const NextNorm& next, const Packing& packing, const PagedCache* cache, Tensor slot,
                 bool keep);
    /// The same for one new token a row against the cache, in place.
    void decode(const BlockWeights& w, std::int64_t layer, Tensor x, const NextNorm& next,
                const DecodeRows& rows, const PagedCache& cache);
    /// Fills the activations of an earlier forward pass again that were not kept; the block's output
    /// is not computed.
    void recompute(const BlockWeights& w, std::int64_t layer, Tensor x, const Packing& packing,
                   Recompute what);
    /// d_x [T, H]: gradient by the block's output, replaced by that of its input x.
    /// Gradients of the weights +=.
    void backward(const BlockWeights& w, std::int64_t layer, Tensor x, Tensor d_x,
                  const Packing& packing);
    /// Null where the model has none.
    Experts* experts() const { return experts_.get(); }

  private:
    LayerSlots first_slots(std::int64_t layer) const { return {.moe = slots(layer).moe}; }
    FeedForward& feed(const LayerSlots& s) const {
        return s.moe ? static_cast<FeedForward&>(*experts_) : *mlp_;
    }
    Tensor normalize(Tensor x, const Parameter& weight);
    /// sum = x + projection_ (over tensor ranks); returns its norm.
    Tensor add_and_normalize(Tensor sum, Tensor x, const NextNorm& next);
    void feed_forward(const BlockWeights& w, const LayerSlots& s, Tensor mid, Tensor h, Tensor out,
                      const NextNorm& next);
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
