// SPDX-License-Identifier: Apache-2.0
// A rank's GPU and the memory of both sides.
#include <cuda_runtime.h>
#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "gradus/base/log.hpp"
#include "gradus/ranks/session.hpp"
#include "gradus/tensor/backend.hpp"

namespace gradus::cuda {
namespace {

/// Page-locked memory, which kernels can reach too.
class Pinned final : public Device {
  public:
    std::string name() const override { return "host memory, page-locked"; }
    void* allocate(std::int64_t bytes) override {
        void* memory = nullptr;
        const cudaError_t status =
            cudaHostAlloc(&memory, static_cast<std::size_t>(bytes), cudaHostAllocPortable);
        if (status == cudaErrorMemoryAllocation) {
            cudaGetLastError();
            throw CudaError(fmt::format(
                "cannot get {} of page-locked memory of the host: free memory there, use more nodes, or do "
                "without ckpt.async, optim.offload and rl.reference_offload",
                format_bytes(static_cast<double>(bytes))));
        }
        check(status);
        std::memset(memory, 0, static_cast<std::size_t>(bytes));
        return memory;
    }
    void release(void* memory, std::int64_t) noexcept override { cudaFreeHost(memory); }
};

class Gpu final : public CudaDevice {
  public:
    Gpu(int number, bool shared) : shared_(shared) {
        check(cudaSetDevice(number));
        cudaDeviceProp properties{};
        check(cudaGetDeviceProperties(&properties, number));
        require<DeckError>(properties.major >= 9,
                           "GPU {} is a {} of compute capability {}.{}; this program is built for 9.0 (H100, "
                           "H200) and later",
                           number, properties.name, properties.major, properties.minor);
        name_ = fmt::format("{}, {} of memory, GPU {} of the node{}", properties.name,
                            format_bytes(static_cast<double>(properties.totalGlobalMem)), number,
                            shared ? ", shared with other ranks" : "");
    }
    std::string name() const override { return name_; }
    void* allocate(std::int64_t bytes) override {
        void* memory = nullptr;
        const cudaError_t status = cudaMalloc(&memory, static_cast<std::size_t>(bytes));
        if (status == cudaErrorMemoryAllocation) {
            cudaGetLastError();
            std::size_t free = 0, total = 0;
            cudaMemGetInfo(&free, &total);
            throw CudaError(fmt::format(
                "the GPU has no room for {} more, {} of {} are free: lower train.micro_tokens or "
                "rollout.cache_tokens, set model.recompute = block, optim.offload or rl.reference_offload, "
                "or use more ranks (grid.tensor splits the model)",
                format_bytes(static_cast<double>(bytes)), format_bytes(static_cast<double>(free)),
                format_bytes(static_cast<double>(total))));
        }
        check(status);
        check(cudaMemset(memory, 0, static_cast<std::size_t>(bytes)));
        check(cudaStreamSynchronize(nullptr));  // the operations' stream does not wait for this one
        return memory;
    }
    void release(void* memory, std::int64_t) noexcept override { cudaFree(memory); }
    bool is_shared() const override { return shared_; }
    Device& pinned() override { return pinned_; }
    std::int64_t bytes_in_use() const override {
        std::size_t free = 0, total = 0;
        check(cudaMemGetInfo(&free, &total));
        return static_cast<std::int64_t>(total - free);
    }

  private:
    bool shared_;
    std::string name_;
    Pinned pinned_;
};

/// This rank's place among the ranks of its node.
int rank_on_node() {
    MPI_Comm node = MPI_COMM_NULL;
    gradus::check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
    int rank = 0;
    MPI_Comm_rank(node, &rank);
    MPI_Comm_free(&node);
    return rank;
}

/// What names the GPU among all nodes' GPUs.
std::string identity_of(int number) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, number));
    std::string text;
    for (const char byte : properties.uuid.bytes)
        text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    return text;
}

}  // namespace
}  // namespace gradus::cuda

namespace gradus {

std::unique_ptr<CudaDevice> make_cuda_device(Communicator& world, bool share) {
    using namespace cuda;
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    std::string problem;
    if (status != cudaSuccess || count == 0)
        problem = fmt::format("rank {} finds no GPU ({})", world.rank(),
                              status == cudaSuccess ? "none is visible" : cudaGetErrorString(status));
    for (const std::string& words : world.all_gather(problem))
        require<DeckError>(words.empty(),
                           "run.device = cuda: {}; ask the batch system for GPUs (--gpus-per-node), or set "
                           "run.device = cpu",
                           words);
    const int number = rank_on_node() % count;
    const std::vector<std::string> all = world.all_gather(identity_of(number));
    bool shared = false;
    for (std::size_t a = 0; a < all.size(); ++a)
        for (std::size_t b = a + 1; b < all.size(); ++b) {
            if (all[a] != all[b]) continue;
            shared = true;
            require<DeckError>(share,
                               "ranks {} and {} would both use GPU {}: start one rank for each GPU "
                               "(--ntasks-per-node as many as --gpus-per-node), or set run.share_gpus = true "
                               "for a test",
                               a, b, all[a]);
        }
    return std::make_unique<Gpu>(number, shared);
}

}  // namespace gradus
