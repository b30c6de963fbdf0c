// SPDX-License-Identifier: Apache-2.0
// Return codes of CUDA's libraries become exceptions that name the call's place.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <source_location>
#include <string>

#include "gradus/base/error.hpp"

namespace gradus::cuda {

/// A CUDA call failed. After an error of a kernel the device's state is lost: the run ends.
struct CudaError : Error {
    explicit CudaError(const std::string& m) : Error(ExitCode::internal, m) {}
};

/// Throws CudaError with the file, line, name and words of the error.
inline void check(cudaError_t status, std::source_location at = std::source_location::current()) {
    if (status == cudaSuccess) return;
    throw CudaError(fmt::format("{}:{}: {}: {}", at.file_name(), at.line(), cudaGetErrorName(status),
                                cudaGetErrorString(status)));
}

inline void check(cublasStatus_t status, std::source_location at = std::source_location::current()) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw CudaError(fmt::format("{}:{}: cuBLAS: {}", at.file_name(), at.line(),
                                cublasLtGetStatusName(status)));
}

/// After a launch: throws where it could not be made. Does not wait.
inline void check_launch(std::source_location at = std::source_location::current()) {
    check(cudaGetLastError(), at);
}

}  // namespace gradus::cuda
