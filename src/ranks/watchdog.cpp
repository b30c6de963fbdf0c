// SPDX-License-Identifier: Apache-2.0
#include "gradus/ranks/watchdog.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>

#include <algorithm>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <sstream>

#include "gradus/base/error.hpp"
#include "gradus/base/exit_code.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/ranks/exchange.hpp"

namespace gradus {
namespace {

/// Time for the lines of the other ranks.
constexpr auto kGrace = std::chrono::seconds(2);
/// A file system that stands still must not keep the process.
constexpr auto kLongest = std::chrono::seconds(5);

void append(const std::string& path, const std::string& line) {
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0) return;
    [[maybe_unused]] const auto written = ::write(file, line.data(), line.size());
    ::close(file);
}

void say(const std::string& line) {
    // One call, so that lines of several ranks do not mix.
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

/// What the ranks of `lines` were doing.
std::map<int, std::string> states_of(const std::string& lines) {
    std::map<int, std::string> states;
    std::istringstream in(lines);
    std::string state;
    for (int rank = 0; in >> rank && std::getline(in, state);) states[rank] = state;
    return states;
}

/// Adds this rank's line, waits for the others', and tells what they mean where this rank is the first of them.
void report(const std::string& dir, int rank, const std::string& state, const std::vector<std::string>& hosts) {
    append(dir + "/stalled", fmt::format("{} {}\n", rank, state));
    leave_exit_file(dir, ExitCode::internal);
    std::this_thread::sleep_for(kGrace);
    const std::string lines = read_file(dir + "/stalled");
    const auto states = states_of(lines);
    if (states.empty() || states.begin()->first != rank) return;
    std::string text = "no progress:\n";
    for (const auto& [r, doing] : states)
        text += fmt::format("  rank {} host {}{}\n", r, hosts.at(static_cast<std::size_t>(r)), doing);
    const std::string who = who_stalls(lines, hosts);
    if (!who.empty()) {
        say(who + "\n");
        text += who + "\n";
    }
    append(dir + "/run.log", text);
}

}  // namespace

std::string RankName::text() const {
    return rank < 0 ? fmt::format("process {} host {}", ::getpid(), host) : fmt::format("rank {} host {}", rank, host);
}

RankName RankName::launched() {
    char host[256] = "?";
    ::gethostname(host, sizeof host - 1);
    RankName name{.rank = -1, .host = host};
    for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"})
        if (const char* rank = std::getenv(variable); rank != nullptr && name.rank < 0) name.rank = std::atoi(rank);
    return name;
}

Watchdog::Watchdog(double timeout) : timeout_(timeout), last_(now_seconds()), name_(RankName::launched()) {
    thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
    {
        const std::lock_guard lock(mutex_);
        done_ = true;
    }
    wake_.notify_all();
    thread_.join();
}

void Watchdog::set_name(RankName name) {
    const std::lock_guard lock(mutex_);
    name_ = std::move(name);
}

void Watchdog::set_place(std::string run_dir, std::vector<std::string> hosts) {
    const std::lock_guard lock(mutex_);
    run_dir_ = std::move(run_dir);
    hosts_ = std::move(hosts);
}

void Watchdog::follow(const Profile* profile, const char* phase) {
    const std::lock_guard lock(mutex_);
    profile_ = profile;
    phase_ = phase;
    alive();
}

void Watchdog::watch() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (!done_) {
        const double timeout = timeout_.load();
        wake_.wait_for(lock, std::chrono::duration<double>(timeout > 0 ? std::min(1.0, timeout / 10) : 1.0));
        if (const std::uint64_t now = profile_ == nullptr ? seen : profile_->entered(); now != seen) {
            seen = now;
            alive();
        }
        const double silent = now_seconds() - last_.load();
        if (!done_ && timeout_.load() > 0 && silent >= timeout_.load()) strike(silent);
    }
}

void Watchdog::strike(double silent) {
    const std::string state =
        fmt::format("in phase {}, {}", profile_ == nullptr ? phase_ : profile_->current(), Exchange::describe());
    say(fmt::format("{}: no progress for {:.0f} s (run.timeout) {}: ending the job\n", name_.text(), silent, state));
    if (!run_dir_.empty()) {
        // Apart, and never joined.
        auto told = std::make_shared<std::promise<void>>();
        std::future<void> end = told->get_future();
        std::thread([told, dir = run_dir_, rank = name_.rank, state, hosts = hosts_] {
            try {
                report(dir, rank, state, hosts);
            } catch (const std::exception& e) {
                say(fmt::format("gradus: {}\n", e.what()));
            }
            told->set_value();
        }).detach();
        end.wait_for(kLongest);
    }
    _exit(static_cast<int>(ExitCode::internal));
}

std::string who_stalls(const std::string& lines, const std::vector<std::string>& hosts) {
    constexpr std::size_t kMost = 8;
    const auto states = states_of(lines);
    std::vector<int> silent, apart;
    for (int rank = 0; rank < static_cast<int>(hosts.size()); ++rank)
        if (!states.contains(rank)) silent.push_back(rank);
    for (const auto& [rank, state] : states)
        if (state.find(", in ") == std::string::npos) apart.push_back(rank);
    const std::vector<int>& guilty = silent.empty() ? apart : silent;
    if (guilty.empty() || states.empty()) return "";
    std::string names;
    for (std::size_t i = 0; i < std::min(kMost, guilty.size()); ++i)
        names += fmt::format("{}rank {} host {}", i == 0 ? "" : ", ", guilty[i],
                             hosts[static_cast<std::size_t>(guilty[i])]);
    if (guilty.size() > kMost) names += fmt::format(" and {} more", guilty.size() - kMost);
    return fmt::format("the others wait for {}: {}", names,
                       silent.empty() ? "in no exchange with them" : "said nothing; stopped, dead or cut off");
}

}  // namespace gradus
