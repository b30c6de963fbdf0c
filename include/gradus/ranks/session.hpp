// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <source_location>
#include <string>

namespace gradus {

/// Throws MpiError with MPI's own text, file and line unless `status` is MPI_SUCCESS.
void check(int mpi_status, std::source_location where = std::source_location::current());

/// MPI_Init_thread (FUNNELED) .. MPI_Finalize. One a process. The destructor finalizes unless an
/// exception is active (MPI_Finalize would wait for ranks that never come).
class MpiSession {
  public:
    MpiSession(int* argc, char*** argv);
    ~MpiSession();
    MpiSession(const MpiSession&) = delete;
    MpiSession& operator=(const MpiSession&) = delete;

    int rank() const { return rank_; }
    int size() const { return size_; }
    const std::string& host() const { return host_; }
    /// now_seconds() before MPI was started.
    double began() const { return began_; }

    /// Says "rank R host H phase P: message" on stderr and ends all ranks with `code`.
    [[noreturn]] void abort(int code, const std::string& phase, const std::string& message);

  private:
    double began_;
    int rank_ = 0;
    int size_ = 1;
    std::string host_;
};

}  // namespace gradus
