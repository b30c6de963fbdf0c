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
    const std::string prompt = run.deck.text("data.prompt_field"),
                      response = run.deck.text("data.response_field"),
                      answer = run.deck.text("data.answer_field");
    std::vector<NamedReward> rewards = deck_rewards(run.deck);
    if (run.finished_before("summary.json")) return ExitCode::done;
    run.begin();
    if (run.is_root()) {
        RewardPool pool(std::move(rewards), 1);
        std::vector<Json> rows;
        for_each_json_line(input, [&](const Json& row, std::int64_t line) {
            auto field = [&](const std::string& name) -> std::string {
                if (!row.contains(name)) return "";
                return row[name].is_string() ? row[name].get<std::string>() : row[name].dump();
            };
            require<DataError>(row.contains(response), "{}:{}: there is no field \"{}\"", input, line,
                               response);
            pool.submit({{.prompt = field(prompt),
                          .response = field(response),
                          .reference = field(answer)}});
            rows.push_back(row);
        });
        const auto scores = pool.collect();
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
        }
        write_file_atomically(output, text);
        run.log.info("{} rows scored into {}", rows.size(), output);
    }
    run.finish(1, 0, {});
    return ExitCode::done;
}

}  // namespace gradus
