// SPDX-License-Identifier: Apache-2.0
#include "gradus/base/signals.hpp"

#include <execinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
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

// Written before the handlers are there. The stack that a crash may be the end of is not theirs.
std::array<char, 256> g_who{};
std::array<char, 1 << 16> g_stack_of_crash{};

void say(const char* text) { [[maybe_unused]] const auto written = write(STDERR_FILENO, text, std::strlen(text)); }

extern "C" void on_crash(int number) {
    const char* name = number == SIGSEGV  ? "SIGSEGV"
                       : number == SIGBUS ? "SIGBUS"
                       : number == SIGFPE ? "SIGFPE"
                       : number == SIGILL ? "SIGILL"
                                          : "SIGABRT";
    for (const char* part : {"gradus: ", static_cast<const char*>(g_who.data()), ": crashed with ", name,
                             ". Give the same line again; where it crashes again, report these lines:\n"})
        say(part);
    std::array<void*, 32> frames{};
    backtrace_symbols_fd(frames.data(), backtrace(frames.data(), static_cast<int>(frames.size())), STDERR_FILENO);
    raise(number);  // the handler is gone: as it would have ended
}

}  // namespace

void install_crash_handlers(const std::string& who) {
    std::copy_n(who.data(), std::min(who.size(), g_who.size() - 1), g_who.data());
    void* frame = nullptr;
    backtrace(&frame, 1);  // loads what it needs, which a handler must not
    stack_t stack = {};
    stack.ss_sp = g_stack_of_crash.data();
    stack.ss_size = g_stack_of_crash.size();
    sigaltstack(&stack, nullptr);
    struct sigaction action = {}, before = {};
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_ONSTACK | static_cast<int>(SA_RESETHAND) | SA_NODEFER;
    action.sa_handler = on_crash;
    for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT})
        if (sigaction(number, nullptr, &before) == 0 && before.sa_handler == SIG_DFL) sigaction(number, &action, nullptr);
}

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
