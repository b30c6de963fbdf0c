// SPDX-License-Identifier: Apache-2.0
// Causal attention over packed sequences as graphs that cuDNN fuses into flash attention (Dao 2023, arXiv
// 2307.08691). With S = scale Q K^T, masked above the diagonal, and L the log-sum-exp of its rows:
//   forward    P = softmax(S), O = P V
//   backward   P = exp(S - L), dV = P^T dO, dP = dO V^T, dS = scale (dP - rowsum(dO O)) P,
//              dK = dS^T Q, dQ = dS K
// The nodes and their order are those that cuDNN's own frontend (include/cudnn_frontend/node/
// scaled_dot_product_flash_attention.h) sends: other orders are not recognised. Gradients of keys and
// values of grouped queries are made a query head and then summed over the group. dQ is summed in
// float32 by whichever block comes first; where bits must repeat, dS goes through memory instead
// (2 bytes a score) and dQ is a product of its own.
// Two layouts: sequences of one length that is a multiple of 128, or ragged ones, with offsets.
// Bound: FLOPs, 2 nh (D + Dv) a pair of tokens forward, 2.5 times that backward.
#include "cudnn_attention.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace gradus::cuda {

namespace {

constexpr std::int64_t kShortest = 64;          ///< lengths are rounded up to powers of two from here
constexpr std::int64_t kUniformMultiple = 128;  ///< of lengths that have plans of their own
constexpr std::int64_t kWidthMultiple = 16, kWidest = 256;  ///< of heads
/// What workspace() grants to scores in memory; more sequences or heads are done in parts.
constexpr std::int64_t kScoreBytes = std::int64_t{2} << 30;
constexpr std::int64_t kPlanBytes = std::int64_t{1} << 20, kPlanBytesSequence = 64;

std::int64_t power_of_two(std::int64_t n) {
    return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(n)));
}
/// The largest divisor of n that is less than `below`.
std::int64_t divisor_below(std::int64_t n, std::int64_t below) {
    do --below;
    while (n % below != 0);
    return below;
}
std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

using Id = CudnnGraph::Id;
using bf16 = std::uint16_t;  // only counted, not read

}  // namespace

struct CudnnAttention::Plan {
    Key key;
    std::unique_ptr<CudnnPlan> plan;  ///< null: declined, because of
    std::string why;
    Id q = 0, k = 0, v = 0, out = 0, lse = 0, scale = 0;
    Id q_lengths = 0, k_lengths = 0;
    Id q_offsets = 0, k_offsets = 0, v_offsets = 0, out_offsets = 0, lse_offsets = 0;
    Id d_out = 0, d_q = 0, d_k = 0, d_v = 0;
    Id dots = 0, d_q_sums = 0, d_k_heads = 0, d_v_heads = 0;
};

class CudnnAttention::Builder {
  public:
    explicit Builder(const Key& key) : key_(key) {
        plan_.key = key;
        if (!key_.ragged) return;
        CudnnGraph::Form lengths{.type = CUDNN_DATA_INT32, .dims = {key_.sequences, 1, 1, 1}, .alignment = 4};
        CudnnGraph::Form offsets{.type = CUDNN_DATA_INT64, .dims = {key_.sequences + 1, 1, 1, 1}, .alignment = 8};
        plan_.q_lengths = graph_.real(lengths);
        plan_.k_lengths = graph_.real(lengths);
        plan_.q_offsets = graph_.real(offsets);
        plan_.k_offsets = graph_.real(offsets);
        plan_.v_offsets = graph_.real(offsets);
        plan_.out_offsets = graph_.real(offsets);
        plan_.lse_offsets = graph_.real(offsets);
    }

    std::unique_ptr<Plan> build(const Descriptor& device) {
        key_.backward ? backward() : forward();
        auto plan = std::make_unique<Plan>(std::move(plan_));
        plan->plan = graph_.build(device, plan->why);
        return plan;
    }

  private:
    using Form = CudnnGraph::Form;

    /// A part of a tensor [T, all, width].
    Form rows(std::int64_t heads, std::int64_t all, std::int64_t width, Id offsets,
              cudnnDataType_t type = CUDNN_DATA_BFLOAT16) const {
        return {.type = type,
                .dims = {key_.sequences, heads, key_.length, width},
                .strides = {key_.length * all * width, width, all * width, 1},
                .offsets = offsets};
    }
    static Form transposed(Form form) {
        std::swap(form.dims[2], form.dims[3]);
        std::swap(form.strides[2], form.strides[3]);
        return form;
    }
    /// One number a row of scores: [T, heads] where ragged, else [sequences, heads, length].
    Form statistics() const {
        if (key_.ragged) return rows(key_.heads, key_.all_heads, 1, plan_.lse_offsets, CUDNN_DATA_FLOAT);
        return packed(1);
    }
    Form packed(std::int64_t width) const {
        return {.dims = {key_.sequences, key_.heads, key_.length, width},
                .strides = {key_.heads * key_.length * width, key_.length * width, width, 1}};
    }
    Form scores(cudnnDataType_t type = CUDNN_DATA_FLOAT) const {
        Form form = packed(key_.length);
        form.type = type;
        return form;
    }

    Id apply(cudnnPointwiseMode_t mode, Id x, Id b, const Form& form) {
        const Id y = graph_.hidden(form);
        graph_.pointwise({.mode = mode, .x = x, .b = b, .y = y});
        return y;
    }
    Id index(Id x, std::int64_t axis, cudnnDataType_t compute) {
        const Id y = graph_.hidden(scores(CUDNN_DATA_INT32));
        graph_.pointwise({.mode = CUDNN_POINTWISE_GEN_INDEX, .x = x, .y = y, .compute = compute, .axis = axis});
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
        graph_.pointwise({.mode = CUDNN_POINTWISE_BINARY_SELECT, .x = x, .b = nothing, .t = mask, .y = y});
        return y;
    }
    Id masked(Id x) {
        if (key_.ragged) {
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

    void forward() {
        const Key& n = key_;
        const Id q_len = plan_.q_lengths, k_len = plan_.k_lengths;
        plan_.q = graph_.real(rows(n.heads, n.all_heads, n.head_dim, plan_.q_offsets));
        plan_.k = graph_.real(transposed(rows(n.kv_heads, n.all_kv_heads, n.head_dim, plan_.k_offsets)));
        plan_.v = graph_.real(rows(n.kv_heads, n.all_kv_heads, n.value_dim, plan_.v_offsets));
        plan_.out = graph_.real(rows(n.heads, n.all_heads, n.value_dim, plan_.out_offsets));
        plan_.lse = graph_.real(statistics());
        plan_.scale = graph_.scalar();

        const Id raw = graph_.hidden(scores());
        graph_.matmul(plan_.q, plan_.k, raw, {.m = q_len, .n = k_len});
        const Id s = masked(apply(CUDNN_POINTWISE_MUL, raw, plan_.scale, scores()));
        const Id top = reduced(CUDNN_REDUCE_TENSOR_MAX, s);
        const Id shifted = apply(CUDNN_POINTWISE_SUB, s, top, scores());
        const Id e = apply(CUDNN_POINTWISE_EXP, shifted, 0, scores());
        const Id sum = reduced(CUDNN_REDUCE_TENSOR_ADD, e);
        const Id log_sum = apply(CUDNN_POINTWISE_LOG, sum, 0, packed(1));
        graph_.pointwise({.mode = CUDNN_POINTWISE_ADD, .x = top, .b = log_sum, .y = plan_.lse});
        const Id p = apply(CUDNN_POINTWISE_DIV, e, sum, scores(CUDNN_DATA_BFLOAT16));
        graph_.matmul(p, plan_.v, plan_.out, {.m = q_len, .k = k_len});
    }

    void backward() {
        const Key& n = key_;
        const Id q_len = plan_.q_lengths, k_len = plan_.k_lengths;
        const Form q_form = rows(n.heads, n.all_heads, n.head_dim, plan_.q_offsets);
        const Form k_form = rows(n.kv_heads, n.all_kv_heads, n.head_dim, plan_.k_offsets);
        const Form v_form = rows(n.kv_heads, n.all_kv_heads, n.value_dim, plan_.v_offsets);
        const Form out_form = rows(n.heads, n.all_heads, n.value_dim, plan_.out_offsets);
        plan_.q = graph_.real(q_form);
        plan_.k = graph_.real(transposed(k_form));
        plan_.v = graph_.real(transposed(v_form));
        plan_.out = graph_.real(out_form);
        plan_.d_out = graph_.real(out_form);
        plan_.lse = graph_.real(statistics());
        plan_.scale = graph_.scalar();
        plan_.d_q = graph_.real(q_form);
        plan_.d_k = graph_.real(k_form);
        plan_.d_v = graph_.real(v_form);

        Form product = packed(n.value_dim);
        product.strides[2] = n.heads * n.value_dim;  // as the frontend has it; the tensor is never stored
        const Id dots = reduced(CUDNN_REDUCE_TENSOR_ADD,
                                apply(CUDNN_POINTWISE_MUL, plan_.d_out, plan_.out, product));
        plan_.dots = graph_.real(statistics());
        graph_.pointwise({.mode = CUDNN_POINTWISE_MUL, .x = dots, .b = graph_.constant(1), .y = plan_.dots});

        const Id raw = graph_.hidden(scores());
        graph_.matmul(plan_.q, plan_.k, raw, {.m = q_len, .n = k_len});
        const Id scaled = apply(CUDNN_POINTWISE_MUL, raw, plan_.scale, scores());
        const Id shifted = masked(apply(CUDNN_POINTWISE_SUB, scaled, plan_.lse, scores()));
        const Id p = apply(CUDNN_POINTWISE_EXP, shifted, 0, scores());
        gradient_of_keys(p, plan_.d_out, v_form, plan_.d_v, plan_.d_v_heads);

        const Id d_p = graph_.hidden(scores());
        graph_.matmul(plan_.d_out, plan_.v, d_p, {.m = q_len, .n = k_len});
        const Id centered = apply(CUDNN_POINTWISE_SUB, d_p, plan_.dots, scores());
        const Id weighted = apply(CUDNN_POINTWISE_MUL, centered, p, scores());
        const Id d_s = apply(CUDNN_POINTWISE_MUL, weighted, plan_.scale, scores());
        gradient_of_keys(d_s, plan_.q, k_form, plan_.d_k, plan_.d_k_heads);

        Form k_again = k_form;
        k_again.type = CUDNN_DATA_FLOAT;
        const Id k = graph_.hidden(k_again);
        graph_.reshape(plan_.k, k);
        if (n.deterministic) return graph_.matmul(d_s, k, plan_.d_q, {.m = q_len, .k = k_len});
        Form sums = n.ragged ? q_form : packed(n.head_dim);
        sums.type = CUDNN_DATA_FLOAT;
        plan_.d_q_sums = graph_.real(sums);
        graph_.matmul(d_s, k, plan_.d_q_sums, {.m = q_len, .k = k_len});
        graph_.pointwise({.mode = CUDNN_POINTWISE_IDENTITY, .x = plan_.d_q_sums, .y = plan_.d_q});
    }

    /// d = (x^T y) summed over the query heads that share a head of d.
    void gradient_of_keys(Id x, Id y, const Form& form, Id d, Id& by_head) {
        Form turned = transposed(scores(CUDNN_DATA_BFLOAT16));
        const Id xt = graph_.hidden(turned);
        graph_.reshape(x, xt);
        const CudnnGraph::Extents extents{.m = plan_.k_lengths, .k = plan_.q_lengths};
        if (key_.group() == 1) return graph_.matmul(xt, y, d, extents);
        // Ragged: offsets are those of d, which cuDNN multiplies by the group.
        Form full = key_.ragged ? form : packed(form.dims[3]);
        full.type = CUDNN_DATA_BFLOAT16;
        full.dims[1] = key_.heads;
        if (key_.ragged) {
            full.strides[0] *= key_.group();
            full.strides[2] *= key_.group();
        }
        const Id heads = key_.ragged ? (by_head = graph_.real(full)) : graph_.hidden(full);
        graph_.matmul(xt, y, heads, extents);
        graph_.reduce(CUDNN_REDUCE_TENSOR_ADD, heads, d);
    }

    Key key_;
    Plan plan_;
    CudnnGraph graph_;
};

/// Where things lie in the workspace, in bytes.
struct CudnnAttention::Scratch {
    std::int64_t offsets = 0, lengths = 0, lse = 0, dots = 0, d_q = 0, d_k = 0, d_v = 0, plan = 0;
    std::int64_t bytes = 0;

    /// For `sequences` (as padded) of `tokens` in all that are done in parts `n`.
    Scratch(const Key& n, std::int64_t tokens, std::int64_t sequences, std::int64_t plan_bytes) {
        const std::int64_t rows = n.ragged ? tokens * n.all_heads : n.sequences * n.length * n.heads;
        if (n.ragged) {
            offsets = take(5 * 8 * (sequences + 1));
            lengths = take(4 * sequences);
        } else {
            lse = take(4 * tokens * n.all_heads);
        }
        if (n.backward) {
            dots = take(4 * rows);
            if (!n.deterministic) d_q = take(4 * rows * n.head_dim);
            if (n.ragged && n.group() > 1) {
                d_k = take(2 * rows * n.head_dim);
                d_v = take(2 * rows * n.value_dim);
            }
        }
        plan = take(plan_bytes);
    }

  private:
    std::int64_t take(std::int64_t count) { return std::exchange(bytes, bytes + round_up(count, 256)); }
};

struct CudnnAttention::Call {
    Tensor q, k, v, out, lse;
    Tensor d_q{}, d_k{}, d_v{}, d_out{};
    const Packing& packing;
    float scale;
};

CudnnAttention::CudnnAttention(const Context&) : device_(cudnn_device()) {
    cudnnHandle_t handle = nullptr;
    check(cudnnCreate(&handle));
    handle_ = UniqueHandle<cudnnHandle_t, CloseCudnn>(handle);
}
CudnnAttention::~CudnnAttention() = default;

CudnnAttention::Key CudnnAttention::key_of(const Context& c, const Packing& packing,
                                           const AttentionShape& shape, std::int64_t tokens, bool backward) {
    const bool uniform = tokens == packing.sequences * packing.max_length &&
                         packing.max_length % kUniformMultiple == 0;
    return {.sequences = uniform ? packing.sequences : power_of_two(packing.sequences),
            .length = uniform ? packing.max_length : power_of_two(std::max(packing.max_length, kShortest)),
            .heads = shape.heads,
            .kv_heads = shape.kv_heads,
            .all_heads = shape.heads,
            .all_kv_heads = shape.kv_heads,
            .head_dim = shape.head_dim,
            .value_dim = shape.width_of_value(),
            .ragged = !uniform,
            .backward = backward,
            .deterministic = backward && c.deterministic};
}

std::int64_t CudnnAttention::score_bytes(const Key& n) {
    if (!n.deterministic) return 0;
    const std::int64_t length = round_up(n.length, 128);
    return 2 * n.sequences * n.heads * length * length;
}

const CudnnAttention::Plan& CudnnAttention::plan_of(const Key& key) {
    std::unique_ptr<Plan>& plan = plans_[key];
    if (!plan) plan = Builder(key).build(device_);
    return *plan;
}

const CudnnAttention::Plan* CudnnAttention::choose(const Context& c, const Key& whole, std::int64_t tokens) {
    Key part = whole;
    for (;;) {
        const auto fits = [&](std::int64_t plan_bytes) {
            return Scratch(part, tokens, whole.sequences, plan_bytes).bytes <= c.workspace_bytes;
        };
        // A plan takes long to make: first a guess of what it will ask for.
        if (fits(score_bytes(part))) {
            const Plan& plan = plan_of(part);
            if (!plan.plan || fits(plan.plan->workspace())) return &plan;
        }
        if (part.sequences > 1) {
            part.sequences = divisor_below(whole.sequences, part.sequences);
        } else if (part.kv_heads > 1) {
            part.kv_heads = divisor_below(whole.kv_heads, part.kv_heads);
            part.heads = part.kv_heads * whole.group();
        } else {
            return nullptr;
        }
    }
}

bool CudnnAttention::supports(const Context& c, const AttentionShape& shape, const Packing& packing,
                              DType dtype, bool backward) {
    const auto served = [](std::int64_t width) {
        return width % kWidthMultiple == 0 && width > 0 && width <= kWidest;
    };
    if (dtype != DType::bf16 || !served(shape.head_dim) || !served(shape.width_of_value())) return false;
    const std::int64_t tokens = packing.positions.elements();
    if (tokens == 0) return true;
    const Plan* plan = choose(c, key_of(c, packing, shape, tokens, backward), tokens);
    return plan != nullptr && plan->plan;
}

std::int64_t CudnnAttention::workspace(const OpsLimits& limits, bool deterministic) {
    const std::int64_t tokens = limits.max_tokens, rows = tokens * limits.max_heads;
    const std::int64_t length = power_of_two(std::max(limits.max_length, kShortest));
    const std::int64_t sequences = power_of_two(tokens);
    // Offsets and lengths; log-sum-exps, dots; keys' and values' gradients by query head; cuDNN's own.
    std::int64_t bytes = 44 * (sequences + 1) + 8 * rows + 4 * rows * limits.max_head_dim +
                         kPlanBytes + kPlanBytesSequence * sequences;
    if (!deterministic) return bytes + 4 * rows * limits.max_head_dim;
    const std::int64_t whole = (tokens + length - 1) / length;
    return bytes + std::min(2 * whole * limits.max_heads * length * length, kScoreBytes);
}

void CudnnAttention::run(const Context& c, const Key& whole, const Call& call) {
    const std::int64_t tokens = call.q.dim(0);
    const Plan* chosen = choose(c, whole, tokens);
    if (chosen == nullptr || !chosen->plan) {
        const std::string why = chosen ? chosen->why : fmt::format("{} bytes of workspace", c.workspace_bytes);
        const std::string what = fmt::format("attention of {} sequences of up to {} tokens, {} heads", 
                                             whole.sequences, whole.length, whole.heads);
        require<DeckError>(!whole.deterministic,
                           "cuDNN has no deterministic backward pass for {} ({}): set run.deterministic = false",
                           what, why);
        throw InternalError(fmt::format("cuDNN declines {} ({})", what, why));
    }
    const Plan& p = *chosen;
    const Key& n = p.key;
    const Scratch at(n, tokens, whole.sequences, p.plan->workspace());
    std::byte* const scratch = c.scratch<std::byte>(at.bytes);
    auto* const offsets = reinterpret_cast<std::int64_t*>(scratch + at.offsets);
    auto* const lengths = reinterpret_cast<std::int32_t*>(scratch + at.lengths);
    auto* const lse = n.ragged ? call.lse.f32() : reinterpret_cast<float*>(scratch + at.lse);
    check(cudnnSetStream(handle_.get(), c.stream));

    if (n.ragged) {
        sequence_offsets(c, offsets, lengths, call.packing.starts.i32(), call.packing.sequences,
                         whole.sequences,
                         {.q = n.all_heads * n.head_dim,
                          .k = n.all_kv_heads * n.head_dim,
                          .v = n.all_kv_heads * n.value_dim,
                          .out = n.all_heads * n.value_dim,
                          .lse = n.all_heads});
    } else if (n.backward) {
        transpose(c, lse, call.lse.f32(), whole.sequences, n.length, n.all_heads);
    }
    for (std::int64_t sequence = 0; sequence < whole.sequences; sequence += n.sequences) {
        for (std::int64_t kv_head = 0; kv_head < n.all_kv_heads; kv_head += n.kv_heads) {
            const std::int64_t head = kv_head * n.group();
            const std::int64_t token = n.ragged ? 0 : sequence * n.length;
            const auto part = [&](const Tensor& x, std::int64_t first, std::int64_t all, std::int64_t width) {
                return static_cast<bf16*>(x.data()) + (token * all + first) * width;
            };
            const auto query = [&](const Tensor& x, std::int64_t width) {
                return part(x, head, n.all_heads, width);
            };
            const auto key = [&](const Tensor& x, std::int64_t width) {
                return part(x, kv_head, n.all_kv_heads, width);
            };
            std::vector<CudnnPlan::Place> places{
                {p.q, query(call.q, n.head_dim)},
                {p.k, key(call.k, n.head_dim)},
                {p.v, key(call.v, n.value_dim)},
                {p.out, query(call.out, n.value_dim)},
                {p.lse, lse + (n.ragged ? head : token * n.all_heads + head * n.length)},
                {p.scale, &call.scale}};
            if (n.ragged) {
                const std::int64_t stride = whole.sequences + 1;
                const Id ids[] = {p.q_offsets, p.k_offsets, p.v_offsets, p.out_offsets, p.lse_offsets};
                for (int i = 0; i < 5; ++i) places.emplace_back(ids[i], offsets + i * stride + sequence);
                places.emplace_back(p.q_lengths, lengths + sequence);
                places.emplace_back(p.k_lengths, lengths + sequence);
            }
            if (n.backward) {
                places.insert(places.end(), {{p.d_out, query(call.d_out, n.value_dim)},
                                             {p.d_q, query(call.d_q, n.head_dim)},
                                             {p.d_k, key(call.d_k, n.head_dim)},
                                             {p.d_v, key(call.d_v, n.value_dim)},
                                             {p.dots, scratch + at.dots}});
                if (p.d_q_sums != 0) places.emplace_back(p.d_q_sums, scratch + at.d_q);
                if (p.d_k_heads != 0) places.emplace_back(p.d_k_heads, scratch + at.d_k);
                if (p.d_v_heads != 0) places.emplace_back(p.d_v_heads, scratch + at.d_v);
            }
            p.plan->execute(handle_.get(), places, scratch + at.plan);
        }
    }
    if (!n.ragged && !n.backward) transpose(c, call.lse.f32(), lse, whole.sequences, n.all_heads, n.length);
}

void CudnnAttention::forward(const Context& c, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                             const Packing& packing, const AttentionShape& shape) {
    if (q.elements() == 0) return;
    run(c, key_of(c, packing, shape, q.dim(0), false),
        {.q = q, .k = k, .v = v, .out = out, .lse = lse, .packing = packing, .scale = shape.scale});
}

void CudnnAttention::backward(const Context& c, Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                              Tensor k, Tensor v, Tensor out, Tensor lse, const Packing& packing,
                              const AttentionShape& shape) {
    if (q.elements() == 0) return;
    run(c, key_of(c, packing, shape, q.dim(0), true),
        {.q = q, .k = k, .v = v, .out = out, .lse = lse, .d_q = d_q, .d_k = d_k, .d_v = d_v,
         .d_out = d_out, .packing = packing, .scale = shape.scale});
}

}  // namespace gradus::cuda
