// SPDX-License-Identifier: Apache-2.0
// Programs as answers: what a task asks for, the program in a response, the reward.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gradus/reward/reward.hpp"
#include "gradus/reward/sandbox.hpp"

namespace gradus {

/// How a program is tested. As text it is a row's reference: {"code": "python" | "cpp", "tests": [...] | "cases":
/// [{"input", "output"}, ...], "entry_point", "signature", "prologue", "header", "names", "in_place"}; fields that are
/// empty are left out. The first two say which form the tests have (CodeJob).
struct CodeTask {
    Language language = Language::python;
    std::vector<std::string> tests;
    std::vector<InputOutput> cases;
    std::string entry_point;
    std::string signature;   ///< C++
    std::string prologue;    ///< stands before the tests, and before a program that is a whole function
    std::string header;      ///< stands before a program that is only the body of the function
    std::vector<std::string> names;
    bool in_place = false;
};
std::string to_reference(const CodeTask& task);
/// Nothing where the text is no such reference. Throws DataError where it is one and says what cannot be.
std::optional<CodeTask> code_task(const std::string& reference);

/// The function that a C++ text ends with: its head, `bool f(int a)`, or its body opened, begun perhaps, not closed.
struct CppHeader {
    std::string before, type, name;  ///< the text before it; `bool(int a)`; `f`
};
std::optional<CppHeader> cpp_header(const std::string& text);

/// The program in a response: of its final part the last fenced block in the task's language or in none, else the last
/// fenced block, else the last complete `<answer>`, else all.
std::string extract_code(const std::string& response, Language language);
/// The whole source: a function or program by itself, or the body that the task's header opens.
std::string whole_program(const CodeTask& task, const std::string& code);
/// What a sandbox is asked for a response.
CodeJob code_job(const CodeTask& task, const std::string& response, const CodeSettings& settings);

/// The reward: 1 where all tests pass, else 0; `partial`: the share of them that pass. Unscorable without a task, and where
/// the sandbox or the tests themselves fail.
struct CodeRewardOptions {
    CodeSettings settings;
    bool partial = false;
};
std::unique_ptr<Reward> make_code_reward(const Sandbox& sandbox, CodeRewardOptions options);

}  // namespace gradus
