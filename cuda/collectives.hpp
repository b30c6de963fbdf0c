// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nccl.h>

#include <map>
#include <memory>
#include <span>
#include <string>

#include "context.hpp"
#include "gradus/base/handle.hpp"
#include "gradus/ranks/communicator.hpp"
#include "gradus/tensor/op_arguments.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus::cuda {

/// Collectives of device memory over NCCL: a communicator a group of the process grid, made when the
/// group is first used, on the operations' stream, so that their order is the program's. Sums that are
/// started go on a stream of their own, so that computation goes on beside them; every other exchange
/// waits for them first, so that exchanges never run side by side: those of two groups might wait for each
/// other. They do not block the host; whoever waits for the stream asks check_failures() now and then.
class Collectives {
  public:
    /// `deterministic`: ring and simple protocol, whose order of sums is fixed. `overlap`: without, sums that
    /// are started wait for their turn on the operations' stream.
    Collectives(const Context& context, bool deterministic, bool overlap);
    ~Collectives();

    void all_reduce(Communicator& group, Tensor x, Reduce op);
    void start_sum(Communicator& group, Tensor x);
    void start_block_sums(Communicator& group, std::span<const BlockedTensor> all);
    void finish_sums();
    void all_gather_blocks(Communicator& group, std::span<const BlockedTensor> all);
    void all_to_all(Communicator& group, Tensor send, std::span<const std::int64_t> send_offsets,
                    Tensor recv, std::span<const std::int64_t> recv_offsets);
    /// Throws CudaError naming group and last operation where one has failed.
    void check_failures();
    bool used() const { return !groups_.empty(); }
    /// "all_reduce of 12 MiB over `data`".
    const std::string& last() const { return last_; }
    /// Ends all communicators without waiting for their operations.
    void abort() noexcept;

  private:
    /// Ends all communicators once no rank uses them any more: another one may still read what this one has sent.
    void end() noexcept;
    ncclComm_t comm_of(Communicator& group);
    void wait_for(ncclComm_t comm, const std::string& what);
    void say(const char* what, std::int64_t bytes, const Communicator& group);

    /// Within an NCCL group.
    void sum_blocks(ncclComm_t comm, const Communicator& group, const BlockedTensor& one, cudaStream_t stream);
    void gather(ncclComm_t comm, const Communicator& group, const BlockedTensor& one);
    /// Where a sum that is started goes: behind all operations so far, and beside later ones where it may.
    cudaStream_t stream_of_sums();
    void sum_on(cudaStream_t stream, Communicator& group, Tensor x, Reduce op);

    const Context& context_;
    bool overlap_;
    cudaStream_t side_ = nullptr;     ///< of sums that go on beside the operations
    cudaEvent_t ready_ = nullptr, done_ = nullptr;
    bool started_ = false;
    std::map<const Communicator*, ncclComm_t> groups_;
    std::string last_ = "none";
};

}  // namespace gradus::cuda
