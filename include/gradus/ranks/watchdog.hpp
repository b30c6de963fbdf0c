// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gradus/base/profile.hpp"

namespace gradus {

/// A rank as messages name it.
struct RankName {
    int rank = -1;  ///< -1: not known yet
    std::string host;
    std::string text() const;  ///< "rank 3 host n017"
    /// What the launcher says before MPI does: Open MPI, PMIx, Slurm.
    static RankName launched();
};

/// A thread that ends the process with 70 when the main thread has made no progress for `timeout` seconds: from
/// before MPI begins until after it has ended. It calls no MPI; the launcher ends the other ranks.
///
/// As it strikes it says on stderr which rank it is, in which phase, and in which exchange (Exchange::describe). Where
/// there is a run directory it adds this to the file `stalled` there and waits two seconds for the other ranks'
/// lines; then the first of the ranks in it tells stderr and run.log which rank the others wait for: one that says
/// nothing, or one that is in no exchange.
class Watchdog {
  public:
    /// `timeout` <= 0: never strikes.
    explicit Watchdog(double timeout);
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

    void set_timeout(double seconds) { timeout_.store(seconds); }
    /// Who this is.
    void set_name(RankName name);
    /// The run directory, and the hosts of all ranks.
    void set_place(std::string run_dir, std::vector<std::string> hosts);
    /// Regions of `profile` name the phase from now on, and entering or touching one is progress. Null: `phase` is
    /// the phase; the profile may go then.
    void follow(const Profile* profile, const char* phase = "end");

    /// The main thread made progress.
    void alive() { last_.store(now_seconds()); }

  private:
    void watch();
    [[noreturn]] void strike(double silent);

    std::atomic<double> timeout_;
    std::atomic<double> last_;
    std::mutex mutex_;
    std::condition_variable wake_;
    const Profile* profile_ = nullptr;
    const char* phase_ = "start";
    RankName name_;
    std::string run_dir_;
    std::vector<std::string> hosts_;
    bool done_ = false;
    std::thread thread_;
};

/// Which ranks the others wait for, from the lines of the file `stalled` ("RANK in PHASE, EXCHANGE"): those without a
/// line, else those that are in no exchange. "" where the lines do not tell.
std::string who_stalls(const std::string& lines, const std::vector<std::string>& hosts);

}  // namespace gradus
