// SPDX-License-Identifier: Apache-2.0
#include "gradus/tensor/tensor.hpp"

#include <algorithm>

#include "gradus/base/error.hpp"

namespace gradus {

std::int64_t size_of(DType dtype) {
    switch (dtype) {
        case DType::f8_e4m3: return 1;
        case DType::bf16:
        case DType::f16: return 2;
        case DType::f32:
        case DType::i32: break;
    }
    return 4;
}

const char* name_of(DType dtype) {
    switch (dtype) {
        case DType::f32: return "f32";
        case DType::bf16: return "bf16";
        case DType::i32: return "i32";
        case DType::f16: return "f16";
        case DType::f8_e4m3: return "f8_e4m3";
    }
    return "?";
}

Shape::Shape(std::initializer_list<std::int64_t> dims) : rank_(static_cast<int>(dims.size())) {
    require(dims.size() <= dims_.size(), "a shape has at most {} dimensions, asked for {}",
            dims_.size(), dims.size());
    std::copy(dims.begin(), dims.end(), dims_.begin());
    for (auto n : dims) require(n >= 0, "negative dimension in shape {}", text());
}

std::int64_t Shape::elements() const {
    std::int64_t product = 1;
    for (int i = 0; i < rank_; ++i) product *= (*this)[i];
    return product;
}

std::int64_t Shape::row_elements() const {
    std::int64_t product = 1;
    for (int i = 1; i < rank_; ++i) product *= (*this)[i];
    return product;
}

std::string Shape::text() const {
    std::string out = "[";
    for (int i = 0; i < rank_; ++i) out += (i > 0 ? ", " : "") + std::to_string((*this)[i]);
    return out + "]";
}

Shape make_shape(int rank, const std::int64_t* d) {
    switch (rank) {
        case 0: return {};
        case 1: return {d[0]};
        case 2: return {d[0], d[1]};
        case 3: return {d[0], d[1], d[2]};
        default: return {d[0], d[1], d[2], d[3]};
    }
}

namespace {

/// `shape` with dimension i set to `value`.
Shape with_dim(const Shape& shape, int i, std::int64_t value) {
    std::array<std::int64_t, 4> dims{};
    for (int j = 0; j < shape.rank(); ++j)
        dims[static_cast<std::size_t>(j)] = j == i ? value : shape[j];
    return make_shape(shape.rank(), dims.data());
}

}  // namespace

Tensor Tensor::rows(std::int64_t begin, std::int64_t count) const {
    require(shape_.rank() >= 1 && begin >= 0 && count >= 0 && begin + count <= dim(0),
            "rows {} .. {} of a tensor of shape {}", begin, begin + count, shape_.text());
    void* first = data_;
    if (data_ != nullptr) {
        first = static_cast<char*>(data_) + begin * shape_.row_elements() * size_of(dtype_);
    }
    return {first, dtype_, with_dim(shape_, 0, count)};
}

Tensor Tensor::as(Shape shape) const {
    require(shape.elements() <= elements(), "tensor of shape {} seen as the larger {}",
            shape_.text(), shape.text());
    return {data_, dtype_, shape};
}

std::string Box::text() const { return offset.text() + "+" + count.text(); }

Box intersect(const Box& a, const Box& b) {
    const int rank = a.offset.rank();
    require(a.count.rank() == rank && b.offset.rank() == rank && b.count.rank() == rank,
            "boxes {} and {} of different rank", a.text(), b.text());
    Box common = a;
    bool empty = false;
    for (int i = 0; i < rank; ++i) {
        const auto begin = std::max(a.offset[i], b.offset[i]);
        const auto end = std::min(a.offset[i] + a.count[i], b.offset[i] + b.count[i]);
        common.offset = with_dim(common.offset, i, begin);
        common.count = with_dim(common.count, i, std::max<std::int64_t>(0, end - begin));
        empty = empty || end <= begin;
    }
    if (empty) {
        for (int i = 0; i < rank; ++i) common.count = with_dim(common.count, i, 0);
    }
    return common;
}

}  // namespace gradus
