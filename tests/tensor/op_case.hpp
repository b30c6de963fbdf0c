// SPDX-License-Identifier: Apache-2.0
// One table of cases drives agreement, gradients and rates of all operations.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../device/test_device.hpp"
#include "gradus/tensor/ops.hpp"

namespace gradus::test {

using Doubles = std::vector<double>;
using Arrays = std::vector<Doubles>;

/// Tensors of one run of a case, in the order of OpCase::in and OpCase::out: the device's memory.
struct Data {
    std::vector<Tensor> in, out, d_out, d_in;
};

struct OpCase {
    std::string name;
    std::vector<Shape> in, out;
    /// Plain float64: inputs -> outputs.
    std::function<Arrays(const Arrays&)> reference;
    std::function<void(Ops&, Data&)> forward;
    /// Optional, after forward: writes d_in, the gradient of sum(d_out * out). May be empty.
    std::function<void(Ops&, Data&)> backward = {};
    /// The first `graded` outputs pass gradients back, and the first `graded_in` inputs have one.
    int graded = 1;
    int graded_in = 99;
    /// Inputs whose gradient is accumulated into (`+=`); the others must be overwritten.
    std::vector<int> accumulated = {};
    double flops = 0, bytes = 0;  ///< of a forward pass
    double spread = 1;            ///< standard deviation of the inputs
    double tolerance = 1e-5;      ///< of |reference| + its root mean square
    std::vector<int> positive = {};  ///< inputs that are made positive
    bool rate_only = false;          ///< large: for the rates alone
    /// Large, for what a GPU cuts into blocks: a CPU leaves it out where GRADUS_LONG is not set.
    bool large = false;
    bool cuda_only = false;  ///< a CPU has only float32

    // Where weights and activations are bfloat16 (test_dtype):
    std::vector<int> f32_in = {}, f32_out = {};  ///< inputs and outputs that are float32 all the same
    std::vector<int> f32_gradients = {};   ///< inputs whose gradients are: those of weights
    std::vector<int> bf16_gradients = {};  ///< float32 inputs whose gradients are not
    bool all_f32 = false;                  ///< it has no bfloat16 form
    double bf16_tolerance = 1e-2;          ///< a rounding is 2^-9
};
inline OpCase large(OpCase c) {
    c.large = true;
    c.rate_only = false;
    return c;
}

/// int32 data that a case's functions share.
class Ints {
  public:
    Ints(const std::vector<std::int32_t>& values, Shape shape)
        : values_(std::make_shared<Numbers>(values.begin(), values.end())), shape_(shape) {}
    explicit Ints(const std::vector<std::int32_t>& values) : Ints(values, Shape{std::ssize(values)}) {}
    Tensor tensor() const { return view(*values_, shape_); }
    std::int32_t operator[](std::int64_t i) const { return (*values_)[static_cast<std::size_t>(i)]; }
    std::int64_t size() const { return static_cast<std::int64_t>(values_->size()); }

  private:
    std::shared_ptr<Numbers> values_;
    Shape shape_;
};

/// Memory of the device that a case's functions share.
class OwnMemory {
  public:
    Tensor take(DType dtype, Shape shape) { return own_->arena.take("own", dtype, shape); }

  private:
    struct Own {
        std::unique_ptr<Device> device = make_compute_device();
        Arena arena{device.get()};
    };
    std::shared_ptr<Own> own_ = std::make_shared<Own>();
};

/// starts and positions of packed sequences.
struct Packed {
    explicit Packed(std::vector<std::int64_t> lengths);
    Packing packing() const;
    std::vector<std::int64_t> lengths;
    std::int64_t tokens = 0, longest = 0;
    Ints starts, positions;
};

std::vector<OpCase> dense_cases();
std::vector<OpCase> block_cases();
std::vector<OpCase> heads_cases();
std::vector<OpCase> rows_cases();
std::vector<OpCase> expert_cases();
std::vector<OpCase> attention_cases();
std::vector<OpCase> decode_cases();
std::vector<OpCase> head_cases();
std::vector<OpCase> optim_cases();

/// Indexing of row-major doubles without casts.
inline double at(const Doubles& x, std::int64_t i) { return x[static_cast<std::size_t>(i)]; }
inline double& at(Doubles& x, std::int64_t i) { return x[static_cast<std::size_t>(i)]; }
inline Doubles zeros(std::int64_t n) { return Doubles(static_cast<std::size_t>(n), 0.0); }

/// Reproducible numbers: a linear congruential generator (Knuth's MMIX constants).
class Lcg {
  public:
    explicit Lcg(std::uint64_t seed) : state_(seed * 2654435769u + 1) {}
    std::uint32_t bits() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<std::uint32_t>(state_ >> 32);
    }
    std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(bits()) % n; }
    double normal();

  private:
    std::uint64_t state_;
};

constexpr OpsLimits kLimits{.max_tokens = 8192,
                            .max_length = 2048,
                            .max_head_dim = 192,
                            .max_heads = 16,
                            .max_width = 8960,
                            .max_decode = 64};

}  // namespace gradus::test
