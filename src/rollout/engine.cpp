// SPDX-License-Identifier: Apache-2.0
#include "gradus/rollout/engine.hpp"

#include <algorithm>
#include <deque>
#include <optional>

#include "gradus/base/error.hpp"
#include "gradus/rollout/page_pool.hpp"

namespace gradus {
namespace {

std::int64_t pages_for(std::int64_t tokens, std::int64_t page_size) {
    return (tokens + page_size - 1) / page_size;
}

/// A prompt whose keys and values are in the cache, for as long as samples of it wait to start.
struct Prompt {
    std::size_t request = 0;
    std::vector<std::int32_t> pages;
    std::vector<float> logits;  ///< after the last prompt token, [V]
    std::int32_t started = 0;   ///< samples that have a slot or are done
};

/// A sequence being decoded.
struct Slot {
    std::size_t result = 0;  ///< index into the results
    std::size_t request = 0;
    std::int64_t cached = 0;  ///< tokens in the cache
    TokenId next = 0;         ///< sampled, not yet fed
    std::vector<std::int32_t> pages;
};

}  // namespace

struct Engine::Impl {
    Transformer& model;
    const Tokenizer& tokenizer;
    const Grid& grid;
    Ops& ops;
    Profile& profile;
    Limits limits;
    std::vector<PagedCache> caches;
    // Inputs of one pass, on the device.
    Tensor tokens, positions, starts, slots, lengths, page_table, rows, copy_from, copy_to, last;
    std::int64_t max_pages = 0;
    std::function<void()> on_pass;

    /// Before each pass, where passes are made together: whether any rank still has one to make.
    bool pass_is_due(bool mine) {
        if (on_pass) on_pass();
        return model.passes_are_collective() ? grid.expert().max(mine ? 1 : 0) > 0 : mine;
    }
    /// A pass without tokens, for the sake of other ranks.
    void idle_pass(const ParameterSet& parameters) {
        starts.i32()[0] = 0;
        const PackedTokens nothing{.tokens = tokens.as({0}),
                                   .packing = {.starts = starts.as({1}), .positions = positions.as({0})}};
        model.prefill(parameters, nothing, caches, slots.as({0}));
    }
    Impl(Transformer& m, const Tokenizer& t, const Grid& grid, Ops& o, Arena& arena, Profile& p,
         Limits l);
};

Engine::Impl::Impl(Transformer& m, const Tokenizer& t, const Grid& grid_in, Ops& o, Arena& arena,
                   Profile& p, Limits l)
    : model(m), tokenizer(t), grid(grid_in), ops(o), profile(p), limits(l) {
    const ModelConfig& config = model.config();
    max_pages = pages_for(limits.max_length, limits.page_size);
    // One page more a sequence: the prompt's own copy of its last, partly filled page.
    if (limits.pages == 0) limits.pages = limits.slots * (max_pages + 1);
    const CacheShape shape = cache_shape(config, grid.tensor_size());
    const auto pages = [&](const char* name, std::int64_t width) {
        return arena.take(name, DType::f32, {limits.pages, limits.page_size, shape.heads, width});
    };
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
        PagedCache& cache = caches.emplace_back();
        cache.page_size = limits.page_size;
        cache.keys = pages("cache.keys", shape.key_dim);
        if (shape.value_dim > 0) cache.values = pages("cache.values", shape.value_dim);
    }
    const std::int64_t most = std::max(limits.prefill_tokens, limits.slots);
    auto ints = [&](Shape s) { return arena.take("decode.inputs", DType::i32, s); };
    tokens = ints({most});
    positions = ints({most});
    slots = ints({most});
    starts = ints({most + 1});
    lengths = ints({limits.slots});
    page_table = ints({limits.slots, max_pages});
    rows = ints({limits.slots});
    copy_from = ints({limits.slots});
    copy_to = ints({limits.slots});
    last = arena.take("decode.inputs", DType::f32, {limits.slots, config.hidden});
}

Engine::Engine(Transformer& model, const Tokenizer& tokenizer, const Grid& grid, Ops& ops,
               Arena& arena, Profile& profile, Limits limits)
    : impl_(std::make_unique<Impl>(model, tokenizer, grid, ops, arena, profile, limits)) {}
Engine::~Engine() = default;

namespace {

/// One call of generate(): the waiting, the prompts in the cache, the sequences being decoded.
class Generation {
  public:
    Generation(Engine::Impl& e, const ParameterSet& p, const std::vector<Request>& r,
               const GenerationOptions& o, const Engine::FinishedCallback& f);
    bool done() const { return finished_ == static_cast<std::int64_t>(results_.size()); }
    void admit();
    void decode_step();
    std::vector<Generated> take();

  private:
    void check_requests() const;
    void check_request(const Request& request) const;
    std::int64_t private_pages(const Request& request) const;
    void prefill_waiting(std::int64_t free_slots);
    void prefill(std::size_t first, std::size_t count);
    bool start_sample(Prompt& prompt);
    void flush_copies();
    /// Samples the next token of a sequence; true if the sequence is complete.
    bool sample(std::size_t result, std::size_t request, std::span<const float> logits,
                TokenId& next);
    bool hits_stop(const std::vector<TokenId>& tokens) const;

    Engine::Impl& e_;
    const ParameterSet& parameters_;
    const std::vector<Request>& requests_;
    const GenerationOptions& options_;
    const Engine::FinishedCallback& on_finished_;
    PagePool pool_;
    std::int64_t reserved_ = 0;  ///< free pages promised to running sequences
    std::vector<Generated> results_;
    std::vector<std::size_t> first_result_;  ///< of each request
    std::size_t next_request_ = 0;           ///< first request without a prompt in the cache
    std::deque<Prompt> prompts_;
    std::vector<Slot> running_;
    std::vector<std::int32_t> copies_from_, copies_to_;
    std::int64_t finished_ = 0;
    std::size_t longest_stop_ = 0;
};

Generation::Generation(Engine::Impl& e, const ParameterSet& p, const std::vector<Request>& r,
                       const GenerationOptions& o, const Engine::FinishedCallback& f)
    : e_(e), parameters_(p), requests_(r), options_(o), on_finished_(f), pool_(e.limits.pages) {
    check_requests();
    for (const Request& request : requests_) {
        first_result_.push_back(results_.size());
        for (std::int32_t s = 0; s < request.samples; ++s)
            results_.push_back(
                {.prompt = request.prompt, .sample = request.first_sample + s});
    }
    for (const std::string& stop : options_.stop)
        longest_stop_ = std::max(longest_stop_, stop.size());
}

void Generation::check_requests() const {
    require<DataError>(options_.max_new_tokens > 0, "rollout.max_new_tokens = {}: at least 1",
                       options_.max_new_tokens);
    for (const std::string& stop : options_.stop)
        require<DataError>(!stop.empty(), "rollout.stop has an empty text, which every response "
                                          "contains: leave it out");
    for (const Request& request : requests_) check_request(request);
}

void Generation::check_request(const Request& request) const {
    const auto length = static_cast<std::int64_t>(request.tokens.size());
    require<DataError>(length > 0, "prompt {} is empty", request.prompt);
    require<DataError>(request.samples > 0, "prompt {}: {} samples are asked for, at least 1",
                       request.prompt, request.samples);
    require<DataError>(length + options_.max_new_tokens <= e_.limits.max_length,
                       "prompt {} has {} tokens; with rollout.max_new_tokens = {} that is more "
                       "than the {} positions planned (model.max_positions, train.max_length)",
                       request.prompt, length, options_.max_new_tokens, e_.limits.max_length);
    require<DataError>(length <= e_.limits.prefill_tokens,
                       "prompt {} has {} tokens, more than train.micro_tokens = {}", request.prompt,
                       length, e_.limits.prefill_tokens);
    const std::int64_t pages = pages_for(length, e_.limits.page_size) + private_pages(request);
    require<DataError>(pages <= pool_.size(),
                       "the key/value cache has {} pages; prompt {} with one response takes {}: "
                       "give it more or lower rollout.max_new_tokens",
                       pool_.size(), request.prompt, pages);
    const std::int64_t vocabulary = e_.model.config().vocab_size;
    for (const TokenId token : request.tokens)
        require<DataError>(token >= 0 && token < vocabulary,
                           "prompt {} holds token {}; the model's vocabulary has {}",
                           request.prompt, token, vocabulary);
}

/// Pages that a sample needs beyond the full prompt pages that it shares.
std::int64_t Generation::private_pages(const Request& request) const {
    const auto prompt = static_cast<std::int64_t>(request.tokens.size());
    return pages_for(prompt + options_.max_new_tokens, e_.limits.page_size) -
           prompt / e_.limits.page_size;
}

void Generation::admit() {
    for (;;) {
        auto free_slots = e_.limits.slots - static_cast<std::int64_t>(running_.size());
        while (free_slots > 0 && !prompts_.empty() && start_sample(prompts_.front()))
            free_slots = e_.limits.slots - static_cast<std::int64_t>(running_.size());
        const std::size_t before = next_request_;
        if (free_slots > 0 && prompts_.empty()) prefill_waiting(free_slots);
        if (next_request_ == before) break;
    }
    flush_copies();
}

/// Queued copies must be made before their source pages can be handed out again.
void Generation::flush_copies() {
    if (copies_from_.empty()) return;
    const auto n = static_cast<std::int64_t>(copies_from_.size());
    std::copy(copies_from_.begin(), copies_from_.end(), e_.copy_from.i32());
    std::copy(copies_to_.begin(), copies_to_.end(), e_.copy_to.i32());
    for (const PagedCache& cache : e_.caches)
        e_.ops.kv_copy_pages(cache, e_.copy_from.as({n}), e_.copy_to.as({n}));
    copies_from_.clear();
    copies_to_.clear();
}

/// Computes as many waiting prompts as slots, pages and the token budget of a pass allow; a few more
/// than the free slots take, because one pass over several prompts is faster than one for each.
void Generation::prefill_waiting(std::int64_t free_slots) {
    std::int64_t tokens = 0, pages = pool_.free_pages() - reserved_;
    std::int64_t slots = free_slots + e_.limits.slots / 8;
    std::size_t count = 0;
    while (next_request_ + count < requests_.size() && slots > 0 &&
           static_cast<std::int64_t>(count) < e_.limits.slots) {
        const Request& request = requests_[next_request_ + count];
        const auto length = static_cast<std::int64_t>(request.tokens.size());
        const std::int64_t own = pages_for(length, e_.limits.page_size);
        // At least one sample must be able to start, or the prompt would block its pages; those
        // behind the first take no pages that samples before them could use.
        const std::int64_t starting = count == 0 ? 1 : request.samples;
        if (tokens + length > e_.limits.prefill_tokens) break;
        if (own + starting * private_pages(request) > pages) break;
        tokens += length;
        pages -= own + request.samples * private_pages(request);
        slots -= request.samples;
        ++count;
    }
    if (count > 0) prefill(next_request_, count);
    next_request_ += count;
}

void Generation::prefill(std::size_t first, std::size_t count) {
    Profile::Region region(e_.profile, "rollout.prefill");
    std::int64_t t = 0, longest = 0;
    std::int32_t* starts = e_.starts.i32();
    starts[0] = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const Request& request = requests_[first + i];
        Prompt prompt{.request = first + i};
        const auto length = static_cast<std::int64_t>(request.tokens.size());
        for (std::int64_t p = 0; p < pages_for(length, e_.limits.page_size); ++p)
            prompt.pages.push_back(pool_.take());
        for (std::int64_t p = 0; p < length; ++p, ++t) {
            const std::int64_t page = prompt.pages[static_cast<std::size_t>(p / e_.limits.page_size)];
            e_.tokens.i32()[t] = request.tokens[static_cast<std::size_t>(p)];
            e_.positions.i32()[t] = static_cast<std::int32_t>(p);
            e_.slots.i32()[t] =
                static_cast<std::int32_t>(page * e_.limits.page_size + p % e_.limits.page_size);
        }
        starts[i + 1] = static_cast<std::int32_t>(t);
        e_.rows.i32()[i] = static_cast<std::int32_t>(t - 1);
        longest = std::max(longest, length);
        prompts_.push_back(std::move(prompt));
    }
    const auto n = static_cast<std::int64_t>(count);
    const PackedTokens batch{.tokens = e_.tokens.as({t}),
                             .packing = {.starts = e_.starts.as({n + 1}),
                                         .positions = e_.positions.as({t}),
                                         .sequences = n,
                                         .max_length = longest}};
    e_.pass_is_due(true);
    const Tensor hidden = e_.model.prefill(parameters_, batch, e_.caches, e_.slots.as({t}));
    const Tensor ends = e_.last.rows(0, n);
    e_.ops.gather_rows(ends, hidden, e_.rows.as({n}));
    const auto vocab = static_cast<std::size_t>(e_.model.config().vocab_size);
    for (std::int64_t i = 0; i < n; ++i) {
        const auto logits = e_.model.logits(parameters_, ends.rows(i, 1));
        Prompt& prompt = prompts_[prompts_.size() - count + static_cast<std::size_t>(i)];
        prompt.logits.assign(logits.begin(), logits.begin() + static_cast<std::ptrdiff_t>(vocab));
    }
}

/// Gives the prompt's next sample a slot; false if pages are lacking. Drops the prompt from the
/// cache once its last sample has started.
bool Generation::start_sample(Prompt& prompt) {
    const Request& request = requests_[prompt.request];
    const std::int64_t needed = private_pages(request);
    if (pool_.free_pages() - reserved_ < needed) return false;
    const std::size_t result =
        first_result_[prompt.request] + static_cast<std::size_t>(prompt.started++);
    TokenId next = 0;
    if (!sample(result, prompt.request, prompt.logits, next)) {
        const auto length = static_cast<std::int64_t>(request.tokens.size());
        const auto full = static_cast<std::size_t>(length / e_.limits.page_size);
        Slot slot{.result = result, .request = prompt.request, .cached = length, .next = next};
        slot.pages.assign(prompt.pages.begin(),
                          prompt.pages.begin() + static_cast<std::ptrdiff_t>(full));
        for (std::int32_t page : slot.pages) pool_.share(page);
        reserved_ += needed;
        if (full < prompt.pages.size()) {
            // Rows of the partly filled page are written by each sample: a copy a sample.
            slot.pages.push_back(pool_.take());
            --reserved_;
            copies_from_.push_back(prompt.pages[full]);
            copies_to_.push_back(slot.pages.back());
        }
        running_.push_back(std::move(slot));
    }
    if (prompt.started == request.samples) {
        flush_copies();
        for (std::int32_t page : prompt.pages) pool_.drop(page);
        prompts_.pop_front();
    }
    return true;
}

bool Generation::hits_stop(const std::vector<TokenId>& tokens) const {
    if (longest_stop_ == 0) return false;
    const std::size_t tail = std::min(tokens.size(), longest_stop_);
    std::vector<TokenId> last(tokens.end() - static_cast<std::ptrdiff_t>(tail), tokens.end());
    // Padded rows of the model's vocabulary stand for nothing.
    std::erase_if(last, [&](TokenId t) { return t >= e_.tokenizer.vocab_size(); });
    const std::string text = e_.tokenizer.decode(last);
    return std::any_of(options_.stop.begin(), options_.stop.end(), [&](const std::string& stop) {
        return text.find(stop) != std::string::npos;
    });
}

bool Generation::sample(std::size_t result, std::size_t request, std::span<const float> logits,
                        TokenId& next) {
    Generated& out = results_[result];
    const SampledToken drawn = sample_token(
        logits, options_.sampling,
        {.seed = options_.seed,
         .stream = options_.stream,
         .step = options_.step,
         .prompt = static_cast<std::uint64_t>(requests_[request].prompt),
         .sample = static_cast<std::uint32_t>(out.sample),
         .position = static_cast<std::uint32_t>(out.tokens.size())});
    out.tokens.push_back(drawn.token);
    out.log_probs.push_back(drawn.log_prob);
    next = drawn.token;
    bool complete = true;
    if (std::find(options_.end_tokens.begin(), options_.end_tokens.end(), drawn.token) !=
        options_.end_tokens.end())
        out.finish = FinishReason::eos;
    else if (hits_stop(out.tokens))
        out.finish = FinishReason::stop;
    else if (static_cast<std::int64_t>(out.tokens.size()) >= options_.max_new_tokens)
        out.finish = FinishReason::length;
    else
        complete = false;
    if (complete) {
        ++finished_;
        if (on_finished_) on_finished_(out, result);
    }
    return complete;
}

void Generation::decode_step() {
    const auto n = static_cast<std::int64_t>(running_.size());
    if (n == 0) {
        require(done(), "no response can start although {} of {} pages are free, {} promised",
                pool_.free_pages(), pool_.size(), reserved_);
        return;
    }
    Profile::Region region(e_.profile, "rollout.decode");
    for (std::int64_t b = 0; b < n; ++b) {
        Slot& slot = running_[static_cast<std::size_t>(b)];
        const std::int64_t at = slot.cached++;
        if (at / e_.limits.page_size >= static_cast<std::int64_t>(slot.pages.size())) {
            slot.pages.push_back(pool_.take());
            --reserved_;
        }
        const std::int64_t page = slot.pages[static_cast<std::size_t>(at / e_.limits.page_size)];
        e_.tokens.i32()[b] = slot.next;
        e_.positions.i32()[b] = static_cast<std::int32_t>(at);
        e_.slots.i32()[b] =
            static_cast<std::int32_t>(page * e_.limits.page_size + at % e_.limits.page_size);
        e_.lengths.i32()[b] = static_cast<std::int32_t>(slot.cached);
        std::copy(slot.pages.begin(), slot.pages.end(), e_.page_table.i32() + b * e_.max_pages);
    }
    e_.pass_is_due(true);
    const Tensor hidden = e_.model.decode(
        parameters_, e_.tokens.as({n}), e_.positions.as({n}), e_.slots.as({n}),
        e_.page_table.as({n, e_.max_pages}), e_.lengths.as({n}), e_.caches);

    const auto vocab = static_cast<std::size_t>(e_.model.config().vocab_size);
    const std::int64_t chunk = std::max<std::int64_t>(1, e_.model.logit_rows());
    std::vector<bool> complete(static_cast<std::size_t>(n));
    for (std::int64_t begin = 0; begin < n; begin += chunk) {
        const std::int64_t count = std::min(chunk, n - begin);
        const auto logits = e_.model.logits(parameters_, hidden.rows(begin, count));
        Profile::Region sampling(e_.profile, "rollout.sample");
        for (std::int64_t b = begin; b < begin + count; ++b) {
            Slot& slot = running_[static_cast<std::size_t>(b)];
            complete[static_cast<std::size_t>(b)] =
                sample(slot.result, slot.request,
                       logits.subspan(static_cast<std::size_t>(b - begin) * vocab, vocab), slot.next);
        }
    }
    std::vector<Slot> still;
    still.reserve(running_.size());
    for (std::size_t b = 0; b < running_.size(); ++b) {
        if (!complete[b]) {
            still.push_back(std::move(running_[b]));
            continue;
        }
        const Slot& slot = running_[b];
        const Request& request = requests_[slot.request];
        const auto shared = static_cast<std::int64_t>(request.tokens.size()) / e_.limits.page_size;
        const auto taken = static_cast<std::int64_t>(slot.pages.size()) - shared;
        reserved_ -= private_pages(request) - taken;
        for (std::int32_t page : slot.pages) pool_.drop(page);
    }
    running_ = std::move(still);
}

std::vector<Generated> Generation::take() {
    require(pool_.free_pages() == pool_.size() && reserved_ == 0,
            "after generation {} of {} pages of the key/value cache are free, {} promised",
            pool_.free_pages(), pool_.size(), reserved_);
    return std::move(results_);
}

}  // namespace

std::vector<Generated> Engine::generate(const ParameterSet& parameters,
                                        const std::vector<Request>& requests,
                                        const GenerationOptions& options,
                                        const FinishedCallback& finished) {
    impl_->on_pass = options.on_pass;
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
