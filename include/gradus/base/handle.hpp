// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

namespace gradus {

/// Sole owner of a C handle `T`. `Close` is a stateless callable `void(T)`, must not throw, and is
/// called once for every handle that differs from `Null`. Where closing can fail in a way that the
/// user must hear of, the wrapping class offers `close()` and releases the handle first.
template <class T, class Close, T Null = T{}>
class UniqueHandle {
  public:
    UniqueHandle() = default;
    explicit UniqueHandle(T value) : value_(value) {}
    UniqueHandle(UniqueHandle&& other) noexcept : value_(std::exchange(other.value_, Null)) {}
    UniqueHandle& operator=(UniqueHandle&& other) noexcept {
        if (this != &other) {
            reset();
            value_ = std::exchange(other.value_, Null);
        }
        return *this;
    }
    ~UniqueHandle() { reset(); }

    T get() const { return value_; }
    T release() { return std::exchange(value_, Null); }
    void reset() {
        if (value_ != Null) Close{}(std::exchange(value_, Null));
    }
    explicit operator bool() const { return value_ != Null; }

  private:
    T value_ = Null;
};

}  // namespace gradus
