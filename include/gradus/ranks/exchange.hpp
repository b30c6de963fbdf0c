// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace gradus {

/// Marks what this process exchanges with which group, for the watchdog: while a call that waits for other
/// ranks goes on, and as the last one after it. One thread marks at a time; names must outlive the process's
/// exchanges.
class Exchange {
  public:
    Exchange(const char* what, const std::string& group);
    ~Exchange();
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    /// Of work that is handed to a device: it goes on after the call.
    static void started(const char* what, const std::string& group);
    /// "in all_reduce over `data`", "after all_reduce over `data`", or "before any exchange". From any thread.
    static std::string describe();
};

}  // namespace gradus
