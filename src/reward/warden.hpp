// SPDX-License-Identifier: Apache-2.0
// What goes on in the helper process and its children. Nothing here runs in a rank.
#pragma once

#include <linux/filter.h>

#include <string>
#include <vector>

#include "gradus/base/bytes.hpp"
#include "gradus/reward/sandbox.hpp"

namespace gradus {

/// First value of a request.
enum class RequestKind : int { job, probe };

/// One list of fields for both directions: ByteWriter, ByteReader.
template <class Archive, class Settings>
void exchange_settings(Archive& a, Settings& s) {
    a.value(s.isolation);
    a.value(s.limits);
    a.text(s.python);
    a.text(s.compiler);
    std::size_t folders = s.folders.size();
    a.value(folders);
    if constexpr (!std::is_const_v<Settings>) s.folders.resize(folders);
    for (auto& folder : s.folders) a.text(folder);
}
template <class Archive, class Job>
void exchange_job(Archive& a, Job& job) {
    const auto list = [&](auto& items, const auto& each) {
        std::size_t n = items.size();
        a.value(n);
        if constexpr (!std::is_const_v<Job>) items.resize(n);
        for (auto& item : items) each(item);
    };
    exchange_settings(a, job.settings);
    a.value(job.language);
    a.text(job.source);
    list(job.cases, [&](auto& c) {
        a.text(c.input);
        a.text(c.output);
    });
    list(job.tests, [&](auto& test) { a.text(test); });
    a.text(job.prologue);
    a.text(job.entry_point);
    a.text(job.signature);
    list(job.names, [&](auto& name) { a.text(name); });
    a.value(job.in_place);
}
template <class Archive, class Result>
void exchange_result(Archive& a, Result& result) {
    a.value(result.judged);
    a.array(result.passed);
    a.text(result.reason);
}

/// Sends a descriptor with `size` bytes. False where the other side has ended.
bool pass_descriptor(int control, int passed, const void* bytes, std::size_t size);
/// A message is its length and its bytes. False where the other side ended.
bool send_message(int descriptor, const std::string& message);
bool receive_message(int descriptor, std::string& message);

/// The helper: forks a keeper for each descriptor that comes on `control`, until the rank ends.
[[noreturn]] void watch_over(int control, pid_t rank);
/// Compiled tests, which all programs for one problem share: the helper holds them, keepers inherit them and hand in new ones.
class CompiledTests {
  public:
    CompiledTests();
    /// The program made of `key`, its text with the compiler's name, as a descriptor of the caller; -1 where there is none.
    int find(const std::string& key) const;
    /// A keeper closes what it has inherited.
    void forget();
    /// A keeper hands a program to the helper.
    void hand_in(const std::string& key, int image) const;
    /// The helper's end of what is handed in, and taking one from it.
    int incoming() const { return helper_; }
    void take();

  private:
    struct Entry {
        std::uint64_t key[2];
        int image;
    };
    std::vector<Entry> entries_;
    std::size_t oldest_ = 0;
    int helper_ = -1, keepers_ = -1;
};

/// A keeper: reads a request from `descriptor`, does it, answers.
[[noreturn]] void keep(int descriptor, CompiledTests& compiled);

}  // namespace gradus
