// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "context.hpp"
#include "cudnn_attention_plan.hpp"
#include "gradus/tensor/ops.hpp"

namespace gradus::cuda {

struct CloseCudnn {
    void operator()(cudnnHandle_t handle) const { cudnnDestroy(handle); }
};

/// Causal attention of training in bfloat16 through cuDNN's fused kernels: Ops::attention() and
/// Ops::attention_backward(). A new shape builds a plan (0.1 s, the first of its kind 1 s), which
/// the object keeps; lengths and numbers of sequences are rounded up so that there are few. Before
/// a CUDA graph is recorded, supports() or a call must have built the plans; the object must
/// outlive the graph.
class CudnnAttention {
  public:
    /// For the current device. Throws CudnnError where cuDNN cannot be had.
    CudnnAttention();

    /// Whether cuDNN serves this in c.workspace: bfloat16, head dimensions that are multiples of 16
    /// up to 256. Builds the plan.
    bool supports(const Context& c, const AttentionShape& shape, const Packing& packing,
                  DType dtype, bool backward);

    /// Bytes of c.workspace for calls within `limits`. Deterministic backward passes keep 2 bytes a
    /// pair of tokens and head, padded, and do sequences and heads in parts that fit; this grants
    /// up to 2 GiB for them, enough for any one head of a sequence of 32768 tokens.
    static std::int64_t workspace(const OpsLimits& limits, bool deterministic);

    void forward(const Context& c, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                 const Packing& packing, const AttentionShape& shape);
    /// Throws DeckError where c.deterministic cannot be had in c.workspace.
    void backward(const Context& c, Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                  Tensor k, Tensor v, Tensor out, Tensor lse, const Packing& packing,
                  const AttentionShape& shape);

  private:
    struct Scratch;
    struct Call;

    const AttentionPlan& plan_of(const AttentionPart& part);
    /// The plan of the largest part that fits into the workspace; null: none does.
    const AttentionPlan* choose(const Context& c, const AttentionPart& whole, std::int64_t tokens);
    void run(const Context& c, const AttentionPart& whole, const Call& call);
    void run_part(const AttentionPlan& plan, const Call& call, const Scratch& at,
                  std::byte* scratch, std::int64_t sequence, std::int64_t head);

    UniqueHandle<cudnnHandle_t, CloseCudnn> handle_;
    Descriptor device_;
    std::map<AttentionPart, std::unique_ptr<AttentionPlan>> plans_;
};

}  // namespace gradus::cuda
