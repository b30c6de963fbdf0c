// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublas_v2.h>

#include <span>

#include "context.hpp"
#include "gradus/tensor/ops.hpp"

namespace gradus::cuda {

/// Products an expert. Their numbers of rows differ from pass to pass, so that plans cannot be kept:
/// cuBLAS chooses for each by itself.
class ExpertProducts {
  public:
    /// `workspace`: `bytes` of cuBLAS's own, on the stream of `context`.
    ExpertProducts(const Context& context, void* workspace, std::int64_t bytes);
    ~ExpertProducts();
    void forward(Tensor out, Tensor in, Tensor weight, Transpose transpose,
                 std::span<const std::int64_t> rows, float beta);
    void backward(Tensor d_weight, Tensor d_out, Tensor in, std::span<const std::int64_t> rows);

  private:
    cublasHandle_t handle_ = nullptr;
};

}  // namespace gradus::cuda
