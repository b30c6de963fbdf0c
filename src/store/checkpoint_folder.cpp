// SPDX-License-Identifier: Apache-2.0
#include "checkpoint_folder.hpp"

#include <fcntl.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "checkpoint_format.hpp"
#include "gradus/base/error.hpp"
#include "gradus/base/log.hpp"
#include "gradus/store/checkpoint.hpp"

namespace gradus {
namespace fs = std::filesystem;
namespace {

/// An older checkpoint of the same step while the new one takes its place.
std::string aside_name(const std::string& final_path) {
    return final_path + ".old.tmp";
}

void write_latest(const std::string& run_dir, const std::string& name) {
    try {
        write_file_atomically(run_dir + "/latest", name + "\n");
    } catch (const DataError& error) {
        throw CheckpointError(error.what());
    }
    sync_directory(run_dir);
}

void rename_or_throw(const std::string& from, const std::string& to) {
    const bool renamed = ::rename(from.c_str(), to.c_str()) == 0;  // before errno is read
    require<CheckpointError>(renamed, "cannot rename {} to {}: {}",
                             from, to, std::strerror(errno));
}

/// Both names exist and change places in one step where the file system can.
bool exchange(const std::string& a, const std::string& b) {
    return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

/// The names of the entries of `path`; none where it cannot be read.
std::vector<std::string> entries(const std::string& path) {
    std::vector<std::string> names;
    std::error_code problem;
    for (fs::directory_iterator at(path, problem), end; !problem && at != end;
         at.increment(problem))
        names.push_back(at->path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
}

bool ends_with(const std::string& text, const std::string& tail) {
    return text.size() >= tail.size() &&
           text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

}  // namespace

std::vector<std::int64_t> checkpoint_steps(const std::string& run_dir) {
    std::vector<std::int64_t> steps;
    for (const std::string& name : entries(run_dir))
        if (const std::int64_t step = checkpoint_step(name); step >= 0) steps.push_back(step);
    std::sort(steps.begin(), steps.end());
    return steps;
}

void make_unfinished(const std::string& temporary, std::int64_t bytes) {
    remove_folder(temporary);
    std::error_code problem;
    fs::create_directories(temporary, problem);
    require<CheckpointError>(!problem, "cannot make {}: {}", temporary, problem.message());
    struct statvfs found = {};
    if (::statvfs(temporary.c_str(), &found) != 0) return;  // then writing will tell
    const double free = static_cast<double>(found.f_bavail) * static_cast<double>(found.f_frsize);
    if (free >= static_cast<double>(bytes)) return;
    remove_folder(temporary);
    throw CheckpointError(fmt::format(
        "not enough space for the checkpoint {}: it needs {} ({} bytes), {} ({:.0f} bytes) are "
        "free; "
        "free some, or lower ckpt.keep",
        temporary, format_bytes(static_cast<double>(bytes)), bytes, format_bytes(free), free));
}

void publish(const std::string& temporary, const std::string& run_dir, std::int64_t step) {
    const std::string name = checkpoint_name(step), path = run_dir + "/" + name;
    sync_directory(temporary);
    if (!fs::exists(path)) {
        rename_or_throw(temporary, path);
    } else if (exchange(temporary, path)) {
        remove_folder(temporary);
    } else {
        rename_or_throw(path, aside_name(path));
        rename_or_throw(temporary, path);
        remove_folder(aside_name(path));
    }
    sync_directory(run_dir);
    write_latest(run_dir, name);
}

void prune(const std::string& run_dir, std::int64_t step, int keep, std::int64_t keep_every) {
    std::vector<std::int64_t> steps = checkpoint_steps(run_dir);
    std::reverse(steps.begin(), steps.end());
    int newer = 0;
    for (const std::int64_t s : steps) {
        if (s <= step && newer++ < std::max(1, keep)) continue;
        if (s <= step && keep_every > 0 && s % keep_every == 0) continue;
        // First out of sight: a folder half removed must not look like a checkpoint.
        const std::string path = run_dir + "/" + checkpoint_name(s);
        if (::rename(path.c_str(), (path + ".tmp").c_str()) == 0) remove_folder(path + ".tmp");
    }
}

void remove_folder(const std::string& path) {
    std::error_code ignored;
    fs::remove_all(path, ignored);
}

void remove_unfinished(const std::string& run_dir) {
    for (const std::string& name : entries(run_dir)) {
        if (name.compare(0, 3, "chk") != 0 || !ends_with(name, ".tmp")) continue;
        const std::string path = run_dir + "/" + name;
        const std::string whole = run_dir + "/" + name.substr(0, name.find('.'));
        // Killed between the two renames: the old one is still the checkpoint of its step.
        if (path == aside_name(whole) && !fs::exists(whole) &&
            ::rename(path.c_str(), whole.c_str()) == 0)
            continue;
        remove_folder(path);
    }
    std::error_code ignored;
    fs::remove(run_dir + "/latest.tmp", ignored);
}

namespace {

/// Index and sizes of the shards. Returns what is wrong, "" if nothing.
std::string quick_check(const std::string& directory) {
    try {
        check_shards(directory, read_index(directory));
        return "";
    } catch (const CheckpointError& error) {
        return error.what();
    }
}

/// What `latest` says: the name of a folder; "" where it says nothing of use.
std::string latest_name(const std::string& run_dir) {
    std::string text;
    try {
        text = read_file(run_dir + "/latest");
    } catch (const DataError&) {
        return "";
    }
    text.resize(text.find_last_not_of(" \t\r\n") + 1);
    return checkpoint_step(text) >= 0 ? text : "";
}

}  // namespace

std::string find_checkpoint(const std::string& where,
                            const std::function<void(const std::string&)>& note) {
    fs::path folder(where);
    if (!folder.has_filename()) folder = folder.parent_path();
    if (checkpoint_step(folder.filename().string()) >= 0 || fs::exists(folder / "index.h5")) {
        if (!fs::exists(folder)) return "";
        const std::string problem = quick_check(folder.string());
        require<CheckpointError>(problem.empty(), "{}", problem);
        return folder.string();
    }
    std::vector<std::int64_t> steps = checkpoint_steps(where);
    if (steps.empty()) return "";
    const std::string latest = latest_name(where);
    std::string problems;
    if (latest.empty()) {
        problems = where + "/latest is missing or damaged";
    } else {
        problems = quick_check(where + "/" + latest);
        if (problems.empty()) return where + "/" + latest;
    }
    std::reverse(steps.begin(), steps.end());
    for (const std::int64_t step : steps) {
        const std::string path = where + "/" + checkpoint_name(step);
        if (checkpoint_name(step) == latest) continue;
        const std::string problem = quick_check(path);
        if (problem.empty()) {
            note(fmt::format("{}; taking {} instead", problems, path));
            return path;
        }
        problems += "; " + problem;
    }
    throw CheckpointError(
        fmt::format("no checkpoint in {} is whole: {}; to begin anew, use another "
                    "run.dir or restart = none",
                    where, problems));
}

std::string checkpoint_identity(const std::string& directory) {
    try {
        const std::string index = read_file(directory + "/index.h5");
        return fmt::format("{:016x}", XXH3_64bits(index.data(), index.size()));
    } catch (const DataError& error) {
        throw CheckpointError(error.what());
    }
}

void repair_latest(const std::string& run_dir, const std::string& directory) {
    const std::string name = fs::path(directory).filename().string();
    if (latest_name(run_dir) != name) write_latest(run_dir, name);
}

std::string set_aside(const std::string& directory, const std::function<void(const std::string&)>& note) {
    const std::string aside = directory + ".damaged", run_dir = fs::path(directory).parent_path().string();
    remove_folder(aside);  // of an earlier time
    rename_or_throw(directory, aside);
    std::string before;
    try {
        before = find_checkpoint(run_dir, note);
    } catch (const CheckpointError&) {
        // None of the others is whole.
    }
    if (before.empty()) rename_or_throw(aside, directory);
    return before;
}

}  // namespace gradus
