// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "gradus/base/philox.hpp"
#include "gradus/tensor/sample.hpp"
#include "gradus/text/tokenizer.hpp"

namespace gradus {

/// Draws a token from `logits` [V] with the uniform number at `address`, by draw_token(). A function of its
/// arguments alone. Order as in the field: temperature, top-k (exactly k, lower ids first among
/// equals), top-p (smallest set of most probable tokens whose mass reaches top_p of what top-k has
/// left), draw by inverse CDF in order of token id. Throws NumericError where a logit is not
/// finite.
SampledToken sample_token(std::span<const float> logits, const SamplingOptions& options,
                          const RandomAddress& address);

}  // namespace gradus
