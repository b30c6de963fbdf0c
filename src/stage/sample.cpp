// SPDX-License-Identifier: Apache-2.0
// stage = sample: rejection sampling. n responses a prompt, filtered; what remains is SFT data.
#include <filesystem>
#include <map>
#include <numeric>
#include <set>

#include "gradus/base/error.hpp"
#include "gradus/stage/lifecycle.hpp"
#include "gradus/stage/sampling.hpp"
#include "gradus/text/script.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// The filters of the deck, in order; a response is counted at the first that refuses it.
class Filters {
  public:
    explicit Filters(const Deck& deck)
        : correct_(deck.flag("sample.keep_correct")),
          format_(deck.flag("sample.keep_format")),
          language_(deck.number("sample.min_language")),
          length_(deck.integer("sample.max_length")),
          repetition_(deck.number("sample.max_repetition")),
          per_prompt_(deck.integer("sample.max_per_prompt")) {}

    bool keep(const RolloutRow& row) {
        ++seen_;
        const char* refused = refusal(row);
        if (refused != nullptr) ++refused_[refused];
        return refused == nullptr;
    }
    Json counts() const {
        Json json = {{"sampled", seen_}};
        std::int64_t kept = seen_;
        for (const char* name : {"truncated", "incorrect", "format", "language", "length",
                                 "repetition", "duplicate", "enough"}) {
            const auto it = refused_.find(name);
            json["refused"][name] = it == refused_.end() ? 0 : it->second;
            kept -= it == refused_.end() ? 0 : it->second;
        }
        json["kept"] = kept;
        json["acceptance"] = seen_ > 0 ? static_cast<double>(kept) / static_cast<double>(seen_) : 0;
        return json;
    }

  private:
    /// Rewards of a row: accuracy, format, language, repetition.
    const char* refusal(const RolloutRow& row) {
        if (row.finish == FinishReason::length) return "truncated";
        if (correct_ && row.rewards[0] != 1) return "incorrect";
        if (format_ && row.rewards[1] != 1) return "format";
        if (!(row.rewards[2] >= language_)) return "language";
        if (length_ > 0 && static_cast<std::int64_t>(row.tokens.size()) > length_) return "length";
        if (-row.rewards[3] > repetition_) return "repetition";
        if (!texts_[row.prompt].insert(row.response_text).second) return "duplicate";
        if (per_prompt_ > 0 && static_cast<std::int64_t>(texts_[row.prompt].size()) > per_prompt_)
            return "enough";
        return nullptr;
    }

    bool correct_, format_;
    double language_;
    std::int64_t length_;
    double repetition_;
    std::int64_t per_prompt_;
    std::map<std::int64_t, std::set<std::string>> texts_;
    std::map<std::string, std::int64_t> refused_;
    std::int64_t seen_ = 0;
};

}  // namespace

ExitCode run_sample(Run& run) {
    const std::string& asked = run.deck.text("sample.output");
    const std::string output = asked.empty() ? run.path("sft.jsonl") : asked;
    if (run.finished_before(std::filesystem::absolute(output))) return ExitCode::done;
    const auto rewards = [&](const std::vector<PromptRow>& prompts) {
        std::vector<NamedReward> all = standard_rewards(run, prompts);
        all.push_back({"repetition", make_repetition_reward()});
        return all;
    };
    const Samples samples = sample_all(run, rewards, static_cast<std::int32_t>(run.deck.integer("sample.n")),
                                       Stream::sample_token);
    if (samples.stopped) return ExitCode::again;
    Filters filters(run.deck);
    std::string text;
    double tokens = 0;
    for (const RolloutRow& row : samples.rows) {
        tokens += static_cast<double>(row.tokens.size());
        // Written text must be JSON, so what is not UTF-8 cannot be training data.
        if (filters.keep(row))
            text += Json{{"id", row.prompt_id},
                         {"prompt", to_valid_utf8(row.prompt_text)},
                         {"response", to_valid_utf8(row.response_text)},
                         {"reference", to_valid_utf8(row.reference)}}
                        .dump() +
                    "\n";
    }
    const Json counts = filters.counts();
    run.log.info("{}", counts.dump(2));
    require<DataError>(!text.empty(),
                       "no sample passed the filters: {}; loosen sample. keys or train on",
                       counts.dump());
    if (run.is_root()) write_file_atomically(run.path("acceptance.json"), counts.dump(2) + "\n");
    run.finish(1, tokens, {{"acceptance", counts}});
    if (run.is_root()) write_file_atomically(output, text);
    run.grid.world().barrier();
    return ExitCode::done;
}

}  // namespace gradus
