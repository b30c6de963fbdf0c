// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace gradus {

enum class Reduce { sum, max, min };

/// A group of ranks that exchange arrays: one communicator a grid dimension. Every call is
/// collective over the group. Counts are elements. In-place on the caller's memory.
/// Implementations: MPI with host buffers (make_mpi_communicator) and NCCL (cuda/).
/// Results are deterministic: the same group, inputs and counts give the same bits, and all members
/// receive the same bits.
class Communicator {
  public:
    virtual ~Communicator() = default;

    virtual int rank() const = 0;
    virtual int size() const = 0;
    /// "data", "tensor", "expert" ...: for messages.
    virtual const std::string& name() const = 0;

    virtual void all_reduce(std::span<float> data, Reduce op) = 0;
    virtual void all_reduce(std::span<double> data, Reduce op) = 0;
    virtual void all_reduce(std::span<std::int64_t> data, Reduce op) = 0;
    /// Elements [offsets[r], offsets[r + 1]) of `data` (size() + 1 entries) become on rank r their sum over
    /// all ranks; the other elements are as before or undefined.
    virtual void reduce_scatter_blocks(std::span<float> data, std::span<const std::int64_t> offsets) = 0;
    virtual void broadcast(std::span<std::byte> data, int root) = 0;
    /// Block r of `data` (begins at offsets[r], ends at offsets[r + 1], in bytes; size() + 1 entries)
    /// is contributed by rank r; afterwards every rank holds all blocks.
    virtual void all_gather_blocks(std::span<std::byte> data,
                                   std::span<const std::int64_t> offsets) = 0;
    /// Bytes send[send_offsets[r] .. send_offsets[r + 1]) go to rank r, and what rank r sends here
    /// arrives at recv_offsets[r] (size() + 1 entries each; the sizes must match in pairs).
    virtual void all_to_all(std::span<const std::byte> send,
                            std::span<const std::int64_t> send_offsets, std::span<std::byte> recv,
                            std::span<const std::int64_t> recv_offsets) = 0;
    virtual void barrier() = 0;

    // Conveniences built on the above.
    double sum(double value);
    std::int64_t sum(std::int64_t value);
    double max(double value);
    double min(double value);
    /// Concatenation in rank order of byte strings of any length.
    std::vector<std::string> all_gather(const std::string& mine);
    std::string broadcast(std::string value, int root = 0);
};

/// Duplicates `comm`. Throws MpiError.
std::unique_ptr<Communicator> make_mpi_communicator(MPI_Comm comm, std::string name);

}  // namespace gradus
