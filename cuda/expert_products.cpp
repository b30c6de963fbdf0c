// SPDX-License-Identifier: Apache-2.0
// As in matmul.cpp, a row-major C = A B is computed as C^T = B^T A^T. Bound: FLOPs with many rows an
// expert, bytes of the weights with few.
#include "expert_products.hpp"

#include "check.hpp"

namespace gradus::cuda {
namespace {

cudaDataType_t type_of(DType dtype) { return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF; }

int small(std::int64_t n) { return static_cast<int>(n); }

char* at(const Tensor& x, std::int64_t element) {
    return static_cast<char*>(x.data()) + element * size_of(x.dtype());
}

}  // namespace

ExpertProducts::ExpertProducts(const Context& context, void* workspace, std::int64_t bytes) {
    check(cublasCreate(&handle_));
    check(cublasSetStream(handle_, context.stream));
    check(cublasSetWorkspace(handle_, workspace, static_cast<std::size_t>(bytes)));
}

ExpertProducts::~ExpertProducts() { cublasDestroy(handle_); }

void ExpertProducts::forward(Tensor out, Tensor in, Tensor weight, Transpose transpose,
                             std::span<const std::int64_t> rows, float beta) {
    const std::int64_t k = in.shape().row_elements(), n = out.shape().row_elements();
    const bool stored_as_k_n = transpose == Transpose::yes;
    const float alpha = 1;
    std::int64_t row = 0;
    for (std::size_t e = 0; e < rows.size(); ++e) {
        if (rows[e] == 0) continue;
        check(cublasGemmEx(handle_, stored_as_k_n ? CUBLAS_OP_N : CUBLAS_OP_T, CUBLAS_OP_N, small(n),
                           small(rows[e]), small(k), &alpha,
                           at(weight, static_cast<std::int64_t>(e) * n * k), type_of(weight.dtype()),
                           small(stored_as_k_n ? n : k), at(in, row * k), type_of(in.dtype()), small(k),
                           &beta, at(out, row * n), type_of(out.dtype()), small(n), CUBLAS_COMPUTE_32F,
                           CUBLAS_GEMM_DEFAULT));
        row += rows[e];
    }
}

void ExpertProducts::backward(Tensor d_weight, Tensor d_out, Tensor in,
                              std::span<const std::int64_t> rows) {
    const std::int64_t k = in.shape().row_elements(), n = d_out.shape().row_elements();
    const float one = 1;
    std::int64_t row = 0;
    for (std::size_t e = 0; e < rows.size(); ++e) {
        if (rows[e] == 0) continue;
        check(cublasGemmEx(handle_, CUBLAS_OP_N, CUBLAS_OP_T, small(k), small(n), small(rows[e]), &one,
                           at(in, row * k), type_of(in.dtype()), small(k), at(d_out, row * n),
                           type_of(d_out.dtype()), small(n), &one,
                           at(d_weight, static_cast<std::int64_t>(e) * n * k), CUDA_R_32F, small(k),
                           CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
        row += rows[e];
    }
}

}  // namespace gradus::cuda
