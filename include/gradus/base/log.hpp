// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <mutex>
#include <string>

namespace gradus {

/// Human-readable log. Rank 0 prints to stdout and, once opened, appends to `run.log`; other ranks
/// stay silent. Thread-safe.
class Log {
  public:
    explicit Log(int rank = 0);
    ~Log();
    Log(const Log&) = delete;
    Log& operator=(const Log&) = delete;

    /// Appends from now on to `path` as well (rank 0 only). Throws DataError if it cannot be opened.
    void open_file(const std::string& path);

    template <class... Args>
    void info(fmt::format_string<Args...> f, Args&&... args) {
        write(fmt::format(f, std::forward<Args>(args)...));
    }
    /// "warning: ..." on stderr and in the file.
    template <class... Args>
    void warn(fmt::format_string<Args...> f, Args&&... args) {
        write_warning(fmt::format(f, std::forward<Args>(args)...));
    }
    /// Shows `text` as a progress line that the next line overwrites. Only where stdout is a
    /// terminal and only on rank 0; never in the file.
    void progress(const std::string& text);

  private:
    void write(const std::string& line);
    void write_warning(const std::string& line);
    void clear_progress();

    int rank_;
    bool terminal_;
    bool progress_shown_ = false;
    std::FILE* file_ = nullptr;
    std::mutex mutex_;
};

/// "1.5 GiB", "312 B".
std::string format_bytes(double bytes);
/// "3:58:12", "12.3 s".
std::string format_duration(double seconds);
/// "12.3k", "4.56M".
std::string format_count(double value);

}  // namespace gradus
