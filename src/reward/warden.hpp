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

/// A message is its length and its bytes. False where the other side ended.
bool send_message(int descriptor, const std::string& message);
bool receive_message(int descriptor, std::string& message);

/// The helper: forks a keeper for each descriptor that comes on `control`, until the rank ends.
[[noreturn]] void watch_over(int control, pid_t rank);
/// A keeper: reads a request from `descriptor`, does it, answers.
[[noreturn]] void keep(int descriptor);

}  // namespace gradus
