// SPDX-License-Identifier: Apache-2.0
// The data sets' own solutions pass their tests, and programs that answer wrongly fail them. Every tenth problem, or with
// GRADUS_LONG all of them.
#include <algorithm>
#include <atomic>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "code_rows.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/reward/code.hpp"

using namespace gradus;

namespace {

const Sandbox& sandbox() {
    static const Sandbox made;
    return made;
}

struct Problem {
    std::string id, response;
    CodeTask task;
};

bool whole() { return std::getenv("GRADUS_LONG") != nullptr; }

/// Problems of a file with the response that `write` makes of each row. Empty where there is no data.
template <class Write>
std::vector<Problem> problems(const std::string& file, const Write& write) {
    std::vector<Problem> all;
    const char* data = std::getenv("GRADUS_DATA");
    if (data == nullptr || !std::filesystem::exists(std::string(data) + "/" + file)) {
        BOOST_TEST_MESSAGE("skipped: GRADUS_DATA names no folder with " << file);
        return all;
    }
    std::int64_t at = 0;
    for_each_json_line(std::string(data) + "/" + file, [&](const Json& row, std::int64_t) {
        if (!whole() && at++ % 10 != 0) return;
        const Json read = as_code_row(row);
        all.push_back({.id = row["task_id"].dump(), .response = write(row), .task = *code_task(read["reference"])});
    });
    return all;
}

std::string text(const Json& row, const char* name) { return row[name].get<std::string>(); }
std::string fenced(const std::string& code) { return "<think>a</think>So:\n```\n" + code + "\n```\nThat is it."; }

/// What became of each problem, several at once.
std::vector<CodeResult> results(const std::vector<Problem>& all) {
    (void)sandbox();
    std::vector<CodeResult> found(all.size());
    std::atomic<std::size_t> next = 0;
    const auto work = [&] {
        CodeSettings settings;
        settings.limits.seconds = 20;
        for (std::size_t i = next++; i < all.size(); i = next++)
            found[i] = sandbox().run(code_job(all[i].task, all[i].response, settings));
    };
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t) threads.emplace_back(work);
    for (std::thread& thread : threads) thread.join();
    return found;
}

bool passes(const CodeResult& result) {
    return result.judged && !result.passed.empty() && std::count(result.passed.begin(), result.passed.end(), 1) == std::ssize(result.passed);
}

/// All pass, or none does; `except`: those that cannot be judged.
void expect(const std::vector<Problem>& all, bool good, const std::vector<std::string>& except = {}) {
    const std::vector<CodeResult> found = results(all);
    std::int64_t as_wanted = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        const bool unusable = std::find(except.begin(), except.end(), all[i].id) != except.end();
        if (unusable) {
            BOOST_TEST(!found[i].judged, all[i].id);
            continue;
        }
        BOOST_TEST(found[i].judged, all[i].id + ": " + found[i].reason);
        BOOST_TEST(passes(found[i]) == good, all[i].id + ": " + found[i].reason);
        as_wanted += found[i].judged && passes(found[i]) == good;
    }
    BOOST_TEST_MESSAGE(as_wanted << " of " << all.size() << (good ? " pass" : " fail"));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(data)

BOOST_AUTO_TEST_CASE(human_eval_python) {
    expect(problems("humaneval/HumanEval.jsonl", [](const Json& row) { return fenced(text(row, "canonical_solution")); }), true);
}

BOOST_AUTO_TEST_CASE(human_eval_python_as_a_whole) {
    expect(problems("humaneval/HumanEval.jsonl",
                    [](const Json& row) { return fenced(text(row, "prompt") + text(row, "canonical_solution")); }),
           true);
}

/// The function gives back its solution's value in a list, a tuple or as another number: wrong, of a right shape often.
BOOST_AUTO_TEST_CASE(human_eval_python_wrong) {
    expect(problems("humaneval/HumanEval.jsonl",
                    [](const Json& row) {
                        const std::string name = text(row, "entry_point");
                        return fenced(text(row, "prompt") + text(row, "canonical_solution") + "\ngradus_right = " + name + "\ndef " + name +
                                      "(*a):\n    x = gradus_right(*a)\n    return not x if type(x) is bool else x + 1 if type(x) in (int, float) else "
                                      "x + x[:1] + type(x)('?') if type(x) in (str, list, tuple) else [x]\n");
                    }),
           false);
}

BOOST_AUTO_TEST_CASE(mbpp) {
    expect(problems("mbpp/mbpp.jsonl", [](const Json& row) { return fenced(text(row, "code")); }), true, {"367", "927"});
}

BOOST_AUTO_TEST_CASE(human_eval_cpp) {
    expect(problems("humaneval_x/humaneval_cpp.jsonl", [](const Json& row) { return fenced(text(row, "canonical_solution")); }), true);
}

/// The function calls its solution, under another name, and spoils the value.
BOOST_AUTO_TEST_CASE(human_eval_cpp_wrong) {
    const std::string spoil = R"(#include <bits/stdc++.h>
#include <boost/any.hpp>
#include <openssl/md5.h>
void spoil(bool& x) { x = !x; }
void spoil(std::string& x) { x += '?'; }
void spoil(boost::any& x) { x = 1e300; }
template <class T> std::enable_if_t<std::is_arithmetic_v<T>> spoil(T& x) { x = x + 1; }
template <class T> void spoil(std::vector<T>& x) { x.insert(x.begin(), T()); x.push_back(T()); }
template <class K, class V> void spoil(std::map<K, V>& x) { x[K()] = V(77); }
)";
    expect(problems("humaneval_x/humaneval_cpp.jsonl",
                    [&](const Json& row) {
                        const std::string name = cpp_header(text(row, "declaration"))->name;
                        return fenced(spoil + "#define " + name + " gradus_right\n" + text(row, "declaration") +
                                      text(row, "canonical_solution") + "\n#undef " + name + "\ntemplate <class... A> auto " + name +
                                      "(A... a) { auto x = gradus_right(a...); spoil(x); return x; }\n");
                    }),
           false);
}

BOOST_AUTO_TEST_SUITE_END()
