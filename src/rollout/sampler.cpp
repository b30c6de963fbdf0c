// SPDX-License-Identifier: Apache-2.0
#include "gradus/rollout/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

TokenId argmax(std::span<const float> logits) {
    return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// Token ids that survive top-k and top-p, ascending. `mass` are unnormalised probabilities.
std::vector<TokenId> survivors(std::span<const float> mass, double total,
                               const SamplingOptions& options) {
    // Tokens below this mass cannot belong to the top-p set, even all of them together.
    const double negligible =
        options.top_p < 1 ? (1 - options.top_p) * total / static_cast<double>(mass.size()) : -1;
    std::vector<TokenId> ids;
    for (std::size_t i = 0; i < mass.size(); ++i)
        if (mass[i] > negligible) ids.push_back(static_cast<TokenId>(i));
    auto more_probable = [&](TokenId a, TokenId b) {
        const float pa = mass[static_cast<std::size_t>(a)], pb = mass[static_cast<std::size_t>(b)];
        return pa != pb ? pa > pb : a < b;
    };
    std::sort(ids.begin(), ids.end(), more_probable);
    if (options.top_k > 0 && ids.size() > static_cast<std::size_t>(options.top_k))
        ids.resize(static_cast<std::size_t>(options.top_k));
    if (options.top_p < 1) {
        double kept_total = 0;
        for (TokenId id : ids) kept_total += mass[static_cast<std::size_t>(id)];
        // After top-k the rest is renormalised; without top-k the dropped mass is negligible but
        // counts, so that the threshold is exact.
        const double wanted = options.top_p * (options.top_k > 0 ? kept_total : total);
        double sum = 0;
        std::size_t keep = 0;
        while (keep < ids.size() && sum < wanted)
            sum += mass[static_cast<std::size_t>(ids[keep++])];
        ids.resize(std::max<std::size_t>(keep, 1));
    }
    std::sort(ids.begin(), ids.end());
    return ids;
}

}  // namespace

SampledToken sample_token(std::span<const float> logits, const SamplingOptions& options,
                          const RandomAddress& address) {
    const bool greedy = options.temperature <= 0;
    const float inverse = greedy ? 1.0f : static_cast<float>(1 / options.temperature);
    float top = -INFINITY;
    bool bad = false;
    for (float z : logits) {
        top = std::max(top, z);
        bad |= std::isnan(z);
    }
    require<NumericError>(!bad && std::isfinite(top),
                          "a logit is not finite while sampling prompt {} sample {} token {}: the "
                          "weights are damaged or the learning rate was too high",
                          address.prompt, address.sample, address.position);

    thread_local std::vector<float> mass;
    mass.resize(logits.size());
    double total = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
        mass[i] = std::exp((logits[i] - top) * inverse);
        total += mass[i];
    }
    auto result = [&](TokenId token) {
        const float z = (logits[static_cast<std::size_t>(token)] - top) * inverse;
        return SampledToken{token, z - static_cast<float>(std::log(total))};
    };
    if (greedy) return result(argmax(logits));

    const double u = random_uniform(address);
    if (options.top_p >= 1 && options.top_k <= 0) {
        const double wanted = u * total;
        double sum = 0;
        TokenId last = argmax(logits);  // if rounding leaves sum below wanted at the end
        for (std::size_t i = 0; i < mass.size(); ++i) {
            sum += mass[i];
            if (sum > wanted) return result(static_cast<TokenId>(i));
        }
        return result(last);
    }
    const std::vector<TokenId> ids = survivors(mass, total, options);
    double kept = 0;
    for (TokenId id : ids) kept += mass[static_cast<std::size_t>(id)];
    const double wanted = u * kept;
    double sum = 0;
    for (TokenId id : ids) {
        sum += mass[static_cast<std::size_t>(id)];
        if (sum > wanted) return result(id);
    }
    return result(ids.back());
}

}  // namespace gradus
