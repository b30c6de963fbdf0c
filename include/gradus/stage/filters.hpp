// SPDX-License-Identifier: Apache-2.0
// Which samples become training data (rejection sampling, DeepSeek-R1 B.3.2 and 2.3.3).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gradus/base/json_lines.hpp"
#include "gradus/deck/deck.hpp"
#include "gradus/reward/reward.hpp"
#include "gradus/text/ngrams.hpp"

namespace gradus {

/// The filters, in the order in which they are asked; what one refuses counts there and is not
/// shown to the next. The first judges the prompt, those up to `repetition` one response by itself,
/// the others look at what was kept before.
enum class Filter {
    contaminated,              ///< the prompt shares a passage with a test set
    truncated,                 ///< no end within rollout.max_new_tokens
    incorrect,                 ///< not the reference answer, or none to compare with
    format,                    ///< not R1's form
    language,                  ///< too few words of the reasoning in its language
    length,                    ///< too many tokens
    paragraph,                 ///< too long a paragraph in the reasoning
    code_block,                ///< code between fences in the reasoning
    repetition,                ///< too many repeated n-grams
    duplicate,                 ///< the same response to the same prompt
    near_duplicate,            ///< nearly that
    near_duplicate_elsewhere,  ///< prompt and response nearly those of any other row
    enough,                    ///< as many of this prompt are kept as are wanted
};
inline constexpr std::array<std::string_view, 13> kFilterNames = {
    "contaminated", "truncated", "incorrect",      "format",
    "language",     "length",    "paragraph",      "code_block",
    "repetition",   "duplicate", "near_duplicate", "near_duplicate_elsewhere",
    "enough"};

/// Where a row of training data comes from.
enum class Source { reasoning, general };
inline constexpr std::array<std::string_view, 2> kSourceNames = {"reasoning", "general"};

/// The deck's sample. keys; a zero or false leaves a filter out.
struct FilterOptions {
    bool correct = false, format = false, code_blocks = true;
    double min_language = 0, max_repetition = 1, near_duplicate = 0, near_duplicate_elsewhere = 0;
    std::string language = "en";
    std::int64_t max_length = 0, max_paragraph = 0, max_per_prompt = 0;
    int repetition_ngram = 3, near_duplicate_ngram = 5;
    std::uint64_t seed = 0;
};
FilterOptions filter_options(const Deck& deck);

/// A sample or row as the filters see it. The texts must stay where they are as long as the filters
/// live.
struct Candidate {
    Source source = Source::reasoning;
    std::string_view id, prompt, response;
    std::int64_t number = 0;  ///< of the prompt; the samples of a prompt follow each other
    bool truncated = false, well_formed = true;
    double accuracy = 1;  ///< NaN: cannot be judged
    std::int64_t tokens = 0;
};

struct Refusal {
    Filter filter;
    std::string why;  ///< "the longest paragraph has 812 words"
};

/// What the filters did with the rows of one source.
struct FilterCounts {
    std::int64_t seen = 0, kept = 0, prompts = 0, contaminated_prompts = 0;
    std::array<std::int64_t, kFilterNames.size()> refused{};
};

/// Asks the filters in their order. Deterministic in the sequence of candidates. General rows are
/// asked only for contamination and duplicates; of the former there is one check a prompt.
class SampleFilters {
  public:
    /// `tests`: what prompts must share no passage with; may be null.
    SampleFilters(FilterOptions options, const Passages* tests);
    /// Nothing: the candidate is kept.
    std::optional<Refusal> refusal(const Candidate& candidate);
    /// Counts a prompt that was contaminated and for that reason not sampled.
    void leave_out();
    const FilterCounts& counts(Source source) const {
        return counts_[static_cast<std::size_t>(source)];
    }
    /// Both sources filter by filter: how many were refused there and how many went on.
    std::string table() const;
    /// {sampled, prompts: {all, contaminated}, refused: {FILTER: n}, kept, acceptance}
    static Json to_json(const FilterCounts& counts);

  private:
    std::optional<Refusal> first_refusal(const Candidate& candidate);
    std::optional<Refusal> by_itself(const Candidate& candidate) const;
    std::optional<Refusal> among_kept(const Candidate& candidate);
    void begin_prompt(const Candidate& candidate);
    std::optional<std::string> similar(std::unique_ptr<NearDuplicates>& to, std::string_view text);

    FilterOptions options_;
    const Passages* tests_;
    std::unique_ptr<Reward> language_, repetition_;
    std::array<FilterCounts, kSourceNames.size()> counts_;
    std::vector<Candidate> kept_;
    std::unordered_map<std::uint64_t, std::vector<std::size_t>>
        exact_;  ///< hash of the response -> kept
    std::unique_ptr<NearDuplicates> of_prompt_, elsewhere_;
    // The prompt at hand.
    Source source_ = Source::reasoning;
    std::int64_t number_ = -1, kept_of_prompt_ = 0;
    std::optional<std::string> contaminated_;
};

}  // namespace gradus
