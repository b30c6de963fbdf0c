// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "gradus/store/checkpoint.hpp"

namespace gradus {

/// The tensor with the scales of the f8_e4m3 tensor `GROUP/NAME`: "scale_inv/NAME", f32, one for
/// each 128 x 128 block of the last two dimensions.
std::string scale_name(const std::string& tensor);

/// Throws CheckpointError unless the checkpoint holds `tensor` with this shape in a type of floats,
/// and its scales where it needs them.
void check_floats(const CheckpointReader& reader, const std::string& tensor, const Shape& global);

/// Fills `out` (contiguous, box.count) with `box` of a tensor of any float type as float32, by runs
/// of rows: beside `out` it needs no more than some rows. Throws CheckpointError, as
/// CheckpointReader::read.
void read_floats(const CheckpointReader& reader, const std::string& tensor, const Box& box,
                 float* out);

}  // namespace gradus
