// SPDX-License-Identifier: Apache-2.0
// Reads .safetensors files (format: u64 length of a JSON header, the header, then the data; offsets
// count from the end of the header) of dtypes F32, BF16 and I64.
#pragma once

#include <bit>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"

namespace gradus::test {

class SafeTensors {
  public:
    explicit SafeTensors(const std::string& path) : path_(path) {
        const std::string file = read_file(path);
        require<DataError>(file.size() >= 8, "{} is too short", path);
        std::uint64_t length = 0;
        std::memcpy(&length, file.data(), 8);
        require<DataError>(length <= file.size() - 8, "{}: the header is cut off", path);
        const Json header = Json::parse(file.substr(8, length));
        for (const auto& [name, entry] : header.items())
            if (name != "__metadata__") add(name, entry, std::string_view(file).substr(8 + length));
    }

    struct Entry {
        std::vector<std::int64_t> shape;
        std::vector<float> floats;         ///< of F32 and BF16
        std::vector<std::int64_t> integers;  ///< of I64
    };
    const std::map<std::string, Entry>& all() const { return entries_; }
    const Entry& at(const std::string& name) const {
        const auto found = entries_.find(name);
        require<DataError>(found != entries_.end(), "{} has no tensor {}", path_, name);
        return found->second;
    }

  private:
    template <class T>
    static std::vector<T> numbers(std::string_view bytes) {
        std::vector<T> out(bytes.size() / sizeof(T));
        std::memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
        return out;
    }

    void add(const std::string& name, const Json& json, std::string_view data) {
        Entry entry{.shape = json.at("shape").get<std::vector<std::int64_t>>()};
        const auto dtype = json.at("dtype").get<std::string>();
        const auto range = json.at("data_offsets").get<std::vector<std::uint64_t>>();
        require<DataError>(range.at(0) <= range.at(1) && range[1] <= data.size(),
                           "{}: {} reaches past the file's end", path_, name);
        const auto bytes = data.substr(range[0], range[1] - range[0]);
        if (dtype == "F32") {
            entry.floats = numbers<float>(bytes);
        } else if (dtype == "BF16") {
            for (const std::uint16_t half : numbers<std::uint16_t>(bytes))
                entry.floats.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16));
        } else {
            require<DataError>(dtype == "I64", "{}: {} has dtype {}", path_, name, dtype);
            entry.integers = numbers<std::int64_t>(bytes);
        }
        std::int64_t elements = 1;
        for (const std::int64_t n : entry.shape) elements *= n;
        require<DataError>(
            static_cast<std::size_t>(elements) == entry.floats.size() + entry.integers.size(),
            "{}: {} has a shape of {} elements and data of another number", path_, name, elements);
        entries_.emplace(name, std::move(entry));
    }

    std::string path_;
    std::map<std::string, Entry> entries_;
};

}  // namespace gradus::test
