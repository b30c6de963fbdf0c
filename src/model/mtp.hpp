// SPDX-License-Identifier: Apache-2.0
// Multi-token prediction, one module deep (DeepSeek-V3, arXiv 2412.19437, section 2.2):
//   y_i = block(W [norm_e(embedding(t_{i+1})); norm_h(h_i)]), norm(y_i) predicts t_{i+2}
// with the model's own embedding and head. The released weights take the embedding's half first
// (vLLM's deepseek_mtp.py); h_i are the hidden states after the final norm.
#pragma once

#include "block.hpp"

namespace gradus {

struct MtpWeights {
    Parameter *embedding_norm = nullptr, *hidden_norm = nullptr, *projection = nullptr;
    Parameter* norm = nullptr;
};
MtpWeights find_mtp_weights(ParameterSet& parameters, std::int64_t layer);

class MtpModule {
  public:
    explicit MtpModule(const PartContext& context);

    /// Where the caller writes the embeddings of the next tokens, [T, H], before forward().
    Tensor embedding(std::int64_t tokens) const { return embedding_.rows(0, tokens); }
    Tensor forward(const MtpWeights& w, const BlockWeights& block, Blocks& blocks, Tensor hidden,
                   const Packing& packing);
    /// d_out is overwritten, the gradient by `hidden` is added to d_hidden; returns that by the
    /// embeddings. `again`: what of the block's activations is computed again.
    Tensor backward(const MtpWeights& w, const BlockWeights& block, Blocks& blocks, Tensor hidden,
                    const Packing& packing, Recompute again, Tensor d_out, Tensor d_hidden);

  private:
    Ops& ops_;
    std::int64_t width_, layer_;
    float eps_;
    Tensor embedding_, joined_, half_, in_, out_, normed_;  // [T, H] but joined_ [T, 2H]
    Tensor embedding_inv_rms_, hidden_inv_rms_, inv_rms_;   // [T]
    Tensor d_in_, d_joined_;
};

}  // namespace gradus
