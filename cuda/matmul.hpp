// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>

#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "context.hpp"
#include "gradus/base/handle.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus::cuda {

/// A product of row-major matrices with leading dimensions, or a batch of them with strides.
struct Product {
    std::int64_t m = 0, n = 0, k = 0;      ///< C is [m, n]
    bool transpose_a = false, transpose_b = false;
    std::int64_t lda = 0, ldb = 0, ldc = 0;  ///< elements from row to row
    DType in = DType::f32, out = DType::f32;
    bool accumulates = false;              ///< beta != 0
    std::int64_t batch = 1, stride_a = 0, stride_b = 0, stride_c = 0;
    std::uint32_t align = 16;              ///< bytes, of the pointers (set by run)
    auto operator<=>(const Product&) const = default;
};

/// Products by cuBLASLt. What a shape needs (descriptors, layouts, algorithm) is made once and kept; the
/// algorithm is the library's first choice among those that do not split sums over atomics, so that the
/// same library gives the same bits.
class Matmul {
  public:
    explicit Matmul(const Context& context);
    ~Matmul();
    /// cuBLASLt's own workspace: 32 MiB is what its makers advise for Hopper.
    static constexpr std::int64_t kWorkspace = std::int64_t{32} << 20;
    /// C = alpha op(A) op(B) + beta C. `workspace`: kWorkspace bytes.
    void run(const Context& c, const Product& product, const void* a, const void* b, void* result,
             float alpha, float beta, void* workspace);
    /// A line an algorithm that was chosen, for the log; the first kListed.
    std::string choices() const;

  private:
    /// Micro-batches have any number of tokens: plans beyond this are made anew.
    static constexpr std::size_t kKept = 2048, kListed = 40;
    struct Plan;
    const Plan& plan(const Product& product);
    cublasLtHandle_t handle_ = nullptr;
    std::map<Product, std::unique_ptr<Plan>> plans_;
};

}  // namespace gradus::cuda
