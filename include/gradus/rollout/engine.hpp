// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gradus/base/profile.hpp"
#include "gradus/model/transformer.hpp"
#include "gradus/rollout/sampler.hpp"
#include "gradus/store/rollout_table.hpp"

namespace gradus {

/// A request: `samples` responses to one prompt.
struct Request {
    std::int64_t prompt = 0;        ///< address of the prompt (enters the random address)
    std::vector<TokenId> tokens;    ///< rendered prompt, not empty
    std::int32_t samples = 1;
    std::int32_t first_sample = 0;  ///< samples are numbered first_sample ..
};

struct Generated {
    std::int64_t prompt = 0;
    std::int32_t sample = 0;
    std::vector<TokenId> tokens;   ///< end token included where it came
    std::vector<float> log_probs;
    FinishReason finish = FinishReason::eos;
};

struct GenerationOptions {
    SamplingOptions sampling;
    std::int64_t max_new_tokens = 256;
    /// The response ends after the token that completes one of these; none may be empty.
    std::vector<std::string> stop;
    /// The response ends after one of these tokens.
    std::vector<TokenId> end_tokens;
    std::uint64_t seed = 1;
    Stream stream = Stream::sample_token;
    std::uint64_t step = 0;         ///< enters the random address
    std::string_view profile_phase = "rollout";  ///< of its regions: PHASE.prefill, .decode, .host
    /// Called before each pass of the model, also of a rank that only keeps others company.
    std::function<void()> on_pass = {};
};

/// Batched generation with a paged key/value cache: the prompt of a group is computed once and its
/// full pages are shared by its samples; a finished sequence's place is refilled at once. Where the
/// pages do not last, the sequences that started last wait and are computed again later. The
/// schedule is a function of the requests and limits, never of time. All tensor ranks of a column call
/// `generate` with the same requests and get the same results. A response does not depend on the
/// limits nor on the other requests but for the rounding of products of other sizes; the same call
/// repeats its bits. Where experts are split over data ranks these call it together, with requests
/// of their own or none: a rank that is done makes passes without tokens until all are.
class Engine {
  public:
    struct Limits {
        std::int64_t slots = 256;       ///< sequences decoded at once
        std::int64_t max_length = 1024; ///< prompt and response
        std::int64_t page_size = 16;    ///< tokens a page
        /// At most so many are of use; 0: as many as `slots` sequences of max_length take.
        std::int64_t pages = 0;
        std::int64_t prefill_tokens = 0;///< token budget of a prefill (the model's max_tokens)
    };
    using FinishedCallback = std::function<void(const Generated& result, std::size_t index)>;

    Engine(Transformer& model, const Tokenizer& tokenizer, const Grid& grid, Ops& ops, Arena& arena,
           Profile& profile, Limits limits);
    ~Engine();

    /// Results in the order of (request, sample). `finished(result, index)` is called as each
    /// sequence ends, with its place in the results (rewards start there while others are still
    /// being generated). Throws DataError where a request cannot be met (an empty prompt, one too
    /// long for max_length, prefill_tokens or the pages, a token outside the vocabulary, no
    /// samples), on all ranks that share experts where one refuses, with the first one's reason;
    /// NumericError where a logit is not finite.
    std::vector<Generated> generate(const ParameterSet& parameters,
                                    const std::vector<Request>& requests,
                                    const GenerationOptions& options,
                                    const FinishedCallback& finished);

    /// How often the latest call of generate() took a sequence's pages back before its end.
    std::int64_t preemptions() const;

    struct Impl;  // named by the engine's own source files only

  private:
    std::unique_ptr<Impl> impl_;
};

}  // namespace gradus
