// SPDX-License-Identifier: Apache-2.0
#include "gradus/base/profile.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <numeric>
#include <utility>

namespace gradus {

double now_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Profile::Profile() : start_(now_seconds()) {}

Profile::Region::Region(Profile& profile, std::string_view name) : profile_(profile) {
    profile_.enter(name);
}
Profile::Region::~Region() { profile_.leave(); }

void Profile::enter(std::string_view name) {
    auto it = index_.find(name);
    if (it == index_.end()) {
        rows_.push_back({.name = std::string(name)});
        it = index_.emplace(rows_.back().name, rows_.size() - 1).first;
    }
    open_.push_back({it->second, now_seconds(), 0});
    entered_.fetch_add(1, std::memory_order_relaxed);
    current_.store(rows_[it->second].name.c_str(), std::memory_order_relaxed);
}

void Profile::leave() {
    const Open region = open_.back();
    open_.pop_back();
    Row& row = rows_[region.row];
    const double seconds = now_seconds() - region.start, own = seconds - region.children;
    ++row.calls;
    row.inclusive += seconds;
    row.exclusive += own;
    if (failed_.empty() && std::uncaught_exceptions() > 0) failed_ = row.name;
    lap_[row.name.substr(0, row.name.find('.'))] += own;
    if (!open_.empty()) open_.back().children += seconds;
    current_.store(open_.empty() ? "idle" : rows_[open_.back().row].name.c_str(),
                   std::memory_order_relaxed);
}

std::string Profile::current() const { return current_.load(std::memory_order_relaxed); }

std::vector<Profile::Row> Profile::rows() const { return {rows_.begin(), rows_.end()}; }

double Profile::total() const { return now_seconds() - start_; }

std::map<std::string, double> Profile::lap() { return std::exchange(lap_, {}); }

std::string Profile::table(const std::vector<Row>& rows, const std::vector<Spread>& stats,
                           double total) {
    std::string text = fmt::format("{:<24} {:>9} {:>10} {:>10} {:>10} {:>7}\n", "region", "calls",
                                   "min s", "avg s", "max s", "share");
    std::vector<std::size_t> order(rows.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return rows[a].exclusive > rows[b].exclusive;
    });
    double rest = total;
    for (const std::size_t i : order) {
        const Row& row = rows[i];
        const Spread spread =
            i < stats.size() ? stats[i] : Spread{row.exclusive, row.exclusive, row.exclusive};
        text += fmt::format("{:<24} {:>9} {:>10.3f} {:>10.3f} {:>10.3f} {:>6.1f}%\n", row.name,
                            row.calls, spread.min, spread.avg, spread.max,
                            100 * row.exclusive / total);
        rest -= row.exclusive;
    }
    text += fmt::format("{:<24} {:>9} {:>10} {:>10.3f} {:>10} {:>6.1f}%\n", "Rest", "", "", rest, "",
                        100 * rest / total);
    text += fmt::format("{:<24} {:>9} {:>10} {:>10.3f} {:>10} {:>6.1f}%", "Total", "", "", total, "",
                        100.0);
    return text;
}

}  // namespace gradus
