// SPDX-License-Identifier: Apache-2.0
#include "gradus/store/read_floats.hpp"

#include <algorithm>
#include <vector>

#include "checkpoint_format.hpp"
#include "gradus/base/error.hpp"
#include "gradus/tensor/convert.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kRunBytes = std::int64_t{8} << 20;

/// Rows [first, first + count) of `box`, which has dimensions.
Box rows_of(const Box& box, std::int64_t first, std::int64_t count) {
    const int rank = box.count.rank();
    std::int64_t offset[4] = {}, size[4] = {};
    for (int i = 0; i < rank; ++i) {
        offset[i] = box.offset[i] + (i == 0 ? first : 0);
        size[i] = i == 0 ? count : box.count[i];
    }
    return {make_shape(rank, offset), make_shape(rank, size)};
}

/// Shape of the scales of an f8_e4m3 tensor.
Shape scales_of(const Shape& global) {
    const int rank = global.rank();
    std::int64_t dims[4] = {};
    for (int i = 0; i < rank; ++i) dims[i] = i >= rank - 2 ? scale_blocks(global[i]) : global[i];
    return make_shape(rank, dims);
}

/// Multiplies a box of a matrix, or of a stack of matrices, by its scales.
class Scales {
  public:
    Scales(const CheckpointReader& reader, const std::string& tensor, const Shape& global)
        : reader_(reader), name_(scale_name(tensor)), shape_(scales_of(global)) {}

    void apply(const Box& box, float* values) {
        const int rank = shape_.rank();
        const std::int64_t rows = box.count[rank - 2], columns = box.count[rank - 1];
        const std::int64_t matrices = rank == 3 ? box.count[0] : 1;
        for (std::int64_t m = 0; m < matrices; ++m)
            scale_by_blocks(values + m * rows * columns, rows, columns, box.offset[rank - 2],
                            box.offset[rank - 1], matrix(rank == 3 ? box.offset[0] + m : 0),
                            shape_[rank - 1]);
    }

  private:
    /// The scales of one matrix; they are a 65536th of its elements.
    const float* matrix(std::int64_t m) {
        if (m == held_) return scales_.data();
        const Box box =
            shape_.rank() == 3 ? Box{{m, 0, 0}, {1, shape_[1], shape_[2]}} : Box{{0, 0}, shape_};
        scales_.resize(static_cast<std::size_t>(box.elements()));
        reader_.read(name_, box, scales_.data());
        held_ = m;
        return scales_.data();
    }

    const CheckpointReader& reader_;
    std::string name_;
    Shape shape_;
    std::int64_t held_ = -1;
    std::vector<float> scales_;
};

}  // namespace

std::string scale_name(const std::string& tensor) {
    return "scale_inv/" + tensor.substr(tensor.find('/') + 1);
}

void check_floats(const CheckpointReader& reader, const std::string& tensor, const Shape& global) {
    require<CheckpointError>(reader.has(tensor), "{} holds no tensor {}", reader.directory(),
                             tensor);
    const auto info = reader.info(tensor);
    require<CheckpointError>(info.global == global && info.dtype != DType::i32,
                             "{}: {} is {} {}, the model needs floats {}", reader.directory(),
                             tensor, name_of(info.dtype), info.global.text(), global.text());
    if (info.dtype != DType::f8_e4m3) return;
    require<CheckpointError>(global.rank() == 2 || global.rank() == 3,
                             "{}: {} is {} {}; only matrices and stacks of them have block scales",
                             reader.directory(), tensor, name_of(info.dtype), global.text());
    const std::string name = scale_name(tensor);
    require<CheckpointError>(reader.has(name), "{} holds no scales {} for {}", reader.directory(),
                             name, tensor);
    const auto scales = reader.info(name);
    require<CheckpointError>(scales.dtype == DType::f32 && scales.global == scales_of(global),
                             "{}: {} is {} {}, the scales of {} are f32 {}", reader.directory(),
                             name, name_of(scales.dtype), scales.global.text(), tensor,
                             scales_of(global).text());
}

void read_floats(const CheckpointReader& reader, const std::string& tensor, const Box& box,
                 float* out) {
    const auto info = reader.info(tensor);
    if (info.dtype == DType::f32) return reader.read(tensor, box, out);
    check_floats(reader, tensor, info.global);
    const std::int64_t rows = box.count.rank() == 0 ? 1 : box.count[0],
                       width = box.count.row_elements();
    const std::int64_t run = std::max<std::int64_t>(
        1, kRunBytes / std::max<std::int64_t>(1, width * size_of(info.dtype)));
    std::vector<char> buffer(
        static_cast<std::size_t>(std::min(run, rows) * width * size_of(info.dtype)));
    Scales scales(reader, tensor, info.global);
    for (std::int64_t first = 0; first < rows; first += run) {
        const std::int64_t count = std::min(run, rows - first);
        const Box part = box.count.rank() == 0 ? box : rows_of(box, first, count);
        reader.read(tensor, part, buffer.data());
        float* const to = out + first * width;
        to_f32(info.dtype, buffer.data(), to, count * width);
        if (info.dtype == DType::f8_e4m3) scales.apply(part, to);
    }
}

}  // namespace gradus
