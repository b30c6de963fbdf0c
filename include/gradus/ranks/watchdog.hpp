// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace gradus {

/// A thread that ends the process when the main thread has not called `alive` for `timeout` seconds.
/// It calls no MPI: it hands one line with the phase and the exchange (Exchange::describe) to `last_words` (which adds rank and host), then
/// _exit(70); the launcher ends the other ranks.
class Watchdog {
  public:
    /// `phase` and `activity` are called from the watchdog thread and must not block; a change of
    /// `activity`'s number counts as progress. `timeout` <= 0: no thread.
    Watchdog(double timeout, std::function<std::string()> phase,
             std::function<void(const std::string&)> last_words,
             std::function<std::uint64_t()> activity = {});
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

    /// The main thread made progress.
    void alive();

  private:
    void watch();

    double timeout_;
    std::function<std::string()> phase_;
    std::function<void(const std::string&)> last_words_;
    std::function<std::uint64_t()> activity_;
    std::atomic<double> last_;
    std::mutex mutex_;
    std::condition_variable wake_;
    bool done_ = false;
    std::thread thread_;
};

}  // namespace gradus
