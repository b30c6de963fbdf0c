// SPDX-License-Identifier: Apache-2.0
#include "gradus/base/signals.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>

#include "gradus/base/exit_code.hpp"

namespace gradus {
namespace {

// Process-wide by nature: a signal handler can reach nothing else.
std::atomic<int> g_request{0};
std::atomic<std::int64_t> g_since{0};  // milliseconds of the monotonic clock
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<std::int64_t>::is_always_lock_free);

constexpr std::int64_t kOneRequest = 1000;  // milliseconds in which a signal that comes twice is one

extern "C" void on_signal(int number) {
    const int asked = static_cast<int>(number == SIGTERM ? StopRequest::urgent : StopRequest::soon);
    timespec clock = {};
    clock_gettime(CLOCK_MONOTONIC, &clock);
    const std::int64_t now = std::int64_t{clock.tv_sec} * 1000 + clock.tv_nsec / 1000000;
    const int before = g_request.load();
    if (asked > before) {
        g_request.store(asked);
        g_since.store(now);
    } else if (asked == before && now - g_since.load() >= kOneRequest) {
        _exit(static_cast<int>(ExitCode::again));
    }
}

}  // namespace

void install_signal_handlers(bool is_rank0) {
    struct sigaction action = {};
    sigfillset(&action.sa_mask);  // one at a time
    action.sa_flags = SA_RESTART;
    action.sa_handler = is_rank0 ? on_signal : SIG_IGN;
    for (int number : {SIGUSR1, SIGINT, SIGTERM}) sigaction(number, &action, nullptr);
    // A limit on file sizes then shows as a failed write, which is reported.
    action.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &action, nullptr);
}

StopRequest stop_requested() { return static_cast<StopRequest>(g_request.load()); }

}  // namespace gradus
