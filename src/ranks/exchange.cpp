// SPDX-License-Identifier: Apache-2.0
#include "gradus/ranks/exchange.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace gradus {
namespace {

// The watchdog may read while the main thread writes: fixed memory, and a number that says whether the text
// has changed meanwhile.
constexpr std::size_t kLongest = 64;
std::array<std::atomic<char>, kLongest> group_name{};
std::atomic<const char*> operation{nullptr};
std::atomic<bool> waiting{false};
std::atomic<std::uint64_t> version{0};

void mark(const char* what, const std::string& group, bool waits) {
    version.fetch_add(1);
    const std::size_t n = std::min(group.size(), kLongest - 1);
    for (std::size_t i = 0; i < n; ++i) group_name[i].store(group[i], std::memory_order_relaxed);
    group_name[n].store('\0', std::memory_order_relaxed);
    operation.store(what);
    waiting.store(waits);
    version.fetch_add(1);
}

}  // namespace

Exchange::Exchange(const char* what, const std::string& group) { mark(what, group, true); }
Exchange::~Exchange() { waiting.store(false); }
void Exchange::started(const char* what, const std::string& group) { mark(what, group, false); }

std::string Exchange::describe() {
    for (int attempt = 0; attempt < 100; ++attempt) {
        const std::uint64_t before = version.load();
        const char* what = operation.load();
        const bool waits = waiting.load();
        std::string group;
        for (const auto& c : group_name) {
            const char value = c.load(std::memory_order_relaxed);
            if (value == '\0') break;
            group += value;
        }
        if (before % 2 != 0 || version.load() != before) continue;
        if (what == nullptr) return "before any exchange";
        return fmt::format("{} {} over `{}`", waits ? "in" : "after", what, group);
    }
    return "between exchanges";
}

}  // namespace gradus
