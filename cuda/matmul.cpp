// SPDX-License-Identifier: Apache-2.0
// cuBLASLt counts columns first: a row-major [r, c] matrix is its [c, r]. So C = A B is computed as
// C^T = B^T A^T, with the operands exchanged and the transpositions kept. Bound: FLOPs (790 TFLOP/s of
// bf16 on an H100 for 8192-cubed products).
#include "matmul.hpp"

#include "check.hpp"

namespace gradus::cuda {
namespace {

struct CloseDesc {
    void operator()(cublasLtMatmulDesc_t x) const { cublasLtMatmulDescDestroy(x); }
};
struct CloseLayout {
    void operator()(cublasLtMatrixLayout_t x) const { cublasLtMatrixLayoutDestroy(x); }
};
struct ClosePreference {
    void operator()(cublasLtMatmulPreference_t x) const { cublasLtMatmulPreferenceDestroy(x); }
};
using Desc = UniqueHandle<cublasLtMatmulDesc_t, CloseDesc>;
using Layout = UniqueHandle<cublasLtMatrixLayout_t, CloseLayout>;
using Preference = UniqueHandle<cublasLtMatmulPreference_t, ClosePreference>;

cudaDataType_t type_of(DType dtype) {
    require(dtype == DType::f32 || dtype == DType::bf16, "no product of {}", name_of(dtype));
    return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

Layout make_layout(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t leading,
                   std::int64_t batch, std::int64_t stride) {
    cublasLtMatrixLayout_t raw = nullptr;
    check(cublasLtMatrixLayoutCreate(&raw, type_of(dtype), static_cast<std::uint64_t>(rows),
                                     static_cast<std::uint64_t>(columns), leading));
    Layout layout(raw);
    if (batch > 1) {
        const auto count = static_cast<std::int32_t>(batch);
        check(cublasLtMatrixLayoutSetAttribute(raw, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                               sizeof count));
        check(cublasLtMatrixLayoutSetAttribute(raw, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                               &stride, sizeof stride));
    }
    return layout;
}

}  // namespace

struct Matmul::Plan {
    Desc desc;
    Layout a, b, c;
    cublasLtMatmulAlgo_t algorithm{};
};

Matmul::Matmul(const Context&) { check(cublasLtCreate(&handle_)); }
Matmul::~Matmul() { cublasLtDestroy(handle_); }

const Matmul::Plan& Matmul::plan(const Product& p) {
    if (plans_.size() >= kKept && !plans_.contains(p)) plans_.clear();
    std::unique_ptr<Plan>& kept = plans_[p];
    if (kept) return *kept;
    auto fresh = std::make_unique<Plan>();
    cublasLtMatmulDesc_t desc = nullptr;
    check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    fresh->desc = Desc(desc);
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, bool transpose) {
        const cublasOperation_t op = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
        check(cublasLtMatmulDescSetAttribute(desc, attribute, &op, sizeof op));
    };
    // Exchanged: the first operand is B.
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a);
    fresh->a = p.transpose_b ? make_layout(p.in, p.k, p.n, p.ldb, p.batch, p.stride_b)
                             : make_layout(p.in, p.n, p.k, p.ldb, p.batch, p.stride_b);
    fresh->b = p.transpose_a ? make_layout(p.in, p.m, p.k, p.lda, p.batch, p.stride_a)
                             : make_layout(p.in, p.k, p.m, p.lda, p.batch, p.stride_a);
    fresh->c = make_layout(p.out, p.n, p.m, p.ldc, p.batch, p.stride_c);
    cublasLtMatmulPreference_t raw = nullptr;
    check(cublasLtMatmulPreferenceCreate(&raw));
    const Preference preference(raw);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
        check(cublasLtMatmulPreferenceSetAttribute(raw, attribute, &value, sizeof value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::size_t>(kWorkspace));
    // Sums that are split are finished in the workspace, in order, not by atomics in place.
    const std::uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
    // Pointers are not known yet; rows that are not whole 16-byte pieces limit their alignment.
    const auto alignment = [](std::int64_t leading, DType dtype) {
        std::int64_t bytes = leading * size_of(dtype);
        std::uint32_t align = 16;
        while (align > 1 && bytes % align != 0) align /= 2;
        return align;
    };
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::min(p.align, alignment(p.ldb, p.in)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, std::min(p.align, alignment(p.lda, p.in)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, std::min(p.align, alignment(p.ldc, p.out)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, std::min(p.align, alignment(p.ldc, p.out)));
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, desc, fresh->a.get(), fresh->b.get(), fresh->c.get(),
                                       fresh->c.get(), raw, 1, &found, &count);
    require<CudaError>(status == CUBLAS_STATUS_SUCCESS && count > 0,
                       "cuBLASLt has no product [{}, {}] x [{}, {}] of {} ({})", p.m, p.k, p.k, p.n,
                       name_of(p.in), cublasLtGetStatusName(status));
    fresh->algorithm = found.algo;
    return *(kept = std::move(fresh));
}

void Matmul::run(const Context& c, const Product& product, const void* a, const void* b,
                 void* result, float alpha, float beta, void* workspace) {
    Product key = product;
    key.accumulates = beta != 0;
    std::uintptr_t all = reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b) |
                         reinterpret_cast<std::uintptr_t>(result);
    for (const std::int64_t stride : {key.stride_a, key.stride_b})
        all |= static_cast<std::uintptr_t>(stride * size_of(key.in));
    all |= static_cast<std::uintptr_t>(key.stride_c * size_of(key.out));
    key.align = 16;
    while (key.align > 1 && all % key.align != 0) key.align /= 2;
    const Plan& p = plan(key);
    check(cublasLtMatmul(handle_, p.desc.get(), &alpha, b, p.a.get(), a, p.b.get(), &beta, result,
                         p.c.get(), result, p.c.get(), &p.algorithm, workspace,
                         static_cast<std::size_t>(kWorkspace), c.stream));
}

std::string Matmul::choices() const {
    std::string text;
    std::size_t listed = 0;
    for (const auto& [p, plan] : plans_) {
        if (listed++ == kListed) return text + fmt::format("and {} more\n", plans_.size() - kListed);
        const auto get = [&](cublasLtMatmulAlgoConfigAttributes_t attribute) {
            std::int32_t value = -1;
            std::size_t written = 0;
            cublasLtMatmulAlgoConfigGetAttribute(&plan->algorithm, attribute, &value, sizeof value,
                                                 &written);
            return value;
        };
        text += fmt::format("[{}, {}, {}]{}{} {}->{}{}{}: algorithm {} tile {} stages {} split {}\n", p.m,
                            p.n, p.k, p.transpose_a ? " A^T" : "", p.transpose_b ? " B^T" : "",
                            name_of(p.in), name_of(p.out), p.accumulates ? " +=" : "",
                            p.batch > 1 ? fmt::format(" x{}", p.batch) : "",
                            get(CUBLASLT_ALGO_CONFIG_ID), get(CUBLASLT_ALGO_CONFIG_TILE_ID),
                            get(CUBLASLT_ALGO_CONFIG_STAGES_ID), get(CUBLASLT_ALGO_CONFIG_SPLITK_NUM));
    }
    return text;
}

}  // namespace gradus::cuda
