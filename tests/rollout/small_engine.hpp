// SPDX-License-Identifier: Apache-2.0
// A small model that generates letters, with an engine of chosen limits.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "../train/tiny.hpp"
#include "gradus/rollout/engine.hpp"

namespace gradus::test {

/// a .. z, then "qu" 26 and "<eos>" 27. `eos` may be another token, or -1: none.
class Letters : public Tokenizer {
  public:
    explicit Letters(TokenId eos) {
        if (eos >= 0) eos_ = {eos};
    }
    std::int32_t vocab_size() const override { return 28; }
    std::vector<TokenId> encode(std::string_view text, bool) const override {
        std::vector<TokenId> tokens;
        for (const char c : text) tokens.push_back(c - 'a');
        return tokens;
    }
    std::string decode(std::span<const TokenId> tokens) const override {
        std::string text;
        for (const TokenId t : tokens) text += token_bytes(t);
        return text;
    }
    std::string_view token_bytes(TokenId t) const override {
        constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz";
        return t < 26 ? kLetters.substr(static_cast<std::size_t>(t), 1) : t == 26 ? "qu" : "<eos>";
    }
    TokenId special(std::string_view name) const override { return name == "<eos>" ? 27 : -1; }
    const std::vector<TokenId>& eos_ids() const override { return eos_; }
    TokenId bos() const override { return -1; }
    std::string identity() const override { return "letters"; }

  private:
    std::vector<TokenId> eos_;
};

inline const Grid& one_rank() {
    static const Grid one(MPI_COMM_SELF, 1);
    return one;
}

struct SmallEngine {
    struct Setup {
        Engine::Limits limits{.slots = 5, .max_length = 48, .page_size = 4, .prefill_tokens = 48};
        TokenId eos = 27;
        std::int64_t head_chunk = 3;
        ModelConfig config = tiny_config();
    };
    explicit SmallEngine(Setup s, const Grid& grid = one_rank())
        : setup(std::move(s)),
          device(make_test_device()),
          arena(device.get()),
          ops(make_test_ops({.max_tokens = std::max(setup.limits.prefill_tokens, setup.limits.slots),
                             .max_length = setup.limits.max_length,
                             .max_head_dim = setup.config.head_dim,
                             .max_heads = setup.config.heads / grid.tensor_size(),
                             .max_width = setup.config.hidden,
                             .max_decode = setup.limits.slots},
                            arena, Waiting::never)),
          parameters(setup.config, grid, arena, false, "policy"),
          model(setup.config, grid, *ops, arena,
                {.max_tokens = setup.limits.prefill_tokens,
                 .max_length = setup.limits.max_length,
                 .train = false,
                 .max_decode = setup.limits.slots,
                 .head_chunk = setup.head_chunk}),
          tokenizer(setup.eos),
          engine(model, tokenizer, grid, *ops, arena, profile, setup.limits) {
        parameters.initialize(*ops, 17, 0.3);
        ops->synchronize();
    }
    SmallEngine() : SmallEngine(Setup{}) {}

    std::vector<Generated> generate(const std::vector<Request>& requests,
                                    GenerationOptions options,
                                    const Engine::FinishedCallback& finished = {}) {
        if (options.end_tokens.empty()) options.end_tokens = tokenizer.eos_ids();
        return engine.generate(parameters, requests, options, finished);
    }
    /// Times that a region was entered.
    long calls(const std::string& region) const {
        for (const Profile::Row& row : profile.rows())
            if (row.name == region) return row.calls;
        return 0;
    }
    /// Nearly all probability goes to `token`: one coordinate of the stream is always the largest.
    void always_say(TokenId token) {
        const std::int64_t width = setup.config.hidden;
        const Tensor embedding = parameters.at("model.embed_tokens.weight").value;
        for (std::int64_t t = 0; t < embedding.dim(0); ++t) embedding.f32()[t * width] = 100;
        parameters.at("lm_head.weight").value.f32()[token * width] = 50;
    }

    Setup setup;
    std::unique_ptr<Device> device;
    Arena arena;
    std::unique_ptr<Ops> ops;
    ParameterSet parameters;
    Transformer model;
    Letters tokenizer;
    Profile profile;
    Engine engine;
};

/// Prompts of the given lengths, 1 to 5 samples each, numbered with gaps.
inline std::vector<Request> make_requests(const std::vector<std::int64_t>& lengths) {
    std::vector<Request> requests;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        RandomSequence random({.seed = 12, .stream = Stream::test, .prompt = i});
        Request r{.prompt = static_cast<std::int64_t>(100 + 3 * i),
                  .samples = static_cast<std::int32_t>(1 + 3 * i % 5)};
        for (std::int64_t t = 0; t < lengths[i]; ++t)
            r.tokens.push_back(static_cast<TokenId>(random.integer(0, 26)));
        requests.push_back(std::move(r));
    }
    return requests;
}
/// Shorter, as long as and longer than a page of 4; the shortest and the longest that there may be
/// with 30 new tokens and a length of 48.
inline std::vector<Request> usual_requests() {
    return make_requests({5, 1, 8, 17, 4, 3, 18, 12, 2, 11});
}
inline const GenerationOptions kUsual{.max_new_tokens = 30, .seed = 5, .step = 9};

/// Some units in the last place of a log-prob: what products over batches of other sizes and sums
/// over pages of other sizes may differ by: up to 6e-6 was seen. Many BLAS kernels give the same bits.
constexpr double kRounding = 2e-5;

/// Largest difference of log-probs, beside their size where that is above 1; infinite where
/// anything else differs.
inline double distance(const Generated& a, const Generated& b) {
    if (a.prompt != b.prompt || a.sample != b.sample || a.tokens != b.tokens ||
        a.finish != b.finish || a.log_probs.size() != b.log_probs.size())
        return INFINITY;
    double worst = 0;
    for (std::size_t t = 0; t < a.log_probs.size(); ++t) {
        const double wanted = b.log_probs[t];
        const double d = std::abs(a.log_probs[t] - wanted) / std::max(1.0, std::abs(wanted));
        if (!(d <= worst)) worst = d;
    }
    return std::isnan(worst) ? INFINITY : worst;
}
inline double distance(const std::vector<Generated>& a, const std::vector<Generated>& b) {
    if (a.size() != b.size()) return INFINITY;
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, distance(a[i], b[i]));
    return worst;
}

}  // namespace gradus::test
