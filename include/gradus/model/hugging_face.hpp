// SPDX-License-Identifier: Apache-2.0
// config.json of Hugging Face folders.
#pragma once

#include <span>
#include <string>

#include "gradus/model/config.hpp"

namespace gradus {

struct HuggingFaceConfig {
    std::string family;  ///< model_type
    ModelConfig model;   ///< mtp_layers is 0: whether the folder holds the module its tensors say
    std::int64_t announced_mtp_layers = 0;  ///< num_nextn_predict_layers
    bool fp8 = false;    ///< weights may be F8_E4M3 with scales of 128 x 128 blocks
};

/// Reads a config.json: families llama, qwen2, qwen3, qwen3_moe, deepseek_v2, deepseek_v3; rotary
/// settings in the old form (rope_theta, rope_scaling) and the new (rope_parameters). `file` is for
/// messages. Keys that this reader does not know are errors, but for those in `ignored`: a setting
/// unknown here could change what the model computes. Throws DataError naming every unknown, missing
/// or unsupported key at once.
HuggingFaceConfig read_hugging_face_config(const Json& config, const std::string& file,
                                           std::span<const std::string> ignored = {});

}  // namespace gradus
