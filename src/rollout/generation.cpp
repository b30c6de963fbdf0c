// SPDX-License-Identifier: Apache-2.0
#include "generation.hpp"

#include <algorithm>

#include "gradus/base/error.hpp"

namespace gradus {

Generation::Generation(Engine::Impl& e, const ParameterSet& p, const std::vector<Request>& r,
                       const GenerationOptions& o, const Engine::FinishedCallback& f)
    : e_(e), parameters_(p), requests_(r), options_(o), on_finished_(f), pool_(e.limits.pages) {
    regions_ = {fmt::format("{}.prefill", o.profile_phase), fmt::format("{}.decode", o.profile_phase),
                fmt::format("{}.host", o.profile_phase)};
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
        Profile::Region region(e_.profile, regions_.prefill);
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
    Profile::Region region(e_.profile, regions_.prefill);
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
    Profile::Region region(e_.profile, regions_.host);
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
        Profile::Region region(e_.profile, regions_.decode);
        const std::int64_t rows = std::min(
            e_.model.decode_is_recordable() ? e_.ops.recorded_rows(n) : n, e_.limits.slots);
        e_.run_step(parameters_, rows, options_.sampling);
        drawn = e_.take_drawn(n);
    }
    Profile::Region region(e_.profile, regions_.host);
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

}  // namespace gradus
