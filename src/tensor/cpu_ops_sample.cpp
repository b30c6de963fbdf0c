// SPDX-License-Identifier: Apache-2.0
// Drawing tokens: the masses of all tokens as whole numbers, then sums of them. Bound: the exponentials.
#include <numeric>
#include <vector>

#include "cpu_ops.hpp"
#include "gradus/tensor/sample.hpp"

namespace gradus {
namespace {

using Mass = std::uint64_t;
using Ids = std::vector<std::int32_t>;

/// The largest logit; NaN where one is not finite.
float largest(std::span<const float> logits) {
    float top = logits[0];
    float zero = 0;
#pragma omp simd reduction(max : top) reduction(+ : zero)
    for (std::size_t i = 0; i < logits.size(); ++i) {
        top = logits[i] > top ? logits[i] : top;
        zero += logits[i] - logits[i];  // zero for finite numbers only
    }
    return zero == 0 ? top : std::numeric_limits<float>::quiet_NaN();
}

Mass mass_at(std::span<const Mass> mass, std::int32_t id) { return mass[static_cast<std::size_t>(id)]; }

Mass sum_over(std::span<const Mass> mass, const Ids& ids) {
    Mass sum = 0;
    for (const std::int32_t id : ids) sum += mass_at(mass, id);
    return sum;
}

/// `ids` (ascending) become those that survive top-k and then top-p, ascending. Returns their mass.
Mass truncate(Ids& ids, std::span<const Mass> mass, Mass total, const SamplingOptions& options) {
    const auto more_probable = [&](std::int32_t a, std::int32_t b) {
        return mass_at(mass, a) != mass_at(mass, b) ? mass_at(mass, a) > mass_at(mass, b) : a < b;
    };
    if (options.top_k > 0 && static_cast<std::size_t>(options.top_k) < ids.size()) {
        const auto end = ids.begin() + options.top_k;
        std::nth_element(ids.begin(), end - 1, ids.end(), more_probable);
        ids.erase(end, ids.end());
        total = sum_over(mass, ids);
    }
    if (options.top_p < 1) {
        const Mass wanted = mass_to_reach(options.top_p, total);
        // A token is outside if it and all that follow it, each of at most its mass, leave enough.
        const Mass spare = (total - wanted) / ids.size();
        std::erase_if(ids, [&](std::int32_t id) { return mass_at(mass, id) <= spare; });
        std::sort(ids.begin(), ids.end(), more_probable);
        total = 0;
        std::size_t keep = 0;
        while (total < wanted) total += mass_at(mass, ids[keep++]);
        ids.resize(keep);
    }
    std::sort(ids.begin(), ids.end());
    return total;
}

}  // namespace

SampledToken draw_token(std::span<const float> logits, const SamplingOptions& options, std::uint32_t bits) {
    const float top = largest(logits);
    if (!(top == top)) return {-1, top};
    const float inverse = inverse_temperature(options);
    const std::size_t n = logits.size();
    thread_local std::vector<Mass> mass;
    mass.resize(n);
    Mass total = 0;
    Mass* const to = mass.data();
#pragma omp simd reduction(+ : total)
    for (std::size_t i = 0; i < n; ++i) {
        to[i] = mass_of((logits[i] - top) * inverse);
        total += to[i];
    }
    const auto result = [&](std::size_t token) {
        return SampledToken{static_cast<std::int32_t>(token),
                            log_prob_of((logits[token] - top) * inverse, total)};
    };
    if (options.temperature <= 0)
        return result(static_cast<std::size_t>(std::find(logits.begin(), logits.end(), top) -
                                               logits.begin()));
    if (options.top_p >= 1 && options.top_k <= 0) {
        const Mass target = share_of_mass(bits, total);
        std::size_t i = 0;
        for (Mass sum = mass[0]; sum <= target; sum += mass[i]) ++i;
        return result(i);
    }
    thread_local Ids ids;
    ids.resize(n);
    std::iota(ids.begin(), ids.end(), 0);
    const Mass target = share_of_mass(bits, truncate(ids, mass, total, options));
    std::size_t i = 0;
    for (Mass sum = mass_at(mass, ids[0]); sum <= target; sum += mass_at(mass, ids[i])) ++i;
    return result(static_cast<std::size_t>(ids[i]));
}

namespace cpu {

void CpuOps::sample(Tensor tokens, Tensor log_probs, Tensor logits, Tensor bits,
                    const SamplingOptions& options) {
    const auto rows = tokens.elements();
    const auto n = logits.shape().row_elements();
    for (std::int64_t r = 0; r < rows; ++r) {
        const auto [token, log_prob] =
            draw_token({logits.f32() + r * n, static_cast<std::size_t>(n)}, options,
                 static_cast<std::uint32_t>(bits.i32()[r]));
        tokens.i32()[r] = token;
        log_probs.f32()[r] = log_prob;
    }
}

}  // namespace cpu
}  // namespace gradus
