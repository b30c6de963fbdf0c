// SPDX-License-Identifier: Apache-2.0
#include "test_device.hpp"

#include <mpi.h>

#include <cstdlib>
#include <cstring>
#include <memory_resource>
#include <string>

#include "gradus/base/error.hpp"
#include "waiting_ops.hpp"

namespace gradus::test {
namespace {

std::string choice(const char* variable, const char* usual, const char* other) {
    const char* set = std::getenv(variable);
    const std::string value = set == nullptr ? usual : set;
    require<DeckError>(value == usual || value == other, "{} = {}: {} or {}", variable, value, usual,
                       other);
    return value;
}

/// The GPU of this process, from its first use to its end: CUDA may be gone before static objects are.
CudaDevice& cuda() {
    static CudaDevice* const device = [] {
        int initialized = 0;
        MPI_Initialized(&initialized);
        if (initialized == 0) {  // an executable without the fixture
            MPI_Init(nullptr, nullptr);
            std::atexit([] { MPI_Finalize(); });
        }
        auto* const world = make_mpi_communicator(MPI_COMM_WORLD, "world").release();
        return make_cuda_device(*world, true).release();
    }();
    return *device;
}

/// A Device as what a pool takes from.
class DeviceResource final : public std::pmr::memory_resource {
  public:
    explicit DeviceResource(Device& device) : device_(device) {}

  private:
    void* do_allocate(std::size_t bytes, std::size_t) override {
        return device_.allocate(static_cast<std::int64_t>(bytes));
    }
    void do_deallocate(void* memory, std::size_t bytes, std::size_t) override {
        device_.release(memory, static_cast<std::int64_t>(bytes));
    }
    bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
    Device& device_;
};

constexpr std::size_t kAlignment = 64;

/// Locking pages takes long, and the tests ask for many small pieces.
std::pmr::memory_resource& shared_memory() {
    static auto* const pool =
        new std::pmr::synchronized_pool_resource(new DeviceResource(cuda().pinned()));
    return *pool;
}

class PinnedDevice final : public Device {
  public:
    std::string name() const override { return "page-locked memory"; }
    void* allocate(std::int64_t bytes) override {
        const auto size = static_cast<std::size_t>(bytes);
        return std::memset(shared_memory().allocate(size, kAlignment), 0, size);
    }
    void release(void* memory, std::int64_t bytes) noexcept override {
        shared_memory().deallocate(memory, static_cast<std::size_t>(bytes), kAlignment);
    }
};

class GpuMemory final : public Device {
  public:
    std::string name() const override { return cuda().name(); }
    void* allocate(std::int64_t bytes) override { return cuda().allocate(bytes); }
    void release(void* memory, std::int64_t bytes) noexcept override { cuda().release(memory, bytes); }
};

}  // namespace

bool on_cuda() {
    static const bool yes = choice("GRADUS_TEST_DEVICE", "cpu", "cuda") == "cuda";
    return yes;
}

DType test_dtype() {
    static const bool bf16 = choice("GRADUS_TEST_DTYPE", "f32", "bf16") == "bf16";
    require<DeckError>(!bf16 || on_cuda(), "GRADUS_TEST_DTYPE = bf16 needs GRADUS_TEST_DEVICE = cuda");
    return bf16 ? DType::bf16 : DType::f32;
}

std::unique_ptr<Device> make_test_device() {
    if (on_cuda()) return std::make_unique<PinnedDevice>();
    return make_cpu_device();
}

std::unique_ptr<Device> make_compute_device() {
    if (on_cuda()) return std::make_unique<GpuMemory>();
    return make_cpu_device();
}

std::unique_ptr<Ops> make_test_ops(const OpsLimits& limits, Arena& arena, Waiting waiting) {
    if (!on_cuda()) return make_cpu_ops(limits, arena);
    if (arena.planned()) {
        Arena workspace(nullptr);
        return make_cuda_ops(limits, workspace, nullptr, {});
    }
    return std::make_unique<WaitingOps>(limits, cuda(), waiting == Waiting::each);
}

void* allocate_shared(std::size_t bytes) {
    return on_cuda() ? shared_memory().allocate(bytes, kAlignment) : ::operator new(bytes);
}

void release_shared(void* memory, std::size_t bytes) noexcept {
    if (on_cuda())
        shared_memory().deallocate(memory, bytes, kAlignment);
    else
        ::operator delete(memory);
}

}  // namespace gradus::test
