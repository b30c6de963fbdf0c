// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// Memory of a device.
class Device {
  public:
    virtual ~Device() = default;
    virtual std::string name() const = 0;
    /// Zeroed, 64-byte aligned. Throws Error naming the bytes where there is not enough.
    virtual void* allocate(std::int64_t bytes) = 0;
    virtual void release(void* memory, std::int64_t bytes) noexcept = 0;
};
std::unique_ptr<Device> make_cpu_device();

/// All large memory of a run, taken before the first step; nothing allocates in the loop. Every
/// piece has a name, so that the run can print where each byte went. A planned arena (`--check`)
/// runs the same constructors, counts the same bytes and hands out null tensors.
class Arena {
  public:
    /// `device` null: planned.
    explicit Arena(Device* device) : device_(device) {}
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    bool planned() const { return device_ == nullptr; }
    /// A zeroed tensor that lives as long as the arena. Names are "group.part": "weights",
    /// "gradients", "adam.m", "activations.attention" ... Bytes are rounded up to 64.
    Tensor take(const std::string& name, DType dtype, Shape shape);

    struct Row {
        std::string name;
        std::int64_t bytes = 0;
        int pieces = 0;
    };
    /// A row a name, in order of first use.
    const std::vector<Row>& rows() const { return rows_; }
    std::int64_t bytes() const { return bytes_; }
    /// The table that a run prints at its start.
    std::string table() const;

  private:
    struct Piece {
        void* memory;
        std::int64_t bytes;
    };
    Device* device_;
    std::vector<Piece> pieces_;
    std::vector<Row> rows_;
    std::int64_t bytes_ = 0;
};

}  // namespace gradus
