// SPDX-License-Identifier: Apache-2.0
#include "gradus/tensor/arena.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "gradus/base/error.hpp"
#include "gradus/base/log.hpp"

namespace gradus {

namespace {
constexpr std::int64_t kAlignment = 64;
constexpr std::int64_t kBlockAlignment = 256;  ///< as a GPU's allocator gives

std::int64_t rounded(std::int64_t bytes, std::int64_t multiple) {
    return (bytes + multiple - 1) / multiple * multiple;
}
}

Arena::~Arena() {
    for (auto piece = pieces_.rbegin(); piece != pieces_.rend(); ++piece) {
        device_->release(piece->memory, piece->bytes);
    }
}

void* Arena::allocate(std::int64_t bytes, const std::string& what) {
    if (device_ == nullptr || bytes == 0) return nullptr;
    pieces_.reserve(pieces_.size() + 1);  // so that a piece once allocated is also released
    void* memory = nullptr;
    try {
        memory = device_->allocate(bytes);
    } catch (const Error& error) {
        throw Error(error.code(),
                    fmt::format("{} for {}; taken so far:\n{}", error.what(), what, table()));
    }
    pieces_.push_back({memory, bytes});
    return memory;
}

void Arena::share_between_phases(std::int64_t bytes) {
    require(!shares_, "phases share memory already");
    if (!planned()) {
        const std::int64_t block = rounded(bytes, kBlockAlignment);
        shared_ = Tensor(allocate(block, "what phases share"), DType::i32, {block / 4});
    }
    shares_ = true;
}

std::int64_t Arena::largest_phase() const {
    return *std::max_element(of_phase_.begin(), of_phase_.end());
}

void* Arena::place(std::int64_t bytes, Phase phase, const std::string& what) {
    std::int64_t& used = of_phase_[static_cast<std::size_t>(phase)];
    const std::int64_t at = used;
    used += bytes;
    if (planned()) return nullptr;
    require(used <= shared_.bytes(),
            "{}: its phase takes {} bytes with it, {} were planned for what phases share", what, used,
            shared_.bytes());
    return bytes > 0 ? static_cast<char*>(shared_.data()) + at : nullptr;
}

Tensor Arena::take(const std::string& name, DType dtype, Shape shape, Phase phase) {
    const bool shared = shares_ && phase != Phase::always;
    const std::int64_t bytes =
        rounded(shape.elements() * size_of(dtype), shared ? kBlockAlignment : kAlignment);
    const std::string what = fmt::format("\"{}\" {}", name, shape.text());
    void* memory = shared ? place(bytes, phase, what) : allocate(bytes, what);
    if (!shared) bytes_ += bytes;
    auto row = std::find_if(rows_.begin(), rows_.end(), [&](auto& r) { return r.name == name; });
    if (row == rows_.end()) row = rows_.insert(rows_.end(), Row{name, 0, 0});
    row->bytes += bytes;
    row->pieces += 1;
    return {memory, dtype, shape};
}

std::string Arena::table() const {
    constexpr std::string_view kShared = "shared by phases";
    std::size_t width = shares_ ? kShared.size() : 5;
    for (const auto& row : rows_) width = std::max(width, row.name.size());
    std::string text = fmt::format("{:<{}}  {:>6}  {:>15}  {:>11}\n", "memory", width, "pieces",
                                   "bytes", "");
    int pieces = 0;
    std::int64_t all = 0;
    for (const auto& row : rows_) {
        text += fmt::format("{:<{}}  {:>6}  {:>15}  {:>11}\n", row.name, width, row.pieces,
                            row.bytes, format_bytes(static_cast<double>(row.bytes)));
        pieces += row.pieces;
        all += row.bytes;
    }
    if (shares_) {
        const std::int64_t saved = all - bytes();
        text += fmt::format("{:<{}}  {:>6}  {:>15}  {:>11}\n", kShared, width, "", -saved,
                            (saved > 0 ? "-" : "") + format_bytes(std::abs(static_cast<double>(saved))));
    }
    return text + fmt::format("{:<{}}  {:>6}  {:>15}  {:>11}\n", "Total", width, pieces, bytes(),
                              format_bytes(static_cast<double>(bytes())));
}

}  // namespace gradus
