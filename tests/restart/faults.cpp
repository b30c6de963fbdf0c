// SPDX-License-Identifier: Apache-2.0
// A library for LD_PRELOAD that makes calls of a program fail on purpose, for tests only. The environment
// variable GRADUS_FAULTS lists faults, separated by blanks:
//
//   RANK:CALL:PATTERN:NTH:ACTION
//
// RANK is the rank in the launcher's count (any: each). CALL is one of
//   open mkdir read pread write pwrite ftruncate fsync rename unlink   on paths that match the shell PATTERN
//   init finalize collective                                          MPI calls; PATTERN is *
//   product                                                           cblas_sgemm; PATTERN is *
//   clock                                                             readings of the calendar clock; PATTERN is *
// NTH counts matching calls from 1; `5+` means the fifth and all after it. ACTION is one of
//   kill killall stop         SIGKILL to itself or to all ranks of this launcher, SIGSTOP to itself, before the call
//   EIO ENOSPC EROFS EINTR    the call fails so
//   short                     half of what was to be written is
//   sleep=MILLISECONDS        the call is late
//   wrong                     the call's result is not what it should be (product, collective)
//   jump=SECONDS              the clock is off by so much
//   count                     nothing; at the end the file GRADUS_FAULTS_LOG gets "RANK CALL PATTERN COUNT"
// A rename to a file `latest` that succeeded is told in GRADUS_FAULTS_LOG too: "published CONTENTS".
#include <dlfcn.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace {

struct Fault {
    std::string call, pattern, action;
    long nth = 1;
    bool stays = false;
    std::atomic<long> seen{0};
};

int own_rank() {
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"})
        if (const char* value = std::getenv(name)) return std::atoi(value);
    return 0;
}

/// The faults of this rank. A list that is never destroyed: calls come until the process is gone.
std::vector<Fault*>& faults() {
    static auto* const list = [] {
        auto* made = new std::vector<Fault*>;
        const char* text = std::getenv("GRADUS_FAULTS");
        std::string rest = text == nullptr ? "" : text;
        rest += ' ';
        for (std::size_t end; (end = rest.find(' ')) != std::string::npos; rest.erase(0, end + 1)) {
            std::string part[5], word = rest.substr(0, end);
            for (int i = 0; i < 5; ++i) {
                const std::size_t colon = i == 4 ? std::string::npos : word.find(':');
                part[i] = word.substr(0, colon);
                word.erase(0, colon == std::string::npos ? word.size() : colon + 1);
            }
            if (part[4].empty() || (part[0] != "any" && std::atoi(part[0].c_str()) != own_rank())) continue;
            auto* fault = new Fault;
            fault->call = part[1];
            fault->pattern = part[2];
            fault->nth = std::atol(part[3].c_str());
            fault->stays = !part[3].empty() && part[3].back() == '+';
            fault->action = part[4];
            made->push_back(fault);
        }
        return made;
    }();
    return *list;
}

template <class Function>
Function next(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

void log_line(const std::string& line) {
    const char* path = std::getenv("GRADUS_FAULTS_LOG");
    if (path == nullptr) return;
    const int file = next<int (*)(const char*, int, ...)>("open")(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    [[maybe_unused]] const auto n = next<ssize_t (*)(int, const void*, std::size_t)>("write")(file, line.data(), line.size());
    close(file);
}

void kill_all() {
    const int parent = getppid();
    const std::string path = "/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children";
    if (std::FILE* list = std::fopen(path.c_str(), "r")) {
        for (int child = 0; std::fscanf(list, "%d", &child) == 1;)
            if (child != getpid()) kill(child, SIGKILL);
    }
    kill(getpid(), SIGKILL);
}

/// The fault that strikes at this call, or null.
const std::string* strikes(const char* call, const char* path) {
    for (Fault* fault : faults()) {
        if (fault->call != call || fnmatch(fault->pattern.c_str(), path, 0) != 0) continue;
        const long n = ++fault->seen;
        if (fault->action == "count" || n < fault->nth || (n > fault->nth && !fault->stays)) continue;
        const std::string& action = fault->action;
        if (action == "kill") kill(getpid(), SIGKILL);
        if (action == "killall") kill_all();
        if (action == "stop") kill(getpid(), SIGSTOP);
        if (action.compare(0, 6, "sleep=") == 0) usleep(static_cast<useconds_t>(std::atol(&action[6]) * 1000));
        return &action;
    }
    return nullptr;
}

/// errno of an action that is an error, else 0.
int error_of(const std::string* action) {
    if (action == nullptr) return 0;
    if (*action == "EIO") return EIO;
    if (*action == "ENOSPC") return ENOSPC;
    if (*action == "EROFS") return EROFS;
    if (*action == "EINTR") return EINTR;
    return 0;
}

std::string path_of(int descriptor) {
    char path[4096];
    const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
    const ssize_t n = readlink(link.c_str(), path, sizeof path);
    return n > 0 ? std::string(path, static_cast<std::size_t>(n)) : "";
}

/// Path against a folder's descriptor.
std::string path_at(int folder, const char* name) {
    return folder == AT_FDCWD || *name == '/' ? name : path_of(folder) + "/" + name;
}

template <class Call>
auto guarded(const char* call, const std::string& path, Call&& go) {
    const int error = error_of(strikes(call, path.c_str()));
    if (error == 0) return go();
    errno = error;
    return static_cast<decltype(go())>(-1);
}

template <class Call>
ssize_t guarded_write(const char* call, int descriptor, std::size_t size, Call&& go) {
    const std::string* action = strikes(call, path_of(descriptor).c_str());
    if (const int error = error_of(action)) {
        errno = error;
        return -1;
    }
    return go(action != nullptr && *action == "short" && size > 1 ? size / 2 : size);
}

void tell_published(const char* to) {
    const std::string path = to;
    if (path.size() < 7 || path.compare(path.size() - 7, 7, "/latest") != 0) return;
    if (std::FILE* file = std::fopen(to, "r")) {
        char name[64] = "";
        if (std::fscanf(file, "%63s", name) == 1) log_line(std::string("published ") + name + "\n");
        std::fclose(file);
    }
}

[[gnu::destructor]] void tell_counts() {
    for (const Fault* fault : faults())
        if (fault->action == "count")
            log_line(std::to_string(own_rank()) + " " + fault->call + " " + fault->pattern + " " +
                     std::to_string(fault->seen.load()) + "\n");
}

double clock_offset() {
    const std::string* action = strikes("clock", "");
    return action != nullptr && action->compare(0, 5, "jump=") == 0 ? std::atof(&(*action)[5]) : 0;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const mode_t mode = va_arg(list, mode_t);
    va_end(list);
    return guarded("open", path, [&] { return next<int (*)(const char*, int, ...)>("open")(path, flags, mode); });
}
int open64(const char* path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const mode_t mode = va_arg(list, mode_t);
    va_end(list);
    return open(path, flags, mode);
}
int mkdir(const char* path, mode_t mode) {
    return guarded("mkdir", path, [&] { return next<int (*)(const char*, mode_t)>("mkdir")(path, mode); });
}
ssize_t read(int descriptor, void* to, std::size_t size) {
    return guarded("read", path_of(descriptor),
                   [&] { return next<ssize_t (*)(int, void*, std::size_t)>("read")(descriptor, to, size); });
}
ssize_t pread(int descriptor, void* to, std::size_t size, off_t at) {
    return guarded("pread", path_of(descriptor), [&] {
        return next<ssize_t (*)(int, void*, std::size_t, off_t)>("pread")(descriptor, to, size, at);
    });
}
ssize_t pread64(int descriptor, void* to, std::size_t size, off_t at) { return pread(descriptor, to, size, at); }
ssize_t write(int descriptor, const void* from, std::size_t size) {
    return guarded_write("write", descriptor, size, [&](std::size_t n) {
        return next<ssize_t (*)(int, const void*, std::size_t)>("write")(descriptor, from, n);
    });
}
ssize_t pwrite(int descriptor, const void* from, std::size_t size, off_t at) {
    return guarded_write("pwrite", descriptor, size, [&](std::size_t n) {
        return next<ssize_t (*)(int, const void*, std::size_t, off_t)>("pwrite")(descriptor, from, n, at);
    });
}
ssize_t pwrite64(int descriptor, const void* from, std::size_t size, off_t at) {
    return pwrite(descriptor, from, size, at);
}
int ftruncate(int descriptor, off_t size) noexcept {
    return guarded("ftruncate", path_of(descriptor),
                   [&] { return next<int (*)(int, off_t)>("ftruncate")(descriptor, size); });
}
int ftruncate64(int descriptor, off_t size) noexcept { return ftruncate(descriptor, size); }
int fsync(int descriptor) {
    return guarded("fsync", path_of(descriptor), [&] { return next<int (*)(int)>("fsync")(descriptor); });
}
int rename(const char* from, const char* to) noexcept {
    const int status = guarded("rename", from, [&] { return next<int (*)(const char*, const char*)>("rename")(from, to); });
    if (status == 0) tell_published(to);
    return status;
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
    return guarded("rename", path_at(from_folder, from), [&] {
        return next<int (*)(int, const char*, int, const char*, unsigned)>("renameat2")(from_folder, from, to_folder, to,
                                                                                       flags);
    });
}
int unlink(const char* path) noexcept {
    return guarded("unlink", path, [&] { return next<int (*)(const char*)>("unlink")(path); });
}
int unlinkat(int folder, const char* name, int flags) noexcept {
    return guarded("unlink", path_at(folder, name),
                   [&] { return next<int (*)(int, const char*, int)>("unlinkat")(folder, name, flags); });
}

int clock_gettime(clockid_t clock, timespec* time) noexcept {
    const int status = next<int (*)(clockid_t, timespec*)>("clock_gettime")(clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += static_cast<time_t>(clock_offset());
    return status;
}
time_t time(time_t* out) noexcept {
    timespec now = {};
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != nullptr) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(timeval* out, void*) noexcept {
    timespec now = {};
    const int status = clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return status;
}

// MPI's and BLAS's functions are passed on register by register: no header of theirs is needed.
#define PASS_ON(name, call)                                                                                      \
    int name(long a, long b, long c, long d, long e, long f, long g, long h, long i) {                           \
        strikes(call, "");                                                                                       \
        return next<int (*)(long, long, long, long, long, long, long, long, long)>(#name)(a, b, c, d, e, f, g, h, \
                                                                                         i);                     \
    }
PASS_ON(MPI_Init_thread, "init")
PASS_ON(MPI_Finalize, "finalize")
PASS_ON(MPI_Bcast, "collective")
PASS_ON(MPI_Ibcast, "collective")
PASS_ON(MPI_Barrier, "collective")
PASS_ON(MPI_Allgatherv, "collective")
PASS_ON(MPI_Waitall, "collective")
#undef PASS_ON

int MPI_Alltoallv(const void* send, const int* counts, const int* starts, void* type, char* received,
                  const int* received_counts, const int* received_starts, void* received_type, void* group) {
    using Function = int (*)(const void*, const int*, const int*, void*, char*, const int*, const int*, void*, void*);
    const std::string* action = strikes("collective", "");
    const int status = next<Function>("MPI_Alltoallv")(send, counts, starts, type, received, received_counts,
                                                       received_starts, received_type, group);
    if (action != nullptr && *action == "wrong" && received_counts[0] > 0) received[3] ^= 0x40;
    return status;
}

void cblas_sgemm(int order, int left, int right, int m, int n, int k, float alpha, const float* a, int a_row,
                 const float* b, int b_row, float beta, float* c, int c_row) {
    using Function = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*,
                              int);
    const std::string* action = strikes("product", "");
    next<Function>("cblas_sgemm")(order, left, right, m, n, k, alpha, a, a_row, b, b_row, beta, c, c_row);
    if (action != nullptr && *action == "wrong") c[0] += 1;
}

}  // extern "C"
