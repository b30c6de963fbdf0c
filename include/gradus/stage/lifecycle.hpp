// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/stage/run.hpp"
#include "gradus/stage/stack.hpp"

namespace gradus {

/// Where a training stage begins: its own checkpoint (restart), another stage's weights
/// (model.from), or nothing.
struct StartPoint {
    std::unique_ptr<CheckpointReader> own;   ///< checkpoint of this run, null: a fresh start
    std::unique_ptr<CheckpointReader> from;  ///< weights of an earlier stage
    CriticSource critic;                     ///< of a fresh start
    ModelConfig config;
    std::int64_t step = 0;  ///< updates made
    bool finished = false;  ///< reached the goal of its deck then; one that asks for more goes on
};

/// Reads the `restart` and `model.from` keys. Throws CheckpointError with what to do.
StartPoint find_start(Run& run);

/// Loads weights, moments and (where there is one) reference into the stack: from the run's own
/// checkpoint, else weights from `model.from`, else initialised from run.seed. Where the run's newest checkpoint
/// proves damaged as it is read, the one before takes its place, in `start` too, and a warning says so.
void load_start(Run& run, Stack& stack, StartPoint& start);

/// Checkpoints of a training loop and its way to stop.
class Lifecycle {
  public:
    Lifecycle(Run& run, Stack& stack, std::int64_t total_steps);

    /// Begins a step: asks rank 0 whether to stop.
    void begin_step();
    /// Calls `step`. Numbers that fail do so on all ranks alike: the checkpoint in flight is
    /// completed before the error goes on.
    template <class Step>
    auto guarded(const Step& step) {
        try {
            return step();
        } catch (const NumericError&) {
            tolerate([&] { finish(); });
            throw;
        }
    }
    /// Ends step number `step` (updates made so far): true where the loop must end now with exit
    /// code 75. `due()` then says whether a checkpoint is to be written.
    bool end_step(std::int64_t step);
    bool due(std::int64_t step);
    /// The run stops in the middle of a step, of which nothing is kept here: true where the checkpoint of `step` is to
    /// be written first.
    bool stop_now(std::int64_t step);
    /// Writes a checkpoint of the stack, `extra` slabs and `state`. One that cannot be stored is told, and the run
    /// goes on to the next; the last one of a run that ends or stops must succeed, else NotStored is thrown.
    void save(std::int64_t step, Json state, const std::vector<Slab>& extra, bool finished);
    void finish() { stack_.checkpoints->finish(); }
    /// Progress line and log line of a step.
    void report(std::int64_t step, const std::string& line);

  private:
    /// Calls `work`; where it cannot store a checkpoint, says so and goes on.
    template <class Work>
    void tolerate(const Work& work) {
        try {
            work();
        } catch (const NotStored& e) {
            ++not_stored_;
            last_saved_step_ = -1;
            run_.log.warn("{}; the run goes on with the checkpoints before it, and tries again when the next one is "
                          "due",
                          e.what());
        }
    }

    Run& run_;
    Stack& stack_;
    std::int64_t not_stored_ = 0;
    std::int64_t total_, every_, log_every_, first_step_ = -1;
    double every_time_, last_saved_at_, step_began_ = 0, started_;
    std::int64_t last_saved_step_ = -1;  ///< as far as is known yet: it may be in the background
    bool stopping_ = false;
    bool asked_ = false;  ///< the file checkpoint_now was there
};

}  // namespace gradus
