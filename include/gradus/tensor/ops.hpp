// SPDX-License-Identifier: Apache-2.0
// The seam between model and machine. Shapes: T tokens of a packed batch, S sequences, H hidden,
// I intermediate, V vocabulary, nh query heads, nkv key/value heads, D head dimension, B decode
// rows. Every operation writes into the caller's outputs, on the Ops' stream, takes scratch memory
// only from the workspace asked for at construction, and never waits for the device.
// `+=` marks outputs that are accumulated into.
#pragma once

#include <cstdint>
#include <memory>

#include "gradus/tensor/arena.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus {

enum class Transpose : bool { no, yes };

/// Sequence s of a packed batch is rows starts[s] .. starts[s + 1] of [T, ...] tensors.
struct Packing {
    Tensor starts;                 ///< i32 [S + 1]
    Tensor positions;              ///< i32 [T], position of a token within its sequence
    std::int64_t sequences = 0;    ///< S
    std::int64_t max_length = 0;   ///< longest sequence
};

struct AttentionShape {
    std::int64_t heads = 0;     ///< nh on this rank
    std::int64_t kv_heads = 0;  ///< nkv on this rank
    std::int64_t head_dim = 0;  ///< D
    float scale = 0;            ///< usually 1 / sqrt(D)
};

/// Key/value pages of one layer: keys and values are [pages, page_size, nkv, D].
struct PagedCache {
    Tensor keys, values;
    std::int64_t page_size = 0;
};

struct AdamWStep {
    float lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
    float grad_scale = 1;         ///< multiplies the gradient (clipping)
    std::int64_t step = 1;        ///< counts from 1: bias correction
};

class Ops {
  public:
    virtual ~Ops() = default;
    virtual const char* name() const = 0;

    // Dense algebra
    /// C[M,N] = alpha op(A) op(B) + beta C; op(A) is [M,K], op(B) is [K,N].
    virtual void gemm(Tensor c, Tensor a, Transpose ta, Tensor b, Transpose tb, float alpha,
                      float beta) = 0;
    /// x[T,N] += bias[N]
    virtual void add_bias(Tensor x, Tensor bias) = 0;
    /// d_bias[N] += column sums of d_out[T,N]
    virtual void add_bias_backward(Tensor d_bias, Tensor d_out) = 0;

    // Element-wise
    virtual void fill(Tensor x, float value) = 0;
    virtual void copy(Tensor out, Tensor in) = 0;
    virtual void add(Tensor x, Tensor y) = 0;                  ///< x += y
    virtual void scale(Tensor x, float factor) = 0;            ///< x *= factor
    /// out[R,N] = in[index[r], :]; out rows with index < 0 become zero
    virtual void gather_rows(Tensor out, Tensor in, Tensor index) = 0;
    /// out[index[r], :] += in[r, :] in order of r
    virtual void scatter_add_rows(Tensor out, Tensor in, Tensor index) = 0;

    // Embedding over a slice of the vocabulary [offset, offset + Vl)
    /// out[T,H] = table[token - offset], zero where the token is not in the slice
    virtual void embedding(Tensor out, Tensor table, Tensor tokens, std::int64_t offset) = 0;
    virtual void embedding_backward(Tensor d_table, Tensor d_out, Tensor tokens,
                                    std::int64_t offset) = 0;  ///< d_table +=

    // RMSNorm (Zhang and Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * weight, over the last dim
    /// x, out [R,N]; weight [N]; inv_rms f32 [R]. out may be x.
    virtual void rms_norm(Tensor out, Tensor inv_rms, Tensor x, Tensor weight, float eps) = 0;
    /// d_x = (not +=) gradient; d_weight [N] +=. d_x may be d_out.
    virtual void rms_norm_backward(Tensor d_x, Tensor d_weight, Tensor d_out, Tensor x,
                                   Tensor weight, Tensor inv_rms) = 0;

    // Rotary embedding (Su et al. 2021), rotate-half form, in place on x [T, heads, D];
    // inv_freq f32 [D / 2]; sign -1 undoes it (that is its backward).
    virtual void rope(Tensor x, Tensor positions, Tensor inv_freq, float sign) = 0;

    // SwiGLU (Shazeer 2020): out = silu(gate) * up, all [T,I]
    virtual void swiglu(Tensor out, Tensor gate, Tensor up) = 0;
    /// d_gate, d_up may be gate, up themselves.
    virtual void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_out, Tensor gate,
                                 Tensor up) = 0;

    // Causal attention over packed sequences; q, out [T, nh, D], k, v [T, nkv, D];
    // lse f32 [T, nh] is the log-sum-exp of the scaled scores, kept for the backward pass.
    virtual void attention(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                           const Packing& packing, const AttentionShape& shape) = 0;
    /// d_q, d_k, d_v are written (not accumulated).
    virtual void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                                    Tensor k, Tensor v, Tensor out, Tensor lse,
                                    const Packing& packing, const AttentionShape& shape) = 0;

    // Generation
    /// Token t of k, v [T, nkv, D] goes to page slot[t] / page_size, row slot[t] % page_size;
    /// slot i32 [T], < 0: not stored.
    virtual void kv_store(const PagedCache& cache, Tensor k, Tensor v, Tensor slot) = 0;
    /// Copies page from[i] to page to[i] (i32 [n] each).
    virtual void kv_copy_pages(const PagedCache& cache, Tensor from, Tensor to) = 0;
    /// out, q [B, nh, D]; row b attends to lengths[b] cached tokens in pages
    /// page_table[b, 0 ..] (i32 [B, max_pages]). Row results do not depend on the other rows.
    virtual void attention_decode(Tensor out, Tensor q, const PagedCache& cache, Tensor page_table,
                                  Tensor lengths, const AttentionShape& shape) = 0;

    // Head: per-row statistics of logits over a slice [offset, offset + Vl) of the vocabulary.
    // All logits are first multiplied by inv_temperature. target i32 [R]; < 0: no target.
    /// row_max f32 [R] = max_j z_j
    virtual void head_max(Tensor row_max, Tensor logits, float inv_temperature) = 0;
    /// sums f32 [R, 3] = { sum_j e^(z_j - m), sum_j e^(z_j - m) (z_j - m), z_target - m or 0 } of this
    /// slice, m = row_max (already reduced over the slices)
    virtual void head_sums(Tensor sums, Tensor logits, Tensor row_max, Tensor targets,
                           std::int64_t offset, float inv_temperature) = 0;
    /// From reduced sums: log_prob f32 [R] = z_target - m - log s0; entropy f32 [R] (nats)
    /// = log s0 - s1 / s0.
    virtual void head_finish(Tensor log_prob, Tensor entropy, Tensor sums) = 0;
    /// logits [R, Vl] are overwritten by d_logits, given dL/dlog_prob and dL/dentropy f32 [R]:
    /// dz_j = d_lp (1[j = target] - p_j) - d_H p_j (log p_j + H), times inv_temperature.
    virtual void head_backward(Tensor logits, Tensor row_max, Tensor sums, Tensor targets,
                               Tensor d_log_prob, Tensor d_entropy, std::int64_t offset,
                               float inv_temperature) = 0;

    // Optimiser
    /// result f64-accurate sum of squares, returned through a device scalar f32 [1] (+=)
    virtual void sum_squares(Tensor result, Tensor x) = 0;
    /// AdamW (Loshchilov and Hutter 2019) on equally shaped f32 tensors.
    virtual void adamw(Tensor param, Tensor grad, Tensor m, Tensor v, const AdamWStep& step) = 0;

    /// Waits until all work is done (a CPU has nothing to wait for).
    virtual void synchronize() = 0;
};

/// Bounds of what a run will ask for; the workspace is taken from the arena at construction.
struct OpsLimits {
    std::int64_t max_tokens = 0;    ///< T of a micro-batch or prefill
    std::int64_t max_length = 0;    ///< longest sequence
    std::int64_t max_head_dim = 0;  ///< D
};
/// float32, single-threaded, CBLAS. `arena` pays for the workspace ("workspace").
std::unique_ptr<Ops> make_cpu_ops(const OpsLimits& limits, Arena& arena);

}  // namespace gradus
