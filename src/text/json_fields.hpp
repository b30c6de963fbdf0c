// SPDX-License-Identifier: Apache-2.0
// Objects of a tokenizer.json, read so that no key is passed over.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "gradus/base/error.hpp"

namespace gradus {

/// One object of the file. Every key that is read is marked; finish() refuses the others by name.
/// All errors are DataErrors that begin with `where` ("FILE: pre_tokenizer", say).
class JsonFields {
  public:
    using Value = nlohmann::json;

    JsonFields(const Value& object, std::string where) : object_(object), where_(std::move(where)) {
        require<DataError>(object.is_object(), "{}: an object is expected, this is {}", where_,
                           object.type_name());
    }

    const std::string& where() const { return where_; }
    std::string inside(const std::string& key) const { return where_ + "." + key; }

    /// The value, or nullptr where the key is missing or null.
    const Value* find(const std::string& key) {
        seen_.insert(key);
        const auto it = object_.find(key);
        return it == object_.end() || it->is_null() ? nullptr : &*it;
    }
    const Value& need(const std::string& key) {
        const Value* value = find(key);
        require<DataError>(value != nullptr, "{}: \"{}\" is missing", where_, key);
        return *value;
    }
    std::string text(const std::string& key) {
        const Value& value = need(key);
        require<DataError>(value.is_string(), "{}: \"{}\" is not a text", where_, key);
        return value.get<std::string>();
    }
    bool flag(const std::string& key, bool otherwise) {
        const Value* value = find(key);
        if (value == nullptr) return otherwise;
        require<DataError>(value->is_boolean(), "{}: \"{}\" is neither true nor false", where_,
                           key);
        return value->get<bool>();
    }
    /// A whole number in [0, limit).
    std::int64_t count(const std::string& key, std::int64_t limit) {
        const Value& value = need(key);
        require<DataError>(value.is_number_unsigned() &&
                               value.get<std::uint64_t>() < static_cast<std::uint64_t>(limit),
                           "{}: \"{}\" is not a whole number below {}", where_, key, limit);
        return value.get<std::int64_t>();
    }
    const Value& list(const std::string& key) {
        const Value& value = need(key);
        require<DataError>(value.is_array(), "{}: \"{}\" is not a list", where_, key);
        return value;
    }
    void finish() const {
        for (const auto& [key, value] : object_.items())
            require<DataError>(seen_.contains(key), "{}: the key \"{}\" is not supported", where_,
                               key);
    }

  private:
    const Value& object_;
    std::string where_;
    std::set<std::string> seen_;
};

}  // namespace gradus
