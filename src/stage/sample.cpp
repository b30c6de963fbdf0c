// SPDX-License-Identifier: Apache-2.0
// stage = sample: rejection sampling. n responses a prompt, filtered; what remains, with general SFT data mixed in, is
// what the next SFT trains on (DeepSeek-R1, 2.3.3: 600k reasoning samples, 200k others).
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

/// Rank 0 works while the others wait, without their watchdogs taking that for a hang.
class RootWorks {
  public:
    explicit RootWorks(Run& run) : run_(run) {}
    void others_wait() {
        while (run_.grid.world().broadcast(std::string()) == kGoesOn) run_.watchdog.alive();
    }
    /// Rank 0 says that it goes on: cheap, to be called often.
    void alive() {
        if (now_seconds() - last_ < kBeat) return;
        run_.watchdog.alive();
        run_.grid.world().broadcast(kGoesOn);
        last_ = now_seconds();
    }
    void done() { run_.grid.world().broadcast("done"); }

  private:
    static constexpr double kBeat = 5;  // seconds
    static constexpr const char* kGoesOn = "goes on";
    Run& run_;
    double last_ = now_seconds();
};

/// What is written: lines of SFT data, examples of what was refused.
class Harvest {
  public:
    Harvest(const Deck& deck, SampleFilters& filters) : filters_(filters), most_(deck.integer("sample.refused_examples")) {}

    /// Whether the filters keep the candidate; `line` makes its line. Written text must be JSON, so what is not UTF-8
    /// cannot be training data.
    template <class Line>
    bool take(const Candidate& candidate, const Line& line) {
        const std::optional<Refusal> refused = filters_.refusal(candidate);
        if (!refused) {
            lines_.push_back(line().dump());
            return true;
        }
        const auto f = static_cast<std::size_t>(refused->filter), s = static_cast<std::size_t>(candidate.source);
        if (told_[s][f]++ < most_)
            refused_ += Json{{"filter", kFilterNames[f]},
                             {"source", kSourceNames[s]},
                             {"why", refused->why},
                             {"id", to_valid_utf8(candidate.id)},
                             {"prompt", to_valid_utf8(candidate.prompt)},
                             {"response", to_valid_utf8(candidate.response)}}
                            .dump() +
                        "\n";
        return false;
    }
    const std::vector<std::string>& lines() const { return lines_; }
    const std::string& refused() const { return refused_; }

  private:
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

void take_samples(const std::vector<RolloutRow>& rows, Harvest& harvest, RootWorks& work) {
    for (const RolloutRow& row : rows) {
        harvest.take(candidate_of(row), [&] {
            return Json{{"id", to_valid_utf8(row.prompt_id)},
                        {"prompt", to_valid_utf8(row.prompt_text)},
                        {"response", to_valid_utf8(row.response_text)},
                        {"reference", to_valid_utf8(row.reference)},
                        {"source", kSourceNames[0]}};
        });
        work.alive();
    }
}

/// `wanted` < 0: all. Returns how many were kept.
std::int64_t take_general(const std::vector<GeneralRow>& rows, std::int64_t wanted, Harvest& harvest, RootWorks& work) {
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
            for (const ChatMessage& m : row.messages) json["messages"].push_back({{"role", m.role}, {"content", m.content}});
            json["source"] = kSourceNames[1];
            return json;
        });
        work.alive();
    }
    return kept;
}

/// The error where no sample is left: what refused most.
[[noreturn]] void fail_empty(const SampleFilters& filters) {
    const FilterCounts& counts = filters.counts(Source::reasoning);
    const auto most = std::max_element(counts.refused.begin(), counts.refused.end());
    const std::string_view name = kFilterNames[static_cast<std::size_t>(most - counts.refused.begin())];
    throw DataError(fmt::format("no sample passed the filters; `{}` refused most, {} of {}. refused.jsonl shows some of each. "
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

/// Before the first sample, so that a bad line costs nothing.
Inputs read_inputs(Run& run) {
    const Profile::Region region(run.profile, "data.read");
    std::vector<std::string> notes;
    Inputs inputs{read_test_sets(run.deck), read_general(run.deck, notes)};
    for (const std::string& note : notes) run.log.warn("{}", note);
    return inputs;
}

/// Rank 0's part: filters, mixes, writes everything but the output itself, which it returns.
std::string harvest(Run& run, const Inputs& inputs, const std::vector<RolloutRow>& rows, Json& told) {
    const Profile::Region region(run.profile, "filter");
    RootWorks work(run);
    const double began = now_seconds();
    SampleFilters filters(filter_options(run.deck), &inputs.tests);
    Harvest harvest(run.deck, filters);
    take_samples(rows, harvest, work);
    const auto reasoning = static_cast<std::int64_t>(harvest.lines().size());
    const std::int64_t wanted = general_rows(run.deck, reasoning);
    const std::int64_t general = take_general(inputs.general, wanted, harvest, work);
    const double filtered = now_seconds() - began;
    write_file_atomically(run.path("refused.jsonl"), harvest.refused());
    if (reasoning == 0) fail_empty(filters);
    if (general < wanted)
        run.log.warn("{} general rows are wanted, sample.mix gives {}: all of them are written", wanted, general);

    Json counts = SampleFilters::to_json(filters.counts(Source::reasoning));
    counts["general"] = SampleFilters::to_json(filters.counts(Source::general));
    counts["written"] = {{"rows", reasoning + general}, {"reasoning", reasoning}, {"general", general}};
    counts["tokens"] = tokens_of(rows);
    write_file_atomically(run.path("acceptance.json"), counts.dump(2) + "\n");
    const auto samples = static_cast<double>(rows.size());
    const std::string table = fmt::format(
        "{}\n{} rows written, {} of them general; {} tokens sampled; {:.3g} rows/s filtered", filters.table(),
        reasoning + general, general, counts["tokens"].get<std::int64_t>(),
        (samples + static_cast<double>(filters.counts(Source::general).seen)) / std::max(filtered, 1e-6));
    told = {{"acceptance", counts}, {"table", table}};
    const std::string text = shuffled_lines(harvest.lines(), static_cast<std::uint64_t>(run.deck.integer("run.seed")));
    work.done();
    return text;
}

/// The rows that pass the filters, by rank 0 told to all; `table`: what the filters did.
std::vector<std::size_t> kept_rows(Run& run, const std::optional<Inputs>& inputs, const std::vector<RolloutRow>& rows, Json& counts,
                                   std::string& table) {
    Json kept = Json::array();
    if (run.is_root()) {
        const Profile::Region region(run.profile, "filter");
        RootWorks work(run);
        SampleFilters filters(filter_options(run.deck), &inputs->tests);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            if (!filters.refusal(candidate_of(rows[i]))) kept.push_back(i);
            work.alive();
        }
        counts = SampleFilters::to_json(filters.counts(Source::reasoning));
        table = filters.table();
        work.done();
    } else {
        RootWorks(run).others_wait();
    }
    return Json::parse(run.grid.world().broadcast(kept.dump())).get<std::vector<std::size_t>>();
}

/// The rows with their new texts, judged anew on rank 0; those without one are left out.
std::vector<RolloutRow> rewritten_rows(Run& run, const Samples& samples, const std::vector<std::size_t>& chosen,
                                       const std::vector<std::string>& texts, const std::vector<NamedReward>& rewards) {
    std::vector<RolloutRow> rows;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
        if (texts[i].empty()) continue;
        RolloutRow row = samples.rows[chosen[i]];
        row.response_text = texts[i];
        row.tokens = run.chat.render_response(texts[i]);
        row.finish = FinishReason::eos;
        const RewardInput input{.prompt = row.prompt_text,
                                .response = row.response_text,
                                .reference = row.reference,
                                .tokens = static_cast<std::int32_t>(row.tokens.size())};
        if (run.is_root())
            for (std::size_t r = 0; r < rewards.size(); ++r) {
                const double score = rewards[r].reward->score(input);
                // What the rule cannot judge keeps the judge's verdict.
                if (r > 0 || !std::isnan(score)) row.rewards[r] = score;
            }
        rows.push_back(std::move(row));
        run.watchdog.alive();
    }
    return rows;
}

}  // namespace

ExitCode run_sample(Run& run) {
    const std::string& asked = run.deck.text("sample.output");
    const std::string output = asked.empty() ? run.path("sft.jsonl") : asked;
    if (run.finished_before(std::filesystem::absolute(output))) return ExitCode::done;
    std::optional<Inputs> inputs;
    if (run.is_root()) inputs = read_inputs(run);
    const auto rewards = [&](const std::vector<PromptRow>& prompts) {
        std::vector<NamedReward> all = standard_rewards(run, prompts);
        all.push_back({"repetition", make_repetition_reward(static_cast<int>(run.deck.integer("sample.repetition_ngram")))});
        return all;
    };
    Samples samples =
        sample_all(run, rewards, static_cast<std::int32_t>(run.deck.integer("sample.n")), Stream::sample_token);
    if (samples.stopped) return ExitCode::again;
    const auto verdicts = judge_samples(run, samples);
    if (!verdicts) return ExitCode::again;
    for (std::size_t i = 0; i < verdicts->size(); ++i)
        if (!std::isnan((*verdicts)[i])) samples.rows[i].rewards[0] = (*verdicts)[i];

    Json before;
    std::string table;
    if (!run.deck.text("rewrite.from").empty()) {
        const std::vector<std::size_t> chosen = kept_rows(run, inputs, samples.rows, before, table);
        const auto texts = rewrite_samples(run, samples, chosen);
        if (!texts) return ExitCode::again;
        samples.rows = rewritten_rows(run, samples, chosen, *texts, rewards(samples.prompts));
        before["rewritten"] = samples.rows.size();
        table += fmt::format("\n\nrewritten: {} of {}; of these\n", samples.rows.size(), chosen.size());
    }
    std::string text;
    Json told;
    if (run.is_root())
        text = harvest(run, *inputs, samples.rows, told);
    else
        RootWorks(run).others_wait();
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
    if (run.is_root()) {
        run.log.info("{}", table);
        write_file_atomically(run.path("report.txt"), read_file(run.path("report.txt")) + "\n" + table + "\n");
        write_file_atomically(output, text);
    }
    run.grid.world().barrier();
    return ExitCode::done;
}

}  // namespace gradus
