// SPDX-License-Identifier: Apache-2.0
#include "gradus/base/signals.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "gradus/base/exit_code.hpp"

namespace gradus {
namespace {

// Process-wide by nature: a signal handler can reach nothing else.
std::atomic<int> g_request{0};
static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void on_signal(int number) {
    const int request = static_cast<int>(number == SIGTERM ? StopRequest::urgent : StopRequest::soon);
    if (g_request.exchange(request) != 0) _exit(static_cast<int>(ExitCode::again));
}

}  // namespace

void install_signal_handlers(bool is_rank0) {
    struct sigaction action = {};
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    action.sa_handler = is_rank0 ? on_signal : SIG_IGN;
    for (int number : {SIGUSR1, SIGINT, SIGTERM}) sigaction(number, &action, nullptr);
    // A limit on file sizes then shows as a failed write, which is reported.
    action.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &action, nullptr);
}

StopRequest stop_requested() { return static_cast<StopRequest>(g_request.load()); }

}  // namespace gradus
