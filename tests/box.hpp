// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "gradus/tensor/tensor.hpp"

namespace gradus::test {

/// What `box` holds of a whole tensor of one to three dimensions.
inline std::vector<float> cut(const float* whole, const Shape& global, const Box& box) {
    // As three dimensions, the first ones 1.
    std::int64_t size[3] = {1, 1, 1}, first[3] = {0, 0, 0}, count[3] = {1, 1, 1};
    for (int i = 0, at = 3 - global.rank(); i < global.rank(); ++i, ++at) {
        size[at] = global[i];
        first[at] = box.offset[i];
        count[at] = box.count[i];
    }
    std::vector<float> out;
    for (std::int64_t i = 0; i < count[0]; ++i)
        for (std::int64_t j = 0; j < count[1]; ++j) {
            const float* row =
                whole + ((first[0] + i) * size[1] + first[1] + j) * size[2] + first[2];
            out.insert(out.end(), row, row + count[2]);
        }
    return out;
}

}  // namespace gradus::test
