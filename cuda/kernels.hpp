// SPDX-License-Identifier: Apache-2.0
// The operations of Ops on the device, one source file a concern; shapes and types are those of
// include/gradus/tensor/ops.hpp. NAME_workspace() is what an operation takes of the workspace, at most.
// Tensors without elements are allowed: nothing is launched.
#pragma once

#include <cstdint>
#include <span>

#include "context.hpp"
#include "gradus/tensor/ops.hpp"

namespace gradus::cuda {

// elementwise.cu
void fill(const Context& c, Tensor x, float value);
void copy(const Context& c, Tensor out, Tensor in);
void add(const Context& c, Tensor x, Tensor y);
void scale(const Context& c, Tensor x, float factor);
void fill_normal(const Context& c, Tensor x, const NormalFill& fill);
// bias.cu
std::int64_t bias_workspace(const OpsLimits& limits);
void add_bias(const Context& c, Tensor x, Tensor bias);
void add_bias_backward(const Context& c, Tensor d_bias, Tensor d_out);
// rows.cu
void gather_rows(const Context& c, Tensor out, Tensor in, Tensor index);
void scatter_add_rows(const Context& c, Tensor out, Tensor in, Tensor index);
void copy_columns(const Context& c, Tensor out, std::int64_t out_begin, Tensor in,
                  std::int64_t in_begin, std::int64_t width);
void sum_columns(const Context& c, Tensor out, std::int64_t out_begin, Tensor in,
                 std::int64_t in_begin, std::int64_t width);
void scale_rows(const Context& c, Tensor x, Tensor factor);
void row_dots(const Context& c, Tensor out, Tensor a, Tensor b);
void sum_rows(const Context& c, Tensor out, Tensor in, Tensor place, bool accumulate);
// embedding.cu
std::int64_t embedding_workspace(const OpsLimits& limits);
void embedding(const Context& c, Tensor out, Tensor table, Tensor tokens, std::int64_t offset);
void embedding_backward(const Context& c, Tensor d_table, Tensor d_out, Tensor tokens,
                        std::int64_t offset);
// rms_norm.cu
std::int64_t rms_norm_workspace(const OpsLimits& limits);
void rms_norm(const Context& c, Tensor out, Tensor inv_rms, Tensor x, Tensor weight, float eps);
void add_rms_norm(const Context& c, Tensor out, Tensor inv_rms, Tensor sum, Tensor x, Tensor delta,
                  Tensor weight, float eps);
void rms_norm_backward(const Context& c, Tensor d_x, Tensor d_weight, Tensor d_out, Tensor x,
                       Tensor weight, Tensor inv_rms, bool accumulate);
// rope.cu
void rope(const Context& c, Tensor x, Tensor positions, Tensor inv_freq, const RotaryForm& form,
          float sign);
void split_heads(const Context& c, Tensor q, Tensor k, Tensor v, Tensor packed, Tensor bias,
                 Tensor positions, Tensor inv_freq, const RotaryForm& form);
void merge_heads(const Context& c, Tensor packed, Tensor d_q, Tensor d_k, Tensor d_v,
                 Tensor positions, Tensor inv_freq, const RotaryForm& form);
// swiglu.cu
void swiglu(const Context& c, Tensor out, Tensor gate, Tensor up);
void swiglu_backward(const Context& c, Tensor d_gate, Tensor d_up, Tensor product, Tensor d_out,
                     Tensor gate, Tensor up);
// routing.cu
std::int64_t routing_workspace(const OpsLimits& limits);
void route(const Context& c, Tensor scores, Tensor chosen, Tensor weights, Tensor logits, Tensor bias,
           const RouterShape& shape);
void route_backward(const Context& c, Tensor d_logits, Tensor d_weights, Tensor d_scores,
                    Tensor scores, Tensor chosen, const RouterShape& shape);
void route_balance(const Context& c, Tensor loss, Tensor d_scores, Tensor scores,
                   const Packing& packing, const RouterShape& shape, float coef);
void sort_by_expert(const Context& c, Tensor order, Tensor source, Tensor place, Tensor rows,
                    Tensor chosen);
// flash_attention.cu: causal attention over packed sequences, any head dimension
std::int64_t flash_attention_workspace(const OpsLimits& limits);
void flash_attention(const Context& c, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                     const Packing& packing, const AttentionShape& shape);
void flash_attention_backward(const Context& c, Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out,
                              Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse,
                              const Packing& packing, const AttentionShape& shape);
// paged_cache.cu, decode_attention.cu
void kv_store(const Context& c, const PagedCache& cache, Tensor k, Tensor v, Tensor slot);
void kv_copy_pages(const Context& c, const PagedCache& cache, Tensor from, Tensor to);
std::int64_t decode_attention_workspace(const OpsLimits& limits);
void decode_attention(const Context& c, Tensor out, Tensor q, const PagedCache& cache,
                      Tensor page_table, Tensor lengths, const AttentionShape& shape);
// head.cu
void head_max(const Context& c, Tensor row_max, Tensor logits, float inv_temperature);
void head_sums(const Context& c, Tensor sums, Tensor logits, Tensor row_max, Tensor targets,
               std::int64_t offset, float inv_temperature);
void head_statistics(const Context& c, Tensor row_max, Tensor sums, Tensor logits, Tensor targets,
                     float inv_temperature);
void head_finish(const Context& c, Tensor log_prob, Tensor entropy, Tensor sums);
void head_backward(const Context& c, Tensor d_logits, Tensor logits, Tensor row_max, Tensor sums,
                   Tensor targets, Tensor d_log_prob, Tensor d_entropy, std::int64_t offset,
                   float inv_temperature);
// sample.cu
void sample(const Context& c, Tensor tokens, Tensor log_probs, Tensor logits, Tensor bits,
            const SamplingOptions& options);
// optimizer.cu
std::int64_t optimizer_workspace(const OpsLimits& limits);
void sum_squares(const Context& c, Tensor result, Tensor x);
void adamw(const Context& c, Tensor param, Tensor weight, Tensor grad, Tensor m, Tensor v,
           const AdamWStep& step);

}  // namespace gradus::cuda
