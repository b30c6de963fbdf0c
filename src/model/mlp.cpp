// SPDX-License-Identifier: Apache-2.0
// SwiGLU (Shazeer 2020, arXiv 2002.05202): out = (silu(h Wg^T) * (h Wu^T)) Wd^T. The product in the
// middle is cheap and computed anew in the backward pass.
#include "parts.hpp"

namespace gradus {
namespace {

constexpr Transpose kNo = Transpose::no, kYes = Transpose::yes;

class Mlp final : public FeedForward {
  public:
    Mlp(const PartContext& context, std::size_t slots, std::int64_t width, PickMlp pick)
        : ops_(context.ops), pick_(pick) {
        for (std::size_t i = 0; i < slots; ++i)
            kept_.push_back(context.take(kKeptMemory, {context.tokens, 2 * width}, phase_of_slot(i)));
        product_ = context.take(kScratchMemory, {context.tokens, width});
        if (context.train)
            d_product_ = context.take(kScratchMemory, {context.tokens, width}, Phase::training);
    }

    void prepare(const BlockWeights& weights, std::size_t slot, Tensor h) override {
        ops_.gemm(kept_[slot].rows(0, h.dim(0)), h, kNo, pick_(weights).gate_up.value, kYes, 1, 0);
    }

    void finish(const BlockWeights& weights, std::size_t slot, Tensor out) override {
        const std::int64_t t = out.dim(0);
        const Tensor product = product_.rows(0, t);
        ops_.swiglu(product, kept_[slot].rows(0, t), {});
        ops_.gemm(out, product, kNo, pick_(weights).down->value, kYes, 1, 0);
    }

    void backward(const BlockWeights& weights, std::size_t slot, Tensor /*h*/, Tensor d_out, Tensor d_h,
                  const Packing&) override {
        const MlpWeights& w = pick_(weights);
        const std::int64_t t = d_out.dim(0);
        const Tensor gate_up = kept_[slot].rows(0, t);
        const Tensor product = product_.rows(0, t), d_product = d_product_.rows(0, t);
        ops_.gemm(d_product, d_out, kNo, w.down->value, kNo, 1, 0);
        ops_.swiglu_backward(gate_up, {}, product, d_product, gate_up, {});  // now its gradient
        ops_.gemm(d_h, gate_up, kNo, w.gate_up.value, kNo, 1, 0);
    }

    void backward_weights(const BlockWeights& weights, std::size_t slot, Tensor h, Tensor d_out) override {
        const MlpWeights& w = pick_(weights);
        const std::int64_t t = h.dim(0);
        ops_.gemm(w.down->grad, d_out, kYes, product_.rows(0, t), kNo, 1, 1);
        ops_.gemm(w.gate_up.grad, kept_[slot].rows(0, t), kYes, h, kNo, 1, 1);
    }

  private:
    Ops& ops_;
    PickMlp pick_;
    std::vector<Tensor> kept_;  ///< gate and up, [T, 2 width]
    Tensor product_, d_product_;
};

}  // namespace

std::unique_ptr<FeedForward> make_mlp(const PartContext& context, std::size_t slots,
                                      std::int64_t width, PickMlp pick) {
    return std::make_unique<Mlp>(context, slots, width, pick);
}

}  // namespace gradus
