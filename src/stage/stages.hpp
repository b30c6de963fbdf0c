// SPDX-License-Identifier: Apache-2.0
// The stages, one file each.
#pragma once

#include "gradus/base/exit_code.hpp"
#include "gradus/stage/run.hpp"
#include "gradus/stage/stage.hpp"

namespace gradus {

ExitCode run_supervised(Run& run);  ///< pretrain, sft
ExitCode run_reward_model(Run& run);
ExitCode run_rl(Run& run);
ExitCode run_sample(Run& run);
ExitCode run_evaluate(Run& run);
ExitCode run_score(Run& run);
ExitCode run_problems(Run& run);
ExitCode run_tokenizer(Run& run);
ExitCode run_bench(Run& run);
ExitCode run_import(Run& run);
ExitCode run_export(Run& run);

/// Products, memory, sums over the groups of ranks and files with known results, on every rank. Tells slow ranks in
/// the log; throws InternalError naming rank, host and step where a result is wrong.
void run_self_test(Run& run);

/// Part of stage bench: rates of the run's tokenizer into `result`, the best of several runs.
void bench_tokenizer(Run& run, std::int64_t runs, Json& result);
/// Pairs of answers and references that the accuracy reward judges a second, of the rows of bench.text.
void bench_answers(Run& run, std::int64_t runs, Json& result);
/// Small programs that are run and judged a second, by language and form of test.
void bench_code(Run& run, std::int64_t runs, Json& result);

/// What --check says of them: the folder or checkpoint, its sizes, and that every tensor has its place.
void plan_import(const Deck& deck, const TokenizerFiles& files, const Tokenizer& tokenizer,
                 Plan& plan);
void plan_export(const Deck& deck, Plan& plan);

}  // namespace gradus
