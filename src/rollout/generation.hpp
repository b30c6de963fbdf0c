// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <span>

#include "engine_impl.hpp"
#include "gradus/rollout/page_pool.hpp"

namespace gradus {

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
    struct {
        std::string prefill, decode, host;
    } regions_;  ///< of the profile
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

}  // namespace gradus
