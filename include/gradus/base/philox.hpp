// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A draw is a pure function of its address; nothing is stateful, so no draw
// depends on which rank made it, on batch company, or on a restart.
#pragma once

#include <array>
#include <cstdint>

namespace gradus {

using PhiloxBlock = std::array<std::uint32_t, 4>;

/// The bijection of the paper: ten rounds over a 128-bit counter with a 64-bit key.
PhiloxBlock philox4x32(PhiloxBlock counter, std::array<std::uint32_t, 2> key);

/// What a draw is for. Keeps the streams of different uses apart.
enum class Stream : std::uint32_t { init, shuffle, sample_token, problems, eval, updates, test, held_out, judge, rewrite };

/// The address of a draw.
struct RandomAddress {
    std::uint64_t seed = 0;
    Stream stream = Stream::init;
    std::uint64_t step = 0;      ///< training step, epoch or tensor number
    std::uint64_t prompt = 0;    ///< prompt number (or row)
    std::uint32_t sample = 0;    ///< sample within the group
    std::uint32_t position = 0;  ///< token position (or element block)
};

/// 128 random bits at an address (fields are mixed into key and counter without loss for
/// step < 2^40, prompt < 2^40; larger values are folded).
PhiloxBlock random_bits(const RandomAddress& address);

/// Uniform in [0, 1) with 32 random bits as double (exact multiples of 2^-32).
double random_uniform(const RandomAddress& address);

/// Two independent standard normal numbers (Box-Muller).
std::array<double, 2> random_normal(const RandomAddress& address);

/// Fisher-Yates permutation of 0..n-1, a function of (seed, stream, step) alone.
/// Writes `n` entries to `out`.
void random_permutation(std::uint64_t seed, Stream stream, std::uint64_t step, std::int64_t n,
                        std::int64_t* out);

/// Small sequential generator over one address, for code that draws a varying number of values
/// (problem generators): the i-th draw is at position = i.
class RandomSequence {
  public:
    explicit RandomSequence(RandomAddress address) : address_(address) {}
    /// Uniform integer in [low, high], both included.
    std::int64_t integer(std::int64_t low, std::int64_t high);
    double uniform();

  private:
    RandomAddress address_;
};

}  // namespace gradus
