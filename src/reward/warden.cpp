// SPDX-License-Identifier: Apache-2.0
#include "warden.hpp"

#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

namespace gradus {
namespace {

constexpr uid_t kNobody = 65534;

/// The next descriptor that the rank passes, -1 where the rank has ended.
int receive_descriptor(int control) {
    while (true) {
        char byte = 0;
        iovec content = {.iov_base = &byte, .iov_len = 1};
        alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
        msghdr message = {};
        message.msg_iov = &content;
        message.msg_iovlen = 1;
        message.msg_control = space;
        message.msg_controllen = sizeof space;
        const ssize_t n = ::recvmsg(control, &message, MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        const cmsghdr* header = CMSG_FIRSTHDR(&message);
        if (header == nullptr || header->cmsg_type != SCM_RIGHTS) continue;
        int descriptor = -1;
        std::memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
        return descriptor;
    }
}

/// Root is nobody from here on: whatever a program gets hold of, it is not the machine. Where there is no nobody
/// (EINVAL) root itself is only a user of a container.
void drop_root() {
    if (::geteuid() != 0) return;
    if (::setresgid(kNobody, kNobody, kNobody) != 0 && errno == EINVAL) return;
    if (::setgroups(0, nullptr) != 0 || ::setresuid(kNobody, kNobody, kNobody) != 0) ::_exit(1);
    ::prctl(PR_SET_DUMPABLE, 1);  // else its files in /proc belong to root, and it could not map its user
}

}  // namespace

void watch_over(int control, pid_t rank) {
    ::prctl(PR_SET_NAME, "gradus-box");
    ::setsid();  // a terminal's ^C is for the rank
    // A batch system signals all processes of a job; these end with their rank and not before. Programs inherit it.
    for (const int signal : {SIGUSR1, SIGUSR2, SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
    ::signal(SIGCHLD, SIG_IGN);  // keepers leave nothing to wait for
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int descriptor = 0; descriptor < 3; ++descriptor) ::dup2(null, descriptor);
    if (::dup2(control, 3) < 0) ::_exit(1);
    ::close_range(4, ~0u, 0);
    drop_root();
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != rank) ::_exit(0);
    const pid_t self = ::getpid();
    while (true) {
        const int job = receive_descriptor(3);
        if (job < 0) ::_exit(0);
        const pid_t keeper = ::fork();
        if (keeper == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::getppid() != self) ::_exit(0);
            ::close(3);
            ::signal(SIGCHLD, SIG_DFL);
            keep(job);
        }
        ::close(job);  // where there is no keeper the rank sees an end without a result
    }
}

}  // namespace gradus
