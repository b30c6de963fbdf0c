// SPDX-License-Identifier: Apache-2.0
#include "sections.hpp"

namespace gradus {
namespace {

constexpr std::string_view kTraining = "pretrain sft rl reward_model bench";
using enum ParameterType;

}  // namespace

std::vector<DeckKey> run_parameters() {
    return {
        {"stage", choice, "", kRequired,
         "import | problems | tokenizer | pretrain | sft | reward_model | rl | sample | evaluate | score | export | bench",
         "*",
         "What this run does."},
        {"restart", text, "", "latest", "", "*",
         "Where to go on: `latest` (this run's newest checkpoint; none: start), `none` (start anew), or "
         "the path of a checkpoint to begin with where this run has none."},

        {"run.dir", path, "", kRequired, "", "*",
         "Run directory: log, metrics, rollouts, checkpoints. Made where it is missing."},
        {"run.seed", integer, "", "1", ">=0", "*",
         "Seed of every random draw: weights, order of the data, samples."},
        {"run.walltime", duration, "", "none", "none | auto | >0", "*",
         "Time after which the run writes a checkpoint and ends with code 75; `auto`: the time that the "
         "batch system has left."},
        {"run.stop_margin", duration, "", "auto", "auto | >=0", "*",
         "Reserve kept for the last step and checkpoint; `auto`: measured from those before."},
        {"run.timeout", duration, "", "600", ">0", "*",
         "A rank that makes no progress for so long ends the job and names itself."},
        {"run.self_test", flag, "", "false", "", "*",
         "Before the stage begins every rank multiplies, moves memory, reduces over its groups and writes a file, with "
         "known results: slow ranks are told, broken ones end the run with code 70."},
        {"run.deterministic", flag, "", "true", "", "*",
         "Same deck, seed and grid give the same bits. A GPU without it runs attention's backward pass faster; "
         "the CPU program always keeps it."},
        {"run.log_every", integer, "steps", "1", ">=0", "*", "Steps a line of the log; 0: none."},
        {"run.device", choice, "", "cpu", "cpu | cuda", "*",
         "What the ranks compute on: a core each, or a GPU each."},
        {"run.share_gpus", flag, "", "false", "", "*",
         "Ranks may share a GPU (for tests): their device data then goes over MPI through the host."},
        {"run.restart_verify", choice, "", "touched", "touched | full | none", "pretrain sft rl reward_model",
         "Which hashes a restart checks: of the blocks that it reads, of the whole checkpoint, none."},

        {"grid.tensor", integer, "ranks", "1", ">0", "*",
         "Ranks over which each tensor is split; all ranks / this are the data ranks."},
        {"grid.expert", integer, "ranks", "1", ">0", "*",
         "Data ranks over which the experts of a mixture are split; divides the data ranks. Memory for the "
         "tokens that travel is planned for the worst routing, so that it grows with this."},
        {"grid.overlap", flag, "", "true", "", "*",
         "Gradients of a block are summed over data ranks while the backward pass goes on with the blocks before it (on "
         "GPUs, without tensor or expert ranks)."},

        {"ckpt.every", integer, "steps", "0", ">=0", kTraining,
         "Steps between checkpoints; 0: only at the end and on a stop."},
        {"ckpt.every_time", duration, "", "none", "none | >0", kTraining,
         "Time between checkpoints, beside ckpt.every."},
        {"ckpt.keep", integer, "", "2", ">0", kTraining, "The newest so many checkpoints stay."},
        {"ckpt.keep_every", integer, "steps", "0", ">=0", kTraining,
         "Checkpoints of every so many steps stay for good; 0: none."},
        {"ckpt.async", flag, "", "true", "", kTraining,
         "A thread writes checkpoints while the run goes on; costs a copy of the state in memory."},
    };
}

}  // namespace gradus
