// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/stage.hpp"

#include <algorithm>

#include "gradus/base/error.hpp"
#include "gradus/stage/stack.hpp"
#include "gradus/stage/scoring.hpp"
#include "stages.hpp"

namespace gradus {

ExitCode run_stage(const Deck& deck, MpiSession& session) {
    Run run(deck, session);
    const std::string& stage = deck.stage();
    if (stage == "pretrain" || stage == "sft") return run_supervised(run);
    if (stage == "rl") return run_rl(run);
    if (stage == "sample") return run_sample(run);
    if (stage == "evaluate") return run_evaluate(run);
    if (stage == "score") return run_score(run);
    if (stage == "problems") return run_problems(run);
    if (stage == "bench") return run_bench(run);
    throw DeckError(fmt::format("stage = {}: this build has no such stage", stage));
}

std::string plan_stage(const Deck& deck, int ranks) {
    const std::string& stage = deck.stage();
    const auto tensor = static_cast<int>(deck.integer("grid.tensor"));
    require<DeckError>(ranks > 0 && ranks % tensor == 0,
                       "{} ranks do not divide into columns of grid.tensor = {}", ranks, tensor);
    std::string text = fmt::format("stage {} on {} ranks: {} data x {} tensor\n", stage, ranks,
                                   ranks / tensor, tensor);
    if (stage == "problems" || stage == "score") return text + "needs no model\n";

    const std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
    std::unique_ptr<CheckpointReader> reader;
    std::string notes;
    const ModelConfig config = resolve_model(
        deck, *tokenizer, reader, [&](const std::string& note) { notes += "note: " + note + "\n"; });
    const Grid grid = Grid::planned(ranks / tensor, tensor);
    Arena arena(nullptr);
    Profile profile;
    const StackNeeds needs = stack_needs(deck);
    Stack stack(deck, config, grid, *tokenizer, arena, profile, needs);
    const double context = static_cast<double>(deck.integer("train.max_length")) / 2;
    const double forward = config.forward_flops(context);
    text += notes;
    text += fmt::format("{} parameters, {:.3g} FLOPs a token forward, {:.3g} with backward\n",
                        format_count(static_cast<double>(config.parameters())), forward, 3 * forward);
    text += fmt::format("memory of a rank:\n{}", arena.table());
    return text;
}

}  // namespace gradus
