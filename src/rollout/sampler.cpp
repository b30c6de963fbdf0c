// SPDX-License-Identifier: Apache-2.0
#include "gradus/rollout/sampler.hpp"

#include <algorithm>
#include <cmath>

#include "gradus/base/error.hpp"

namespace gradus {

SampledToken sample_token(std::span<const float> logits, const SamplingOptions& options,
                          const RandomAddress& address) {
    const SampledToken drawn = draw_token(logits, options, random_bits(address)[0]);
    if (drawn.token >= 0) return drawn;
    const auto bad =
        std::find_if(logits.begin(), logits.end(), [](float z) { return !std::isfinite(z); });
    throw NumericError(fmt::format(
        "logit {} is {}, not finite, while sampling prompt {} sample {} token {}: the weights are "
        "damaged or the learning rate was too high; go back to an earlier checkpoint",
        bad - logits.begin(), *bad, address.prompt, address.sample, address.position));
}

}  // namespace gradus
