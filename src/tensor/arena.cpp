// SPDX-License-Identifier: Apache-2.0
#include "gradus/tensor/arena.hpp"

#include <algorithm>

#include "gradus/base/error.hpp"
#include "gradus/base/log.hpp"

namespace gradus {

namespace {
constexpr std::int64_t kAlignment = 64;
}

Arena::~Arena() {
    for (auto piece = pieces_.rbegin(); piece != pieces_.rend(); ++piece) {
        device_->release(piece->memory, piece->bytes);
    }
}

Tensor Arena::take(const std::string& name, DType dtype, Shape shape) {
    const std::int64_t wanted = shape.elements() * size_of(dtype);
    const std::int64_t bytes = (wanted + kAlignment - 1) / kAlignment * kAlignment;
    void* memory = nullptr;
    if (device_ != nullptr && bytes > 0) {
        pieces_.reserve(pieces_.size() + 1);  // so that a piece once allocated is also released
        try {
            memory = device_->allocate(bytes);
        } catch (const Error& error) {
            throw Error(error.code(), fmt::format("{} for \"{}\" {}; taken so far:\n{}",
                                                  error.what(), name, shape.text(), table()));
        }
        pieces_.push_back({memory, bytes});
    }
    auto row = std::find_if(rows_.begin(), rows_.end(), [&](auto& r) { return r.name == name; });
    if (row == rows_.end()) row = rows_.insert(rows_.end(), Row{name, 0, 0});
    row->bytes += bytes;
    row->pieces += 1;
    bytes_ += bytes;
    return {memory, dtype, shape};
}

std::string Arena::table() const {
    std::size_t width = 5;
    for (const auto& row : rows_) width = std::max(width, row.name.size());
    std::string text = fmt::format("{:<{}}  {:>6}  {:>15}  {:>11}\n", "memory", width, "pieces",
                                   "bytes", "");
    int pieces = 0;
    for (const auto& row : rows_) {
        text += fmt::format("{:<{}}  {:>6}  {:>15}  {:>11}\n", row.name, width, row.pieces,
                            row.bytes, format_bytes(static_cast<double>(row.bytes)));
        pieces += row.pieces;
    }
    return text + fmt::format("{:<{}}  {:>6}  {:>15}  {:>11}\n", "Total", width, pieces, bytes_,
                              format_bytes(static_cast<double>(bytes_)));
}

}  // namespace gradus
