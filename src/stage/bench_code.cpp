// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <thread>

#include "gradus/base/error.hpp"
#include "gradus/reward/code.hpp"
#include "gradus/stage/scoring.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

constexpr int kJobs = 16;  ///< of a kind and worker, in one measurement

struct Kind {
    const char* name;
    CodeJob job;
};

std::vector<Kind> kinds() {
    CodeJob python{.language = Language::python, .source = "def add(a, b):\n    return a + b\n",
                   .tests = {"assert add(2, 3) == 5", "assert add([1], [2]) == [1, 2]"}, .entry_point = "add"};
    CodeJob script{.language = Language::python, .source = "a, b = map(int, input().split())\nprint(a + b)\n", .cases = {{"2 3\n", "5\n"}}};
    CodeJob cpp{.language = Language::cpp, .source = "int add(int a, int b) { return a + b; }\n",
                .tests = {"assert(add(2, 3) == 5);"}, .entry_point = "add", .signature = "int(int a, int b)"};
    CodeJob compiled{.language = Language::cpp,
                     .source = "#include <iostream>\nint main() {\n    int a, b;\n    std::cin >> a >> b;\n    std::cout << a + b << \"\\n\";\n}\n",
                     .cases = {{"2 3\n", "5\n"}}};
    return {{"Python function", python}, {"Python script", script}, {"C++ function", cpp}, {"C++ script", compiled}};
}

}  // namespace

void bench_code(Run& run, std::int64_t runs, Json& result) {
    const SandboxReport report = run.sandbox.probe({});
    require<DeckError>(report.problem.empty(), "bench.what = code: this machine gives no full isolation: {}", report.problem);
    const int workers = cores_of_rank(run);
    for (const Kind& kind : kinds()) {
        double best = 1e300;
        for (std::int64_t r = 0; r < runs; ++r) {
            std::atomic<int> left = kJobs * workers, passed = 0;
            const double began = now_seconds();
            std::vector<std::thread> threads;
            for (int w = 0; w < workers; ++w)
                threads.emplace_back([&] {
                    while (left-- > 0)
                        if (const CodeResult one = run.sandbox.run(kind.job); one.judged && one.reason.empty()) ++passed;
                });
            for (std::thread& thread : threads) thread.join();
            best = std::min(best, now_seconds() - began);
            require(passed == kJobs * workers, "{} of {} programs passed", passed.load(), kJobs * workers);
            run.watchdog.alive();
        }
        const double rate = kJobs / best;
        result["code"][kind.name] = {{"workers", workers}, {"programs_per_s_a_worker", rate}};
        run.log.info("code        {:>10.1f} programs/s a worker, {} at once: {}", rate, workers, kind.name);
    }
}

}  // namespace gradus
