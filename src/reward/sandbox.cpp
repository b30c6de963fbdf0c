// SPDX-License-Identifier: Apache-2.0
// The rank's side of the sandbox.
#include "gradus/reward/sandbox.hpp"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "gradus/base/error.hpp"
#include "warden.hpp"

namespace gradus {

bool pass_descriptor(int control, int passed, const void* bytes, std::size_t size) {
    iovec content = {.iov_base = const_cast<void*>(bytes), .iov_len = size};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &content;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &passed, sizeof passed);
    ssize_t sent = 0;
    do sent = ::sendmsg(control, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == static_cast<ssize_t>(size);
}

bool send_message(int descriptor, const std::string& message) {
    const std::uint64_t size = message.size();
    std::string bytes(reinterpret_cast<const char*>(&size), sizeof size);
    bytes += message;
    for (std::size_t at = 0; at < bytes.size();) {
        const ssize_t n = ::send(descriptor, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += static_cast<std::size_t>(n);
    }
    return true;
}

bool receive_message(int descriptor, std::string& message) {
    const auto read_all = [&](char* to, std::size_t size) {
        for (std::size_t at = 0; at < size;) {
            const ssize_t n = ::recv(descriptor, to + at, size - at, 0);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) return false;
            at += static_cast<std::size_t>(n);
        }
        return true;
    };
    std::uint64_t size = 0;
    if (!read_all(reinterpret_cast<char*>(&size), sizeof size)) return false;
    message.resize(size);
    return read_all(message.data(), size);
}

void Sandbox::Close::operator()(int descriptor) const { ::close(descriptor); }

Sandbox::Sandbox() {
    int ends[2] = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        problem_ = fmt::format("no socket for the helper of programs: {}", std::strerror(errno));
        return;
    }
    const pid_t rank = ::getpid();
    helper_ = ::fork();
    if (helper_ == 0) {
        ::close(ends[0]);
        watch_over(ends[1], rank);
    }
    if (helper_ < 0) problem_ = fmt::format("the helper of programs could not be forked: {}", std::strerror(errno));
    ::close(ends[1]);
    control_ = UniqueHandle<int, Close, -1>(ends[0]);
}

Sandbox::~Sandbox() {
    control_.reset();
    if (helper_ <= 0) return;
    // It sees the end of its socket; what it does not finish in a moment is lost anyway.
    ::kill(helper_, SIGKILL);
    while (::waitpid(helper_, nullptr, 0) < 0 && errno == EINTR) {
    }
}

std::string Sandbox::ask(const std::string& request) const {
    require(problem_.empty(), "{}", problem_);
    int ends[2] = {-1, -1};
    const bool made = ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0;  // before errno is read
    require(made, "no socket for a job: {}",
            std::strerror(errno));
    const UniqueHandle<int, Close, -1> ours(ends[0]);
    UniqueHandle<int, Close, -1> theirs(ends[1]);
    require(pass_descriptor(control_.get(), theirs.get(), "j", 1), "the helper process of programs has ended");
    theirs.reset();
    std::string answer;
    require(send_message(ours.get(), request) && receive_message(ours.get(), answer),
            "the process that ran the program's job has ended without a result");
    return answer;
}

CodeResult Sandbox::run(const CodeJob& job) const {
    CodeResult result;
    try {
        ByteWriter writer;
        writer.value(RequestKind::job);
        exchange_job(writer, job);
        const std::string answer = ask(writer.take());
        ByteReader reader(answer);
        exchange_result(reader, result);
    } catch (const std::exception& e) {
        return {.judged = false, .passed = {}, .reason = e.what()};
    }
    return result;
}

SandboxReport Sandbox::probe(const CodeSettings& settings) const {
    SandboxReport report;
    try {
        ByteWriter writer;
        writer.value(RequestKind::probe);
        exchange_settings(writer, settings);
        const std::string answer = ask(writer.take());
        ByteReader reader(answer);
        reader.text(report.problem);
        reader.text(report.python);
        reader.text(report.compiler);
    } catch (const std::exception& e) {
        report.problem = e.what();
    }
    return report;
}

}  // namespace gradus
