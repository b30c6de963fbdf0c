// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
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

/// When memory is used. What one phase leaves in its pieces no other reads, nor the same one the next time.
enum class Phase { always, training, generation, reference, reward };
inline constexpr std::size_t kPhases = 5;

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
    /// "gradients", "adam.m", "activations.attention" ... Bytes are rounded up to 64. Where phases share
    /// memory, a piece of one is zeroed at first only. Throws InternalError where the shared memory has
    /// no room left for it.
    Tensor take(const std::string& name, DType dtype, Shape shape, Phase phase = Phase::always);
    /// From here on the pieces of different phases lie over one another in one block of `bytes`: those of
    /// the largest phase, which a planned arena has measured (largest_phase()). A planned arena's own
    /// block grows with its pieces; `bytes` is of no account there. Once; pieces from before stay apart.
    void share_between_phases(std::int64_t bytes);
    std::int64_t largest_phase() const;
    /// The shared block, as i32; null where there is none.
    Tensor shared_block() const { return shared_; }

    struct Row {
        std::string name;
        std::int64_t bytes = 0;
        int pieces = 0;
    };
    /// A row a name, in order of first use; pieces of phases count in full.
    const std::vector<Row>& rows() const { return rows_; }
    /// What the device gives: a shared block counts once.
    std::int64_t bytes() const { return bytes_ + block_bytes(); }
    /// The table that a run prints at its start.
    std::string table() const;

  private:
    struct Piece {
        void* memory;
        std::int64_t bytes;
    };
    void* allocate(std::int64_t bytes, const std::string& what);
    /// The next bytes of the phase in the shared block.
    void* place(std::int64_t bytes, Phase phase, const std::string& what);
    std::int64_t block_bytes() const {
        return !shares_ ? 0 : planned() ? largest_phase() : shared_.bytes();
    }
    Device* device_;
    std::vector<Piece> pieces_;
    std::vector<Row> rows_;
    std::int64_t bytes_ = 0;  ///< without the shared block
    bool shares_ = false;
    Tensor shared_;
    std::array<std::int64_t, kPhases> of_phase_{};
};

}  // namespace gradus
