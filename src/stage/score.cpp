// SPDX-License-Identifier: Apache-2.0
// stage = score: the rows of a JSONL file of responses again, with every reward of the deck.
#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/stage/scoring.hpp"
#include "stages.hpp"

namespace gradus {

ExitCode run_score(Run& run) {
    const std::string input = run.deck.text("score.input");
    const std::string& asked = run.deck.text("score.output");
    const std::string output = asked.empty() ? run.path("scored.jsonl") : asked;
    const RowReader reader(run.deck);
    if (run.finished_before("summary.json")) return ExitCode::done;
    run.begin();
    std::vector<Json> rows;
    std::vector<RewardInput> inputs;
    std::vector<std::string> references;
    run.on_root([&] {
        for_each_json_line(input, [&](const Json& row, std::int64_t line) {
            try {
                const AnsweredRow parts = reader.answered(row);
                inputs.push_back({.prompt = parts.prompt,
                                  .response = parts.response,
                                  .reference = parts.reference});
            } catch (const DataError& error) {
                throw DataError(fmt::format("{}:{}: {}", input, line, error.what()));
            }
            references.push_back(inputs.back().reference);
            rows.push_back(row);
            run.beat();
        });
    });
    std::vector<NamedReward> rewards = deck_rewards(run, references);
    const int threads = reward_threads(run);
    run.on_root([&] {
        RewardPool pool(std::move(rewards), threads);
        pool.submit(std::move(inputs));
        const auto scores = pool.collect([&] { run.beat(); });
        warn_unscorable(run, pool.rewards(), pool.unscorable());
        std::string text;
        for (std::size_t i = 0; i < rows.size(); ++i) {
            for (std::size_t r = 0; r < pool.rewards().size(); ++r) {
                Json& cell = rows[i]["rewards"][pool.rewards()[r].name];
                if (std::isnan(scores[i][r]))
                    cell = nullptr;
                else
                    cell = scores[i][r];
            }
            text += rows[i].dump() + "\n";
            run.beat();
        }
        write_file_atomically(output, text);
        run.log.info("{} rows scored into {}", rows.size(), output);
    });
    run.finish(1, 0, {});
    return ExitCode::done;
}

}  // namespace gradus
