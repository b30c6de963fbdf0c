// SPDX-License-Identifier: Apache-2.0
#include "gradus/tensor/tensor.hpp"

#include <algorithm>

#include "gradus/base/error.hpp"

namespace gradus {

std::int64_t size_of(DType dtype) { return dtype == DType::bf16 ? 2 : 4; }

const char* name_of(DType dtype) {
    return dtype == DType::f32 ? "f32" : dtype == DType::bf16 ? "bf16" : "i32";
}

Shape::Shape(std::initializer_list<std::int64_t> dims) : rank_(static_cast<int>(dims.size())) {
    require(dims.size() <= dims_.size(), "a shape of {} dimensions", dims.size());
    std::copy(dims.begin(), dims.end(), dims_.begin());
}

std::int64_t Shape::elements() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= (*this)[i];
    return n;
}

std::int64_t Shape::row_elements() const {
    std::int64_t n = 1;
    for (int i = 1; i < rank_; ++i) n *= (*this)[i];
    return n;
}

std::string Shape::text() const {
    std::string text = "[";
    for (int i = 0; i < rank_; ++i) text += (i > 0 ? ", " : "") + std::to_string((*this)[i]);
    return text + "]";
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t count) const {
    assert(begin >= 0 && count >= 0 && begin + count <= dim(0));
    Shape shape = shape_;
    switch (shape_.rank()) {
        case 1: shape = {count}; break;
        case 2: shape = {count, shape_[1]}; break;
        case 3: shape = {count, shape_[1], shape_[2]}; break;
        default: shape = {count, shape_[1], shape_[2], shape_[3]};
    }
    return Tensor(static_cast<char*>(data_) + begin * shape_.row_elements() * size_of(dtype_), dtype_,
                  shape);
}

Tensor Tensor::as(Shape shape) const {
    assert(shape.elements() <= elements());
    return Tensor(data_, dtype_, shape);
}

std::string Box::text() const { return offset.text() + " + " + count.text(); }

Box intersect(const Box& a, const Box& b) {
    assert(a.offset.rank() == b.offset.rank());
    std::array<std::int64_t, 4> offset{}, count{};
    const int rank = a.offset.rank();
    for (int i = 0; i < rank; ++i) {
        const auto u = static_cast<std::size_t>(i);
        offset[u] = std::max(a.offset[i], b.offset[i]);
        const std::int64_t end = std::min(a.offset[i] + a.count[i], b.offset[i] + b.count[i]);
        count[u] = std::max<std::int64_t>(0, end - offset[u]);
    }
    auto shape = [rank](const std::array<std::int64_t, 4>& v) -> Shape {
        switch (rank) {
            case 0: return {};
            case 1: return {v[0]};
            case 2: return {v[0], v[1]};
            case 3: return {v[0], v[1], v[2]};
            default: return {v[0], v[1], v[2], v[3]};
        }
    };
    return {shape(offset), shape(count)};
}

}  // namespace gradus
