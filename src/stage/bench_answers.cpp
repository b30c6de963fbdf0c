// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "gradus/base/error.hpp"
#include "gradus/reward/problems.hpp"
#include "gradus/reward/reward.hpp"
#include "gradus/stage/rows.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kProblems = 4000;

/// The reference answers of JSONL files, or of generated problems.
std::vector<std::string> references_of(const Deck& deck) {
    std::vector<std::string> references;
    const RowReader reader(deck);
    for (const std::string& file : deck.list("bench.text"))
        for_each_json_line(file, [&](const Json& json, std::int64_t) {
            if (const auto reference = reader.question(json).reference) references.push_back(*reference);
        });
    if (references.empty())
        for (std::int64_t i = 0; i < kProblems; ++i) references.push_back(make_problem({}, i).answer);
    return references;
}

}  // namespace

void bench_answers(Run& run, std::int64_t runs, Json& result) {
    const std::vector<std::string> references = references_of(run.deck);
    const auto reward = make_accuracy_reward();
    // Each reference against itself, as a response writes it, and against its neighbour.
    std::vector<RewardInput> pairs;
    for (std::size_t i = 0; i < references.size(); ++i)
        for (const std::size_t other : {i, (i + 1) % references.size()})
            pairs.push_back({.response = "<think>Some thought.</think>So it is $\\boxed{" + references[other] + "}$.",
                             .reference = references[i]});
    double best = 1e300;
    std::size_t right = 0;
    for (std::int64_t r = 0; r < runs; ++r) {
        right = 0;
        const double began = now_seconds();
        for (const RewardInput& pair : pairs) right += reward->score(pair) == 1 ? 1 : 0;
        best = std::min(best, now_seconds() - began);
        run.watchdog.alive();
    }
    const auto count = static_cast<double>(pairs.size());
    result["answers"] = {{"pairs", pairs.size()}, {"right", right}, {"pairs_per_s", count / best}};
    run.log.info("answers     {} pairs/s on one core; {} of {} pairs right, half of them should be", format_count(count / best),
                 right, pairs.size());
}

}  // namespace gradus
