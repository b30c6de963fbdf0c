// SPDX-License-Identifier: Apache-2.0
// Where tests compute: GRADUS_TEST_DEVICE = cpu (default) or cuda. Tests read and write tensors as memory
// of the host; beside a GPU that is page-locked memory, which its kernels reach as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "gradus/tensor/backend.hpp"

namespace gradus::test {

/// Throws DeckError for another value of the variable.
bool on_cuda();
/// GRADUS_TEST_DTYPE = f32 (default) or bf16: of weights and activations in the table of operations.
DType test_dtype();

/// Memory that host and device reach.
std::unique_ptr<Device> make_test_device();
/// The device's own memory, which on a GPU only upload() and download() reach.
std::unique_ptr<Device> make_compute_device();

enum class Waiting {
    each,   ///< every operation is done when it returns: a test may look at memory, or free it, anywhere
    never,  ///< as a run has it: the test synchronizes before it looks
};
/// `arena` planned: planned. The workspace is the device's own memory and not of `arena`.
std::unique_ptr<Ops> make_test_ops(const OpsLimits& limits, Arena& arena,
                                   Waiting waiting = Waiting::each);

/// Pieces of the memory of make_test_device(), pooled.
void* allocate_shared(std::size_t bytes);
void release_shared(void* memory, std::size_t bytes) noexcept;

template <class T>
struct SharedAllocator {
    using value_type = T;
    SharedAllocator() = default;
    template <class U>
    SharedAllocator(const SharedAllocator<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(allocate_shared(n * sizeof(T))); }
    void deallocate(T* memory, std::size_t n) noexcept { release_shared(memory, n * sizeof(T)); }
    bool operator==(const SharedAllocator&) const = default;
};
/// An array that operations may be given: view() makes a tensor of it.
template <class T>
using Shared = std::vector<T, SharedAllocator<T>>;
using Floats = Shared<float>;
using Numbers = Shared<std::int32_t>;

inline Tensor view(Floats& values, Shape shape) { return {values.data(), DType::f32, shape}; }
inline Tensor view(Numbers& values, Shape shape) { return {values.data(), DType::i32, shape}; }
inline Tensor view(Floats& values) { return view(values, {std::ssize(values)}); }
inline Tensor view(Numbers& values) { return view(values, {std::ssize(values)}); }

}  // namespace gradus::test
