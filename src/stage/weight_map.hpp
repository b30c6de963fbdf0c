// SPDX-License-Identifier: Apache-2.0
// Which tensor of a Hugging Face folder is which part of which tensor of a checkpoint: one table
// for both directions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "gradus/model/hugging_face.hpp"
#include "gradus/stage/carried.hpp"
#include "gradus/store/safetensors.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// A contiguous part of a folder's tensor and its place in a checkpoint.
struct WeightPiece {
    std::string tensor;  ///< of the checkpoint: "weights/model.norm.weight", "scale_inv/..."
    Box box;
    std::int64_t at = 0;  ///< element of the folder's tensor at which the part begins
};

/// A tensor of a folder.
struct FolderWeight {
    enum class Use {
        weight,  ///< its bytes are those of the pieces
        scale,   ///< block scales of an F8_E4M3 weight
        copy,    ///< repeats the weights of the pieces, which another tensor holds
        unused,  ///< the model computes it itself
    };
    SafetensorsEntry entry;
    std::size_t file = 0;  ///< number of its file
    Use use = Use::weight;
    std::vector<WeightPiece> pieces;
    std::string original;  ///< copy: the tensor that it repeats
};

struct WeightMap {
    struct Stored {
        DType dtype = DType::f32;
        Shape global;
    };
    std::vector<FolderWeight> weights;     ///< in the order of files and bytes
    std::map<std::string, Stored> stored;  ///< the tensors of the checkpoint
    bool has_fp8 = false;
};

/// The model of a folder: that of config.json, with the multi-token prediction module where there
/// are tensors of it.
ModelConfig folder_model(const HuggingFaceConfig& config, const std::vector<FolderFile>& files);

/// Finds the place of every tensor. Throws DataError with all that does not fit: tensors that no
/// parameter wants, parameters that no tensor fills, with their shapes; other shapes, types that
/// are no floats or differ within a stack of experts, 8-bit weights without scales.
WeightMap map_weights(const ModelConfig& model, const std::vector<FolderFile>& files,
                      const std::string& where);

/// The part of `piece` that falls to `rank` of `size`, all pieces laid one after the other being
/// cut into parts of equal bytes at whole rows; no elements where there is none. `before` and
/// `total`: bytes of all pieces before this one, and of all; `element`: bytes of a number.
WeightPiece share_of(const WeightPiece& piece, std::int64_t element, std::int64_t before,
                     std::int64_t total, int rank, int size);

/// Rows [first, first + count) of a piece; a row is one index of the first dimension with more than
/// one.
WeightPiece piece_rows(const WeightPiece& piece, std::int64_t first, std::int64_t count);
std::int64_t count_rows(const WeightPiece& piece);

}  // namespace gradus
