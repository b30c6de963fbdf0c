// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/filters.hpp"

#include <xxhash.h>

#include <algorithm>
#include <numeric>

#include "gradus/base/error.hpp"
#include "gradus/text/prose.hpp"

namespace gradus {
namespace {

/// Prompt and response as one text.
std::string whole(const Candidate& candidate) {
    return fmt::format("{}\n{}", candidate.prompt, candidate.response);
}

}  // namespace

FilterOptions filter_options(const Deck& deck) {
    return {.correct = deck.flag("sample.keep_correct"),
            .format = deck.flag("sample.keep_format"),
            .code_blocks = deck.flag("sample.keep_code_blocks"),
            .min_language = deck.number("sample.min_language"),
            .max_repetition = deck.number("sample.max_repetition"),
            .near_duplicate = deck.number("sample.near_duplicate"),
            .near_duplicate_elsewhere = deck.number("sample.near_duplicate_elsewhere"),
            .language = deck.text("sample.language"),
            .max_length = deck.integer("sample.max_length"),
            .max_paragraph = deck.integer("sample.max_paragraph"),
            .max_per_prompt = deck.integer("sample.max_per_prompt"),
            .repetition_ngram = static_cast<int>(deck.integer("sample.repetition_ngram")),
            .near_duplicate_ngram = static_cast<int>(deck.integer("sample.near_duplicate_ngram")),
            .seed = static_cast<std::uint64_t>(deck.integer("run.seed"))};
}

SampleFilters::SampleFilters(FilterOptions options, const Passages* tests)
    : options_(std::move(options)),
      tests_(tests),
      language_(make_language_reward(options_.language)),
      repetition_(make_repetition_reward(options_.repetition_ngram)) {
    if (options_.near_duplicate_elsewhere > 0)
        elsewhere_ = std::make_unique<NearDuplicates>(
            options_.near_duplicate_elsewhere, options_.near_duplicate_ngram, options_.seed,
            [this](std::int64_t id) { return whole(kept_[static_cast<std::size_t>(id)]); });
}

std::optional<Refusal> SampleFilters::refusal(const Candidate& candidate) {
    FilterCounts& counts = counts_[static_cast<std::size_t>(candidate.source)];
    ++counts.seen;
    if (candidate.number != number_ || candidate.source != source_) begin_prompt(candidate);
    std::optional<Refusal> refused = first_refusal(candidate);
    if (refused) {
        ++counts.refused[static_cast<std::size_t>(refused->filter)];
        return refused;
    }
    const auto id = static_cast<std::int64_t>(kept_.size());
    if (of_prompt_) of_prompt_->keep(id);
    if (elsewhere_) elsewhere_->keep(id);
    exact_[XXH3_64bits(candidate.response.data(), candidate.response.size())].push_back(
        kept_.size());
    kept_.push_back(candidate);
    ++kept_of_prompt_;
    ++counts.kept;
    return std::nullopt;
}

void SampleFilters::leave_out() {
    FilterCounts& counts = counts_[static_cast<std::size_t>(Source::reasoning)];
    ++counts.prompts;
    ++counts.contaminated_prompts;
}

void SampleFilters::begin_prompt(const Candidate& candidate) {
    FilterCounts& counts = counts_[static_cast<std::size_t>(candidate.source)];
    source_ = candidate.source;
    number_ = candidate.number;
    kept_of_prompt_ = 0;
    contaminated_ = tests_ != nullptr ? tests_->find(candidate.prompt) : std::nullopt;
    ++counts.prompts;
    if (contaminated_) ++counts.contaminated_prompts;
    of_prompt_.reset();
    if (options_.near_duplicate > 0 && source_ == Source::reasoning)
        of_prompt_ = std::make_unique<NearDuplicates>(
            options_.near_duplicate, options_.near_duplicate_ngram, options_.seed,
            [this](std::int64_t id) {
                return std::string(kept_[static_cast<std::size_t>(id)].response);
            });
}

std::optional<Refusal> SampleFilters::first_refusal(const Candidate& candidate) {
    if (contaminated_)
        return Refusal{Filter::contaminated, "the prompt shares a passage with " + *contaminated_};
    if (candidate.source == Source::reasoning)
        if (auto refused = by_itself(candidate)) return refused;
    return among_kept(candidate);
}

std::optional<Refusal> SampleFilters::by_itself(const Candidate& candidate) const {
    if (candidate.truncated)
        return Refusal{Filter::truncated, fmt::format("no end within {} tokens", candidate.tokens)};
    if (options_.correct && candidate.accuracy != 1)
        return Refusal{Filter::incorrect, "not the reference answer"};
    if (options_.format && !candidate.well_formed)
        return Refusal{Filter::format, "not <think>..</think><answer>..</answer>"};
    const RewardInput input{.prompt = std::string(candidate.prompt),
                            .response = std::string(candidate.response)};
    if (options_.min_language > 0)
        if (const double share = language_->score(input); share < options_.min_language)
            return Refusal{Filter::language, fmt::format("{:.3f} of the words are in language {}",
                                                         share, options_.language)};
    if (options_.max_length > 0 && candidate.tokens > options_.max_length)
        return Refusal{Filter::length, fmt::format("{} tokens", candidate.tokens)};
    const std::string thought = chain_of_thought(input.response);
    if (options_.max_paragraph > 0)
        if (const std::int64_t longest = longest_paragraph(thought);
            longest > options_.max_paragraph)
            return Refusal{Filter::paragraph, fmt::format("a paragraph of {} words", longest)};
    if (!options_.code_blocks && has_code_block(thought))
        return Refusal{Filter::code_block, "code in the reasoning"};
    if (options_.max_repetition < 1)
        if (const double repeated = -repetition_->score(input); repeated > options_.max_repetition)
            return Refusal{Filter::repetition, fmt::format("{:.3f} of the {}-grams repeat others",
                                                           repeated, options_.repetition_ngram)};
    return std::nullopt;
}

std::optional<Refusal> SampleFilters::among_kept(const Candidate& candidate) {
    if (const auto same =
            exact_.find(XXH3_64bits(candidate.response.data(), candidate.response.size()));
        same != exact_.end())
        for (const std::size_t i : same->second)
            if (kept_[i].response == candidate.response && kept_[i].prompt == candidate.prompt)
                return Refusal{Filter::duplicate,
                               fmt::format("the same as one of {}", kept_[i].id)};
    if (auto why = similar(of_prompt_, candidate.response))
        return Refusal{Filter::near_duplicate, *why};
    if (elsewhere_)
        if (auto why = similar(elsewhere_, whole(candidate)))
            return Refusal{Filter::near_duplicate_elsewhere, *why};
    if (options_.max_per_prompt > 0 && candidate.source == Source::reasoning &&
        kept_of_prompt_ >= options_.max_per_prompt)
        return Refusal{Filter::enough, fmt::format("{} of this prompt are kept", kept_of_prompt_)};
    return std::nullopt;
}

std::optional<std::string> SampleFilters::similar(std::unique_ptr<NearDuplicates>& to,
                                                  std::string_view text) {
    if (!to) return std::nullopt;
    const auto match = to->find(text);
    if (!match) return std::nullopt;
    return fmt::format("similarity {:.3f} with one of {}", match->similarity,
                       kept_[static_cast<std::size_t>(match->id)].id);
}

std::string SampleFilters::table() const {
    std::string text = fmt::format("{:<26}", "filter");
    for (const std::string_view source : kSourceNames)
        text += fmt::format("{:>22}", fmt::format("{} refused", source)) +
                fmt::format("{:>10}", "go on");
    auto left = std::array{counts_[0].seen, counts_[1].seen};
    text += fmt::format("\n{:<26}{:>22}{:>10}{:>22}{:>10}", "(all)", "", left[0], "", left[1]);
    for (std::size_t f = 0; f < kFilterNames.size(); ++f) {
        text += fmt::format("\n{:<26}", kFilterNames[f]);
        for (std::size_t s = 0; s < counts_.size(); ++s) {
            left[s] -= counts_[s].refused[f];
            text += fmt::format("{:>22}{:>10}", counts_[s].refused[f], left[s]);
        }
    }
    for (std::size_t s = 0; s < counts_.size(); ++s)
        text += fmt::format("\n{}: {} prompts, {} of them contaminated", kSourceNames[s],
                            counts_[s].prompts, counts_[s].contaminated_prompts);
    return text;
}

Json SampleFilters::to_json(const FilterCounts& counts) {
    Json json = {
        {"sampled", counts.seen},
        {"prompts", {{"all", counts.prompts}, {"contaminated", counts.contaminated_prompts}}}};
    for (std::size_t f = 0; f < kFilterNames.size(); ++f)
        json["refused"][std::string(kFilterNames[f])] = counts.refused[f];
    json["kept"] = counts.kept;
    json["acceptance"] =
        counts.seen > 0 ? static_cast<double>(counts.kept) / static_cast<double>(counts.seen) : 0;
    return json;
}

}  // namespace gradus
