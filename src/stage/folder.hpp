// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "gradus/store/safetensors.hpp"
#include "weight_map.hpp"

namespace gradus {

/// A Hugging Face folder as a model: config.json read, every tensor in its place.
struct Folder {
    /// Throws DataError, as read_hugging_face_config, SafetensorsFolder and map_weights.
    Folder(const std::string& path, std::span<const std::string> ignored_keys);

    std::string path;
    HuggingFaceConfig config;
    SafetensorsFolder weights;
    ModelConfig model;
    WeightMap map;

    /// Of the tensors of the checkpoint.
    std::int64_t stored_bytes() const;
    /// "qwen2, 28 layers ...: 338 tensors in 1 files, 2.9 GiB (BF16)"
    std::string summary() const;
    /// A line for each tensor that is not stored, with why, and for what else a user should know.
    std::vector<std::string> notes() const;
};

/// Reads a config.json. Throws DataError.
HuggingFaceConfig read_config_file(const std::string& path,
                                   std::span<const std::string> ignored_keys);

}  // namespace gradus
