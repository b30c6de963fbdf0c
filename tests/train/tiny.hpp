// SPDX-License-Identifier: Apache-2.0
// A small model with all that a training step needs, and batches for it.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "../device/test_device.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/train/trainer.hpp"

namespace gradus::test {

inline ModelConfig tiny_config() {
    return {.vocab_size = 28,
            .hidden = 16,
            .layers = 2,
            .heads = 4,
            .kv_heads = 2,
            .head_dim = 4,
            .intermediate = 24,
            .max_positions = 64,
            .qkv_bias = true,
            .qk_norm = true,
            .tied = false};
}

/// Latent attention, experts with a correction bias and groups, one shared, the first layer dense, and a
/// module of multi-token prediction.
inline ModelConfig tiny_experts() {
    ModelConfig c = tiny_config();
    c.qkv_bias = c.qk_norm = false;
    c.kv_heads = 4;
    c.latent = {.q_rank = 6, .kv_rank = 8, .nope_dim = 4, .rope_dim = 4, .value_dim = 4};
    c.head_dim = 8;
    c.rope_interleaved = true;
    c.moe = {.experts = 8,
             .per_token = 2,
             .intermediate = 8,
             .shared = 1,
             .dense_layers = {0},
             .score = RouterScore::sigmoid,
             .bias = true,
             .normalize = true,
             .scale = 1.5,
             .groups = 4,
             .top_groups = 2,
             .group_best = 2};
    c.mtp_layers = 1;
    return c;
}

/// The losses that only models with experts have.
struct MoreLosses {
    double balance_coef = 0, router_bias_rate = 0, mtp_coef = 0;
};

/// Everything on one grid; `planned`: sizes only.
struct Tiny {
    Tiny(const Grid& g, std::int64_t micro_tokens, AdamWOptions options = {}, bool planned = false,
         const ModelConfig& config = tiny_config(), MoreLosses more = {})
        : device(make_test_device()),
          arena(planned ? nullptr : device.get()),
          grid(g),
          ops(make_test_ops({.max_tokens = micro_tokens,
                             .max_length = micro_tokens,
                             .max_head_dim = config.head_dim,
                             .max_heads = config.heads / g.tensor_size(),
                             .max_width = config.hidden},
                            arena, Waiting::never)),
          parameters(config, grid, arena, true, "policy", more.mtp_coef > 0),
          model(config, grid, *ops, arena,
                {.max_tokens = micro_tokens,
                 .max_length = micro_tokens,
                 .mtp = more.mtp_coef > 0,
                 .head_chunk = 7}),
          optimizer(parameters, grid, *ops, arena, options),
          trainer(model, parameters, optimizer, grid, *ops, arena, profile,
                  {.micro_tokens = micro_tokens,
                   .balance_coef = more.balance_coef,
                   .router_bias_rate = more.router_bias_rate,
                   .mtp_coef = more.mtp_coef}) {
        if (planned) return;
        parameters.initialize(*ops, 17, 0.3);
        ops->synchronize();
    }

    std::unique_ptr<Device> device;
    Arena arena;
    const Grid& grid;
    std::unique_ptr<Ops> ops;
    ParameterSet parameters;
    Transformer model;
    AdamW optimizer;
    Profile profile;
    Trainer trainer;

    /// All of them, those without gradients last.
    std::vector<float> values() const {
        ops->synchronize();
        std::vector<float> all;
        for (const Tensor& x : {parameters.flat_values(), parameters.flat_untrained()})
            all.insert(all.end(), x.floats().begin(), x.floats().end());
        return all;
    }
};

/// All that the optimiser owns as checkpoint `step` of the run `dir`. Collective.
inline void write_checkpoint(const Tiny& tiny, const std::string& dir, std::int64_t step) {
    Arena arena(nullptr);
    CheckpointOptions options{.run_dir = dir, .background = false};
    options.fetch = [&tiny](void* to, const Slab& slab) {
        tiny.ops->download(to, Tensor(const_cast<void*>(slab.data), slab.dtype, slab.box.count));
    };
    CheckpointWriter writer(tiny.grid.world(), std::move(options), 0, arena);
    writer.write(step, tiny.optimizer.slabs(), Json::object(), "");
    writer.finish();
}

/// The gradient of the last, first step, parameter by parameter, where beta1 is 0.5.
inline std::vector<float> last_gradient(const Tiny& tiny) {
    tiny.ops->synchronize();
    std::vector<float> gradient;
    for (const Slab& slab : tiny.optimizer.slabs()) {
        if (slab.tensor.rfind("adam_m/", 0) != 0) continue;
        const auto* m = static_cast<const float*>(slab.data);
        for (std::int64_t i = 0; i < slab.box.elements(); ++i) gradient.push_back(2 * m[i]);
    }
    return gradient;
}

/// Sequences of 1 .. 20 tokens; prompts of up to 4 tokens have no weight.
inline std::vector<Sequence> tiny_batch(std::int64_t count, std::uint64_t which = 0) {
    RandomSequence random({.seed = 8, .stream = Stream::test, .prompt = which});
    std::vector<Sequence> batch;
    for (std::int64_t i = 0; i < count; ++i) {
        Sequence s;
        const std::int64_t n = i == 3 ? 1 : random.integer(2, 20);
        const std::int64_t prompt = random.integer(1, 4);
        for (std::int64_t t = 0; t < n; ++t) {
            s.tokens.push_back(static_cast<TokenId>(random.integer(0, 27)));
            s.weight.push_back(t < prompt ? 0.0f : 1.0f);
        }
        s.address = i;
        batch.push_back(std::move(s));
    }
    return batch;
}

/// The inputs of a policy step around log-probs `lp` of the batch.
inline void make_policy_batch(std::vector<Sequence>& batch,
                              const std::vector<std::vector<float>>& lp) {
    RandomSequence random({.seed = 9, .stream = Stream::test});
    for (std::size_t i = 0; i < batch.size(); ++i) {
        Sequence& s = batch[i];
        const auto advantage = static_cast<float>(2 * random.uniform() - 1);
        s.advantage.assign(s.tokens.size(), advantage);
        s.old_log_prob = s.ref_log_prob = s.sampler_log_prob = lp[i];
        for (std::size_t t = 1; t < s.tokens.size(); ++t) {
            s.old_log_prob[t] += static_cast<float>(0.6 * (random.uniform() - 0.5));
            s.ref_log_prob[t] += static_cast<float>(random.uniform() - 0.5);
            s.sampler_log_prob[t] += static_cast<float>(0.01 * (random.uniform() - 0.5));
        }
    }
}

/// Losses of every kind, each with some of the other terms. `smooth`: the gradient is that of the value; a
/// weight without a gradient in CISPO, a divergence with another's in k3+.
struct NamedLoss {
    const char* name;
    PolicyLossOptions options;
    bool smooth = true;
};
inline std::vector<NamedLoss> losses_of_every_kind() {
    using A = Aggregation;
    return {
        {"grpo", {.clip_high = 0.25, .kl_coef = 0.05, .entropy_coef = 0.02}},
        {"dapo", {.clip_high = 0.28, .aggregation = A::token_mean}},
        {"dr-grpo", {.entropy_coef = 0.01, .aggregation = A::constant, .length = 9}},
        {"dual clip and delta", {.delta = 1.2, .dual_clip = 1.1, .ratio_clamp = 20, .aggregation = A::token_sum}},
        {"cispo", {.objective = Objective::cispo, .clip_low = 1, .clip_high = 0.1}, false},
        {"sapo", {.objective = Objective::sapo, .kl = {.kind = KlKind::k2}, .kl_coef = 0.1}},
        {"vespo", {.objective = Objective::vespo, .weight_gradient = true, .aggregation = A::token_mean}},
        {"gspo", {.ratio = RatioLevel::sequence, .clip_low = 0.05, .clip_high = 0.05}},
        {"luspo",
         {.ratio = RatioLevel::sequence, .kl_coef = 0.02, .kl_correction = KlCorrection::ratio,
          .aggregation = A::sequence_sum}},
        {"reinforce",
         {.objective = Objective::reinforce, .kl = {.kind = KlKind::k1}, .kl_coef = 0.1,
          .kl_correction = KlCorrection::ratio}},
        {"k3+", {.kl = {.k2_gradient = true}, .kl_coef = 0.2, .kl_correction = KlCorrection::score}, false},
        {"sampler ratios",
         {.kl = {.kind = KlKind::abs}, .kl_coef = 0.1, .sampler_ratio = SamplerRatio::token_truncate,
          .sampler_max = 1.1}},
        {"masked sequences",
         {.sampler_ratio = SamplerRatio::sequence_mask, .sampler_min = 0.9, .sampler_max = 1.1,
          .off_policy_limit = 0.1}},
    };
}

/// Largest difference of two arrays beside the largest entry.
inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double largest = 1e-30, difference = a.size() == b.size() ? 0 : INFINITY;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        largest = std::max(largest, std::abs(static_cast<double>(a[i])));
        difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    }
    return difference / largest;
}

}  // namespace gradus::test
