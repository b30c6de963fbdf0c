// SPDX-License-Identifier: Apache-2.0
#include "gradus/rollout/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

/// The largest logit. Throws NumericError naming the first that is not finite.
float largest(std::span<const float> logits, const RandomAddress& address) {
    // Lanes, because the compiler may not reorder a maximum or a sum by itself.
    constexpr std::size_t kLanes = 16;
    float tops[kLanes], zeros[kLanes] = {};
    std::fill_n(tops, kLanes, -std::numeric_limits<float>::infinity());
    auto take = [&](float z, std::size_t lane) {
        tops[lane] = z > tops[lane] ? z : tops[lane];
        zeros[lane] += z - z;  // zero for finite numbers only
    };
    const std::size_t whole = logits.size() / kLanes * kLanes;
    for (std::size_t i = 0; i < whole; i += kLanes)
        for (std::size_t lane = 0; lane < kLanes; ++lane) take(logits[i + lane], lane);
    for (std::size_t i = whole; i < logits.size(); ++i) take(logits[i], i - whole);
    if (std::accumulate(zeros, zeros + kLanes, 0.0f) == 0)
        return *std::max_element(tops, tops + kLanes);
    const auto bad =
        std::find_if(logits.begin(), logits.end(), [](float z) { return !std::isfinite(z); });
    throw NumericError(fmt::format(
        "logit {} is {}, not finite, while sampling prompt {} sample {} token {}: the weights are "
        "damaged or the learning rate was too high; go back to an earlier checkpoint",
        bad - logits.begin(), *bad, address.prompt, address.sample, address.position));
}

/// Sum over `ids` in their order.
double mass_of(std::span<const float> mass, const std::vector<TokenId>& ids) {
    double sum = 0;
    for (const TokenId id : ids) sum += mass[static_cast<std::size_t>(id)];
    return sum;
}

/// `ids` (ascending) become those that survive top-k and then top-p, ascending. `mass` are
/// unnormalised probabilities, `total` their sum.
void truncate(std::vector<TokenId>& ids, std::span<const float> mass, double total,
              const SamplingOptions& options) {
    auto of = [&](TokenId id) { return mass[static_cast<std::size_t>(id)]; };
    auto more_probable = [&](TokenId a, TokenId b) {
        return of(a) != of(b) ? of(a) > of(b) : a < b;
    };
    if (options.top_k > 0 && static_cast<std::size_t>(options.top_k) < ids.size()) {
        const auto end = ids.begin() + options.top_k;
        std::nth_element(ids.begin(), end - 1, ids.end(), more_probable);
        ids.erase(end, ids.end());
        std::sort(ids.begin(), ids.end());
        total = mass_of(mass, ids);
    }
    if (options.top_p >= 1) return;
    // Tokens below this mass cannot belong to the set, even all of them together.
    const double negligible = (1 - options.top_p) * total / static_cast<double>(ids.size());
    std::erase_if(ids, [&](TokenId id) { return of(id) < negligible; });
    std::sort(ids.begin(), ids.end(), more_probable);
    const double wanted = options.top_p * total;
    double sum = 0;
    std::size_t keep = 0;
    while (keep < ids.size() && sum < wanted) sum += of(ids[keep++]);
    ids.resize(std::max<std::size_t>(keep, 1));
    std::sort(ids.begin(), ids.end());
}

}  // namespace

SampledToken sample_token(std::span<const float> logits, const SamplingOptions& options,
                          const RandomAddress& address) {
    const bool greedy = options.temperature <= 0;
    const float inverse = greedy ? 1.0f
                                 : static_cast<float>(std::min<double>(
                                       1 / options.temperature, std::numeric_limits<float>::max()));
    const float top = largest(logits, address);

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
    if (greedy)
        return result(
            static_cast<TokenId>(std::find(logits.begin(), logits.end(), top) - logits.begin()));

    const double u = random_uniform(address);
    // The sums below repeat those of the totals, so that u < 1 is reached before the end.
    if (options.top_p >= 1 && options.top_k <= 0) {
        const double wanted = u * total;
        double sum = 0;
        std::size_t i = 0;
        while (i + 1 < mass.size() && (sum += mass[i]) <= wanted) ++i;
        return result(static_cast<TokenId>(i));
    }
    thread_local std::vector<TokenId> ids;
    ids.resize(logits.size());
    std::iota(ids.begin(), ids.end(), 0);
    truncate(ids, mass, total, options);
    const double wanted = u * mass_of(mass, ids);
    double sum = 0;
    std::size_t i = 0;
    while (i + 1 < ids.size() && (sum += mass[static_cast<std::size_t>(ids[i])]) <= wanted) ++i;
    return result(ids[i]);
}

}  // namespace gradus
