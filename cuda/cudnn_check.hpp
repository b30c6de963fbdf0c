// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cudnn.h>

#include <array>
#include <source_location>
#include <string>

#include "check.hpp"

namespace gradus::cuda {

/// A cuDNN call failed; `status()` tells whether it only declines (is_declined()).
class CudnnError : public CudaError {
  public:
    CudnnError(cudnnStatus_t status, const std::string& m) : CudaError(m), status_(status) {}
    cudnnStatus_t status() const { return status_; }

  private:
    cudnnStatus_t status_;
};

/// What cuDNN said last in this thread; the text is cleared by reading.
inline std::string last_cudnn_error() {
    std::array<char, 1024> text{};
    cudnnGetLastErrorString(text.data(), text.size());
    return text.data();
}

/// Throws CudnnError with the file, line, name and words of the error.
inline void check(cudnnStatus_t status, std::source_location at = std::source_location::current()) {
    if (status == CUDNN_STATUS_SUCCESS) return;
    throw CudnnError(status, fmt::format("{}:{}: {}: {}", at.file_name(), at.line(),
                                         cudnnGetErrorString(status), last_cudnn_error()));
}

/// Whether the status says that cuDNN has nothing for such a graph, rather than that it is wrong.
inline bool is_declined(cudnnStatus_t status) {
    return CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED;
}

}  // namespace gradus::cuda
