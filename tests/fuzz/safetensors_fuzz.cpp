// SPDX-License-Identifier: Apache-2.0
// Safetensors: whole files, headers alone before so many bytes of data, and indexes. The first byte
// says which. What is accepted must be described in full: every byte of the data belongs to one
// tensor.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "gradus/base/error.hpp"
#include "gradus/store/safetensors.hpp"
#include "gradus/store/safetensors_writer.hpp"

namespace {

void must(bool good) {
    if (!good) std::abort();
}

void check(const gradus::SafetensorsHeader& header) {
    auto entries = header.entries;
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
        return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    std::int64_t at = 0;
    for (const auto& entry : entries) {
        must(entry.begin == at && entry.end >= at);
        if (entry.bytes() > 0)
            must(entry.shape.elements() * gradus::safetensors_size(entry.dtype) == entry.bytes());
        at = entry.end;
    }
    must(at == header.data_bytes);
    // Our own header of the same tensors reads as the same.
    const std::string text = gradus::layout_safetensors(entries, header.metadata);
    std::string head(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) head[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
    head += text;
    const auto again =
        gradus::parse_safetensors("f", std::as_bytes(std::span(head)),
                                  static_cast<std::int64_t>(head.size()) + header.data_bytes);
    must(again.entries.size() == entries.size() && again.metadata == header.metadata);
    for (std::size_t i = 0; i < entries.size(); ++i)
        must(again.entries[i].name == entries[i].name &&
             again.entries[i].shape == entries[i].shape);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 3) return 0;
    const std::string rest(reinterpret_cast<const char*>(data) + 3, size - 3);
    try {
        if (data[0] % 4 == 0) {
            check(gradus::parse_safetensors("f", std::as_bytes(std::span(rest)), std::ssize(rest)));
        } else if (data[0] % 4 == 1) {
            for (const auto& [name, file] : gradus::parse_safetensors_index("i", rest))
                must(file.find('/') == std::string::npos && file.front() != '.');
        } else {
            std::string head(8, '\0');
            for (std::size_t i = 0; i < 8; ++i)
                head[i] = static_cast<char>(rest.size() >> (8 * i) & 0xff);
            head += rest;
            const std::int64_t bytes = data[1] + 256 * data[2];
            check(gradus::parse_safetensors("f", std::as_bytes(std::span(head)),
                                            std::ssize(head) + bytes));
        }
    } catch (const gradus::DataError&) {
    }
    return 0;
}
