// SPDX-License-Identifier: Apache-2.0
// Each adversary gains nothing, and leaves nothing behind: no process, no file.
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "adversaries.hpp"

using namespace gradus;
namespace fs = std::filesystem;

namespace {

/// A folder of the test with a secret in it; programs under weak isolation work in another.
const fs::path& place() {
    static const fs::path path = [] {
        const fs::path made = fs::temp_directory_path() / ("gradus-sandbox-test-" + std::to_string(::getpid()));
        fs::create_directories(made / "work");
        fs::permissions(made / "work", fs::perms::all);
        fs::create_directory(made / "home");
        std::ofstream(made / "home" / "secret") << "secret\n";
        fs::permissions(made / "home" / "secret", fs::perms::owner_read);
        return made;
    }();
    return path;
}

const Sandbox& sandbox() {
    static const Sandbox made = [] {
        ::setenv("TMPDIR", (place() / "work").c_str(), 1);
        ::setenv("GRADUS_SECRET", (place() / "home" / "secret").c_str(), 1);
        return Sandbox();
    }();
    return made;
}

struct Clean {
    ~Clean() { fs::remove_all(place()); }
};
BOOST_TEST_GLOBAL_FIXTURE(Clean);

CodeSettings settings_of(Isolation isolation) {
    CodeSettings settings;
    settings.isolation = isolation;
    settings.limits = {.seconds = 1, .compile_seconds = 4, .memory = 512 << 20, .disk = 32 << 20, .output = 1 << 16, .processes = 16};
    return settings;
}

CodeJob job_of(const Adversary& adversary, Isolation isolation) {
    CodeJob job{.settings = settings_of(isolation), .language = adversary.language, .source = adversary.source};
    const std::string mark = "%SECRET%";
    if (const std::size_t at = job.source.find(mark); at != std::string::npos)
        job.source.replace(at, mark.size(), (place() / "home" / "secret").string());
    if (adversary.form == Form::script) {
        job.cases = {{.input = "2 3\n", .output = "5\n"}};
        return job;
    }
    job.tests = {"assert add(2, 3) == 5", "assert add(0, 5) == 5"};
    job.entry_point = "add";
    if (adversary.language == Language::cpp) {
        for (std::string& test : job.tests) test = "assert(" + test.substr(7) + ");";
        job.signature = "int(int a, int b)";
    }
    return job;
}

std::string status_line(const fs::path& process, const std::string& name) {
    std::ifstream status(process / "status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind(name, 0) == 0) return line.substr(name.size());
    return "";
}

/// Processes that the helper or its children started, or that work in the test's folder.
std::string left_processes() {
    std::set<std::string> family = {std::to_string(sandbox().helper())};
    std::string left;
    for (bool grown = true; grown;) {
        grown = false;
        for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
            const std::string number = entry.path().filename();
            if (number.find_first_not_of("0123456789") != std::string::npos || family.contains(number)) continue;
            std::istringstream parent(status_line(entry.path(), "PPid:"));
            std::string of;
            parent >> of;
            std::error_code error;
            const std::string folder = fs::read_symlink(entry.path() / "cwd", error).string();
            if (!family.contains(of) && folder.rfind(place().string() + "/work", 0) != 0) continue;
            if (status_line(entry.path(), "State:").find("Z") != std::string::npos) continue;  // gone, not yet waited for
            family.insert(number);
            left += number + status_line(entry.path(), "Name:") + "; ";
            grown = true;
        }
    }
    return left;
}

std::set<std::string> names_in(const fs::path& folder) {
    std::set<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
    return names;
}

void meet(const Adversary& adversary, Isolation isolation) {
    const SandboxReport report = sandbox().probe(settings_of(isolation));
    if (!report.problem.empty()) {
        BOOST_TEST_MESSAGE("skipped: this machine gives no such box: " << report.problem);
        return;
    }
    const CodeResult result = sandbox().run(job_of(adversary, isolation));
    const auto passed = std::count(result.passed.begin(), result.passed.end(), 1);
    BOOST_TEST(result.judged, result.reason);
    BOOST_TEST(passed == adversary.passes, result.reason);
    BOOST_TEST((adversary.passes > 0 || !result.reason.empty()));
    // The keeper itself ends a moment after its answer.
    for (int i = 0; i < 50 && !left_processes().empty(); ++i) ::usleep(20000);
    BOOST_TEST(left_processes() == "");
    BOOST_TEST(names_in(place() / "work").empty());
    BOOST_TEST(!fs::exists("/tmp/gradus-adversary"));
    BOOST_TEST_MESSAGE(adversary.name << ": " << result.reason);
}

/// A named test case for each adversary and kind of isolation.
[[maybe_unused]] const bool registered = [] {
    using namespace boost::unit_test;
    const auto suite = [](const char* name, Isolation isolation) {
        ut_detail::auto_test_unit_registrar open(name, __FILE__, __LINE__, decorator::collector_t::instance());
        for (const Adversary& adversary : adversaries()) {
            if (isolation == Isolation::weak && adversary.full_only) continue;
            ut_detail::auto_test_unit_registrar add(
                make_test_case([adversary, isolation] { meet(adversary, isolation); }, adversary.name, __FILE__, __LINE__),
                decorator::collector_t::instance());
        }
        ut_detail::auto_test_unit_registrar close(1);
    };
    suite("full", Isolation::full);
    suite("weak", Isolation::weak);
    return true;
}();

}  // namespace
