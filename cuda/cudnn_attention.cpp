// SPDX-License-Identifier: Apache-2.0
// Attention through cuDNN: which plan, where its tensors lie, and the work in parts. Two layouts:
// sequences of one length that is a multiple of 128, or ragged ones, with offsets. Gradients of
// keys and values are made a query head and summed over the group in float32.
//
// Bound: FLOPs, 2 nh (D + Dv) a pair of tokens forward, 2 nh (3 D + 2 Dv) backward. TFLOP/s seen
// on one H100 (cuDNN 9.19): forward / backward / deterministic backward within workspace():
//   4 x 4096 tokens, heads 12/2 of 128   562 / 440 / 397     ragged   520 / 415 / 380
//   4 x 4096 tokens, heads 14/2 of 64    404 / 344 / 265     ragged   357 / 319 / 245
//   4 x 4096 tokens, heads 16/16 of 192, values 128          569 / 433 / 361
//   1 x 32768 tokens, heads 12/2 of 128  643 / 545 / 381
// Padding costs deterministic passes only. Forward passes repeat bit by bit always.
#include "cudnn_attention.hpp"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "cudnn_attention_kernels.hpp"
#include "kernels.hpp"

namespace gradus::cuda {

namespace {

constexpr std::int64_t kWidthMultiple = 16, kWidest = 256;  ///< of heads
constexpr std::int64_t kUniformMultiple = 128;  ///< of lengths that have plans of their own
/// What workspace() grants to scores in memory; more sequences or heads are done in parts.
constexpr std::int64_t kScoreBytes = std::int64_t{2} << 30;
/// What cuDNN's plans take besides: 450 bytes a sequence were seen.
constexpr std::int64_t kPlanBytes = std::int64_t{1} << 20, kPlanBytesSequence = 512;

std::int64_t round_up(std::int64_t n, std::int64_t to) {
    return (n + to - 1) / to * to;
}
std::int64_t power_of_two(std::int64_t n) {
    return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(n)));
}
/// Powers of two and three steps between them, from 64 on; multiples of 128 above.
std::int64_t round_length(std::int64_t n) {
    return round_up(n, std::max<std::int64_t>(n > 64 ? 128 : 64, power_of_two(n) / 8));
}
/// The largest divisor of n that is less than `below`.
std::int64_t divisor_below(std::int64_t n, std::int64_t below) {
    do --below;
    while (n % below != 0);
    return below;
}
/// What scores in memory take of a plan's workspace.
std::int64_t score_bytes(const AttentionPart& n) {
    if (!n.deterministic) return 0;
    const std::int64_t length = round_up(n.length, 128);
    return 2 * n.sequences * n.heads * length * length;
}
/// In the order of run_part()'s offsets.
SequenceWidths widths_of(const AttentionPart& n) {
    const std::int64_t kv_gradients = n.all_heads * n.kv_heads / n.heads;
    return {{n.all_heads * n.head_dim, n.all_kv_heads * n.head_dim, n.all_kv_heads * n.value_dim,
             n.all_heads * n.value_dim, n.all_heads, kv_gradients * n.head_dim,
             kv_gradients * n.value_dim}};
}
bool grouped(const AttentionPart& n) {
    return n.all_heads != n.all_kv_heads;
}

AttentionPart whole_of(const Context& c, const Packing& packing, const AttentionShape& shape,
                       std::int64_t tokens, bool backward) {
    const bool uniform = tokens == packing.sequences * packing.max_length &&
                         packing.max_length % kUniformMultiple == 0;
    return {.sequences = uniform ? packing.sequences : power_of_two(packing.sequences),
            .length = uniform ? packing.max_length : round_length(packing.max_length),
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

/// Fewer sequences, then fewer groups of heads, then fewer heads of a group; false: nothing is left
/// to cut.
bool cut(AttentionPart& part, const AttentionPart& whole) {
    const std::int64_t group = whole.heads / whole.kv_heads;
    if (part.sequences > 1) {
        part.sequences = divisor_below(whole.sequences, part.sequences);
    } else if (part.kv_heads > 1) {
        part.kv_heads = divisor_below(whole.kv_heads, part.kv_heads);
        part.heads = part.kv_heads * group;
    } else if (part.heads > 1) {
        part.heads = divisor_below(group, part.heads);
    } else {
        return false;
    }
    return true;
}

}  // namespace

/// Where things lie in the workspace, in bytes; counts are those of AttentionPlan's tensors.
struct CudnnAttention::Scratch {
    std::int64_t offsets = 0, lengths = 0, lse = 0, dots = 0, d_q_sums = 0, d_k = 0, d_v = 0,
                 plan = 0;
    std::int64_t sequences = 0;  ///< padded
    std::int64_t bytes = 0;

    /// For `all_sequences` of `tokens` in all that are done in parts `n`.
    Scratch(const AttentionPart& n, std::int64_t tokens, std::int64_t all_sequences,
            std::int64_t plan_bytes)
        : sequences(all_sequences) {
        const std::int64_t all = tokens * n.all_heads;
        const std::int64_t some = n.ragged ? all : n.sequences * n.length * n.heads;
        if (n.ragged) {
            offsets = take(8 * SequenceWidths::kCount * (sequences + 1));
            lengths = take(4 * sequences);
        } else {
            lse = take(4 * all);
        }
        if (n.backward) {
            dots = take(4 * some);
            if (!n.deterministic) d_q_sums = take(4 * some * n.head_dim);
            if (grouped(n)) {
                d_k = take(2 * all * n.head_dim);
                d_v = take(2 * all * n.value_dim);
            }
        }
        plan = take(plan_bytes);
    }

  private:
    std::int64_t take(std::int64_t count) {
        return std::exchange(bytes, bytes + round_up(count, 256));
    }
};

struct CudnnAttention::Call {
    Tensor q, k, v, out, lse;
    Tensor d_q{}, d_k{}, d_v{}, d_out{};
    const Packing& packing;
    float scale;
};

CudnnAttention::CudnnAttention() : device_(cudnn_device()) {
    cudnnHandle_t handle = nullptr;
    check(cudnnCreate(&handle));
    handle_ = UniqueHandle<cudnnHandle_t, CloseCudnn>(handle);
}

const AttentionPlan& CudnnAttention::plan_of(const AttentionPart& part) {
    std::unique_ptr<AttentionPlan>& plan = plans_[part];
    if (!plan) plan = make_attention_plan(part, device_);
    return *plan;
}

const AttentionPlan* CudnnAttention::choose(const Context& c, const AttentionPart& whole,
                                            std::int64_t tokens) {
    AttentionPart part = whole;
    do {
        const auto fits = [&](std::int64_t plan_bytes) {
            return Scratch(part, tokens, whole.sequences, plan_bytes).bytes <= c.workspace_bytes;
        };
        if (!fits(score_bytes(part))) continue;  // known without the plan, which takes time to make
        const AttentionPlan& plan = plan_of(part);
        if (!plan.plan || fits(plan.plan->workspace())) return &plan;
    } while (cut(part, whole));
    return nullptr;
}

bool CudnnAttention::supports(const Context& c, const AttentionShape& shape, const Packing& packing,
                              DType dtype, bool backward) {
    const auto served = [](std::int64_t width) {
        return width % kWidthMultiple == 0 && width > 0 && width <= kWidest;
    };
    if (dtype != DType::bf16 || !served(shape.head_dim) || !served(shape.width_of_value()))
        return false;
    const std::int64_t tokens = packing.positions.elements();
    if (tokens == 0) return true;
    const AttentionPlan* plan = choose(c, whole_of(c, packing, shape, tokens, backward), tokens);
    return plan != nullptr && plan->plan;
}

std::int64_t CudnnAttention::workspace(const OpsLimits& limits, bool deterministic) {
    const std::int64_t tokens = std::max<std::int64_t>(limits.max_tokens, 1);
    const std::int64_t rows = tokens * limits.max_heads, sequences = power_of_two(tokens);
    const std::int64_t length = round_length(std::max<std::int64_t>(limits.max_length, 1));
    // Offsets, lengths and cuDNN's own; log-sum-exps and dots; gradients of keys and values by
    // query head.
    const std::int64_t bytes = kPlanBytes +
                               (kPlanBytesSequence + 8 * SequenceWidths::kCount + 4) * sequences +
                               8 * rows + 4 * rows * limits.max_head_dim;
    if (!deterministic) return bytes + 4 * rows * limits.max_head_dim;
    const AttentionPart scores{.sequences = round_up(tokens, length) / length,
                               .length = length,
                               .heads = limits.max_heads,
                               .deterministic = true};
    return bytes + std::min(score_bytes(scores), kScoreBytes);
}

void CudnnAttention::run(const Context& c, const AttentionPart& whole, const Call& call) {
    const std::int64_t tokens = call.q.dim(0);
    const AttentionPlan* plan = choose(c, whole, tokens);
    if (plan == nullptr || !plan->plan) {
        const std::string what = fmt::format(
            "attention over sequences of {} tokens, {} heads of {} and {} ({})", whole.length,
            whole.heads, whole.head_dim, whole.value_dim,
            plan ? plan->why : fmt::format("in {} bytes of workspace", c.workspace_bytes));
        require<DeckError>(
            !whole.deterministic,
            "cuDNN has no deterministic backward pass for {}: set run.deterministic = false", what);
        throw InternalError("cuDNN declines " + what);
    }
    const AttentionPart& n = plan->part;
    const Scratch at(n, tokens, whole.sequences, plan->plan->workspace());
    std::byte* const scratch = c.scratch<std::byte>(at.bytes);
    auto* const lse = reinterpret_cast<float*>(scratch + at.lse);
    check(cudnnSetStream(handle_.get(), c.stream));

    if (n.ragged) {
        sequence_offsets(c, reinterpret_cast<std::int64_t*>(scratch + at.offsets),
                         reinterpret_cast<std::int32_t*>(scratch + at.lengths),
                         call.packing.starts.i32(), call.packing.sequences, at.sequences,
                         widths_of(n));
    } else if (n.backward) {
        transpose(c, lse, call.lse.f32(), whole.sequences, n.length, n.all_heads);
    }
    for (std::int64_t sequence = 0; sequence < whole.sequences; sequence += n.sequences) {
        for (std::int64_t head = 0; head < n.all_heads; head += n.heads) {
            run_part(*plan, call, at, scratch, sequence, head);
        }
    }
    if (!n.backward) {
        if (!n.ragged) transpose(c, call.lse.f32(), lse, whole.sequences, n.all_heads, n.length);
    } else if (grouped(n)) {
        const Tensor d_k(scratch + at.d_k, DType::bf16, {tokens, n.all_heads, n.head_dim});
        const Tensor d_v(scratch + at.d_v, DType::bf16, {tokens, n.all_heads, n.value_dim});
        sum_columns(c, call.d_k, 0, d_k, 0, n.head_dim);
        sum_columns(c, call.d_v, 0, d_v, 0, n.value_dim);
    }
}

void CudnnAttention::run_part(const AttentionPlan& p, const Call& call, const Scratch& at,
                              std::byte* scratch, std::int64_t sequence, std::int64_t head) {
    const AttentionPart& n = p.part;
    const std::int64_t token = n.ragged ? 0 : sequence * n.length;
    const std::int64_t kv_head = head / (n.all_heads / n.all_kv_heads);
    using Id = CudnnGraph::Id;
    const auto place = [&](Id id, void* tensor, std::int64_t first, std::int64_t all,
                           std::int64_t width) {
        const std::int64_t numbers = (token * all + first) * width;
        return CudnnPlan::Place{id,
                                static_cast<std::byte*>(tensor) + size_of(DType::bf16) * numbers};
    };
    const auto query = [&](Id id, void* tensor, std::int64_t width) {
        return place(id, tensor, head, n.all_heads, width);
    };
    const auto key = [&](Id id, void* tensor, std::int64_t width) {
        return place(id, tensor, kv_head, n.all_kv_heads, width);
    };
    const float* lse = n.ragged ? call.lse.f32() + head
                                : reinterpret_cast<const float*>(scratch + at.lse) +
                                      token * n.all_heads + head * n.length;
    std::vector<CudnnPlan::Place> places{query(p.q, call.q.data(), n.head_dim),
                                         key(p.k, call.k.data(), n.head_dim),
                                         key(p.v, call.v.data(), n.value_dim),
                                         query(p.out, call.out.data(), n.value_dim),
                                         {p.lse, lse},
                                         {p.scale, &call.scale}};
    if (n.ragged) {
        const auto* offsets =
            reinterpret_cast<const std::int64_t*>(scratch + at.offsets) + sequence;
        const auto* lengths =
            reinterpret_cast<const std::int32_t*>(scratch + at.lengths) + sequence;
        for (const Id id : {p.q_offsets, p.k_offsets, p.v_offsets, p.out_offsets, p.lse_offsets,
                            p.d_k_offsets, p.d_v_offsets}) {
            if (id != CudnnGraph::kNone) places.emplace_back(id, offsets);
            offsets += at.sequences + 1;
        }
        places.emplace_back(p.q_lengths, lengths);
        places.emplace_back(p.k_lengths, lengths);
    }
    if (n.backward) {
        void* const d_k = grouped(n) ? scratch + at.d_k : call.d_k.data();
        void* const d_v = grouped(n) ? scratch + at.d_v : call.d_v.data();
        places.insert(places.end(), {query(p.d_out, call.d_out.data(), n.value_dim),
                                     query(p.d_q, call.d_q.data(), n.head_dim),
                                     query(p.d_k, d_k, n.head_dim),
                                     query(p.d_v, d_v, n.value_dim),
                                     {p.dots, scratch + at.dots}});
        if (!n.deterministic) places.emplace_back(p.d_q_sums, scratch + at.d_q_sums);
    }
    p.plan->execute(handle_.get(), places, scratch + at.plan);
}

void CudnnAttention::forward(const Context& c, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                             const Packing& packing, const AttentionShape& shape) {
    if (q.elements() == 0) return;
    run(c, whole_of(c, packing, shape, q.dim(0), false),
        {.q = q, .k = k, .v = v, .out = out, .lse = lse, .packing = packing, .scale = shape.scale});
}

void CudnnAttention::backward(const Context& c, Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out,
                              Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse,
                              const Packing& packing, const AttentionShape& shape) {
    if (q.elements() == 0) return;
    run(c, whole_of(c, packing, shape, q.dim(0), true),
        {.q = q,
         .k = k,
         .v = v,
         .out = out,
         .lse = lse,
         .d_q = d_q,
         .d_k = d_k,
         .d_v = d_v,
         .d_out = d_out,
         .packing = packing,
         .scale = shape.scale});
}

}  // namespace gradus::cuda
