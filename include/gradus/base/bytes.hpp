// SPDX-License-Identifier: Apache-2.0
// Plain values as byte strings, for exchange between ranks of one program (native byte order).
#pragma once

#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "gradus/base/error.hpp"

namespace gradus {

/// Appends values to a byte string.
class ByteWriter {
  public:
    template <class T>
    void value(const T& v) {
        static_assert(std::is_trivially_copyable_v<T>);
        bytes_.append(reinterpret_cast<const char*>(&v), sizeof v);
    }
    template <class T>
    void array(const std::vector<T>& v) {
        static_assert(std::is_trivially_copyable_v<T>);
        value(v.size());
        bytes_.append(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T));
    }
    void text(const std::string& v) {
        value(v.size());
        bytes_ += v;
    }
    std::string take() { return std::move(bytes_); }

  private:
    std::string bytes_;
};

/// Reads them back in the same order. Throws InternalError where the bytes end too soon.
class ByteReader {
  public:
    explicit ByteReader(const std::string& bytes) : bytes_(bytes) {}
    bool empty() const { return at_ == bytes_.size(); }
    template <class T>
    void value(T& v) {
        std::memcpy(&v, take(sizeof v), sizeof v);
    }
    template <class T>
    void array(std::vector<T>& v) {
        std::size_t n = 0;
        value(n);
        const char* from = take(n * sizeof(T));
        v.resize(n);
        if (n > 0) std::memcpy(v.data(), from, n * sizeof(T));
    }
    void text(std::string& v) {
        std::size_t n = 0;
        value(n);
        v.assign(take(n), n);
    }

  private:
    const char* take(std::size_t n) {
        require(n <= bytes_.size() - at_, "packed bytes end too soon");
        const char* p = bytes_.data() + at_;
        at_ += n;
        return p;
    }
    const std::string& bytes_;
    std::size_t at_ = 0;
};

}  // namespace gradus
