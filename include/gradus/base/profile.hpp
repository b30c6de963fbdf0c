// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gradus {

/// Wall-clock seconds since an arbitrary origin (steady clock).
double now_seconds();

/// Named regions of one thread's time, nested; exclusive and inclusive seconds a region.
/// Region names follow "phase.part" ("train.forward"); the profile is a member of the run, not a
/// global. Not thread-safe: the main thread owns it.
class Profile {
  public:
    Profile();

    /// RAII region. Nested regions subtract from the exclusive time of their parents.
    class Region {
      public:
        Region(Profile& profile, std::string_view name);
        ~Region();
        Region(const Region&) = delete;
        Region& operator=(const Region&) = delete;

      private:
        Profile& profile_;
    };

    struct Row {
        std::string name;
        long calls = 0;
        double exclusive = 0;  ///< seconds
        double inclusive = 0;  ///< seconds
    };

    Region region(std::string_view name) { return Region(*this, name); }
    /// The innermost open region, "idle" if none. Readable from the watchdog thread.
    std::string current() const;
    /// The innermost region that an exception has left, "" if none has.
    const std::string& failed() const { return failed_; }
    /// The region that is open comes on: as good a sign of life as entering another.
    void touch() { entered_.fetch_add(1, std::memory_order_relaxed); }
    /// Regions entered and touches so far: grows as long as the run goes on. Readable from the watchdog thread.
    std::uint64_t entered() const { return entered_.load(std::memory_order_relaxed); }
    /// Rows in order of first use.
    std::vector<Row> rows() const;
    /// Seconds since construction.
    double total() const;
    /// Exclusive seconds by first name part ("train", "rollout"), since the last call to `lap`.
    std::map<std::string, double> lap();

    /// The closing table with Rest and Total rows. `min/avg/max` over ranks are in `stats`
    /// (one entry a row, same order as rows()); empty: this rank's numbers only.
    struct Spread {
        double min = 0, avg = 0, max = 0;
    };
    static std::string table(const std::vector<Row>& rows, const std::vector<Spread>& stats,
                             double total);

  private:
    struct Open {
        std::size_t row;
        double start;
        double children;
    };
    void enter(std::string_view name);
    void leave();

    double start_;
    std::deque<Row> rows_;  // a deque: names must not move
    std::map<std::string, std::size_t, std::less<>> index_;
    std::vector<Open> open_;
    std::map<std::string, double> lap_;
    std::string failed_;
    // For the watchdog: points at a name that lives as long as the profile.
    std::atomic<const char*> current_{"idle"};
    std::atomic<std::uint64_t> entered_{0};
};

}  // namespace gradus
