// SPDX-License-Identifier: Apache-2.0
// Rotary frequencies and their stretching. `linear` divides all; `llama3` (Meta's Llama 3.1) divides
// long waves, keeps short ones and blends between; `yarn` (Peng et al. 2023, arXiv 2309.00071,
// section 3.2 and 3.4) blends by the number of turns within the trained context. Formulas as in
// Hugging Face's transformers, modeling_rope_utils.
#include "rotary.hpp"

#include "parts.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace gradus {
namespace {

double llama3(double frequency, const RopeOptions& r) {
    const double turns = static_cast<double>(r.original_positions) * frequency / (2 * std::numbers::pi);
    if (turns < r.low_freq_factor) return frequency / r.factor;
    if (turns > r.high_freq_factor) return frequency;
    const double keep = (turns - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
    return (1 - keep) * frequency / r.factor + keep * frequency;
}

/// Index of the pair that turns `turns` times within the trained context.
double yarn_index(double turns, const ModelConfig& c) {
    return static_cast<double>(c.rope_dim()) *
           std::log(static_cast<double>(c.rope.original_positions) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(c.rope_theta));
}

double yarn(double frequency, std::int64_t i, const ModelConfig& c) {
    double low = yarn_index(c.rope.beta_fast, c), high = yarn_index(c.rope.beta_slow, c);
    if (c.rope.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(c.rope_dim() - 1));
    if (low == high) high += 0.001;
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    return stretched * frequency / c.rope.factor + (1 - stretched) * frequency;
}

double yarn_magnitude(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

}  // namespace

std::vector<float> rotary_frequencies(const ModelConfig& c) {
    std::vector<float> frequencies;
    const std::int64_t d = c.rope_dim();
    for (std::int64_t i = 0; i < d / 2; ++i) {
        const double f =
            std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
        switch (c.rope.scaling) {
            case RopeScaling::none: frequencies.push_back(static_cast<float>(f)); break;
            case RopeScaling::linear: frequencies.push_back(static_cast<float>(f / c.rope.factor)); break;
            case RopeScaling::llama3: frequencies.push_back(static_cast<float>(llama3(f, c.rope))); break;
            case RopeScaling::yarn: frequencies.push_back(static_cast<float>(yarn(f, i, c))); break;
        }
    }
    return frequencies;
}

float rotary_scale(const ModelConfig& c) {
    const RopeOptions& r = c.rope;
    if (r.scaling != RopeScaling::yarn) return 1;
    if (r.attention_factor > 0) return static_cast<float>(r.attention_factor);
    if (r.mscale != 0 && r.mscale_all_dim != 0)
        return static_cast<float>(yarn_magnitude(r.factor, r.mscale) /
                                  yarn_magnitude(r.factor, r.mscale_all_dim));
    return static_cast<float>(yarn_magnitude(r.factor, 1));
}

float attention_scale(const ModelConfig& c) {
    double scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
    if (c.is_latent() && c.rope.scaling == RopeScaling::yarn && c.rope.mscale_all_dim != 0)
        scale *= std::pow(yarn_magnitude(c.rope.factor, c.rope.mscale_all_dim), 2);
    return static_cast<float>(scale);
}

Tensor PartContext::take_rotary_frequencies() const {
    const std::vector<float> frequencies = rotary_frequencies(config);
    const Tensor memory =
        take_f32(kScratchMemory, {static_cast<std::int64_t>(frequencies.size())});
    if (memory) ops.upload(memory, frequencies.data());
    return memory;
}

}  // namespace gradus
