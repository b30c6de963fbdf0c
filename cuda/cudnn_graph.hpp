// SPDX-License-Identifier: Apache-2.0
// The little of cuDNN's graph API that attention needs: tensors of four dimensions, five kinds of
// operations, the engine that cuDNN's heuristics name first, and a plan that is executed by
// pointers.
#pragma once

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cudnn_check.hpp"
#include "gradus/base/handle.hpp"

namespace gradus::cuda {

struct DestroyDescriptor {
    void operator()(cudnnBackendDescriptor_t d) const { cudnnBackendDestroyDescriptor(d); }
};
using Descriptor = UniqueHandle<cudnnBackendDescriptor_t, DestroyDescriptor>;

/// The properties of the current device, for which plans are made.
Descriptor cudnn_device();

/// Compiled kernels of one graph. Must outlive CUDA graphs that recorded its execution.
class CudnnPlan {
  public:
    using Id = std::int64_t;
    /// A tensor and its place: device memory, or host memory for a scalar.
    using Place = std::pair<Id, const void*>;

    /// Bytes that execute() wants beside the tensors.
    std::int64_t workspace() const { return workspace_; }
    /// On the handle's stream. All tensors of the graph that are not hidden and not constants.
    void execute(cudnnHandle_t handle, std::span<const Place> places, void* workspace) const;

  private:
    friend class CudnnGraph;
    Descriptor plan_;
    std::int64_t workspace_ = 0;
    std::vector<std::pair<Id, float>> constants_;
};

class CudnnGraph {
  public:
    using Id = CudnnPlan::Id;
    using Dims = std::array<std::int64_t, 4>;
    static constexpr Id kNone = 0;

    struct Form {
        cudnnDataType_t type = CUDNN_DATA_FLOAT;
        Dims dims{1, 1, 1, 1};
        Dims strides{1, 1, 1, 1};
        /// Element offsets of the first dimension's entries, i64 [dims[0] + 1], where they are not
        /// multiples of strides[0].
        Id offsets = kNone;
        std::int64_t alignment = 16;
    };
    /// A tensor in device memory.
    Id real(const Form& form);
    /// A tensor that exists only inside the fused kernel.
    Id hidden(const Form& form);
    /// An f32 number that is given at execution, or once and for all.
    Id scalar();
    Id constant(float value);

    struct Pointwise {
        cudnnPointwiseMode_t mode = CUDNN_POINTWISE_IDENTITY;
        Id x = kNone, b = kNone, t = kNone, y = kNone;
        cudnnDataType_t compute = CUDNN_DATA_FLOAT;
        std::int64_t axis = -1;  ///< of GEN_INDEX
    };
    /// y = mode(x, b, t)
    void pointwise(const Pointwise& op);
    /// Lengths of the three dimensions, i32 [b], where they are shorter than the tensors'.
    struct Extents {
        Id m = kNone, n = kNone, k = kNone;
    };
    /// c = a b, [.., m, k] by [.., k, n]
    void matmul(Id a, Id b, Id c, const Extents& extents);
    void reduce(cudnnReduceTensorOp_t op, Id x, Id y);
    void reshape(Id x, Id y);

    /// Null where no engine of cuDNN takes the graph; `why` says what it answered.
    std::unique_ptr<CudnnPlan> build(const Descriptor& device, std::string& why) const;

  private:
    Id add_tensor(const Form& form, bool is_hidden, bool by_value);
    cudnnBackendDescriptor_t tensor(Id id) const {
        return tensors_[static_cast<std::size_t>(id - 1)].get();
    }

    std::vector<Descriptor> tensors_;  ///< number i + 1 is id
    std::vector<Descriptor> forms_;    ///< of operations, which refer to them
    std::vector<Descriptor> operations_;
    std::vector<std::pair<Id, float>> constants_;
};

}  // namespace gradus::cuda
