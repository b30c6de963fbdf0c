// SPDX-License-Identifier: Apache-2.0
// Tests of what must not happen to this process: limits, full disks, sudden death.
#pragma once

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/test/unit_test.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace gradus {

struct ChildResult {
    std::string text;  ///< what the work returned, or the message of what it threw
    int status = 0;    ///< of waitpid: 0 is a clean exit
};

/// Runs `work` (returns a string) in a child that leaves through exit(), so that what libraries do
/// at the end of a process happens too.
template <class Work>
ChildResult in_child(Work&& work) {
    int ends[2];
    BOOST_REQUIRE(pipe(ends) == 0);
    std::fflush(nullptr);
    const pid_t child = fork();
    BOOST_REQUIRE(child >= 0);
    if (child == 0) {
        close(ends[0]);
        std::string text;
        try {
            text = work();
        } catch (const std::exception& error) {
            text = std::string("threw: ") + error.what();
        }
        [[maybe_unused]] const auto written = write(ends[1], text.data(), text.size());
        close(ends[1]);
        std::exit(0);
    }
    close(ends[1]);
    ChildResult result;
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
        result.text.append(buffer, static_cast<std::size_t>(n));
    close(ends[0]);
    waitpid(child, &result.status, 0);
    return result;
}

/// System calls that change files.
inline bool changes_files(long call) {
    static const std::array calls = {
        static_cast<long>(SYS_write),    static_cast<long>(SYS_pwrite64),
        static_cast<long>(SYS_fsync),    static_cast<long>(SYS_ftruncate),
        static_cast<long>(SYS_mkdirat),  static_cast<long>(SYS_openat),
        static_cast<long>(SYS_unlinkat), static_cast<long>(SYS_renameat2),
#ifdef SYS_rename
        static_cast<long>(SYS_rename),   static_cast<long>(SYS_mkdir),
        static_cast<long>(SYS_unlink),   static_cast<long>(SYS_rmdir),
        static_cast<long>(SYS_open),
#endif
#ifdef SYS_renameat
        static_cast<long>(SYS_renameat),
#endif
    };
    for (const long known : calls)
        if (known == call) return true;
    return false;
}

enum class Death { killed, finished, not_traceable };

/// Runs `work` in a child that is killed as it enters its `n`-th file-changing system call (from
/// 0).
template <class Work>
Death killed_at(int n, Work&& work) {
    std::fflush(nullptr);
    const pid_t child = fork();
    BOOST_REQUIRE(child >= 0);
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(3);
        raise(SIGSTOP);
        work();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status)) return Death::not_traceable;
    ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    for (int seen = 0;;) {
        ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
        waitpid(child, &status, 0);
        if (WIFEXITED(status) || WIFSIGNALED(status)) return Death::finished;
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
        __ptrace_syscall_info info = {};
        ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof info, &info);
        if (info.op != PTRACE_SYSCALL_INFO_ENTRY ||
            !changes_files(static_cast<long>(info.entry.nr)) || seen++ < n)
            continue;
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        return Death::killed;
    }
}

}  // namespace gradus
