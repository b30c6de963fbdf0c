// SPDX-License-Identifier: Apache-2.0
// System calls of programs: what computing, files, threads, clocks and pipes need. All others fail with EPERM, clone3 with
// ENOSYS (C libraries then use clone, whose flags a filter can see).
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "box.hpp"
#include "gradus/base/error.hpp"

namespace gradus {
namespace {

constexpr std::array kAllowed = {
    // files
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "open", "openat", "creat", "close",
    "close_range", "lseek", "_llseek", "access", "faccessat", "faccessat2", "stat", "lstat", "fstat", "newfstatat", "statx",
    "statfs", "fstatfs", "getdents64", "getdents", "readlink", "readlinkat", "getcwd", "chdir", "fchdir", "mkdir", "mkdirat",
    "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "chmod",
    "fchmod", "fchmodat", "chown", "fchown", "fchownat", "lchown", "truncate", "ftruncate", "fallocate", "fsync",
    "fdatasync", "sync_file_range", "umask", "utimensat", "utime", "utimes", "futimesat", "flock", "fcntl", "fcntl64", "dup",
    "dup2", "dup3", "pipe", "pipe2", "sendfile", "copy_file_range", "fadvise64", "readahead",
    // memory
    "brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "msync", "mincore", "membarrier",
    // processes and threads
    "execve", "execveat", "exit", "exit_group", "fork", "vfork", "wait4", "waitid", "waitpid", "futex", "futex_waitv",
    "set_robust_list", "get_robust_list", "set_tid_address", "rseq", "arch_prctl", "getpid", "getppid", "gettid", "getuid",
    "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "getpgrp", "getpgid", "getsid", "getrlimit",
    "setrlimit", "getrusage", "times", "sched_yield", "sched_getaffinity", "sched_getparam", "sched_getscheduler",
    "sched_get_priority_max", "sched_get_priority_min", "getpriority", "getcpu", "uname", "sysinfo", "capget",
    // signals
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait", "sigaltstack",
    "sigreturn", "sigaction", "sigprocmask", "pause", "restart_syscall", "signalfd", "signalfd4",
    // clocks
    "clock_gettime", "clock_gettime64", "clock_getres", "clock_nanosleep", "clock_nanosleep_time64", "nanosleep",
    "gettimeofday", "time", "alarm", "getitimer", "setitimer", "timer_create", "timer_settime", "timer_gettime",
    "timer_delete", "timer_getoverrun", "timerfd_create", "timerfd_settime", "timerfd_gettime",
    // waiting, pipes, and what comes over socket pairs (no other socket can be made)
    "poll", "ppoll", "select", "_newselect", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait",
    "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "sendto", "recvfrom", "sendmsg", "recvmsg", "shutdown",
    "getsockname", "getpeername", "getsockopt", "getrandom",
};

constexpr std::uint64_t kNamespaces = CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                                      CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_PTRACE;

class Filter {
  public:
    Filter() : context_(seccomp_init(SCMP_ACT_ERRNO(EPERM))) {
        require(context_ != nullptr, "libseccomp: no memory");
    }
    ~Filter() { seccomp_release(context_); }
    Filter(const Filter&) = delete;
    Filter& operator=(const Filter&) = delete;

    /// A call that this machine does not have needs no rule.
    template <class... Conditions>
    void rule(std::uint32_t action, const char* name, Conditions... conditions) {
        const int number = seccomp_syscall_resolve_name(name);
        if (number == __NR_SCMP_ERROR) return;
        const std::array<scmp_arg_cmp, sizeof...(conditions)> list = {conditions...};
        const int failed = seccomp_rule_add_array(context_, action, number, list.size(), list.data());
        require(failed == 0 || failed == -EDOM, "libseccomp: {}: {}", name, std::strerror(-failed));
    }
    template <class... Conditions>
    void allow(const char* name, Conditions... conditions) {
        rule(SCMP_ACT_ALLOW, name, conditions...);
    }
    std::vector<sock_filter> program() const {
        const BoxFile file(static_cast<int>(::memfd_create("filter", MFD_CLOEXEC)));
        const int failed = file ? seccomp_export_bpf(context_, file.get()) : -errno;
        require(failed == 0, "libseccomp: {}", std::strerror(-failed));
        const off_t bytes = ::lseek(file.get(), 0, SEEK_END);
        std::vector<sock_filter> program(static_cast<std::size_t>(bytes) / sizeof(sock_filter));
        const ssize_t got = ::pread(file.get(), program.data(), static_cast<std::size_t>(bytes), 0);
        require(got == bytes, "libseccomp: the filter cannot be read back");
        return program;
    }

  private:
    scmp_filter_ctx context_;
};

}  // namespace

std::vector<sock_filter> system_call_filter(Isolation isolation) {
    Filter filter;
    for (const char* name : kAllowed) filter.allow(name);
    filter.allow("clone", SCMP_A0(SCMP_CMP_MASKED_EQ, kNamespaces, 0));
    filter.rule(SCMP_ACT_ERRNO(ENOSYS), "clone3");
    filter.allow("socketpair", SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    for (const std::uint64_t what : {TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX})
        filter.allow("ioctl", SCMP_A1(SCMP_CMP_EQ, what));
    for (const std::uint64_t what : {PR_SET_NAME, PR_GET_NAME, PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_CAPBSET_READ,
                                     PR_GET_NO_NEW_PRIVS})
        filter.allow("prctl", SCMP_A0(SCMP_CMP_EQ, what));
    filter.allow("prlimit64", SCMP_A0(SCMP_CMP_EQ, 0));
    if (isolation == Isolation::full) {
        // Processes see each other only within their box.
        for (const char* name : {"kill", "tkill", "tgkill", "setpgid", "setsid"}) filter.allow(name);
        return filter.program();
    }
    const auto self = static_cast<std::uint64_t>(::getpid());
    filter.allow("kill", SCMP_A0(SCMP_CMP_EQ, 0));
    filter.allow("kill", SCMP_A0(SCMP_CMP_EQ, self));
    filter.allow("tgkill", SCMP_A0(SCMP_CMP_EQ, self));
    return filter.program();
}

}  // namespace gradus
