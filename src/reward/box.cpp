// SPDX-License-Identifier: Apache-2.0
#include "box.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "gradus/base/error.hpp"
#include "gradus/base/profile.hpp"

namespace gradus {
namespace {

constexpr int kTick = 20;          ///< milliseconds between looks at a run
constexpr int kClockFactor = 5;    ///< seconds on the clock for one of processor time
constexpr std::int64_t kStack = std::int64_t{64} << 20;
constexpr std::array kToolFolders = {"/usr/local/bin", "/usr/bin", "/bin"};

/// What the processes of a run tell the keeper.
struct Status {
    enum Kind : int { ended, failed } kind;
    int value;       ///< as wait gives it; errno
    char step[120];
};

void tell(int descriptor, Status::Kind kind, int value, const std::string& step = "") {
    Status status = {.kind = kind, .value = value, .step = {}};
    std::strncpy(status.step, step.c_str(), sizeof status.step - 1);
    [[maybe_unused]] const auto written = ::write(descriptor, &status, sizeof status);
}

std::string signal_words(int number) {
    if (number == SIGXCPU) return "out of processor time";
    if (number == SIGXFSZ) return "a file grew too large";
    const char* name = ::sigabbrev_np(number);
    return fmt::format("ended by signal {}", name != nullptr ? "SIG" + std::string(name) : std::to_string(number));
}

/// Whether the kernel counts the processes of a user by user namespace (Linux 5.14).
bool counts_by_namespace() {
    struct utsname name = {};
    ::uname(&name);
    int major = 0, minor = 0;
    return std::sscanf(name.release, "%d.%d", &major, &minor) == 2 && (major > 5 || (major == 5 && minor >= 14));
}

/// Threads of this process's user in all of the machine.
std::int64_t threads_of_user() {
    DIR* processes = ::opendir("/proc");
    if (processes == nullptr) return 0;
    std::int64_t count = 0;
    while (const dirent* entry = ::readdir(processes)) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
        struct stat status = {};
        const std::string tasks = std::string(entry->d_name) + "/task";
        if (::fstatat(::dirfd(processes), tasks.c_str(), &status, 0) == 0 && status.st_uid == ::geteuid())
            count += static_cast<std::int64_t>(status.st_nlink) - 2;
    }
    ::closedir(processes);
    return count;
}

std::string read_small(int at, const std::string& name) {
    const BoxFile file(::openat(at, name.c_str(), O_RDONLY | O_CLOEXEC));
    char text[4096];
    const ssize_t n = file ? ::read(file.get(), text, sizeof text) : 0;
    return {text, static_cast<std::size_t>(std::max<ssize_t>(n, 0))};
}

}  // namespace

void CloseBoxFile::operator()(int descriptor) const { ::close(descriptor); }

Pipe::Pipe() {
    int ends[2] = {-1, -1};
    const bool made = ::pipe2(ends, O_CLOEXEC) == 0;  // before errno is read
    require(made, "pipe: {}", std::strerror(errno));
    out = BoxFile(ends[0]);
    in = BoxFile(ends[1]);
}

BoxFile sealed_text(const std::string& text) {
    BoxFile file(::memfd_create("input", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    require(static_cast<bool>(file), "memfd_create: {}", std::strerror(errno));
    for (std::size_t at = 0; at < text.size();) {
        const ssize_t n = ::write(file.get(), text.data() + at, text.size() - at);
        require(n > 0, "input of a program: {}", std::strerror(errno));
        at += static_cast<std::size_t>(n);
    }
    ::lseek(file.get(), 0, SEEK_SET);
    ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    return file;
}

BoxFile sealed_copy(int file) {
    struct stat status = {};
    ::fstat(file, &status);
    std::string text(static_cast<std::size_t>(status.st_size), '\0');
    const ssize_t n = ::pread(file, text.data(), text.size(), 0);
    require(n == status.st_size, "a compiled program cannot be read: {}", std::strerror(errno));
    return sealed_text(text);
}

CodeBox::CodeBox(const CodeSettings& settings)
    : settings_(settings), full_(settings.isolation == Isolation::full), processes_(settings.limits.processes) {
    proc_ = BoxFile(::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!full_ || !counts_by_namespace()) processes_ += threads_of_user();
    if (full_) {
        const pid_t helper = ::getppid();
        enter_namespaces(settings.folders, std::max(settings.limits.disk, std::int64_t{64} << 20));
        // New capabilities have taken back that this process ends with its parent.
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != helper) ::_exit(1);
        filter_ = system_call_filter(Isolation::full);
        store_ = "/store";
        return;
    }
    const char* where = std::getenv("TMPDIR");
    store_ = std::string(where != nullptr ? where : "/tmp") + "/gradus-box-XXXXXX";
    if (::mkdtemp(store_.data()) == nullptr) {
        store_ = "/tmp/gradus-box-XXXXXX";
        const bool made = ::mkdtemp(store_.data()) != nullptr;  // before errno is read
        require(made, "a folder in /tmp: {}", std::strerror(errno));
    }
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    ::prctl(PR_SET_DUMPABLE, 0);  // expected output is in here; programs of the same user must not look
}

CodeBox::~CodeBox() {
    if (!full_) remove_tree(store_);
}

std::string CodeBox::make_folder(const std::string& name) const {
    const std::string path = store_ + "/" + name;
    const bool made = ::mkdir(path.c_str(), 0755) == 0;  // before errno is read
    require(made, "{}: {}", path, std::strerror(errno));
    return path;
}

std::string CodeBox::find_tool(const std::string& name) const {
    if (name.find('/') != std::string::npos) return ::access(name.c_str(), X_OK) == 0 ? name : "";
    for (const char* folder : kToolFolders) {
        const std::string path = std::string(folder) + "/" + name;
        if (::access(path.c_str(), X_OK) == 0) return path;
    }
    return "";
}

void CodeBox::set_limits(const BoxRun& run) const {
    const CodeLimits& limits = settings_.limits;
    const auto set = [](__rlimit_resource resource, std::int64_t soft, std::int64_t hard) {
        const rlimit limit = {static_cast<rlim_t>(soft), static_cast<rlim_t>(hard)};
        ::setrlimit(resource, &limit);
    };
    const std::int64_t stack = std::min(kStack, limits.memory / 4);
    set(RLIMIT_CPU, run.seconds, run.seconds + 1);
    set(RLIMIT_AS, limits.memory, limits.memory);
    set(RLIMIT_STACK, stack, stack);
    set(RLIMIT_FSIZE, limits.disk, limits.disk);
    set(RLIMIT_NPROC, processes_, processes_);
    set(RLIMIT_NOFILE, 256, 256);
    set(RLIMIT_CORE, 0, 0);
    set(RLIMIT_MEMLOCK, 0, 0);
    set(RLIMIT_MSGQUEUE, 0, 0);
    set(RLIMIT_SIGPENDING, 256, 256);
}

void CodeBox::program(const BoxProgram& program, const BoxRun& run, int status) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Descriptors move out of the way first, then to their places; nothing else stays open over exec.
    constexpr int kAside = 200;
    int next = kAside;
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    const int told = ::fcntl(status, F_DUPFD_CLOEXEC, next++);
    const int image = program.image < 0 ? -1 : ::fcntl(program.image, F_DUPFD_CLOEXEC, next++);
    std::vector<std::pair<int, int>> wires;
    for (const auto& [here, there] : program.wires)
        wires.emplace_back(::fcntl(here, F_DUPFD_CLOEXEC, next++), there);
    for (int standard = 0; standard < 3; ++standard) ::dup2(null, standard);
    ::close_range(3, kAside - 1, 0);
    ::close_range(static_cast<unsigned>(next), ~0u, 0);
    for (const auto& [here, there] : wires) ::dup2(here, there);
    const std::string folder = full_ ? "/work" : run.folder;
    if (::chdir(folder.c_str()) != 0) {
        tell(told, Status::failed, errno, folder);
        ::_exit(1);
    }
    for (const int signal : {SIGPIPE, SIGCHLD, SIGXCPU, SIGXFSZ}) ::signal(signal, SIG_DFL);
    set_limits(run);
    // What capabilities the namespaces gave end with exec, of a user who is not root; none can be gained again.
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    std::vector<sock_filter> filter = full_ ? filter_ : system_call_filter(Isolation::weak);
    const sock_fprog wanted = {static_cast<unsigned short>(filter.size()), filter.data()};
    std::vector<std::string> environment = {
        "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1",
        "OPENBLAS_NUM_THREADS=1",            "HOME=" + folder, "TMPDIR=" + folder,
    };
    std::vector<char*> argv, variables;
    for (const std::string& word : program.argv) argv.push_back(const_cast<char*>(word.c_str()));
    for (std::string& variable : environment) variables.push_back(variable.data());
    argv.push_back(nullptr);
    variables.push_back(nullptr);
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &wanted) != 0) {
        tell(told, Status::failed, errno, "filter of system calls");
        ::_exit(1);
    }
    if (image >= 0)
        ::syscall(SYS_execveat, image, "", argv.data(), variables.data(), AT_EMPTY_PATH);
    else
        ::execve(argv[0], argv.data(), variables.data());
    tell(told, Status::failed, errno, program.argv[0]);
    ::_exit(1);
}

/// The first process of a run: mounts what is the run's, starts the programs, waits for the first of them. Under full
/// isolation it is the init of a PID namespace, whose end is the end of all in it.
void CodeBox::first_process(const BoxRun& run, int status) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!full_) ::setpgid(0, 0);
    if (full_)
        if (const std::string problem = mount_work(run.folder, settings_.limits.disk); !problem.empty()) {
            tell(status, Status::failed, 0, problem);
            ::_exit(1);
        }
    pid_t judged = -1;
    for (const BoxProgram& each : run.programs) {
        const pid_t child = ::fork();
        if (child == 0) program(each, run, status);
        if (child < 0) {
            tell(status, Status::failed, errno, "fork");
            ::_exit(1);
        }
        if (judged < 0) judged = child;
    }
    // Pipes end when the programs close them, not when this process does.
    for (const BoxProgram& each : run.programs)
        for (const auto& [here, there] : each.wires) ::close(here);
    while (true) {
        int code = 0;
        const pid_t child = ::waitpid(-1, &code, 0);
        if (child < 0 && errno != EINTR) ::_exit(1);
        if (child != judged) continue;
        tell(status, Status::ended, code);
        while (true) ::pause();  // the keeper ends all
    }
}

/// Pages in memory of a process and those that it started, in bytes; what several share counts for each.
std::int64_t CodeBox::resident_bytes(pid_t process) const {
    const std::string folder = std::to_string(process);
    long size = 0, resident = 0;
    std::sscanf(read_small(proc_.get(), folder + "/statm").c_str(), "%ld %ld", &size, &resident);
    std::int64_t bytes = resident * ::sysconf(_SC_PAGESIZE);
    const std::string children = read_small(proc_.get(), folder + "/task/" + folder + "/children");
    for (const char* at = children.c_str(); *at != 0;) {
        char* end = nullptr;
        const long child = std::strtol(at, &end, 10);
        if (end == at) break;
        bytes += resident_bytes(static_cast<pid_t>(child));
        at = end;
    }
    return bytes;
}

/// Under weak isolation programs cannot leave their process group, so one signal reaches them all, however they fork.
void CodeBox::end_all(pid_t first) const {
    ::kill(full_ ? first : -first, SIGKILL);
    ::kill(first, SIGKILL);  // it may not have made its group yet
    while (true) {
        const pid_t ended = ::waitpid(full_ ? first : -1, nullptr, 0);
        if (ended < 0 && errno != EINTR) return;
        if (!full_) ::kill(-first, SIGKILL);
    }
}

std::string CodeBox::follow(BoxRun& run, pid_t first, int status) const {
    const std::int64_t memory = settings_.limits.memory + settings_.limits.memory / 4;
    const double deadline = now_seconds() + static_cast<double>(kClockFactor * run.seconds);
    int ticks = 0;
    while (true) {
        std::vector<pollfd> waiting = {{.fd = status, .events = POLLIN, .revents = 0}};
        for (const BoxOutput& output : run.outputs) waiting.push_back({.fd = output.descriptor, .events = POLLIN, .revents = 0});
        ::poll(waiting.data(), waiting.size(), kTick);
        for (std::size_t i = 0; i < run.outputs.size(); ++i) {
            if (waiting[i + 1].revents == 0) continue;
            BoxOutput& output = run.outputs[i];
            char bytes[65536];
            const ssize_t n = ::read(output.descriptor, bytes, sizeof bytes);
            if (n <= 0) {
                output.descriptor = -1;
                continue;
            }
            const auto room = static_cast<std::size_t>(std::max<std::int64_t>(0, output.bound - std::ssize(output.text)));
            output.text.append(bytes, std::min(room, static_cast<std::size_t>(n)));
            if (output.strict && static_cast<std::size_t>(n) > room) return "too much output";
        }
        if (waiting[0].revents != 0) {
            Status said = {};
            const ssize_t n = ::read(status, &said, sizeof said);
            require(n == sizeof said, "a box ended before its program");
            require(said.kind == Status::ended, "{}: {}", said.step, said.value == 0 ? "no box" : std::strerror(said.value));
            if (WIFSIGNALED(said.value)) return signal_words(WTERMSIG(said.value));
            return WEXITSTATUS(said.value) == 0 ? "" : fmt::format("exit code {}", WEXITSTATUS(said.value));
        }
        if (now_seconds() > deadline) return "out of time";
        if (++ticks % 3 != 0) continue;
        if (resident_bytes(first) > memory) return "out of memory";
        if (!full_ && folder_bytes(run.folder, settings_.limits.disk) > settings_.limits.disk) return "out of disk";
    }
}

std::string CodeBox::run(BoxRun& run) {
    if (!full_ && run.folder.empty()) run.folder = store_ + "/run" + std::to_string(folders_++);
    if (!full_) ::mkdir(run.folder.c_str(), 0755);
    Pipe status;
    const long flags = SIGCHLD | (full_ ? CLONE_NEWPID | CLONE_NEWNS : 0);
    const auto first = static_cast<pid_t>(::syscall(SYS_clone, flags, nullptr, nullptr, nullptr, nullptr));
    require(first >= 0, "a box could not be made: {}", std::strerror(errno));
    if (first == 0) first_process(run, status.in.get());
    status.in.reset();
    for (const BoxProgram& each : run.programs)
        for (const auto& [here, there] : each.wires) ::close(here);
    std::string reason;
    try {
        reason = follow(run, first, status.out.get());
    } catch (...) {
        end_all(first);
        throw;
    }
    end_all(first);
    // What was printed before the end; nobody can write any more.
    for (BoxOutput& output : run.outputs)
        while (output.descriptor >= 0) {
            char bytes[65536];
            const ssize_t n = ::read(output.descriptor, bytes, sizeof bytes);
            if (n <= 0) break;
            const auto room = static_cast<std::size_t>(std::max<std::int64_t>(0, output.bound - std::ssize(output.text)));
            output.text.append(bytes, std::min(room, static_cast<std::size_t>(n)));
            if (output.strict && static_cast<std::size_t>(n) > room && reason.empty()) reason = "too much output";
        }
    return reason;
}

}  // namespace gradus
