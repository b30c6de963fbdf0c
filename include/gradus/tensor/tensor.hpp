// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace gradus {

/// f8_e4m3 is the "FN" form of Micikevicius et al. 2022 (arXiv 2209.05433): no infinities, 448 the largest.
enum class DType : std::uint8_t { f32, bf16, i32, f16, f8_e4m3 };
std::int64_t size_of(DType dtype);
const char* name_of(DType dtype);

/// Up to four dimensions, row-major.
class Shape {
  public:
    Shape() = default;
    Shape(std::initializer_list<std::int64_t> dims);
    int rank() const { return rank_; }
    std::int64_t operator[](int i) const {
        assert(i >= 0 && i < rank_);
        return dims_[static_cast<std::size_t>(i)];
    }
    /// Product of all dimensions; 1 for rank 0.
    std::int64_t elements() const;
    /// Product of all but the first; 1 for rank 0 or 1.
    std::int64_t row_elements() const;
    bool operator==(const Shape&) const = default;
    std::string text() const;  ///< "[3, 4]"

  private:
    std::array<std::int64_t, 4> dims_{};
    int rank_ = 0;
};

/// The shape of `rank` (0 .. 4) dimensions.
Shape make_shape(int rank, const std::int64_t* dims);

/// A view of contiguous row-major memory; does not own. Copying copies the view.
class Tensor {
  public:
    Tensor() = default;
    Tensor(void* data, DType dtype, Shape shape) : data_(data), dtype_(dtype), shape_(shape) {}

    DType dtype() const { return dtype_; }
    const Shape& shape() const { return shape_; }
    std::int64_t dim(int i) const { return shape_[i]; }
    std::int64_t elements() const { return shape_.elements(); }
    std::int64_t bytes() const { return elements() * size_of(dtype_); }
    void* data() const { return data_; }
    explicit operator bool() const { return data_ != nullptr; }

    float* f32() const {
        assert(dtype_ == DType::f32);
        return static_cast<float*>(data_);
    }
    std::int32_t* i32() const {
        assert(dtype_ == DType::i32);
        return static_cast<std::int32_t*>(data_);
    }
    std::span<float> floats() const { return {f32(), static_cast<std::size_t>(elements())}; }

    /// Rows [begin, begin + count) of the first dimension.
    Tensor rows(std::int64_t begin, std::int64_t count) const;
    /// The same memory under another shape of no more elements (a prefix).
    Tensor as(Shape shape) const;

  private:
    void* data_ = nullptr;
    DType dtype_ = DType::f32;
    Shape shape_;
};

/// An axis-aligned box in a tensor's own index space: the unit of sharding and of checkpoints.
struct Box {
    Shape offset;
    Shape count;
    std::int64_t elements() const { return count.elements(); }
    bool operator==(const Box&) const = default;
    std::string text() const;
};
/// The common part of two boxes; count has zeros where there is none.
Box intersect(const Box& a, const Box& b);

}  // namespace gradus
