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
        const Shape shape{context.tokens, width};
        for (std::size_t i = 0; i < slots; ++i)
            kept_.push_back({context.take(kKeptMemory, shape), context.take(kKeptMemory, shape)});
        product_ = context.take(kScratchMemory, shape);
        if (context.train) d_product_ = context.take(kScratchMemory, shape);
    }

    void prepare(const BlockWeights& weights, std::size_t slot, Tensor h) override {
        const MlpWeights& w = pick_(weights);
        ops_.gemm(kept_[slot].gate.rows(0, h.dim(0)), h, kNo, w.gate->value, kYes, 1, 0);
        ops_.gemm(kept_[slot].up.rows(0, h.dim(0)), h, kNo, w.up->value, kYes, 1, 0);
    }

    void finish(const BlockWeights& weights, std::size_t slot, Tensor out) override {
        const std::int64_t t = out.dim(0);
        const Tensor product = product_.rows(0, t);
        ops_.swiglu(product, kept_[slot].gate.rows(0, t), kept_[slot].up.rows(0, t));
        ops_.gemm(out, product, kNo, pick_(weights).down->value, kYes, 1, 0);
    }

    void backward(const BlockWeights& weights, std::size_t slot, Tensor h, Tensor d_out, Tensor d_h,
                  const Packing&) override {
        const MlpWeights& w = pick_(weights);
        const std::int64_t t = h.dim(0);
        const Tensor gate = kept_[slot].gate.rows(0, t), up = kept_[slot].up.rows(0, t);
        const Tensor product = product_.rows(0, t), d_product = d_product_.rows(0, t);
        ops_.swiglu(product, gate, up);
        ops_.gemm(w.down->grad, d_out, kYes, product, kNo, 1, 1);
        ops_.gemm(d_product, d_out, kNo, w.down->value, kNo, 1, 0);
        ops_.swiglu_backward(gate, up, d_product, gate, up);  // now gradients
        ops_.gemm(w.gate->grad, gate, kYes, h, kNo, 1, 1);
        ops_.gemm(w.up->grad, up, kYes, h, kNo, 1, 1);
        ops_.gemm(d_h, gate, kNo, w.gate->value, kNo, 1, 0);
        ops_.gemm(d_h, up, kNo, w.up->value, kNo, 1, 1);
    }

  private:
    struct Kept {
        Tensor gate, up;  ///< [T, width]
    };
    Ops& ops_;
    PickMlp pick_;
    std::vector<Kept> kept_;
    Tensor product_, d_product_;
};

}  // namespace

std::unique_ptr<FeedForward> make_mlp(const PartContext& context, std::size_t slots,
                                      std::int64_t width, PickMlp pick) {
    return std::make_unique<Mlp>(context, slots, width, pick);
}

}  // namespace gradus
