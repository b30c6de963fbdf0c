// SPDX-License-Identifier: Apache-2.0
#include "gradus/ranks/watchdog.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "gradus/base/exit_code.hpp"
#include "gradus/base/profile.hpp"
#include "gradus/ranks/exchange.hpp"

namespace gradus {

Watchdog::Watchdog(double timeout, std::function<std::string()> phase,
                   std::function<void(const std::string&)> last_words,
                   std::function<std::uint64_t()> activity)
    : timeout_(timeout),
      phase_(std::move(phase)),
      last_words_(std::move(last_words)),
      activity_(std::move(activity)),
      last_(now_seconds()) {
    if (timeout_ > 0) thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(mutex_);
        done_ = true;
    }
    wake_.notify_all();
    thread_.join();
}

void Watchdog::alive() { last_.store(now_seconds()); }

void Watchdog::watch() {
    const auto period = std::chrono::duration<double>(std::min(1.0, timeout_ / 10));
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (!done_) {
        wake_.wait_for(lock, period);
        if (const std::uint64_t now = activity_ ? activity_() : seen; now != seen) {
            seen = now;
            alive();
        }
        const double silent = now_seconds() - last_.load();
        if (done_ || silent < timeout_) continue;
        const std::string line = fmt::format(
            "no progress for {:.0f} s (run.timeout) in phase {}, {}: ending the job", silent, phase_(),
            Exchange::describe());
        last_words_(line);
        _exit(static_cast<int>(ExitCode::internal));
    }
}

}  // namespace gradus
