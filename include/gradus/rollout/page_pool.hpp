// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cassert>
#include <cstdint>
#include <vector>

namespace gradus {

/// Reference-counted pages of the key/value cache. The page freed last is handed out first, so
/// that which page goes where is a function of the calls alone.
class PagePool {
  public:
    explicit PagePool(std::int64_t pages) : users_(static_cast<std::size_t>(pages), 0) {
        for (std::int64_t p = pages; p-- > 0;) free_.push_back(static_cast<std::int32_t>(p));
    }
    std::int64_t free_pages() const { return static_cast<std::int64_t>(free_.size()); }
    std::int64_t size() const { return static_cast<std::int64_t>(users_.size()); }

    /// A page with one user. There must be a free one.
    std::int32_t take() {
        assert(!free_.empty());
        const std::int32_t page = free_.back();
        free_.pop_back();
        users_[static_cast<std::size_t>(page)] = 1;
        return page;
    }
    void share(std::int32_t page) { ++users_[static_cast<std::size_t>(page)]; }
    /// One user less; the last one frees it.
    void drop(std::int32_t page) {
        assert(users_[static_cast<std::size_t>(page)] > 0);
        if (--users_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
    }

  private:
    std::vector<std::int32_t> users_;
    std::vector<std::int32_t> free_;
};

}  // namespace gradus
