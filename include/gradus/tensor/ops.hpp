// SPDX-License-Identifier: Apache-2.0
// The seam between model and machine. Arguments that are structures: op_arguments.hpp. Shapes: T tokens
// of a packed batch, S sequences, H hidden, I intermediate, V vocabulary, nh query heads, nkv key/value
// heads, D head dimension, B decode rows. Every operation writes into the caller's outputs, on the Ops'
// stream, takes scratch memory only from the workspace asked for at construction, and never waits for
// the device unless it says so. `+=` marks outputs that are accumulated into.
// Types: weights and activations are all float32 or all bfloat16; sums are accumulated in float32.
// What a comment calls f32 (statistics, log-probs, gradients of weights, optimiser state, logits and
// scores of routers) is float32 in both.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "gradus/ranks/communicator.hpp"
#include "gradus/tensor/arena.hpp"
#include "gradus/tensor/op_arguments.hpp"

namespace gradus {

/// Work that was recorded once and can be done again, with the memory that it was recorded with.
class Recording {
  public:
    virtual ~Recording() = default;
    virtual void replay() = 0;
};

class Ops {
  public:
    virtual ~Ops() = default;
    virtual const char* name() const = 0;
    /// Whether tensors are memory that the host can read and write.
    virtual bool on_host() const = 0;
    /// Rows to which a step of `rows` is filled up, so that few recordings serve all steps.
    virtual std::int64_t recorded_rows(std::int64_t rows) const = 0;

    /// Lines on what was chosen while running (algorithms of products), for the log.
    virtual std::string report() const { return ""; }

    // Between host and device, and between ranks
    /// Host memory -> device; `from` may be changed on return.
    virtual void upload(Tensor to, const void* from) = 0;
    /// Device -> host memory, after all earlier work; waits.
    virtual void download(void* to, Tensor from) = 0;
    /// Runs `work`, which calls operations that neither wait nor depend on the host, and keeps it for
    /// replay (a CUDA graph; on a CPU the function itself).
    virtual std::unique_ptr<Recording> record(std::function<void()> work) = 0;
    /// Collectives of device memory over `group`; as the functions of Communicator. f32 or bf16.
    virtual void all_reduce(Communicator& group, Tensor x, Reduce op) = 0;
    /// Starts the sum of x over `group` beside later operations, which leave x alone until
    /// finish_sums(); every member starts the same sums in the same order.
    virtual void start_sum(Communicator& group, Tensor x) = 0;
    /// The same of f32 tensors of which a rank needs its own block only (Communicator::reduce_scatter_blocks; the
    /// offsets in bytes): half of the traffic.
    virtual void start_block_sums(Communicator& group, std::span<const BlockedTensor> all) = 0;
    /// Operations after this one see all sums that were started.
    virtual void finish_sums() = 0;
    /// All of them at once: a call costs more than a small tensor's bytes.
    virtual void all_gather_blocks(Communicator& group, std::span<const BlockedTensor> all) = 0;
    virtual void all_to_all(Communicator& group, Tensor send,
                            std::span<const std::int64_t> send_offsets, Tensor recv,
                            std::span<const std::int64_t> recv_offsets) = 0;

    // Dense algebra
    /// C[M,N] = alpha op(A) op(B) + beta C; op(A) is [M,K], op(B) is [K,N]. A and B are of one type, C
    /// of theirs or f32.
    virtual void gemm(Tensor c, Tensor a, Transpose ta, Tensor b, Transpose tb, float alpha,
                      float beta) = 0;
    /// x[T,N] += bias[N]
    virtual void add_bias(Tensor x, Tensor bias) = 0;
    /// d_bias f32 [N] += column sums of d_out[T,N]
    virtual void add_bias_backward(Tensor d_bias, Tensor d_out) = 0;
    /// A product a head: in [T, nh, Di], weight [nh, R, C], out [T, nh, Do].
    virtual void head_gemm(Tensor out, Tensor in, Tensor weight, const HeadProduct& product) = 0;
    /// A product an expert: rows of `in` [R, K] lie expert by expert, rows[e] of them (on the host);
    /// out [R, N] = in op(weight[e])^T beta-added: weight [E, N, K], or with Transpose::yes [E, K, N].
    virtual void expert_gemm(Tensor out, Tensor in, Tensor weight, Transpose transpose,
                             std::span<const std::int64_t> rows, float beta) = 0;
    /// d_weight f32 [E, N, K] += d_out[rows of e]^T in[rows of e]
    virtual void expert_gemm_backward(Tensor d_weight, Tensor d_out, Tensor in,
                                      std::span<const std::int64_t> rows) = 0;

    // Element-wise
    virtual void fill(Tensor x, float value) = 0;
    /// Types may differ: f32 -> bf16 rounds to nearest even.
    virtual void copy(Tensor out, Tensor in) = 0;
    /// Written in x's type.
    virtual void fill_normal(Tensor x, const NormalFill& fill) = 0;
    virtual void add(Tensor x, Tensor y) = 0;                  ///< x += y
    virtual void scale(Tensor x, float factor) = 0;            ///< x *= factor
    /// out[R,N] = in[index[r], :]; out rows with index < 0 become zero
    virtual void gather_rows(Tensor out, Tensor in, Tensor index) = 0;
    /// out[index[r], :] += in[r, :] in order of r
    virtual void scatter_add_rows(Tensor out, Tensor in, Tensor index) = 0;

    /// out[r, out_begin ..] = in[r * Ri / Ro, in_begin ..], `width` numbers of each of out's Ro rows; a
    /// row of `in` serves Ro / Ri rows one after the other. The last dimension counts the numbers.
    virtual void copy_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                              std::int64_t width) = 0;
    /// The sum over those rows: out[r, out_begin ..] = sum of in's Ri / Ro rows from r Ri / Ro on.
    virtual void sum_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                             std::int64_t width) = 0;
    /// x[r, :] *= factor[r], f32
    virtual void scale_rows(Tensor x, Tensor factor) = 0;
    /// out[r] = sum_i a[r, i] b[r, i], f32
    virtual void row_dots(Tensor out, Tensor a, Tensor b) = 0;
    /// out[t, :] (+)= sum_j in[place[t, j], :] in order of j; place i32 [T, K]
    virtual void sum_rows(Tensor out, Tensor in, Tensor place, bool accumulate) = 0;

    // Embedding over a slice of the vocabulary [offset, offset + Vl)
    /// out[T,H] = table[token - offset], zero where the token is not in the slice
    virtual void embedding(Tensor out, Tensor table, Tensor tokens, std::int64_t offset) = 0;
    virtual void embedding_backward(Tensor d_table, Tensor d_out, Tensor tokens,
                                    std::int64_t offset) = 0;  ///< d_table f32 +=

    // RMSNorm (Zhang and Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * weight, over the last dim
    /// x, out [R,N]; weight [N]; inv_rms f32 [R]. out may be x.
    virtual void rms_norm(Tensor out, Tensor inv_rms, Tensor x, Tensor weight, float eps) = 0;
    /// sum = x + delta, rounded to its type; out = its norm. sum may be x.
    virtual void add_rms_norm(Tensor out, Tensor inv_rms, Tensor sum, Tensor x, Tensor delta,
                              Tensor weight, float eps) = 0;
    /// d_x = the gradient, or += it where `accumulate`; d_weight f32 [N] +=. d_x may be d_out where it
    /// is not accumulated into.
    virtual void rms_norm_backward(Tensor d_x, Tensor d_weight, Tensor d_out, Tensor x,
                                   Tensor weight, Tensor inv_rms, bool accumulate) = 0;

    // Rotary embedding (Su et al. 2021), in place on x [T, heads, D]; inv_freq f32 [turned / 2];
    // sign -1 turns back (that is its backward: form.scale multiplies both ways).
    virtual void rope(Tensor x, Tensor positions, Tensor inv_freq, const RotaryForm& form,
                      float sign) = 0;

    /// packed [T, (nq + 2 nkv) D] + bias (may be null) -> q [T, nq, D], k and v [T, nkv, D]; q and k are
    /// turned by rope() where inv_freq is not null.
    virtual void split_heads(Tensor q, Tensor k, Tensor v, Tensor packed, Tensor bias,
                             Tensor positions, Tensor inv_freq, const RotaryForm& form) = 0;
    /// Its backward: packed = [d_q, d_k, d_v], d_q and d_k turned back where inv_freq is not null.
    virtual void merge_heads(Tensor packed, Tensor d_q, Tensor d_k, Tensor d_v, Tensor positions,
                             Tensor inv_freq, const RotaryForm& form) = 0;

    // SwiGLU (Shazeer 2020): out = silu(gate) * up, all [T,I]; or, with up null, gate is [T, 2 I]: the
    // gates of a row, then its ups.
    virtual void swiglu(Tensor out, Tensor gate, Tensor up) = 0;
    /// d_gate, d_up (null with up) may be gate, up themselves. `product`, where not null, receives
    /// swiglu()'s out again.
    virtual void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor product, Tensor d_out,
                                 Tensor gate, Tensor up) = 0;

    // Routing of tokens to experts
    /// logits [T, E] -> scores [T, E]; chosen i32 [T, K], best first, of equals the lower number;
    /// weights [T, K]. The choice is by scores + bias ([E], may be null), limited to the best groups:
    /// a group counts by the sum of its `group_best` best (DeepSeek-V3, arXiv 2412.19437, section
    /// 2.1.2); weights are the scores, sum over the chosen + 1e-20 divided out where `normalize`.
    virtual void route(Tensor scores, Tensor chosen, Tensor weights, Tensor logits, Tensor bias,
                       const RouterShape& shape) = 0;
    /// d_logits [T, E] from d_weights [T, K] and, where not null, d_scores [T, E].
    virtual void route_backward(Tensor d_logits, Tensor d_weights, Tensor d_scores, Tensor scores,
                                Tensor chosen, const RouterShape& shape) = 0;
    /// Sequence-wise balance loss (eq. 17 to 20 there): loss [1] += coef sum_s sum_i f_i P_i over the
    /// sequences s, d_scores [T, E] is written (f is a constant). With n tokens t in the sequence
    ///   f_i = E / (K n) sum_t 1[s_{i,t} is among the K best of s_{.,t}; of equals the lower number],
    ///   P_i = 1 / n sum_t s_{i,t} / sum_j s_{j,t}:
    /// f counts by the bare scores, whatever the bias and the groups made of the choice.
    virtual void route_balance(Tensor loss, Tensor d_scores, Tensor scores, const Packing& packing,
                               const RouterShape& shape, float coef) = 0;
    /// Places (t, j) in order of expert, stable: order i32 [T K] holds t K + j, source i32 [T K] the
    /// token t, place i32 [T, K] is order's inverse, rows i32 [E] the places an expert.
    virtual void sort_by_expert(Tensor order, Tensor source, Tensor place, Tensor rows,
                                Tensor chosen) = 0;

    // Causal attention over packed sequences; q [T, nh, D], k [T, nkv, D], v [T, nkv, Dv],
    // out [T, nh, Dv]; lse f32 [T, nh] is the log-sum-exp of the scaled scores, kept for the backward pass.
    virtual void attention(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                           const Packing& packing, const AttentionShape& shape) = 0;
    /// d_q, d_k, d_v are written (not accumulated).
    virtual void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                                    Tensor k, Tensor v, Tensor out, Tensor lse,
                                    const Packing& packing, const AttentionShape& shape) = 0;

    // Generation
    /// Token t of k, v [T, nkv, D] goes to page slot[t] / page_size, row slot[t] % page_size;
    /// slot i32 [T], < 0: not stored; v is null where the cache has no values.
    virtual void kv_store(const PagedCache& cache, Tensor k, Tensor v, Tensor slot) = 0;
    /// Copies page from[i] to page to[i] (i32 [n] each).
    virtual void kv_copy_pages(const PagedCache& cache, Tensor from, Tensor to) = 0;
    /// q [B, nh, D], out [B, nh, Dv]; row b attends to lengths[b] cached tokens in pages
    /// page_table[b, 0 ..] (i32 [B, max_pages]). Row results do not depend on the other rows.
    virtual void attention_decode(Tensor out, Tensor q, const PagedCache& cache, Tensor page_table,
                                  Tensor lengths, const AttentionShape& shape) = 0;

    // Head: per-row statistics of f32 logits over a slice [offset, offset + Vl) of the vocabulary.
    // All logits are first multiplied by inv_temperature. target i32 [R]; < 0: no target.
    /// row_max f32 [R] = max_j z_j
    virtual void head_max(Tensor row_max, Tensor logits, float inv_temperature) = 0;
    /// sums f32 [R, 3] = { sum_j e^(z_j - m), sum_j e^(z_j - m) (z_j - m), z_target - m or 0 } of this
    /// slice, m = row_max (already reduced over the slices)
    virtual void head_sums(Tensor sums, Tensor logits, Tensor row_max, Tensor targets,
                           std::int64_t offset, float inv_temperature) = 0;
    /// Both at once where this rank has the whole vocabulary.
    virtual void head_statistics(Tensor row_max, Tensor sums, Tensor logits, Tensor targets,
                                 float inv_temperature) = 0;
    /// From reduced sums: log_prob f32 [R] = z_target - m - log s0; entropy f32 [R] (nats)
    /// = log s0 - s1 / s0.
    virtual void head_finish(Tensor log_prob, Tensor entropy, Tensor sums) = 0;
    /// d_logits [R, Vl], f32 or bf16 (may be logits where f32), given dL/dlog_prob and dL/dentropy f32 [R]:
    /// dz_j = d_lp (1[j = target] - p_j) - d_H p_j (log p_j + H), times inv_temperature.
    virtual void head_backward(Tensor d_logits, Tensor logits, Tensor row_max, Tensor sums,
                               Tensor targets, Tensor d_log_prob, Tensor d_entropy,
                               std::int64_t offset, float inv_temperature) = 0;
    /// Draws a token a row: tokens i32 [R] and log_probs f32 [R] (after division by the temperature,
    /// before top-k and top-p) from f32 logits [R, V] with the random bits [R] (i32, read as unsigned; u
    /// = bits / 2^32). token is -1 where a logit is not finite. Exact on every device given the same
    /// logits, because masses are whole numbers: with z' = (z - max) * inv_temperature in f32, mass =
    /// floor(2^44 e^z') computed in f64, total = sum of masses. Order as in the field: top-k (k most
    /// massive, lower ids first among equals), then top-p (fewest most massive tokens, same order, whose
    /// mass reaches ceil(top_p * what top-k left)); then the lowest id at which the running sum of the
    /// kept masses exceeds floor(u * kept). log_prob = z' - log(total / 2^44).
    virtual void sample(Tensor tokens, Tensor log_probs, Tensor logits, Tensor bits,
                        const SamplingOptions& options) = 0;

    // Optimiser
    /// result f64-accurate sum of squares, returned through a device scalar f32 [1] (+=)
    virtual void sum_squares(Tensor result, Tensor x) = 0;
    /// AdamW (Loshchilov and Hutter 2019) on equally shaped f32 tensors. `weight`, where not null and
    /// not param, receives param in bf16; grad is set to zero.
    virtual void adamw(Tensor param, Tensor weight, Tensor grad, Tensor m, Tensor v,
                       const AdamWStep& step) = 0;

    /// Waits until all work is done (a CPU has nothing to wait for).
    virtual void synchronize() = 0;
};

/// Bounds of what a run will ask for; the workspace is taken from the arena at construction.
struct OpsLimits {
    std::int64_t max_tokens = 0;    ///< T of a micro-batch or prefill
    std::int64_t max_length = 0;    ///< longest sequence
    std::int64_t max_head_dim = 0;  ///< D of queries and keys
    std::int64_t max_heads = 0;     ///< nh on this rank
    std::int64_t max_width = 0;     ///< widest row of rms_norm and embedding (hidden size)
    std::int64_t max_decode = 0;    ///< B of a decode step
};
/// float32, single-threaded, CBLAS. `arena` pays for the workspace ("workspace").
std::unique_ptr<Ops> make_cpu_ops(const OpsLimits& limits, Arena& arena);

}  // namespace gradus
