// SPDX-License-Identifier: Apache-2.0
// Causal attention as graphs that cuDNN fuses into flash attention (Dao 2023, arXiv 2307.08691).
// With S = scale Q K^T, masked above the diagonal, and L the log-sum-exp of its rows:
//   forward    P = softmax(S), O = P V
//   backward   P = exp(S - L), dV = P^T dO, dP = dO V^T, dS = scale (dP - rowsum(dO O)) P,
//              dK = dS^T Q, dQ = dS K
// The nodes and their order are those that cuDNN's own frontend (include/cudnn_frontend/node/
// scaled_dot_product_flash_attention.h) sends: others need not be recognised. dQ is summed in
// float32 by whichever block comes first; where bits must repeat, dS goes through memory instead (2
// bytes a score) and dQ is a product of its own.
#include "cudnn_attention_plan.hpp"

#include <limits>
#include <utility>

namespace gradus::cuda {

namespace {

using Id = CudnnGraph::Id;
using Form = CudnnGraph::Form;

Form transposed(Form form) {
    std::swap(form.dims[2], form.dims[3]);
    std::swap(form.strides[2], form.strides[3]);
    return form;
}

class Builder {
  public:
    explicit Builder(const AttentionPart& part) : n_(part) {
        plan_.part = part;
        if (n_.ragged) add_sequences();
        add_tensors();
    }

    std::unique_ptr<AttentionPlan> build(const Descriptor& device) {
        n_.backward ? backward() : forward();
        auto plan = std::make_unique<AttentionPlan>(std::move(plan_));
        plan->plan = graph_.build(device, plan->why);
        return plan;
    }

  private:
    /// A part of a tensor [T, all, width].
    Form rows(std::int64_t heads, std::int64_t all, std::int64_t width, Id offsets,
              cudnnDataType_t type = CUDNN_DATA_BFLOAT16) const {
        return {.type = type,
                .dims = {n_.sequences, heads, n_.length, width},
                .strides = {n_.length * all * width, width, all * width, 1},
                .offsets = offsets};
    }
    Form packed(std::int64_t width, cudnnDataType_t type = CUDNN_DATA_FLOAT) const {
        return {.type = type,
                .dims = {n_.sequences, n_.heads, n_.length, width},
                .strides = {n_.heads * n_.length * width, n_.length * width, width, 1}};
    }
    Form scores(cudnnDataType_t type = CUDNN_DATA_FLOAT) const { return packed(n_.length, type); }
    /// One number a query and head.
    Form statistics() const {
        return n_.ragged ? rows(n_.heads, n_.all_heads, 1, plan_.lse_offsets, CUDNN_DATA_FLOAT)
                         : packed(1);
    }

    void add_sequences() {
        const Form lengths{
            .type = CUDNN_DATA_INT32, .dims = {n_.sequences, 1, 1, 1}, .alignment = 4};
        const Form offsets{
            .type = CUDNN_DATA_INT64, .dims = {n_.sequences + 1, 1, 1, 1}, .alignment = 8};
        plan_.q_lengths = graph_.real(lengths);
        plan_.k_lengths = graph_.real(lengths);
        plan_.q_offsets = graph_.real(offsets);
        plan_.k_offsets = graph_.real(offsets);
        plan_.v_offsets = graph_.real(offsets);
        plan_.out_offsets = graph_.real(offsets);
        plan_.lse_offsets = graph_.real(offsets);
        if (!n_.backward) return;
        plan_.d_k_offsets = graph_.real(offsets);
        plan_.d_v_offsets = graph_.real(offsets);
    }
    void add_tensors() {
        q_form_ = rows(n_.heads, n_.all_heads, n_.head_dim, plan_.q_offsets);
        k_form_ = rows(n_.kv_heads, n_.all_kv_heads, n_.head_dim, plan_.k_offsets);
        out_form_ = rows(n_.heads, n_.all_heads, n_.value_dim, plan_.out_offsets);
        const Form v_form = rows(n_.kv_heads, n_.all_kv_heads, n_.value_dim, plan_.v_offsets);
        plan_.q = graph_.real(q_form_);
        plan_.k = graph_.real(transposed(k_form_));
        plan_.v = graph_.real(n_.backward ? transposed(v_form) : v_form);
        plan_.out = graph_.real(out_form_);
        plan_.lse = graph_.real(statistics());
        plan_.scale = graph_.scalar();
    }

    Id apply(cudnnPointwiseMode_t mode, Id x, Id b, const Form& form) {
        const Id y = graph_.hidden(form);
        graph_.pointwise({.mode = mode, .x = x, .b = b, .y = y});
        return y;
    }
    Id index(Id x, std::int64_t axis, cudnnDataType_t compute) {
        const Id y = graph_.hidden(scores(CUDNN_DATA_INT32));
        graph_.pointwise(
            {.mode = CUDNN_POINTWISE_GEN_INDEX, .x = x, .y = y, .compute = compute, .axis = axis});
        return y;
    }
    Id compare(cudnnPointwiseMode_t mode, Id x, Id b) {
        const Id y = graph_.hidden(scores(CUDNN_DATA_BOOLEAN));
        graph_.pointwise({.mode = mode, .x = x, .b = b, .y = y, .compute = CUDNN_DATA_BOOLEAN});
        return y;
    }
    /// x where the mask holds, else -infinity.
    Id select(Id x, Id mask) {
        const Id y = graph_.hidden(scores());
        const Id nothing = graph_.constant(-std::numeric_limits<float>::infinity());
        graph_.pointwise(
            {.mode = CUDNN_POINTWISE_BINARY_SELECT, .x = x, .b = nothing, .t = mask, .y = y});
        return y;
    }
    Id masked(Id x) {
        if (n_.ragged) {
            const Id row = index(x, 2, CUDNN_DATA_INT32), column = index(x, 3, CUDNN_DATA_INT32);
            const Id in_row = compare(CUDNN_POINTWISE_CMP_LT, row, plan_.q_lengths);
            const Id in_column = compare(CUDNN_POINTWISE_CMP_LT, column, plan_.k_lengths);
            x = select(x, compare(CUDNN_POINTWISE_LOGICAL_AND, in_row, in_column));
        }
        const Id row = index(x, 2, CUDNN_DATA_FLOAT), column = index(x, 3, CUDNN_DATA_FLOAT);
        return select(x, compare(CUDNN_POINTWISE_CMP_GE, row, column));
    }
    Id reduced(cudnnReduceTensorOp_t op, Id x) {
        const Id y = graph_.hidden(packed(1));
        graph_.reduce(op, x, y);
        return y;
    }
    Id scaled_scores() {
        const Id raw = graph_.hidden(scores());
        graph_.matmul(plan_.q, plan_.k, raw, {.m = plan_.q_lengths, .n = plan_.k_lengths});
        return apply(CUDNN_POINTWISE_MUL, raw, plan_.scale, scores());
    }

    void forward() {
        const Id s = masked(scaled_scores());
        const Id top = reduced(CUDNN_REDUCE_TENSOR_MAX, s);
        const Id shifted = apply(CUDNN_POINTWISE_SUB, s, top, scores());
        const Id e = apply(CUDNN_POINTWISE_EXP, shifted, 0, scores());
        const Id sum = reduced(CUDNN_REDUCE_TENSOR_ADD, e);
        const Id log_sum = apply(CUDNN_POINTWISE_LOG, sum, 0, packed(1));
        graph_.pointwise({.mode = CUDNN_POINTWISE_ADD, .x = top, .b = log_sum, .y = plan_.lse});
        const Id p = apply(CUDNN_POINTWISE_DIV, e, sum, scores(CUDNN_DATA_BFLOAT16));
        graph_.matmul(p, plan_.v, plan_.out, {.m = plan_.q_lengths, .k = plan_.k_lengths});
    }

    void backward() {
        plan_.d_out = graph_.real(out_form_);
        plan_.d_q = graph_.real(q_form_);
        plan_.d_k = graph_.real(rows(n_.heads, n_.all_heads, n_.head_dim, plan_.d_k_offsets));
        plan_.d_v = graph_.real(rows(n_.heads, n_.all_heads, n_.value_dim, plan_.d_v_offsets));
        plan_.dots = graph_.real(statistics());
        const Id product = apply(CUDNN_POINTWISE_MUL, plan_.d_out, plan_.out, packed(n_.value_dim));
        const Id dots = reduced(CUDNN_REDUCE_TENSOR_ADD, product);
        graph_.pointwise(
            {.mode = CUDNN_POINTWISE_MUL, .x = dots, .b = graph_.constant(1), .y = plan_.dots});

        const Id shifted = masked(apply(CUDNN_POINTWISE_SUB, scaled_scores(), plan_.lse, scores()));
        const Id p = apply(CUDNN_POINTWISE_EXP, shifted, 0, scores());
        multiply_transposed(p, plan_.d_out, plan_.d_v);

        const Id d_p = graph_.hidden(scores());
        graph_.matmul(plan_.d_out, plan_.v, d_p, {.m = plan_.q_lengths, .n = plan_.k_lengths});
        const Id centered = apply(CUDNN_POINTWISE_SUB, d_p, plan_.dots, scores());
        const Id weighted = apply(CUDNN_POINTWISE_MUL, centered, p, scores());
        const Id d_s = apply(CUDNN_POINTWISE_MUL, weighted, plan_.scale, scores());
        multiply_transposed(d_s, plan_.q, plan_.d_k);

        Form k_form = k_form_;
        k_form.type = CUDNN_DATA_FLOAT;
        const Id k = graph_.hidden(k_form);
        graph_.reshape(plan_.k, k);
        const CudnnGraph::Extents extents{.m = plan_.q_lengths, .k = plan_.k_lengths};
        if (n_.deterministic) return graph_.matmul(d_s, k, plan_.d_q, extents);
        Form sums = n_.ragged ? q_form_ : packed(n_.head_dim);
        sums.type = CUDNN_DATA_FLOAT;
        plan_.d_q_sums = graph_.real(sums);
        graph_.matmul(d_s, k, plan_.d_q_sums, extents);
        graph_.pointwise({.mode = CUDNN_POINTWISE_IDENTITY, .x = plan_.d_q_sums, .y = plan_.d_q});
    }

    /// out = x^T y
    void multiply_transposed(Id x, Id y, Id out) {
        const Id turned = graph_.hidden(transposed(scores(CUDNN_DATA_BFLOAT16)));
        graph_.reshape(x, turned);
        graph_.matmul(turned, y, out, {.m = plan_.k_lengths, .k = plan_.q_lengths});
    }

    AttentionPart n_;
    AttentionPlan plan_;
    CudnnGraph graph_;
    Form q_form_, k_form_, out_form_;
};

}  // namespace

std::unique_ptr<AttentionPlan> make_attention_plan(const AttentionPart& part,
                                                   const Descriptor& device) {
    return Builder(part).build(device);
}

}  // namespace gradus::cuda
