// SPDX-License-Identifier: Apache-2.0
#include "cudnn_graph.hpp"

#include <cuda_runtime.h>

namespace gradus::cuda {

namespace {

Descriptor make(cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t descriptor = nullptr;
    check(cudnnBackendCreateDescriptor(type, &descriptor));
    return Descriptor(descriptor);
}

void set(const Descriptor& d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
         const void* value, std::int64_t count = 1) {
    check(cudnnBackendSetAttribute(d.get(), name, type, count, value));
}
void set(const Descriptor& d, cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value) {
    set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, &value);
}
void set(const Descriptor& d, cudnnBackendAttributeName_t name, cudnnDataType_t value) {
    set(d, name, CUDNN_TYPE_DATA_TYPE, &value);
}
void set(const Descriptor& d, cudnnBackendAttributeName_t name, std::int64_t value) {
    set(d, name, CUDNN_TYPE_INT64, &value);
}
void set(const Descriptor& d, cudnnBackendAttributeName_t name, bool value) {
    set(d, name, CUDNN_TYPE_BOOLEAN, &value);
}
void finalize(const Descriptor& d) {
    check(cudnnBackendFinalize(d.get()));
}

/// The engine configurations that heuristics propose, best first.
std::vector<Descriptor> engine_configurations(const Descriptor& graph, const Descriptor& device) {
    const Descriptor heuristics = make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    set(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.get());
    set(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, &mode);
    set(heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device.get());
    finalize(heuristics);
    std::int64_t count = 0;
    check(cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count, nullptr));
    std::vector<Descriptor> configurations;
    std::vector<cudnnBackendDescriptor_t> raw;
    for (std::int64_t i = 0; i < count; ++i) {
        configurations.push_back(make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
        raw.push_back(configurations.back().get());
    }
    check(cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, count, &count, raw.data()));
    configurations.resize(static_cast<std::size_t>(count));
    return configurations;
}

}  // namespace

Descriptor cudnn_device() {
    int current = 0;
    check(cudaGetDevice(&current));
    const std::int32_t number = current;
    Descriptor device = make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    set(device, CUDNN_ATTR_DEVICEPROP_DEVICE_ID, CUDNN_TYPE_INT32, &number);
    finalize(device);
    return device;
}

CudnnGraph::Id CudnnGraph::add_tensor(const Form& form, bool is_hidden, bool by_value) {
    const Id id = static_cast<Id>(tensors_.size()) + 1;
    Descriptor d = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, form.type);
    set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, form.dims.data(), 4);
    set(d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, form.strides.data(), 4);
    set(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
    set(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, form.alignment);
    if (is_hidden) set(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
    if (by_value) set(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
    if (form.offsets != kNone) set(d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, tensor(form.offsets));
    finalize(d);
    tensors_.push_back(std::move(d));
    return id;
}
CudnnGraph::Id CudnnGraph::real(const Form& form) {
    return add_tensor(form, false, false);
}
CudnnGraph::Id CudnnGraph::hidden(const Form& form) {
    return add_tensor(form, true, false);
}
CudnnGraph::Id CudnnGraph::scalar() {
    return add_tensor({}, false, true);
}
CudnnGraph::Id CudnnGraph::constant(float value) {
    const Id id = scalar();
    constants_.emplace_back(id, value);
    return id;
}

void CudnnGraph::pointwise(const Pointwise& op) {
    Descriptor form = make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(form, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, &op.mode);
    set(form, CUDNN_ATTR_POINTWISE_MATH_PREC, op.compute);
    if (op.axis >= 0) set(form, CUDNN_ATTR_POINTWISE_AXIS, op.axis);
    finalize(form);
    Descriptor d = make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, form.get());
    set(d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, tensor(op.x));
    if (op.b != kNone) set(d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, tensor(op.b));
    if (op.t != kNone) set(d, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, tensor(op.t));
    set(d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, tensor(op.y));
    finalize(d);
    forms_.push_back(std::move(form));
    operations_.push_back(std::move(d));
}

void CudnnGraph::matmul(Id a, Id b, Id c, const Extents& extents) {
    Descriptor form = make(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    const double padding = 0;
    set(form, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    set(form, CUDNN_ATTR_MATMUL_PADDING_VALUE, CUDNN_TYPE_DOUBLE, &padding);
    finalize(form);
    Descriptor d = make(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set(d, CUDNN_ATTR_OPERATION_MATMUL_ADESC, tensor(a));
    set(d, CUDNN_ATTR_OPERATION_MATMUL_BDESC, tensor(b));
    set(d, CUDNN_ATTR_OPERATION_MATMUL_CDESC, tensor(c));
    set(d, CUDNN_ATTR_OPERATION_MATMUL_DESC, form.get());
    if (extents.m != kNone)
        set(d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, tensor(extents.m));
    if (extents.n != kNone)
        set(d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, tensor(extents.n));
    if (extents.k != kNone)
        set(d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, tensor(extents.k));
    finalize(d);
    forms_.push_back(std::move(form));
    operations_.push_back(std::move(d));
}

void CudnnGraph::reduce(cudnnReduceTensorOp_t op, Id x, Id y) {
    Descriptor form = make(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(form, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, &op);
    set(form, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    finalize(form);
    Descriptor d = make(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set(d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, tensor(x));
    set(d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, tensor(y));
    set(d, CUDNN_ATTR_OPERATION_REDUCTION_DESC, form.get());
    finalize(d);
    forms_.push_back(std::move(form));
    operations_.push_back(std::move(d));
}

void CudnnGraph::reshape(Id x, Id y) {
    Descriptor d = make(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set(d, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, tensor(x));
    set(d, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, tensor(y));
    finalize(d);
    operations_.push_back(std::move(d));
}

std::unique_ptr<CudnnPlan> CudnnGraph::build(const Descriptor& device, std::string& why) const {
    try {
        std::vector<cudnnBackendDescriptor_t> operations;
        for (const Descriptor& d : operations_) operations.push_back(d.get());
        const Descriptor graph = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
        set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations.data(),
            static_cast<std::int64_t>(operations.size()));
        finalize(graph);

        for (const Descriptor& configuration : engine_configurations(graph, device)) {
            auto plan = std::make_unique<CudnnPlan>();
            plan->plan_ = make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
            set(plan->plan_, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration.get());
            if (cudnnBackendFinalize(plan->plan_.get()) != CUDNN_STATUS_SUCCESS) {
                why = last_cudnn_error();
                continue;
            }
            std::int64_t count = 0;
            check(cudnnBackendGetAttribute(plan->plan_.get(),
                                           CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                           CUDNN_TYPE_INT64, 1, &count, &plan->workspace_));
            plan->constants_ = constants_;
            return plan;
        }
        if (why.empty()) why = "no engine";
    } catch (const CudnnError& error) {
        if (!is_declined(error.status())) throw;
        why = error.what();
    }
    return nullptr;
}

void CudnnPlan::execute(cudnnHandle_t handle, std::span<const Place> places,
                        void* workspace) const {
    std::vector<Id> ids;
    std::vector<const void*> pointers;
    for (const auto& [id, pointer] : places) {
        ids.push_back(id);
        pointers.push_back(pointer);
    }
    for (const auto& [id, value] : constants_) {
        ids.push_back(id);
        pointers.push_back(&value);
    }
    const Descriptor pack = make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    const auto count = static_cast<std::int64_t>(ids.size());
    set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, ids.data(), count);
    set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers.data(), count);
    set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, &workspace);
    finalize(pack);
    check(cudnnBackendExecute(handle, plan_.get(), pack.get()));
}

}  // namespace gradus::cuda
