// SPDX-License-Identifier: Apache-2.0
// stage = sample: rejection sampling. n responses a prompt, filtered; what remains, with general
// SFT data mixed in, is what the next SFT trains on (DeepSeek-R1, 2.3.3: 600k reasoning samples,
// 200k others).
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "gradus/base/error.hpp"
#include "gradus/stage/filters.hpp"
#include "gradus/stage/judge.hpp"
#include "gradus/stage/lifecycle.hpp"
#include "gradus/stage/sampling.hpp"
#include "gradus/text/script.hpp"
#include "sample_mix.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// What is written: lines of SFT data, examples of what was refused.
class Harvest {
  public:
    Harvest(const Deck& deck, SampleFilters& filters)
        : filters_(filters), most_(deck.integer("sample.refused_examples")) {}

    /// Whether the filters keep the candidate; `line` makes its line. Written text must be JSON, so
    /// what is not UTF-8 cannot be training data.
    template <class Line>
    bool take(const Candidate& candidate, const Line& line) {
        const std::optional<Refusal> refused = filters_.refusal(candidate);
        if (!refused) {
            lines_.push_back(line().dump());
            return true;
        }
        tell(*refused, candidate);
        return false;
    }
    /// A prompt without samples.
    void leave_out(const LeftOut& left) {
        filters_.leave_out();
        tell({.filter = Filter::contaminated, .why = left.why},
             {.id = left.prompt.id, .prompt = left.prompt.text});
    }
    const std::vector<std::string>& lines() const { return lines_; }
    const std::string& refused() const { return refused_; }

  private:
    /// As an example, where there are not enough of its kind.
    void tell(const Refusal& refusal, const Candidate& candidate) {
        const auto f = static_cast<std::size_t>(refusal.filter),
                   s = static_cast<std::size_t>(candidate.source);
        if (told_[s][f]++ >= most_) return;
        refused_ += Json{{"filter", kFilterNames[f]},
                         {"source", kSourceNames[s]},
                         {"why", refusal.why},
                         {"id", to_valid_utf8(candidate.id)},
                         {"prompt", to_valid_utf8(candidate.prompt)},
                         {"response", to_valid_utf8(candidate.response)}}
                        .dump() +
                    "\n";
    }

    SampleFilters& filters_;
    std::int64_t most_;
    std::vector<std::string> lines_;
    std::string refused_;
    std::array<std::array<std::int64_t, kFilterNames.size()>, kSourceNames.size()> told_{};
};

/// Rewards of a row: accuracy, format ...
Candidate candidate_of(const RolloutRow& row) {
    return {.source = Source::reasoning,
            .id = row.prompt_id,
            .prompt = row.prompt_text,
            .response = row.response_text,
            .number = row.prompt,
            .truncated = row.finish == FinishReason::length,
            .well_formed = row.rewards[1] == 1,
            .accuracy = row.rewards[0],
            .tokens = static_cast<std::int64_t>(row.tokens.size())};
}

void take_samples(const std::vector<RolloutRow>& rows, Harvest& harvest, Run& run) {
    for (const RolloutRow& row : rows) {
        harvest.take(candidate_of(row), [&] {
            return Json{{"id", to_valid_utf8(row.prompt_id)},
                        {"prompt", to_valid_utf8(row.prompt_text)},
                        {"response", to_valid_utf8(row.response_text)},
                        {"reference", to_valid_utf8(row.reference)},
                        {"source", kSourceNames[0]}};
        });
        run.beat();
    }
}

/// `wanted` < 0: all. Returns how many were kept.
std::int64_t take_general(const std::vector<GeneralRow>& rows, std::int64_t wanted,
                          Harvest& harvest, Run& run) {
    std::int64_t kept = 0;
    for (std::size_t i = 0; i < rows.size() && (wanted < 0 || kept < wanted); ++i) {
        const GeneralRow& row = rows[i];
        const Candidate candidate{.source = Source::general,
                                  .id = row.id,
                                  .prompt = row.prompt,
                                  .response = row.response,
                                  .number = static_cast<std::int64_t>(i)};
        kept += harvest.take(candidate, [&] {
            Json json = {{"id", to_valid_utf8(row.id)}};
            for (const ChatMessage& m : row.messages)
                json["messages"].push_back({{"role", m.role}, {"content", m.content}});
            json["source"] = kSourceNames[1];
            return json;
        });
        run.beat();
    }
    return kept;
}

/// The error where no sample is left: what refused most.
[[noreturn]] void fail_empty(const SampleFilters& filters) {
    const FilterCounts& counts = filters.counts(Source::reasoning);
    const auto most = std::max_element(counts.refused.begin(), counts.refused.end());
    const std::string_view name =
        kFilterNames[static_cast<std::size_t>(most - counts.refused.begin())];
    throw DataError(
        fmt::format("no sample passed the filters; `{}` refused most, {} of {}. refused.jsonl "
                    "shows some of each. "
                    "Loosen sample. keys or train on\n{}",
                    name, *most, counts.seen, filters.table()));
}

std::int64_t tokens_of(const std::vector<RolloutRow>& rows) {
    std::int64_t tokens = 0;
    for (const RolloutRow& row : rows) tokens += static_cast<std::int64_t>(row.tokens.size());
    return tokens;
}

struct Inputs {
    Passages tests;
    std::vector<GeneralRow> general;
};

/// Before the first sample, so that a bad line costs nothing. On rank 0.
Inputs read_inputs(Run& run) {
    const Profile::Region region(run.profile, "data.read");
    const auto beat = [&] { run.beat(); };
    std::vector<std::string> notes;
    Inputs inputs{read_test_sets(run.deck, beat), read_general(run.deck, notes, beat)};
    for (const std::string& note : notes) run.log.warn("{}", note);
    return inputs;
}

/// Takes out the prompts that share a passage with a test set: what they would be answered is never
/// kept.
std::vector<LeftOut> take_contaminated(Run& run, const Inputs& inputs,
                                       std::vector<PromptRow>& prompts) {
    std::vector<LeftOut> left_out;
    if (run.deck.list("sample.decontaminate").empty()) return left_out;
    const Profile::Region region(run.profile, "filter");
    const std::vector<std::string> where = run.from_root([&] {
        std::vector<std::string> names;
        for (const PromptRow& prompt : prompts) {
            names.push_back(inputs.tests.find(prompt.text).value_or(""));
            run.beat();
        }
        return names;
    });
    std::vector<PromptRow> clean;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        if (where[i].empty())
            clean.push_back(std::move(prompts[i]));
        else
            left_out.push_back(
                {std::move(prompts[i]), "the prompt shares a passage with " + where[i]});
    }
    prompts = std::move(clean);
    require<DataError>(
        !prompts.empty(),
        "every prompt of data.path shares a passage with sample.decontaminate: {}: {}",
        left_out.empty() ? "" : left_out.front().prompt.id,
        left_out.empty() ? "there are none" : left_out.front().why);
    return left_out;
}

/// Rank 0's part: filters, mixes, writes everything but the output itself, which it returns.
std::string harvest(Run& run, const Inputs& inputs, const Samples& samples, Json& told) {
    const Profile::Region region(run.profile, "filter");
    const double began = now_seconds();
    SampleFilters filters(filter_options(run.deck), &inputs.tests);
    Harvest harvest(run.deck, filters);
    for (const LeftOut& left : samples.left_out) harvest.leave_out(left);
    take_samples(samples.rows, harvest, run);
    const auto reasoning = static_cast<std::int64_t>(harvest.lines().size());
    const std::int64_t wanted = general_rows(run.deck, reasoning);
    const std::int64_t general = take_general(inputs.general, wanted, harvest, run);
    const double filtered = now_seconds() - began;
    write_file_atomically(run.path("refused.jsonl"), harvest.refused());
    if (reasoning == 0) fail_empty(filters);
    if (general < wanted)
        run.log.warn("{} general rows are wanted, sample.mix gives {}: all of them are written",
                     wanted, general);

    Json counts = SampleFilters::to_json(filters.counts(Source::reasoning));
    counts["general"] = SampleFilters::to_json(filters.counts(Source::general));
    counts["written"] = {
        {"rows", reasoning + general}, {"reasoning", reasoning}, {"general", general}};
    counts["tokens"] = tokens_of(samples.rows);
    write_file_atomically(run.path("acceptance.json"), counts.dump(2) + "\n");
    const auto rows = static_cast<double>(samples.rows.size());
    const std::string table = fmt::format(
        "{}\n{} rows written, {} of them general; {} tokens sampled; {:.3g} rows/s filtered",
        filters.table(), reasoning + general, general, counts["tokens"].get<std::int64_t>(),
        (rows + static_cast<double>(filters.counts(Source::general).seen)) /
            std::max(filtered, 1e-6));
    told = {{"acceptance", counts}, {"table", table}};
    return shuffled_lines(harvest.lines(),
                          static_cast<std::uint64_t>(run.deck.integer("run.seed")));
}

/// Puts the judge's verdicts in place of the rule's; false where the run was asked to stop.
bool judge(Run& run, std::optional<Judge>& judge, std::vector<RolloutRow>& rows) {
    if (!judge) return true;
    const auto verdicts = judge->verdicts(rows);
    if (!verdicts) return false;
    for (std::size_t i = 0; i < rows.size(); ++i)
        if (!std::isnan((*verdicts)[i])) rows[i].rewards[0] = (*verdicts)[i];
    run.watchdog.alive();
    return true;
}

/// The rows that pass the filters, by rank 0 told to all; `table`: what the filters did.
std::vector<std::size_t> kept_rows(Run& run, const Inputs& inputs, const Samples& samples,
                                   Json& counts, std::string& table) {
    const Profile::Region region(run.profile, "filter");
    return run.from_root([&] {
        std::vector<std::size_t> places;
        SampleFilters filters(filter_options(run.deck), &inputs.tests);
        for (std::size_t i = 0; i < samples.left_out.size(); ++i) filters.leave_out();
        for (std::size_t i = 0; i < samples.rows.size(); ++i) {
            if (!filters.refusal(candidate_of(samples.rows[i]))) places.push_back(i);
            run.beat();
        }
        counts = SampleFilters::to_json(filters.counts(Source::reasoning));
        table = filters.table();
        return places;
    });
}

/// The rows that pass the filters with their new texts, scored and judged anew; those without one
/// are left out. False where the run was asked to stop.
bool rewrite(Run& run, Rewriter& rewriter, std::optional<Judge>& judge_model, const Inputs& inputs,
             RewardPool& pool, Samples& samples, Json& before, std::string& table) {
    const std::vector<std::size_t> chosen = kept_rows(run, inputs, samples, before, table);
    const auto texts = rewriter.texts(samples.rows, chosen);
    if (!texts) return false;
    std::vector<RolloutRow> rows;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
        if ((*texts)[i].empty()) continue;
        RolloutRow& row = rows.emplace_back(std::move(samples.rows[chosen[i]]));
        row.response_text = (*texts)[i];
        row.tokens = run.chat.render_response(row.response_text);
        row.finish = FinishReason::eos;
    }
    score_rows(run, pool, rows);
    // What only the judge could call right, only it can again.
    if (!judge(run, judge_model, rows)) return false;
    before["rewritten"] = rows.size();
    table += fmt::format("\n\nrewritten: {} of {}; of these\n", rows.size(), chosen.size());
    samples.rows = std::move(rows);
    return true;
}

/// What remains is told and written, by rank 0 alone.
void write_results(Run& run, const Inputs& inputs, const Samples& samples,
                   const std::string& output, const Json& before, std::string table) {
    Json told;
    const std::string text = run.on_root([&] { return harvest(run, inputs, samples, told); });
    if (run.is_root()) {
        table += told["table"].get<std::string>();
        told.erase("table");
        if (!before.is_null()) told["before_rewriting"] = before;
        if (samples.seconds > 0) {
            told["samples_per_s"] = samples.generated / samples.seconds;
            table += fmt::format("; {:.3g} samples/s sampled", samples.generated / samples.seconds);
        }
    }
    run.finish(1, static_cast<double>(tokens_of(samples.rows)), told);
    run.on_root([&] {
        run.log.info("{}", table);
        write_file_atomically(run.path("report.txt"),
                              read_file(run.path("report.txt")) + "\n" + table + "\n");
        write_file_atomically(output, text);
    });
}

}  // namespace

ExitCode run_sample(Run& run) {
    const std::string& asked = run.deck.text("sample.output");
    const std::string output = asked.empty() ? run.path("sft.jsonl") : asked;
    if (run.finished_before(std::filesystem::absolute(output))) return ExitCode::done;
    // What cannot work is told before the first sample.
    const Inputs inputs = run.on_root([&] { return read_inputs(run); });
    std::optional<Judge> judge_model;
    std::optional<Rewriter> rewriter;
    if (!run.deck.text("judge.from").empty()) judge_model.emplace(run);
    if (!run.deck.text("rewrite.from").empty()) rewriter.emplace(run);
    const auto rewards = [&](const std::vector<PromptRow>& prompts) {
        std::vector<NamedReward> all = standard_rewards(run, prompts);
        all.push_back({"repetition", make_repetition_reward(static_cast<int>(
                                         run.deck.integer("sample.repetition_ngram")))});
        return all;
    };
    Samples samples = sample_all(
        run, rewards, static_cast<std::int32_t>(run.deck.integer("sample.n")), Stream::sample_token,
        [&](std::vector<PromptRow>& prompts) { return take_contaminated(run, inputs, prompts); });
    if (samples.stopped || !judge(run, judge_model, samples.rows)) return ExitCode::again;
    Json before;
    std::string table;
    if (rewriter) {
        RewardPool pool(rewards(samples.prompts), reward_threads(run));
        if (!rewrite(run, *rewriter, judge_model, inputs, pool, samples, before, table))
            return ExitCode::again;
    }
    write_results(run, inputs, samples, output, before, table);
    return ExitCode::done;
}

}  // namespace gradus
