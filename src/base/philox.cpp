// SPDX-License-Identifier: Apache-2.0
#include "gradus/base/philox.hpp"

#include <cmath>
#include <numbers>
#include <utility>

namespace gradus {

PhiloxBlock philox4x32(PhiloxBlock c, std::array<std::uint32_t, 2> k) {
    // Multipliers and Weyl increments of the paper, table 2.
    constexpr std::uint64_t kM0 = 0xD2511F53u, kM1 = 0xCD9E8D57u;
    constexpr std::uint32_t kW0 = 0x9E3779B9u, kW1 = 0xBB67AE85u;
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = kM0 * c[0], p1 = kM1 * c[2];
        c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
        k[0] += kW0;
        k[1] += kW1;
    }
    return c;
}

PhiloxBlock random_bits(const RandomAddress& a) {
    const auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
    const auto high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
    // 64 + 32 + 40 + 40 + 32 + 32 bits do not fit into the 192 of one block: a first block hashes
    // seed, stream and the high parts into the key of the second.
    const PhiloxBlock key =
        philox4x32({static_cast<std::uint32_t>(a.stream), high(a.step), high(a.prompt), a.sample},
                   {low(a.seed), high(a.seed)});
    return philox4x32({low(a.step), low(a.prompt), a.sample, a.position}, {key[0], key[1]});
}

double random_uniform(const RandomAddress& address) {
    return random_bits(address)[0] * 0x1p-32;
}

std::array<double, 2> random_normal(const RandomAddress& address) {
    const PhiloxBlock bits = random_bits(address);
    const double u = (bits[0] + 0.5) * 0x1p-32, v = bits[1] * 0x1p-32;
    const double radius = std::sqrt(-2 * std::log(u)), angle = 2 * std::numbers::pi * v;
    return {radius * std::cos(angle), radius * std::sin(angle)};
}

void random_permutation(std::uint64_t seed, Stream stream, std::uint64_t step, std::int64_t n,
                        std::int64_t* out) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = i;
    for (std::int64_t i = n - 1; i > 0; --i) {
        const PhiloxBlock bits = random_bits({.seed = seed,
                                              .stream = stream,
                                              .step = step,
                                              .prompt = static_cast<std::uint64_t>(i)});
        const std::uint64_t wide = (static_cast<std::uint64_t>(bits[0]) << 32) | bits[1];
        std::swap(out[i], out[wide % static_cast<std::uint64_t>(i + 1)]);
    }
}

std::int64_t RandomSequence::integer(std::int64_t low, std::int64_t high) {
    const PhiloxBlock bits = random_bits(address_);
    ++address_.position;
    const std::uint64_t wide = (static_cast<std::uint64_t>(bits[0]) << 32) | bits[1];
    return low + static_cast<std::int64_t>(wide % static_cast<std::uint64_t>(high - low + 1));
}

double RandomSequence::uniform() {
    const double u = random_uniform(address_);
    ++address_.position;
    return u;
}

}  // namespace gradus
