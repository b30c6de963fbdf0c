// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/base/log.hpp"
#include "gradus/base/profile.hpp"
#include "gradus/base/signals.hpp"

namespace gradus {
namespace {

/// A folder that goes with the test.
struct Folder {
    std::string path;
    Folder() {
        char name[] = "/tmp/gradus-test-XXXXXX";
        path = mkdtemp(name);
    }
    ~Folder() { std::filesystem::remove_all(path); }
};

void put(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

std::string message_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const DataError& error) {
        return error.what();
    }
    return "no error";
}

/// Exit status of a child process that runs `body`; -signal where a signal ended it.
int run_child(const std::function<void()>& body) {
    const pid_t child = fork();
    if (child == 0) {
        body();
        _exit(99);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

BOOST_AUTO_TEST_CASE(json_lines_tell_file_and_line) {
    const Folder folder;
    const std::string path = folder.path + "/a.jsonl";
    put(path, "{\"a\": 1}\r\n\n{\"a\": 2}");
    std::vector<std::int64_t> values, lines;
    for_each_json_line(path, [&](const Json& row, std::int64_t line) {
        values.push_back(row["a"]);
        lines.push_back(line);
    });
    BOOST_TEST((values == std::vector<std::int64_t>{1, 2}));
    BOOST_TEST((lines == std::vector<std::int64_t>{1, 3}));
    const auto nothing = [](const Json&, std::int64_t) {};
    put(path, "{\"a\": 1}\n{\"a\":\n");
    BOOST_TEST(message_of([&] { for_each_json_line(path, nothing); }).find(path + ":2:") == 0u);
    put(path, "[1]\n");
    BOOST_TEST(message_of([&] { for_each_json_line(path, nothing); }).find(path + ":1:") == 0u);
    put(path, "{\"a\": \"\xff\"}\n");
    BOOST_TEST(message_of([&] { for_each_json_line(path, nothing); }).find(path + ":1:") == 0u);
    BOOST_CHECK_THROW(for_each_json_line(folder.path + "/none", nothing), DataError);
    BOOST_CHECK_THROW(for_each_json_line(folder.path, nothing), DataError);
}

BOOST_AUTO_TEST_CASE(brackets_that_nest_too_deep_are_no_row) {
    const std::string deep(100, '['), end(100, ']');
    BOOST_TEST(!nests_too_deep(deep + end));
    BOOST_TEST(nests_too_deep("{\"a\": " + deep + end + "}"));
    BOOST_TEST(!nests_too_deep("{\"[[\\\"" + deep + "\": " + end + "}"));  // brackets of a text
    std::string many;
    for (int i = 0; i < 200; ++i) many += "[]{}";
    BOOST_TEST(!nests_too_deep(many));
    const Folder folder;
    const std::string path = folder.path + "/deep.jsonl", far(500000, '[');
    put(path, "{\"a\": " + far + std::string(far.size(), ']') + "}\n{\"a\": 1}\n");
    JsonLinesReader lines(path);
    BOOST_REQUIRE(lines.next());
    BOOST_TEST(lines.problem().find("too deep") != std::string::npos);
    BOOST_REQUIRE(lines.next());
    BOOST_TEST(lines.problem() == "");
}

BOOST_AUTO_TEST_CASE(a_json_array_is_read_element_by_element) {
    const Folder folder;
    const std::string path = folder.path + "/a.json";
    const auto read = [&](const std::string& text) {
        write_file_atomically(path, text);
        JsonLinesReader rows(path);
        std::string told;
        while (rows.next())
            told += fmt::format("{}:{} ", rows.line(), rows.problem().empty() ? rows.row().dump() : rows.problem());
        return told;
    };
    BOOST_TEST(read(" \n[{\"a\": [1, {}]},\n {\"b\": \"],}\\\"[\"}\n]\n") == "2:{\"a\":[1,{}]} 3:{\"b\":\"],}\\\"[\"} ");
    BOOST_TEST(read("[]") == "");
    BOOST_TEST(read("[{},]") == "1:{} ");
    BOOST_TEST(read("[{\"a\": \"x\ny\"}, {}]").find("1:not a JSON object") == 0u);
    BOOST_TEST(read("[1,\n{}]") == "1:a JSON object is expected, this is number 2:{} ");
    BOOST_TEST(read("[{}\n{}]").find("1:not a JSON object") == 0u);
    BOOST_TEST(read("[{}, {\"a\":\n 1}") == "1:{} 2:the file ends before its array does ");
    BOOST_TEST(read("[\"a") == "1:the file ends before its array does ");
    BOOST_TEST(read("[{}]\n\n[{}]") == "1:{} 3:text behind the end of the array ");
    BOOST_TEST(read("[{}, {\"a\": \"" + std::string(1, '\xff') + "\"}, {}]").find("not a JSON object") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(json_lines_are_cut_back) {
    const Folder folder;
    const std::string path = folder.path + "/m.jsonl";
    {
        JsonLinesWriter writer(path);
        for (int step = 1; step <= 5; ++step) writer.write({{"step", step}});
    }
    std::ofstream(path, std::ios::app) << "{\"step\": 2, \"torn";
    cut_json_lines(path, "step", 3);
    BOOST_TEST(read_file(path) == "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    cut_json_lines(folder.path + "/none", "step", 3);
}

BOOST_AUTO_TEST_CASE(a_full_device_is_an_error_that_names_the_file) {
    if (!std::filesystem::exists("/dev/full")) return;
    JsonLinesWriter writer("/dev/full");
    BOOST_TEST(message_of([&] { writer.write({{"a", 1}}); }).find("/dev/full") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(profile_closes_to_its_total) {
    Profile profile;
    {
        auto outer = profile.region("train.step");
        BOOST_TEST(profile.current() == "train.step");
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        {
            auto inner = profile.region("rollout.decode");
            std::this_thread::sleep_for(std::chrono::milliseconds(30));
        }
    }
    BOOST_TEST(profile.current() == "idle");
    const auto rows = profile.rows();
    BOOST_REQUIRE(rows.size() == 2u);
    BOOST_TEST(rows[1].exclusive >= 0.03);
    BOOST_TEST(std::abs(rows[0].inclusive - rows[0].exclusive - rows[1].inclusive) < 1e-9);
    const auto lap = profile.lap();
    BOOST_TEST(lap.at("rollout") == rows[1].exclusive);
    BOOST_TEST(profile.lap().empty());
    const std::string table = Profile::table(rows, {}, profile.total());
    BOOST_TEST(table.find("Rest") != std::string::npos);
    BOOST_TEST(table.find("Total") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_crash_says_who_and_ends_as_it_would) {
    const std::string file = "crash." + std::to_string(getpid());
    const pid_t child = fork();
    if (child == 0) {
        const int out = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(out, STDERR_FILENO);
        for (const int number : {SIGSEGV, SIGABRT}) signal(number, SIG_DFL);  // Boost's, a sanitizer's
        install_crash_handlers("rank 3 host n017");
        *static_cast<volatile int*>(nullptr) = 1;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    BOOST_TEST(WIFSIGNALED(status));
    BOOST_TEST(WTERMSIG(status) == SIGSEGV);
    const std::string said = read_file(file);
    std::filesystem::remove(file);
    BOOST_TEST(said.find("gradus: rank 3 host n017: crashed with SIGSEGV.") == 0u, said);
    BOOST_TEST(std::count(said.begin(), said.end(), '\n') > 2, said);
}

BOOST_AUTO_TEST_CASE(signals_climb_the_ladder) {
    BOOST_TEST(run_child([] {
        install_signal_handlers(true);
        raise(SIGUSR1);
        _exit(stop_requested() == StopRequest::soon ? 0 : 1);
    }) == 0);
    BOOST_TEST(run_child([] {
        install_signal_handlers(true);
        raise(SIGTERM);
        _exit(stop_requested() == StopRequest::urgent ? 0 : 1);
    }) == 0);
    BOOST_TEST(run_child([] {
        install_signal_handlers(true);
        raise(SIGUSR1);
        raise(SIGUSR1);  // passed on by a launcher: the same request
        raise(SIGTERM);  // the time limit itself
        raise(SIGUSR1);  // asks for less than before
        _exit(stop_requested() == StopRequest::urgent ? 0 : 1);
    }) == 0);
    for (int number : {SIGUSR1, SIGTERM})
        BOOST_TEST(run_child([number] {
            install_signal_handlers(true);
            raise(number);
            std::this_thread::sleep_for(std::chrono::milliseconds(1050));
            raise(number);
        }) == 75);
    BOOST_TEST(run_child([] {
        install_signal_handlers(true);
        raise(SIGUSR1);
        install_signal_handlers(true);  // what came before is kept
        _exit(stop_requested() == StopRequest::soon ? 0 : 1);
    }) == 0);
    BOOST_TEST(run_child([] {
        install_signal_handlers(false);
        raise(SIGTERM);
        _exit(stop_requested() == StopRequest::none ? 0 : 1);
    }) == 0);
}

BOOST_AUTO_TEST_CASE(numbers_for_people) {
    BOOST_TEST(format_bytes(312) == "312 B");
    BOOST_TEST(format_bytes(1.5 * (1 << 30)) == "1.5 GiB");
    BOOST_TEST(format_duration(12.34) == "12.3 s");
    BOOST_TEST(format_duration(14292) == "3:58:12");
    BOOST_TEST(format_count(12340) == "12.3k");
}

}  // namespace gradus
