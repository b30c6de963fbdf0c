// SPDX-License-Identifier: Apache-2.0
#include "gradus/ranks/stop_poll.hpp"

#include <unistd.h>

#include <algorithm>
#include <exception>

#include "gradus/base/profile.hpp"
#include "gradus/ranks/session.hpp"

namespace gradus {

namespace {

// What is broadcast: the request, and this bit for a checkpoint.
constexpr int kCheckpoint = 4;

}  // namespace

StopPoll::StopPoll(MPI_Comm world, double walltime, double margin, std::string stop_file,
                   std::string checkpoint_file)
    : deadline_(walltime > 0 ? now_seconds() + walltime : 0),
      margin_(margin),
      stop_file_(std::move(stop_file)),
      checkpoint_file_(std::move(checkpoint_file)) {
    check(MPI_Comm_dup(world, &world_));
}

StopPoll::~StopPoll() {
    // While an exception unwinds this rank, others may never come to what is in flight.
    if (std::uncaught_exceptions() > 0) return;
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized != 0) return;
    if (request_ != MPI_REQUEST_NULL) MPI_Wait(&request_, MPI_STATUS_IGNORE);
    MPI_Comm_free(&world_);
}

StopRequest StopPoll::decide() {
    const StopRequest signal = stop_requested();
    if (signal != StopRequest::none) {
        reason_ = signal == StopRequest::urgent ? "SIGTERM" : "SIGUSR1 or SIGINT";
        return signal;
    }
    if (!stop_file_.empty() && access(stop_file_.c_str(), F_OK) == 0) {
        reason_ = "stop file";
        return StopRequest::soon;
    }
    const double margin = margin_ > 0 ? margin_ : longest_step_ > 0 ? 2 * (longest_checkpoint_ + longest_step_) : 0;
    if (deadline_ > 0 && now_seconds() + margin >= deadline_) {
        reason_ = "wall-clock budget";
        return StopRequest::soon;
    }
    return StopRequest::none;
}

void StopPoll::begin_step() {
    int rank = 0;
    check(MPI_Comm_rank(world_, &rank));
    if (rank == 0) {
        value_ = static_cast<int>(decide());
        if (!checkpoint_file_.empty() && unlink(checkpoint_file_.c_str()) == 0) value_ |= kCheckpoint;
    }
    check(MPI_Ibcast(&value_, 1, MPI_INT, 0, world_, &request_));
}

void StopPoll::wait() {
    check(MPI_Wait(&request_, MPI_STATUS_IGNORE));
    checkpoint_asked_ = checkpoint_asked_ || (value_ & kCheckpoint) != 0;
}

StopRequest StopPoll::end_step() {
    wait();
    if (first_ && longest_step_ > 0) {
        first_ = false;
        begin_step();
        wait();
    }
    return static_cast<StopRequest>(value_ & ~kCheckpoint);
}

StopRequest StopPoll::ask() {
    const bool in_step = request_ != MPI_REQUEST_NULL;
    if (in_step) end_step();
    begin_step();
    const StopRequest answer = end_step();
    if (in_step) begin_step();
    return answer;
}

void StopPoll::observe_step(double seconds) { longest_step_ = std::max(longest_step_, seconds); }
void StopPoll::observe_checkpoint(double seconds) {
    longest_checkpoint_ = std::max(longest_checkpoint_, seconds);
}

}  // namespace gradus
