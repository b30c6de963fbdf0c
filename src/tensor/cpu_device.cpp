// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>

#include "gradus/base/error.hpp"
#include "gradus/tensor/arena.hpp"

namespace gradus {

namespace {

class CpuDevice final : public Device {
  public:
    std::string name() const override { return "cpu"; }

    void* allocate(std::int64_t bytes) override {
        const auto rounded = (static_cast<std::size_t>(bytes) + 63) / 64 * 64;
        void* memory = std::aligned_alloc(64, rounded);
        require(memory != nullptr,
                "this host has no {} bytes ({:.2f} GiB) of memory left: fewer ranks a node, a "
                "smaller train.micro_tokens or rollout.slots need less",
                bytes, static_cast<double>(bytes) / (1 << 30));
        std::memset(memory, 0, rounded);
        return memory;
    }

    void release(void* memory, std::int64_t) noexcept override { std::free(memory); }
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

}  // namespace gradus
