// SPDX-License-Identifier: Apache-2.0
// The CUDA backend as the rest of the program sees it. A program built without it has these functions
// too: they throw DeckError saying how to build it.
#pragma once

#include <memory>

#include "gradus/tensor/ops.hpp"

namespace gradus {

/// A rank's GPU.
class CudaDevice : public Device {
  public:
    /// Whether another rank of the run computes on the same GPU: device data then goes over MPI.
    virtual bool is_shared() const = 0;
    /// Page-locked memory of the host, which the copy engines reach at full speed.
    virtual Device& pinned() = 0;
    /// Bytes of the GPU that are taken by this and other processes, now.
    virtual std::int64_t bytes_in_use() const = 0;
};

/// Takes the GPU of this rank's place on its node. Collective over `world`. Throws DeckError where there
/// is none, or where two ranks would take the same one and `share` is false, naming both.
std::unique_ptr<CudaDevice> make_cuda_device(Communicator& world, bool share);

struct CudaOptions {
    bool deterministic = true;  ///< refuse what cannot repeat its bits
    double timeout = 600;       ///< seconds after which a collective counts as stuck
    bool overlap = true;        ///< sums that are started go on beside later operations
};
/// `device` null: planned; no GPU is needed then.
std::unique_ptr<Ops> make_cuda_ops(const OpsLimits& limits, Arena& arena, CudaDevice* device,
                                   const CudaOptions& options);

}  // namespace gradus
