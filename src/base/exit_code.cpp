// SPDX-License-Identifier: Apache-2.0
#include "gradus/base/exit_code.hpp"

#include <unistd.h>

#include <cstdio>
#include <exception>
#include <filesystem>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"

namespace gradus {

void leave_exit_file(const std::string& run_dir, ExitCode code) noexcept {
    try {
        std::error_code ignored;
        if (run_dir.empty() || !std::filesystem::is_directory(run_dir, ignored)) return;
        // Several ranks may fail at once: each writes a file of its own and renames it.
        const std::string mine = fmt::format("{}/exit.{}", run_dir, getpid());
        write_file_atomically(mine, fmt::format("{}\n", static_cast<int>(code)));
        std::filesystem::rename(mine, run_dir + "/exit");
    } catch (const std::exception& e) {
        std::fprintf(stderr, "gradus: the file exit cannot be written: %s\n", e.what());
    }
}

}  // namespace gradus
