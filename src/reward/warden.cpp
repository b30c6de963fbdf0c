// SPDX-License-Identifier: Apache-2.0
#include "warden.hpp"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

namespace gradus {
namespace {

constexpr uid_t kNobody = 65534;

constexpr std::size_t kCompiled = 500;  ///< compiled tests that are held, some hundred KB each

/// The next descriptor that comes, with `size` bytes; -1 where the other side has ended.
int receive_descriptor(int control, void* bytes, std::size_t size) {
    while (true) {
        iovec content = {.iov_base = bytes, .iov_len = size};
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

/// Two independent 64-bit hashes of a text (FNV-1a with different starts), and its length in one of them.
void hash(const std::string& text, std::uint64_t (&key)[2]) {
    key[0] = 14695981039346656037u;
    key[1] = 0x9E3779B97F4A7C15u ^ text.size();
    for (const char c : text)
        for (std::uint64_t& part : key) part = (part ^ static_cast<unsigned char>(c)) * 1099511628211u;
}

}  // namespace

CompiledTests::CompiledTests() {
    int ends[2] = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) ::_exit(1);
    helper_ = ends[0];
    keepers_ = ends[1];
}

int CompiledTests::find(const std::string& text) const {
    std::uint64_t key[2];
    hash(text, key);
    for (const Entry& entry : entries_)
        if (entry.key[0] == key[0] && entry.key[1] == key[1]) return ::fcntl(entry.image, F_DUPFD_CLOEXEC, 3);
    return -1;
}

void CompiledTests::forget() {
    for (const Entry& entry : entries_) ::close(entry.image);
    entries_.clear();
}

void CompiledTests::hand_in(const std::string& text, int image) const {
    std::uint64_t key[2];
    hash(text, key);
    pass_descriptor(keepers_, image, key, sizeof key);
}

void CompiledTests::take() {
    Entry entry = {};
    entry.image = receive_descriptor(helper_, entry.key, sizeof entry.key);
    if (entry.image < 0) return;
    if (entries_.size() < kCompiled) {
        entries_.push_back(entry);
        return;
    }
    ::close(entries_[oldest_].image);
    entries_[oldest_] = entry;
    oldest_ = (oldest_ + 1) % kCompiled;
}

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
    rlimit files = {};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
    ::setrlimit(RLIMIT_NOFILE, &files);
    CompiledTests compiled;
    while (true) {
        pollfd waiting[] = {{.fd = 3, .events = POLLIN, .revents = 0}, {.fd = compiled.incoming(), .events = POLLIN, .revents = 0}};
        ::poll(waiting, 2, -1);
        if (waiting[1].revents != 0) compiled.take();
        if (waiting[0].revents == 0) continue;
        char byte = 0;
        const int job = receive_descriptor(3, &byte, 1);
        if (job < 0) ::_exit(0);
        const pid_t keeper = ::fork();
        if (keeper == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::getppid() != self) ::_exit(0);
            ::close(3);
            ::signal(SIGCHLD, SIG_DFL);
            keep(job, compiled);
        }
        ::close(job);  // where there is no keeper the rank sees an end without a result
    }
}

}  // namespace gradus
