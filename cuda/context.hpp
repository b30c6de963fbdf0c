// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "gradus/base/error.hpp"

namespace gradus::cuda {

/// What a kernel launch needs to know: one stream and one workspace for all operations, so that a
/// workspace is free again as soon as the next operation starts.
struct Context {
    cudaStream_t stream = nullptr;
    void* workspace = nullptr;
    std::int64_t workspace_bytes = 0;
    int multiprocessors = 0;
    /// Bits repeat from run to run: what would not give way to what does.
    bool deterministic = true;

    /// The workspace as an array of at least `count` T. Throws InternalError where it is too small.
    template <class T>
    T* scratch(std::int64_t count) const {
        require(count * static_cast<std::int64_t>(sizeof(T)) <= workspace_bytes,
                "an operation needs {} bytes of workspace; {} were planned",
                count * static_cast<std::int64_t>(sizeof(T)), workspace_bytes);
        return static_cast<T*>(workspace);
    }
};

}  // namespace gradus::cuda
