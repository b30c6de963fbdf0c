// SPDX-License-Identifier: Apache-2.0
// One keeper's box, and runs of programs in it.
#pragma once

#include <linux/filter.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "gradus/base/handle.hpp"
#include "gradus/reward/sandbox.hpp"

namespace gradus {

struct CloseBoxFile {
    void operator()(int descriptor) const;
};
using BoxFile = UniqueHandle<int, CloseBoxFile, -1>;

/// A pipe whose ends are closed on exec. Throws InternalError.
struct Pipe {
    Pipe();
    BoxFile out, in;  ///< to read from, to write to
};
/// `text` to read, in memory, which nobody can write to any more. Throws InternalError.
BoxFile sealed_text(const std::string& text);
/// The same of what is in a file.
BoxFile sealed_copy(int file);

/// The system calls that a program may make, as a filter for the kernel. Weak isolation has fewer: no process group or
/// session of its own, no signals but to itself. Throws InternalError.
std::vector<sock_filter> system_call_filter(Isolation isolation);

/// Moves this process into namespaces and a root of its own (see gradus/reward/sandbox.hpp), with a folder /store of
/// `disk` bytes. Throws InternalError naming the step that the machine does not allow.
void enter_namespaces(const std::vector<std::string>& folders, std::int64_t disk);
/// The mounts of one run, made by its first process: /work is `folder` of the store, or, where that is "", an empty one of
/// `disk` bytes; the store itself is out of sight. Returns what failed, "" if nothing.
std::string mount_work(const std::string& folder, std::int64_t disk);

/// Removes what is in a folder, whatever it is, and the folder. Without recursion: nests may be deep.
void remove_tree(const std::string& path);
/// Bytes that the files in a folder take, counted up to somewhere above `bound`.
std::int64_t folder_bytes(const std::string& path, std::int64_t bound);

struct BoxProgram {
    std::vector<std::string> argv;
    int image = -1;                          ///< descriptor of the program itself; -1: argv[0] is its path
    std::vector<std::pair<int, int>> wires;  ///< descriptor here, number there; the rest is /dev/null or closed
};
/// What to read from a run. Where it is longer than `bound` the run ends (`strict`), or the rest is dropped.
struct BoxOutput {
    int descriptor = -1;
    std::int64_t bound = 0;
    bool strict = false;
    std::string text;
};
struct BoxRun {
    std::vector<BoxProgram> programs;  ///< the run ends with the first
    std::vector<BoxOutput> outputs;
    std::string folder;                ///< of the store, to work in; "": a fresh one
    std::int64_t seconds = 0;          ///< of processor time
};

class CodeBox {
  public:
    /// Throws InternalError where the machine cannot give what `settings` ask for.
    explicit CodeBox(const CodeSettings& settings);
    ~CodeBox();
    CodeBox(const CodeBox&) = delete;
    CodeBox& operator=(const CodeBox&) = delete;

    /// A new folder of the store.
    std::string make_folder(const std::string& name) const;
    /// Path of a tool, "" where there is none.
    std::string find_tool(const std::string& name) const;
    /// Runs programs; when it returns none of their processes is left. Returns "" where the first ended with exit code 0,
    /// else what ended it. Throws InternalError where the box itself failed.
    std::string run(BoxRun& run);

  private:
    [[noreturn]] void first_process(const BoxRun& run, int status) const;
    [[noreturn]] void program(const BoxProgram& program, const BoxRun& run, int status) const;
    void set_limits(const BoxRun& run) const;
    std::string follow(BoxRun& run, pid_t first, int status) const;
    std::int64_t resident_bytes(pid_t process) const;
    void end_all(pid_t first) const;

    CodeSettings settings_;
    bool full_;
    std::vector<sock_filter> filter_;
    BoxFile proc_;
    std::int64_t processes_;
    std::string store_;
    std::int64_t folders_ = 0;
};

}  // namespace gradus
