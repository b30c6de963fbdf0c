// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <string>
#include <utility>

#include "gradus/base/signals.hpp"

namespace gradus {

/// Rank 0's decision to stop, told to all ranks once a step without blocking: `begin_step` starts
/// an MPI_Ibcast, `end_step` completes it, so every rank learns of a decision at the same step. After
/// the first step, whose length nobody knew when it began, all wait for a decision that knows it.
class StopPoll {
  public:
    /// `walltime` seconds from now to the end of the allocation, <= 0: none.
    /// `margin` seconds to keep for the last step and checkpoint, <= 0: twice the longest step (the
    /// one in which a decision falls is still made) and twice the longest checkpoint seen.
    /// `stop_file`: its existence asks for `soon`. `checkpoint_file`: asks for a checkpoint; removed
    /// when seen.
    StopPoll(MPI_Comm world, double walltime, double margin, std::string stop_file,
             std::string checkpoint_file = "");
    ~StopPoll();
    StopPoll(const StopPoll&) = delete;
    StopPoll& operator=(const StopPoll&) = delete;

    void begin_step();
    /// What rank 0 had decided when this step began; the same value on every rank.
    StopRequest end_step();
    /// What rank 0 decides now, in the middle of a step or outside of one; the same value on every rank.
    StopRequest ask();
    /// Whether a checkpoint has been asked for since the last call; the same on every rank.
    bool take_checkpoint_request() { return std::exchange(checkpoint_asked_, false); }
    /// Feeds the automatic margin.
    void observe_step(double seconds);
    void observe_checkpoint(double seconds);
    /// "SIGUSR1", "stop file", "wall-clock budget"; rank 0 only, for the log.
    const std::string& reason() const { return reason_; }

  private:
    StopRequest decide();
    void wait();

    MPI_Comm world_ = MPI_COMM_NULL;
    MPI_Request request_ = MPI_REQUEST_NULL;
    int value_ = 0;
    double deadline_;
    double margin_;
    double longest_step_ = 0, longest_checkpoint_ = 0;
    bool first_ = true, checkpoint_asked_ = false;
    std::string stop_file_, checkpoint_file_, reason_;
};

}  // namespace gradus
