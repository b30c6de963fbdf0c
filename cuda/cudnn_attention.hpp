// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "context.hpp"
#include "cudnn_graph.hpp"
#include "gradus/tensor/ops.hpp"

namespace gradus::cuda {

struct CloseCudnn {
    void operator()(cudnnHandle_t handle) const { cudnnDestroy(handle); }
};

/// Causal attention of training in bfloat16 through cuDNN's fused kernels: Ops::attention() and
/// Ops::attention_backward(). A new shape builds a plan (some tenths of a second), which the object
/// keeps; lengths and numbers of sequences are rounded up so that there are few. Recording a CUDA graph
/// must be preceded by supports() or a call of the same shape, and the object must outlive the graph.
class CudnnAttention {
  public:
    /// For the current device. Throws CudnnError where cuDNN cannot be had.
    explicit CudnnAttention(const Context& c);
    ~CudnnAttention();

    /// Whether cuDNN serves this shape: bfloat16, head dimensions that are multiples of 16. Builds the plan.
    bool supports(const Context& c, const AttentionShape& shape, const Packing& packing, DType dtype,
                  bool backward);

    /// Bytes of c.workspace that calls within `limits` need.
    static std::int64_t workspace(const OpsLimits& limits, bool deterministic);

    void forward(const Context& c, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                 const Packing& packing, const AttentionShape& shape);
    /// Throws DeckError where c.deterministic asks for more workspace than there is.
    void backward(const Context& c, Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k,
                  Tensor v, Tensor out, Tensor lse, const Packing& packing, const AttentionShape& shape);

  private:
    /// What a plan is made for: a part of the sequences and heads of the tensors.
    struct Key {
        std::int64_t sequences = 0, length = 0;
        std::int64_t heads = 0, kv_heads = 0;          ///< of the part
        std::int64_t all_heads = 0, all_kv_heads = 0;  ///< of the tensors
        std::int64_t head_dim = 0, value_dim = 0;
        bool ragged = false, backward = false, deterministic = false;
        auto operator<=>(const Key&) const = default;
        std::int64_t group() const { return heads / kv_heads; }
    };
    struct Plan;
    class Builder;
    struct Scratch;
    struct Call;

    static Key key_of(const Context& c, const Packing& packing, const AttentionShape& shape,
                      std::int64_t tokens, bool backward);
    /// What scores in memory take of a plan's workspace.
    static std::int64_t score_bytes(const Key& key);
    const Plan& plan_of(const Key& key);
    /// The plan of the largest part that fits into the workspace; null: none does.
    const Plan* choose(const Context& c, const Key& whole, std::int64_t tokens);
    void run(const Context& c, const Key& whole, const Call& call);

    UniqueHandle<cudnnHandle_t, CloseCudnn> handle_;
    Descriptor device_;
    std::map<Key, std::unique_ptr<Plan>> plans_;
};

// cudnn_attention_kernels.cu
struct SequenceWidths {
    std::int64_t q = 0, k = 0, v = 0, out = 0, lse = 0;  ///< numbers of a token
};
/// For sequence i <= padded: offsets[a (padded + 1) + i] = its first token (that of the end for i >
/// sequences) times width a; lengths[i] = its tokens, 0 from `sequences` on.
void sequence_offsets(const Context& c, std::int64_t* offsets, std::int32_t* lengths,
                      const std::int32_t* starts, std::int64_t sequences, std::int64_t padded,
                      const SequenceWidths& widths);
/// out[i, c, r] = in[i, r, c] for i < count.
void transpose(const Context& c, float* out, const float* in, std::int64_t count, std::int64_t rows,
               std::int64_t columns);

}  // namespace gradus::cuda
