// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>

#include "gradus/rollout/engine.hpp"

namespace gradus {

inline std::int64_t pages_for(std::int64_t tokens, std::int64_t page_size) {
    return (tokens + page_size - 1) / page_size;
}

/// What lasts from one call of generate() to the next.
struct Engine::Impl {
    Transformer& model;
    const Tokenizer& tokenizer;
    const Grid& grid;
    Ops& ops;
    Profile& profile;
    Limits limits;
    std::int64_t max_pages = 0, draw_rows = 0;
    std::vector<PagedCache> caches;
    // Inputs of a prefill, i32; `last`: hidden states to draw first tokens from.
    Tensor tokens, positions, starts, slots, copy_from, copy_to, last_rows, first_bits, last;
    /// Inputs of a decode step in one piece, so that one copy brings them.
    struct StepInputs {
        Tensor all, tokens, positions, slots, lengths, bits, page_table;
        std::vector<std::int32_t> host;
        std::int32_t* at(const Tensor& part) {
            return host.data() + (part.i32() - all.i32());
        }
    } step;
    Tensor drawn;  ///< i32 [2, max(draw_rows, slots)]: tokens, then the bits of their log-probs
    /// Decode steps of one number of rows, recorded for one set of parameters and way of sampling.
    struct RecordedStep {
        const void* weights = nullptr;
        SamplingOptions sampling;
        std::unique_ptr<Recording> recording;
    };
    std::map<std::int64_t, RecordedStep> steps;  ///< by rows
    std::function<void()> on_pass;
    std::int64_t preemptions = 0;  ///< of the latest call of generate()

    Impl(Transformer& m, const Tokenizer& t, const Grid& grid, Ops& o, Arena& arena, Profile& p,
         Limits l);
    Tensor drawn_tokens(std::int64_t n) const { return drawn.rows(0, 1).as({n}); }
    Tensor drawn_log_probs(std::int64_t n) const {
        return {drawn.rows(1, 1).data(), DType::f32, {n}};
    }
    /// What was drawn for n rows; waits.
    std::vector<SampledToken> take_drawn(std::int64_t n);
    void fill(const Tensor& to, const std::vector<std::int32_t>& values) {
        ops.upload(to.as({static_cast<std::int64_t>(values.size())}), values.data());
    }
    /// Model and sampling of a decode step of `rows` rows, with the inputs that `step` holds.
    void decode(const ParameterSet& parameters, std::int64_t rows, const SamplingOptions& sampling);
    void run_step(const ParameterSet& parameters, std::int64_t rows, const SamplingOptions& sampling);

    /// Before each pass, where passes are made together: whether any rank still has one to make.
    bool pass_is_due(bool mine) {
        if (on_pass) on_pass();
        return model.passes_are_collective() ? grid.expert().max(mine ? 1 : 0) > 0 : mine;
    }
    /// A pass without tokens, for the sake of other ranks.
    void idle_pass(const ParameterSet& parameters) {
        fill(starts, {0});
        const PackedTokens nothing{.tokens = tokens.as({0}),
                                   .packing = {.starts = starts.as({1}), .positions = positions.as({0})}};
        model.prefill(parameters, nothing, caches, slots.as({0}));
    }
};

}  // namespace gradus
