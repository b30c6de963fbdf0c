// SPDX-License-Identifier: Apache-2.0
// Rewards of kind = code: what the deck says of them, what this machine has for them.
#include <sched.h>
#include <unistd.h>

#include <algorithm>

#include "gradus/base/error.hpp"
#include "gradus/reward/code.hpp"
#include "gradus/stage/scoring.hpp"

namespace gradus {
namespace {

std::string key_of(const std::string& name, const char* part) { return fmt::format("reward.{}.{}", name, part); }

/// Throws DeckError where a row asks for a language that this machine cannot run.
void require_tools(const Deck& deck, const std::string& name, const SandboxReport& report,
                   const std::vector<std::string>& references) {
    for (const std::string& reference : references) {
        const std::optional<CodeTask> task = code_task(reference);
        if (!task) continue;
        const bool python = task->language == Language::python;
        const std::string key = key_of(name, python ? "python" : "compiler");
        require<DeckError>(!(python ? report.python : report.compiler).empty(),
                           "{}: rows ask for programs in {}, but there is no `{}` in /usr/local/bin, /usr/bin, /bin or where a box "
                           "shows it: install it, or name its path by {} and folders outside of /usr by {}",
                           deck.origin(key), python ? "Python" : "C++", deck.text(key), key, key_of(name, "folders"));
    }
}

}  // namespace

int cores_of_rank(const Run& run) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    ::sched_getaffinity(0, sizeof cores, &cores);
    char host[256] = "";
    ::gethostname(host, sizeof host - 1);
    std::string place = host;
    for (int core = 0; core < CPU_SETSIZE; ++core)
        if (CPU_ISSET(core, &cores)) place += fmt::format(" {}", core);
    const std::vector<std::string> places = run.grid.world().all_gather(place);
    const auto ranks = static_cast<int>(std::count(places.begin(), places.end(), place));
    return std::max(1, CPU_COUNT(&cores) / ranks);
}

CodeSettings code_settings(const Deck& deck, const std::string& name) {
    const auto number = [&](const char* part) { return deck.integer(key_of(name, part)); };
    return {.isolation = deck.text(key_of(name, "isolation")) == "full" ? Isolation::full : Isolation::weak,
            .limits = {.seconds = number("timeout"),
                       .compile_seconds = number("compile_timeout"),
                       .memory = number("memory"),
                       .disk = number("disk"),
                       .output = number("output"),
                       .processes = number("processes")},
            .python = deck.text(key_of(name, "python")),
            .compiler = deck.text(key_of(name, "compiler")),
            .folders = deck.list(key_of(name, "folders"))};
}

std::unique_ptr<Reward> make_deck_code_reward(Run& run, const std::string& name,
                                              const std::vector<std::string>& references, bool partial) {
    const CodeSettings settings = code_settings(run.deck, name);
    const SandboxReport report = run.sandbox.probe(settings);
    const bool full = settings.isolation == Isolation::full;
    const std::string key = key_of(name, "isolation");
    require<DeckError>(report.problem.empty(), "{}: {} = {}, which this machine does not give: {}{}", run.deck.origin(key), key,
                       full ? "full" : "weak", report.problem,
                       full ? "; with " + key + " = weak programs run all the same, and can read what the user can" : "");
    require_tools(run.deck, name, report, references);
    run.log.info("reward {}: programs run {}; Python {}, C++ compiler {}", name,
                 full ? "in namespaces of their own (full isolation)"
                      : "as a process group that sees the machine's files (weak isolation)",
                 report.python.empty() ? "none" : report.python, report.compiler.empty() ? "none" : report.compiler);
    return make_code_reward(run.sandbox,
                            {.settings = settings, .partial = partial || run.deck.flag(key_of(name, "partial"))});
}

int reward_threads(const Run& run) {
    int threads = 1;
    for (const std::string& name : run.deck.names("reward")) {
        if (run.deck.text(key_of(name, "kind")) != "code") continue;
        const auto workers = static_cast<int>(run.deck.integer(key_of(name, "workers")));
        threads = std::max(threads, workers > 0 ? workers : cores_of_rank(run));
    }
    return threads;
}

}  // namespace gradus
