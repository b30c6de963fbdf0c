// SPDX-License-Identifier: Apache-2.0
#include "gradus/tensor/arena.hpp"

#include <sys/mman.h>

#include <algorithm>

#include "gradus/base/error.hpp"
#include "gradus/base/log.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kAlignment = 64;

class CpuDevice final : public Device {
  public:
    std::string name() const override { return "cpu"; }
    void* allocate(std::int64_t bytes) override {
        if (bytes == 0) return nullptr;
        // Fresh pages are zero and aligned.
        void* memory = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        require<DataError>(memory != MAP_FAILED,
                           "there is no room for {} of memory: fewer ranks a node, a smaller "
                           "train.micro_tokens or rollout.slots need less",
                           format_bytes(static_cast<double>(bytes)));
        return memory;
    }
    void release(void* memory, std::int64_t bytes) noexcept override {
        if (memory != nullptr) munmap(memory, static_cast<std::size_t>(bytes));
    }
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

Arena::~Arena() {
    for (const Piece& piece : pieces_) device_->release(piece.memory, piece.bytes);
}

Tensor Arena::take(const std::string& name, DType dtype, Shape shape) {
    const std::int64_t bytes =
        (shape.elements() * size_of(dtype) + kAlignment - 1) / kAlignment * kAlignment;
    auto row = std::find_if(rows_.begin(), rows_.end(), [&](const Row& r) { return r.name == name; });
    if (row == rows_.end()) row = rows_.insert(rows_.end(), Row{.name = name});
    row->bytes += bytes;
    ++row->pieces;
    bytes_ += bytes;
    if (planned()) return Tensor(nullptr, dtype, shape);
    pieces_.push_back({device_->allocate(bytes), bytes});
    return Tensor(pieces_.back().memory, dtype, shape);
}

std::string Arena::table() const {
    std::string text;
    for (const Row& row : rows_)
        text += fmt::format("  {:<28} {:>12} {:>16} bytes\n", row.name,
                            format_bytes(static_cast<double>(row.bytes)), row.bytes);
    return text + fmt::format("  {:<28} {:>12} {:>16} bytes", "Total",
                              format_bytes(static_cast<double>(bytes_)), bytes_);
}

}  // namespace gradus
