// SPDX-License-Identifier: Apache-2.0
#include "gradus/rollout/engine.hpp"

#include <algorithm>
#include <deque>
#include <map>
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
    std::vector<SampledToken> first;  ///< of each sample
    std::int32_t started = 0;         ///< samples that have a slot or are done
};

/// A sequence being decoded, or one that was preempted: it has no pages and waits to resume.
struct Slot {
    std::size_t result = 0;  ///< index into the results
    std::size_t request = 0;
    std::int64_t cached = 0;  ///< tokens in the cache; of one that waits: to be computed again
    TokenId next = 0;         ///< sampled, not yet fed
    std::int64_t most = 0;    ///< pages at its full length
    bool preemptible = false;
    std::vector<std::int32_t> pages;

    std::int64_t lacking() const { return most - static_cast<std::int64_t>(pages.size()); }
};

/// Tokens from a sequence's beginning, and the pages that their keys and values go to.
struct Text {
    std::vector<TokenId> tokens;
    std::span<const std::int32_t> pages;
};

/// Decode steps of one number of rows, recorded for one set of parameters and way of sampling.
struct RecordedStep {
    const void* weights = nullptr;
    SamplingOptions sampling;
    std::unique_ptr<Recording> recording;
};

bool same(const SamplingOptions& a, const SamplingOptions& b) {
    return a.temperature == b.temperature && a.top_p == b.top_p && a.top_k == b.top_k;
}

}  // namespace

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
    Tensor drawn;  ///< i32 [2, draw_rows]: tokens, then the bits of their log-probs
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

namespace {

/// One call of generate(): the waiting, the prompts in the cache, the sequences being decoded.
///
/// Most sequences start when the pages that they need next are free, far fewer than they may come to
/// take; where a page is lacking later, the sequence that started last gives back all of its own and
/// waits (it is preempted). It resumes by a prefill of its prompt and the tokens that it has; as draws
/// are addressed, it goes on with the tokens that it would have had. Where that prefill could be too
/// long for a pass, sequences are not preemptible: they start when all pages that they could ever
/// take are free, and these are reserved for them.
///
/// All requests are met. Sequences whose pages are reserved can always go on. Preemptible ones that run
/// are older than those that wait, these are older than all that have not started, and the last of the
/// running ones is preempted first. So when the oldest finds no page, and no reserved sequence runs that
/// would give its own back at its end, then all pages but the oldest's are those of prompts_. But
///
///     (pages of prompts_) + (most pages of s) <= all pages    for every preemptible sequence s that
///                                                             runs, waits or is one of prompts_,
///
/// so there is a page for it. prefill_waiting() keeps this: only there the left side grows, while no
/// sequence waits. For the same reason the oldest of the waiting can resume once nothing runs, and
/// the front of prompts_ can start (one that is not preemptible: by the same bound for its private
/// pages). Nobody is preempted at once for one that starts or resumes: see spare_pages().
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
    std::int64_t most_pages(const Request& request) const;
    std::int64_t private_pages(const Request& request) const;
    std::int64_t pages_to_start(const Request& request) const;
    bool preemptible(const Request& request) const;
    std::int64_t spare_pages() const;
    void take_page(Slot& slot);
    void make_room();
    void preempt_last();
    void resume_waiting();
    void prefill_waiting(std::int64_t free_slots);
    void prefill(std::size_t first, std::size_t count);
    Tensor compute(std::span<const Text> texts);
    bool start_sample(Prompt& prompt);
    void fill_step(std::int64_t n);
    void flush_copies();
    void draw_first_tokens(Tensor hidden, std::span<Prompt* const> prompts,
                           std::span<const std::int32_t> ends);
    /// The random bits that the next token of a result is drawn with.
    std::int32_t bits_for(std::size_t result, std::size_t request) const;
    /// Takes the next token of a sequence; true if the sequence is complete. Throws NumericError where
    /// its logits were not finite.
    bool accept(std::size_t result, std::size_t request, const SampledToken& drawn);
    bool hits_stop(const std::vector<TokenId>& tokens) const;

    Engine::Impl& e_;
    const ParameterSet& parameters_;
    const std::vector<Request>& requests_;
    const GenerationOptions& options_;
    const Engine::FinishedCallback& on_finished_;
    PagePool pool_;
    std::int64_t reserved_ = 0;  ///< free pages promised to sequences that are not preemptible
    std::vector<Generated> results_;
    std::vector<std::size_t> first_result_;  ///< of each request
    std::size_t next_request_ = 0;           ///< first request without a prompt in the cache
    std::deque<Prompt> prompts_;
    std::vector<Slot> running_;  ///< the preemptible ones among them in the order of their results
    std::deque<Slot> waiting_;   ///< preempted, in the order of their results
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

/// Pages of a sequence at its full length.
std::int64_t Generation::most_pages(const Request& request) const {
    return pages_for(static_cast<std::int64_t>(request.tokens.size()) + options_.max_new_tokens,
                     e_.limits.page_size);
}

/// Pages that a sample needs beyond the full prompt pages that it shares.
std::int64_t Generation::private_pages(const Request& request) const {
    return most_pages(request) -
           static_cast<std::int64_t>(request.tokens.size()) / e_.limits.page_size;
}

/// Pages that must be free for a sample to start: if it is preemptible, for its copy of the partly
/// filled prompt page and the page after it.
std::int64_t Generation::pages_to_start(const Request& request) const {
    const std::int64_t all = private_pages(request);
    if (!preemptible(request)) return all;
    const auto length = static_cast<std::int64_t>(request.tokens.size());
    return std::min<std::int64_t>(all, length % e_.limits.page_size > 0 ? 2 : 1);
}

/// Whether samples may be preempted: what is computed again fits a pass, and beside the prompt's pages,
/// kept for the samples behind, there is room for a resumed sequence, which shares none with it.
bool Generation::preemptible(const Request& request) const {
    const auto length = static_cast<std::int64_t>(request.tokens.size());
    return length + options_.max_new_tokens <= e_.limits.prefill_tokens &&
           pages_for(length, e_.limits.page_size) + most_pages(request) <= pool_.size();
}

/// Pages that something new may take. Each preemptible sequence that runs keeps one free for itself, so
/// that all get on by a page's tokens before anything that starts now can cause a preemption.
std::int64_t Generation::spare_pages() const {
    return pool_.free_pages() - reserved_ -
           std::count_if(running_.begin(), running_.end(), [](const Slot& slot) {
               return slot.preemptible && slot.lacking() > 0;
           });
}

void Generation::take_page(Slot& slot) {
    slot.pages.push_back(pool_.take());
    if (!slot.preemptible) --reserved_;
}

/// Gives each running sequence the page that its next token goes to, the oldest first; who is
/// preempted for it has none yet.
void Generation::make_room() {
    for (std::size_t b = 0; b < running_.size(); ++b) {
        const auto needs_page = [&](const Slot& slot) {
            return slot.cached / e_.limits.page_size >= static_cast<std::int64_t>(slot.pages.size());
        };
        // The last one may be b itself; the next then takes its place here.
        while (b < running_.size() && needs_page(running_[b])) {
            if (running_[b].preemptible && pool_.free_pages() == reserved_)
                preempt_last();
            else
                take_page(running_[b]);
        }
    }
}

void Generation::preempt_last() {
    auto last = running_.end();
    do --last;
    while (!last->preemptible);
    for (std::int32_t page : last->pages) pool_.drop(page);
    last->pages.clear();
    waiting_.push_front(std::move(*last));
    running_.erase(last);
    ++e_.preemptions;
}

/// Computes preempted sequences again, the oldest first, as many in a pass as its token budget allows.
void Generation::resume_waiting() {
    for (;;) {
        const std::size_t first = running_.size();
        std::int64_t tokens = 0;
        while (!waiting_.empty() && static_cast<std::int64_t>(running_.size()) < e_.limits.slots) {
            Slot& slot = waiting_.front();
            const std::int64_t own = pages_for(slot.cached, e_.limits.page_size);
            if (tokens + slot.cached > e_.limits.prefill_tokens) break;
            if (spare_pages() < std::min(own + 1, slot.most)) break;
            tokens += slot.cached;
            for (std::int64_t p = 0; p < own; ++p) take_page(slot);
            running_.push_back(std::move(slot));
            waiting_.pop_front();
        }
        std::vector<Text> texts;
        for (std::size_t i = first; i < running_.size(); ++i) {
            const Slot& slot = running_[i];
            Text& text = texts.emplace_back(Text{requests_[slot.request].tokens, slot.pages});
            const std::vector<TokenId>& drawn = results_[slot.result].tokens;
            text.tokens.insert(text.tokens.end(), drawn.begin(), drawn.end() - 1);
        }
        if (texts.empty()) return;
        Profile::Region region(e_.profile, "rollout.prefill");
        compute(texts);
    }
}

void Generation::admit() {
    resume_waiting();
    // Those that still wait are older than anything new.
    while (waiting_.empty()) {
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
    e_.fill(e_.copy_from, copies_from_);
    e_.fill(e_.copy_to, copies_to_);
    for (const PagedCache& cache : e_.caches)
        e_.ops.kv_copy_pages(cache, e_.copy_from.as({n}), e_.copy_to.as({n}));
    copies_from_.clear();
    copies_to_.clear();
}

/// Computes as many waiting prompts as slots, pages and the token budget of a pass allow; a few more
/// than the free slots take, because one pass over several prompts is faster than one for each.
/// Called with neither prompts in the cache nor preempted sequences.
void Generation::prefill_waiting(std::int64_t free_slots) {
    std::int64_t tokens = 0, slots = free_slots, spare = spare_pages();
    // What is left if all that runs or starts takes its full length.
    std::int64_t surplus = pool_.free_pages() - reserved_;
    std::int64_t held = 0, largest = 0;  // the two sides of the invariant, see Generation
    for (const Slot& slot : running_) {
        if (!slot.preemptible) continue;
        surplus -= slot.lacking();
        largest = std::max(largest, slot.most);
    }
    std::size_t count = 0;
    while (next_request_ + count < requests_.size() && slots + e_.limits.slots / 8 > 0 &&
           static_cast<std::int64_t>(count) < e_.limits.slots) {
        const Request& request = requests_[next_request_ + count];
        const auto length = static_cast<std::int64_t>(request.tokens.size());
        const std::int64_t own = pages_for(length, e_.limits.page_size);
        if (tokens + length > e_.limits.prefill_tokens) break;
        largest = std::max(largest, preemptible(request) ? most_pages(request) : private_pages(request));
        if (held + own + largest > pool_.size()) break;
        // At least one sample must be able to start, or the prompt would block its pages. Those ahead
        // of the free slots take no pages that samples before them could use.
        const std::int64_t starting =
            count == 0 ? 1 : std::clamp<std::int64_t>(slots, 0, request.samples);
        if (starting > 0 && own + starting * pages_to_start(request) > spare) break;
        const std::int64_t most = own + request.samples * private_pages(request);
        if (starting == 0 && most > surplus) break;
        tokens += length;
        held += own;
        spare -= own + starting * pages_to_start(request);
        surplus -= most;
        slots -= request.samples;
        ++count;
    }
    if (count > 0) prefill(next_request_, count);
    next_request_ += count;
}

void Generation::prefill(std::size_t first, std::size_t count) {
    Profile::Region region(e_.profile, "rollout.prefill");
    std::vector<Text> texts;
    std::vector<Prompt*> fresh;
    std::vector<std::int32_t> ends;
    std::int32_t end = -1;
    for (std::size_t i = 0; i < count; ++i) {
        const std::vector<TokenId>& tokens = requests_[first + i].tokens;
        const auto length = static_cast<std::int64_t>(tokens.size());
        Prompt& prompt = prompts_.emplace_back(Prompt{.request = first + i});
        for (std::int64_t p = 0; p < pages_for(length, e_.limits.page_size); ++p)
            prompt.pages.push_back(pool_.take());
        texts.push_back({tokens, prompt.pages});
        fresh.push_back(&prompt);
        ends.push_back(end += static_cast<std::int32_t>(length));
    }
    draw_first_tokens(compute(texts), fresh, ends);
}

/// One pass over texts from their beginnings; returns the hidden states of all tokens.
Tensor Generation::compute(std::span<const Text> texts) {
    std::size_t longest = 0;
    std::vector<std::int32_t> tokens, positions, slots, starts(1, 0);
    for (const Text& text : texts) {
        for (std::size_t p = 0; p < text.tokens.size(); ++p) {
            const auto at = static_cast<std::int64_t>(p);
            const std::int64_t page = text.pages[static_cast<std::size_t>(at / e_.limits.page_size)];
            tokens.push_back(text.tokens[p]);
            positions.push_back(static_cast<std::int32_t>(p));
            slots.push_back(
                static_cast<std::int32_t>(page * e_.limits.page_size + at % e_.limits.page_size));
        }
        starts.push_back(static_cast<std::int32_t>(tokens.size()));
        longest = std::max(longest, text.tokens.size());
    }
    e_.fill(e_.tokens, tokens);
    e_.fill(e_.positions, positions);
    e_.fill(e_.slots, slots);
    e_.fill(e_.starts, starts);
    const auto n = static_cast<std::int64_t>(texts.size()), t = static_cast<std::int64_t>(tokens.size());
    const PackedTokens batch{.tokens = e_.tokens.as({t}),
                             .packing = {.starts = e_.starts.as({n + 1}),
                                         .positions = e_.positions.as({t}),
                                         .sequences = n,
                                         .max_length = static_cast<std::int64_t>(longest)}};
    e_.pass_is_due(true);
    return e_.model.prefill(parameters_, batch, e_.caches, e_.slots.as({t}));
}

/// All samples of a prompt begin from the same hidden state, each with bits of its own.
void Generation::draw_first_tokens(Tensor hidden, std::span<Prompt* const> prompts,
                                   std::span<const std::int32_t> ends) {
    struct Draw {
        Prompt* prompt;
        std::int32_t row, bits;
    };
    std::vector<Draw> draws;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        const std::size_t request = prompts[i]->request;
        for (std::int32_t s = 0; s < requests_[request].samples; ++s)
            draws.push_back({prompts[i], ends[i],
                             bits_for(first_result_[request] + static_cast<std::size_t>(s), request)});
    }
    for (std::size_t at = 0; at < draws.size(); at += static_cast<std::size_t>(e_.draw_rows)) {
        const std::size_t count = std::min(draws.size() - at, static_cast<std::size_t>(e_.draw_rows));
        std::vector<std::int32_t> rows, bits;
        for (std::size_t i = at; i < at + count; ++i) {
            rows.push_back(draws[i].row);
            bits.push_back(draws[i].bits);
        }
        const auto n = static_cast<std::int64_t>(count);
        e_.fill(e_.last_rows, rows);
        e_.fill(e_.first_bits, bits);
        e_.ops.gather_rows(e_.last.rows(0, n), hidden, e_.last_rows.as({n}));
        e_.ops.sample(e_.drawn_tokens(n), e_.drawn_log_probs(n),
                      e_.model.logits(parameters_, e_.last.rows(0, n)), e_.first_bits.as({n}),
                      options_.sampling);
        const std::vector<SampledToken> drawn = e_.take_drawn(n);
        for (std::size_t i = 0; i < count; ++i) draws[at + i].prompt->first.push_back(drawn[i]);
    }
}

/// Gives the prompt's next sample a slot; false if pages are lacking. Drops the prompt from the
/// cache once its last sample has started.
bool Generation::start_sample(Prompt& prompt) {
    const Request& request = requests_[prompt.request];
    if (spare_pages() < pages_to_start(request)) return false;
    const auto number = static_cast<std::size_t>(prompt.started++);
    const std::size_t result = first_result_[prompt.request] + number;
    const SampledToken first = prompt.first[number];
    if (!accept(result, prompt.request, first)) {
        const auto length = static_cast<std::int64_t>(request.tokens.size());
        const auto full = static_cast<std::size_t>(length / e_.limits.page_size);
        Slot slot{.result = result,
                  .request = prompt.request,
                  .cached = length,
                  .next = first.token,
                  .most = most_pages(request),
                  .preemptible = preemptible(request)};
        slot.pages.assign(prompt.pages.begin(),
                          prompt.pages.begin() + static_cast<std::ptrdiff_t>(full));
        for (std::int32_t page : slot.pages) pool_.share(page);
        if (!slot.preemptible) reserved_ += slot.lacking();
        if (full < prompt.pages.size()) {
            // Rows of the partly filled page are written by each sample: a copy a sample.
            take_page(slot);
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

std::int32_t Generation::bits_for(std::size_t result, std::size_t request) const {
    const Generated& out = results_[result];
    const PhiloxBlock block =
        random_bits({.seed = options_.seed,
                     .stream = options_.stream,
                     .step = options_.step,
                     .prompt = static_cast<std::uint64_t>(requests_[request].prompt),
                     .sample = static_cast<std::uint32_t>(out.sample),
                     .position = static_cast<std::uint32_t>(out.tokens.size())});
    return static_cast<std::int32_t>(block[0]);
}

bool Generation::accept(std::size_t result, std::size_t request, const SampledToken& drawn) {
    Generated& out = results_[result];
    require<NumericError>(drawn.token >= 0,
                          "a logit is not finite while sampling prompt {} sample {} token {}: the weights "
                          "are damaged or the learning rate was too high; go back to an earlier checkpoint",
                          requests_[request].prompt, out.sample, out.tokens.size());
    out.tokens.push_back(drawn.token);
    out.log_probs.push_back(drawn.log_prob);
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

/// The inputs of the next step; rows beyond the running sequences stand for nothing.
void Generation::fill_step(std::int64_t n) {
    Profile::Region region(e_.profile, "rollout.host");
    auto& step = e_.step;
    std::int32_t *tokens = step.at(step.tokens), *positions = step.at(step.positions);
    std::int32_t *slots = step.at(step.slots), *lengths = step.at(step.lengths);
    std::int32_t *bits = step.at(step.bits), *table = step.at(step.page_table);
    for (std::int64_t b = 0; b < n; ++b) {
        Slot& slot = running_[static_cast<std::size_t>(b)];
        const std::int64_t at = slot.cached++;
        const std::int64_t page = slot.pages[static_cast<std::size_t>(at / e_.limits.page_size)];
        tokens[b] = slot.next;
        positions[b] = static_cast<std::int32_t>(at);
        slots[b] = static_cast<std::int32_t>(page * e_.limits.page_size + at % e_.limits.page_size);
        lengths[b] = static_cast<std::int32_t>(slot.cached);
        bits[b] = bits_for(slot.result, slot.request);
        std::copy(slot.pages.begin(), slot.pages.end(), table + b * e_.max_pages);
    }
    for (std::int64_t b = n; b < e_.limits.slots; ++b) {
        tokens[b] = positions[b] = lengths[b] = 0;
        slots[b] = -1;
    }
    e_.ops.upload(step.all, step.host.data());
}

void Generation::decode_step() {
    make_room();
    const auto n = static_cast<std::int64_t>(running_.size());
    if (n == 0) {
        require(done(), "no response can start although {} of {} pages are free, {} promised",
                pool_.free_pages(), pool_.size(), reserved_);
        return;
    }
    fill_step(n);
    e_.pass_is_due(true);
    std::vector<SampledToken> drawn;
    {
        Profile::Region region(e_.profile, "rollout.decode");
        const std::int64_t rows = std::min(
            e_.model.decode_is_recordable() ? e_.ops.recorded_rows(n) : n, e_.limits.slots);
        e_.run_step(parameters_, rows, options_.sampling);
        drawn = e_.take_drawn(n);
    }
    Profile::Region region(e_.profile, "rollout.host");
    std::vector<bool> complete(static_cast<std::size_t>(n));
    for (std::size_t b = 0; b < running_.size(); ++b) {
        Slot& slot = running_[b];
        complete[b] = accept(slot.result, slot.request, drawn[b]);
        slot.next = drawn[b].token;
    }
    std::vector<Slot> still;
    still.reserve(running_.size());
    for (std::size_t b = 0; b < running_.size(); ++b) {
        if (!complete[b]) {
            still.push_back(std::move(running_[b]));
            continue;
        }
        const Slot& slot = running_[b];
        if (!slot.preemptible) reserved_ -= slot.lacking();
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
