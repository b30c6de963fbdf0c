// SPDX-License-Identifier: Apache-2.0
// Runs programs that a model wrote, and tells which of their tests they pass.
//
// A rank's helper process is forked before MPI and CUDA start. It idles on a socket; for each job it forks a keeper, which
// makes a box, compiles and runs in it, and answers the rank. A keeper that dies costs its job and nothing else.
//
// A box under full isolation: namespaces of users, mounts, processes, network, IPC and host name; a root of its own with
// /usr, /bin, /lib* read-only and little else (no /proc, no /home, no /tmp); a folder in memory that is gone with it; a list
// of system calls that are allowed; limits on time, memory, processes, files, output and disk; no environment, no
// descriptors. Root becomes nobody first. Weak isolation has the list of system calls and the limits, but the machine's
// own files as the user may read them, and the folder stands under TMPDIR.
//
// Verdicts come from another process than the tested program. Function tests: the tests have a process of their own, which
// calls the program through pipes and gets plain data back; expected values are never where the program is. Tests by input
// and output: the keeper compares, outside of the box.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "gradus/base/handle.hpp"

namespace gradus {

enum class Isolation : int { full, weak };
enum class Language : int { python, cpp };

/// What one run may take.
struct CodeLimits {
    std::int64_t seconds = 5;           ///< of processor time; five times as many on the clock
    std::int64_t compile_seconds = 20;  ///< the same for a compilation
    std::int64_t memory = std::int64_t{1} << 30;  ///< bytes: address space of a process, and pages of all
    std::int64_t disk = std::int64_t{64} << 20;   ///< bytes in its folder
    std::int64_t output = std::int64_t{1} << 20;  ///< bytes that it may print
    std::int64_t processes = 32;                  ///< with threads
};

/// Where and with what jobs run.
struct CodeSettings {
    Isolation isolation = Isolation::full;
    CodeLimits limits;
    std::string python = "python3";     ///< name in /usr/local/bin, /usr/bin, /bin, or absolute path
    std::string compiler = "g++";       ///< the same, of a C++17 compiler with GCC's options
    std::vector<std::string> folders;   ///< further absolute folders that programs can read
};

/// Text on stdin, and what is to come on stdout: the same words between white space.
struct InputOutput {
    std::string input, output;
};

/// A program with its tests, of one of two forms.
struct CodeJob {
    CodeSettings settings;
    Language language = Language::python;
    std::string source;                ///< the whole program
    std::vector<InputOutput> cases;    ///< a test each, in a fresh run; else:
    std::vector<std::string> tests;    ///< asserts, or a block with `check(candidate)` (Python) or `main` (C++)
    std::string prologue;              ///< text before the tests, trusted as they are
    std::string entry_point;           ///< the function that is tested
    std::string signature;             ///< C++: its type, `bool(vector<float> numbers, float threshold)`
    std::vector<std::string> names;    ///< Python: further names of the program that the tests use
    bool in_place = false;             ///< Python: what the function does to its arguments shows in the tests
};

struct CodeResult {
    /// Whether there is a verdict. False where the sandbox or the tests themselves failed: no fault of the program.
    bool judged = false;
    std::vector<char> passed;  ///< a test each; empty unless judged
    std::string reason;        ///< of the first failure, "" where all pass
};

/// What a machine has for programs in a box.
struct SandboxReport {
    std::string problem;           ///< why there is no such box; "" where there is
    std::string python, compiler;  ///< paths, "" where there is none
};

class Sandbox {
  public:
    /// Forks the helper: call it before there are threads, MPI or CUDA. Where that fails every job says so.
    Sandbox();
    /// The helper ends, with all that runs in it.
    ~Sandbox();
    Sandbox(const Sandbox&) = delete;
    Sandbox& operator=(const Sandbox&) = delete;

    /// Runs a job and waits for it; from any thread, several at once. Never throws on what a program does.
    CodeResult run(const CodeJob& job) const;
    /// Makes one box as `settings` ask for it and looks around.
    SandboxReport probe(const CodeSettings& settings) const;
    /// The helper, -1 where it could not be forked.
    pid_t helper() const { return helper_; }

  private:
    std::string ask(const std::string& request) const;

    struct Close {
        void operator()(int descriptor) const;
    };
    UniqueHandle<int, Close, -1> control_;
    pid_t helper_ = -1;
    std::string problem_;
};

}  // namespace gradus
