// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "gradus/model/config.hpp"

namespace gradus {

/// Angles a position of the rotated pairs, [rope_dim / 2], stretched as `config.rope` says.
std::vector<float> rotary_frequencies(const ModelConfig& config);
/// What cos and sin are multiplied by: 1 but for YaRN.
float rotary_scale(const ModelConfig& config);
/// What q k is multiplied by: 1 / sqrt(head_dim), and DeepSeek's YaRN correction with latent attention.
float attention_scale(const ModelConfig& config);

}  // namespace gradus
