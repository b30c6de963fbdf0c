// SPDX-License-Identifier: Apache-2.0
#include "gradus/base/log.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "gradus/base/error.hpp"

namespace gradus {

namespace {

/// Whether stdout ends at a terminal that understands "erase line". Open MPI gives each rank a
/// terminal of its own, so there the launcher's stdout counts (this process is its child).
bool is_terminal() {
    const char* kind = std::getenv("TERM");
    if (isatty(STDOUT_FILENO) != 1 || kind == nullptr || std::strcmp(kind, "dumb") == 0) return false;
    if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return true;
    char target[256] = "";
    const std::string link = fmt::format("/proc/{}/fd/1", getppid());
    const ssize_t length = readlink(link.c_str(), target, sizeof target - 1);
    return length > 0 && (std::strncmp(target, "/dev/pts/", 9) == 0 ||
                          std::strncmp(target, "/dev/tty", 8) == 0);
}

}  // namespace

Log::Log(int rank) : rank_(rank), terminal_(is_terminal()) {}

Log::~Log() {
    clear_progress();
    if (file_ != nullptr) std::fclose(file_);
}

void Log::open_file(const std::string& path) {
    if (rank_ != 0) return;
    file_ = std::fopen(path.c_str(), "a");
    require<DataError>(file_ != nullptr, "cannot open {} for the log: {}", path,
                       std::strerror(errno));
}

void Log::write(const std::string& line) {
    if (rank_ != 0) return;
    const std::lock_guard lock(mutex_);
    clear_progress();
    std::fprintf(stdout, "%s\n", line.c_str());
    std::fflush(stdout);
    if (file_ == nullptr) return;
    std::fprintf(file_, "%s\n", line.c_str());
    std::fflush(file_);
}

void Log::write_warning(const std::string& line) {
    if (rank_ != 0) return;
    const std::lock_guard lock(mutex_);
    clear_progress();
    std::fprintf(stderr, "warning: %s\n", line.c_str());
    if (file_ == nullptr) return;
    std::fprintf(file_, "warning: %s\n", line.c_str());
    std::fflush(file_);
}

void Log::progress(const std::string& text) {
    if (rank_ != 0 || !terminal_) return;
    const std::lock_guard lock(mutex_);
    std::fprintf(stdout, "\r\033[K%s", text.c_str());
    std::fflush(stdout);
    progress_shown_ = true;
}

void Log::clear_progress() {
    if (!progress_shown_) return;
    std::fputs("\r\033[K", stdout);
    progress_shown_ = false;
}

std::string format_bytes(double bytes) {
    const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    int unit = 0;
    while (bytes >= 1024 && unit < 5) {
        bytes /= 1024;
        ++unit;
    }
    return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

std::string format_duration(double seconds) {
    if (seconds < 60) return fmt::format("{:.1f} s", seconds);
    const auto whole = static_cast<long>(std::llround(seconds));
    if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string format_count(double value) {
    const char* units[] = {"", "k", "M", "G", "T"};
    int unit = 0;
    while (std::abs(value) >= 1000 && unit < 4) {
        value /= 1000;
        ++unit;
    }
    return unit == 0 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}{}", value, units[unit]);
}

}  // namespace gradus
