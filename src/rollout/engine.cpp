// SPDX-License-Identifier: Apache-2.0
#include "gradus/rollout/engine.hpp"

#include <algorithm>
#include <optional>

#include "generation.hpp"
#include "gradus/base/error.hpp"

namespace gradus {
namespace {

bool same(const SamplingOptions& a, const SamplingOptions& b) {
    return a.temperature == b.temperature && a.top_p == b.top_p && a.top_k == b.top_k;
}

}  // namespace

Engine::Impl::Impl(Transformer& m, const Tokenizer& t, const Grid& grid_in, Ops& o, Arena& arena,
                   Profile& p, Limits l)
    : model(m), tokenizer(t), grid(grid_in), ops(o), profile(p), limits(l) {
    const ModelConfig& config = model.config();
    max_pages = pages_for(limits.max_length, limits.page_size);
    // One page more a sequence: the prompt's own copy of its last, partly filled page.
    const std::int64_t enough = limits.slots * (max_pages + 1);
    limits.pages = limits.pages == 0 ? enough : std::min(limits.pages, enough);
    const CacheShape shape = cache_shape(config, grid.tensor_size());
    const auto pages = [&](const char* name, std::int64_t width) {
        // Nothing is in the cache before a call of generate() and of use after it.
        return arena.take(name, model.dtype(), {limits.pages, limits.page_size, shape.heads, width},
                          Phase::generation);
    };
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
        PagedCache& cache = caches.emplace_back();
        cache.page_size = limits.page_size;
        cache.keys = pages("cache.keys", shape.key_dim);
        if (shape.value_dim > 0) cache.values = pages("cache.values", shape.value_dim);
    }
    draw_rows = model.logit_rows();
    const std::int64_t most = std::max(limits.prefill_tokens, limits.slots);
    const auto ints = [&](Shape s) { return arena.take("decode.inputs", DType::i32, s); };
    for (Tensor* x : {&tokens, &positions, &slots}) *x = ints({most});
    starts = ints({most + 1});
    copy_from = ints({limits.slots});
    copy_to = ints({limits.slots});
    last_rows = ints({draw_rows});
    first_bits = ints({draw_rows});
    last = arena.take("decode.inputs", model.dtype(), {draw_rows, config.hidden});
    drawn = ints({2, std::max(draw_rows, limits.slots)});
    const std::int64_t n = limits.slots;
    step.all = ints({n * (5 + max_pages)});
    if (!step.all) return;  // planned
    std::int64_t at = 0;
    for (Tensor* x : {&step.tokens, &step.positions, &step.slots, &step.lengths, &step.bits}) {
        *x = step.all.rows(at, n);
        at += n;
    }
    step.page_table = step.all.rows(at, n * max_pages).as({n, max_pages});
    step.host.resize(static_cast<std::size_t>(step.all.elements()));
}

std::vector<SampledToken> Engine::Impl::take_drawn(std::int64_t n) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
    std::vector<float> log_probs(ids.size());
    ops.download(ids.data(), drawn_tokens(n));
    ops.download(log_probs.data(), drawn_log_probs(n));
    std::vector<SampledToken> result;
    for (std::size_t i = 0; i < ids.size(); ++i) result.push_back({ids[i], log_probs[i]});
    return result;
}

void Engine::Impl::decode(const ParameterSet& parameters, std::int64_t rows,
                          const SamplingOptions& sampling) {
    const Tensor hidden = model.decode(
        parameters, step.tokens.as({rows}), step.positions.as({rows}), step.slots.as({rows}),
        step.page_table.as({rows, max_pages}), step.lengths.as({rows}), caches);
    for (std::int64_t at = 0; at < rows; at += draw_rows) {
        const std::int64_t n = std::min(draw_rows, rows - at);
        ops.sample(drawn_tokens(rows).rows(at, n), drawn_log_probs(rows).rows(at, n),
                   model.logits(parameters, hidden.rows(at, n)), step.bits.rows(at, n), sampling);
    }
}

void Engine::Impl::run_step(const ParameterSet& parameters, std::int64_t rows,
                            const SamplingOptions& sampling) {
    if (ops.on_host() || !model.decode_is_recordable()) return decode(parameters, rows, sampling);
    RecordedStep& recorded = steps[rows];
    // By the weights' memory, which is what a recording holds; lists may be made anew at an old address.
    const void* set = parameters.flat_values().data();
    if (recorded.recording && recorded.weights == set && same(recorded.sampling, sampling))
        return recorded.recording->replay();
    recorded = {set, sampling, ops.record([this, &parameters, rows, sampling] {
                    decode(parameters, rows, sampling);
                })};
}

Engine::Engine(Transformer& model, const Tokenizer& tokenizer, const Grid& grid, Ops& ops,
               Arena& arena, Profile& profile, Limits limits)
    : impl_(std::make_unique<Impl>(model, tokenizer, grid, ops, arena, profile, limits)) {}
Engine::~Engine() = default;

std::int64_t Engine::preemptions() const { return impl_->preemptions; }

std::vector<Generated> Engine::generate(const ParameterSet& parameters,
                                        const std::vector<Request>& requests,
                                        const GenerationOptions& options,
                                        const FinishedCallback& finished) {
    impl_->on_pass = options.on_pass;
    impl_->preemptions = 0;
    std::optional<Generation> started;
    std::string refusal;
    try {
        started.emplace(*impl_, parameters, requests, options, finished);
    } catch (const DataError& e) {
        refusal = e.what();
    }
    // Others would wait for the passes of a rank that has refused.
    std::vector<std::string> refusals = {refusal};
    if (impl_->model.passes_are_collective()) refusals = impl_->grid.expert().all_gather(refusal);
    for (const std::string& text : refusals) require<DataError>(text.empty(), "{}", text);
    Generation& generation = *started;
    while (!generation.done()) {
        generation.admit();
        generation.decode_step();
    }
    while (impl_->pass_is_due(false)) impl_->idle_pass(parameters);
    return generation.take();
}

}  // namespace gradus
