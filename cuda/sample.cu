// SPDX-License-Identifier: Apache-2.0
// Drawing a token a row from logits [R, V] f32: Ops::sample's algorithm in whole numbers, so that sums
// over threads, warps and blocks have no order (gradus/tensor/sample.hpp holds the arithmetic that a CPU
// shares). A row is read once for its maximum, once for the masses of its segments (one a warp), and the
// segment in which the draw falls is walked again. Masses are computed anew in every pass, not stored.
// Top-k and top-p keep the first tokens of one order, (mass descending, id ascending): all tokens above
// a threshold mass and the first few that equal it. The threshold is found digit by digit of (mass - 1),
// 44 bits in 4 digits, with a histogram of counts and masses a digit; once few tokens share the digits so
// far, these are kept in a list and the row is left alone. Tokens of mass 0 are never drawn and count for
// nothing.
// One cluster of 1, 2, 4 or 8 blocks a row, so that few rows fill the device, too.
// Bound: bytes, 8 R V, against about 17 float64 operations and 25 others an exponential: near balance.
#include <cooperative_groups.h>

#include "check.hpp"
#include "gradus/tensor/sample.hpp"
#include "kernels.hpp"
#include "vector.cuh"

namespace gradus::cuda {

namespace {

namespace cg = cooperative_groups;
using Mass = unsigned long long;  // what atomicAdd takes

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kMostBlocks = 8;  ///< a row
constexpr int kDigitBits = 11, kBins = 1 << kDigitBits, kDigits = 4;
constexpr int kBinsOfThread = kBins / kThreads;
constexpr int kListed = 2048;  ///< tokens of a list, at most
constexpr int kLoads = 4;
constexpr unsigned kAll = 0xffffffffu;

struct Draws {
    const float* logits;
    const std::int32_t* bits;
    std::int32_t* tokens;
    float* log_probs;
    int columns;
    float inverse;
    bool greedy;
    int top_k;
    double top_p;
};

/// The kept tokens: mass > threshold, and the first `ties` that equal it.
struct Kept {
    Mass threshold = 0, ties = 0;
    Mass mass = 0;  ///< their sum
};

/// How many tokens to keep, or (count 0) how much of the mass `of`; 0: of all.
struct Goal {
    Mass count = 0, of = 0;
    double top_p = 1;

    __device__ bool reached(Mass tokens, Mass mass, Mass wanted) const {
        return count > 0 ? tokens >= count : mass >= wanted;
    }
};

/// Masses above the threshold and how many equal it, of a run of tokens.
struct Run {
    Mass above = 0, ties = 0;
    __device__ void add(Mass mass, const Kept& kept) {
        above += mass > kept.threshold ? mass : 0;
        ties += mass == kept.threshold ? 1 : 0;
    }
    /// What is kept of the run, `before` ties having come before it.
    __device__ Mass mass(Mass before, const Kept& kept) const {
        const Mass left = kept.ties > before ? kept.ties - before : 0;
        return above + kept.threshold * (ties < left ? ties : left);
    }
};

struct Top {
    float max;
    bool finite;
};

struct Histogram {
    Mass mass[kBins];
    unsigned count[kBins];
    Mass list[kListed];  ///< masses of this block's tokens that begin with the digits so far
};

struct Shared {
    Mass own[kWarps], all[kMostBlocks * kWarps];
    Top own_top[kWarps], all_tops[kMostBlocks * kWarps];
    Mass before[kWarps];
    Mass digit, count_above, mass_above;
    Mass within;    ///< mass of all tokens that begin with the digits so far
    Mass in_digit;  ///< how many have the next one, too
    unsigned listed;
};

__device__ Mass warp_sum_mass(Mass x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
    return x;
}
/// The sum over this lane and those before it.
__device__ Mass warp_scan(Mass x) {
    const int lane = threadIdx.x % 32;
    for (int step = 1; step < 32; step *= 2) {
        const Mass other = __shfl_up_sync(kAll, x, step);
        if (lane >= step) x += other;
    }
    return x;
}

/// One row, as the cluster's blocks see it.
template <bool kVector>
struct Row {
    Draws in;
    Shared& shared;
    Histogram* histogram;
    cg::cluster_group cluster = cg::this_cluster();
    int blocks = static_cast<int>(cluster.num_blocks());
    int rank = static_cast<int>(cluster.block_rank());
    std::int64_t row = blockIdx.x / blocks;
    const float* logits = in.logits + row * in.columns;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int segments = blocks * kWarps;
    Mass everything = 0;  ///< sum of the masses, once cut() was called
    /// Columns a segment: whole steps of a warp.
    int length = (in.columns + segments * 128 - 1) / (segments * 128) * 128;

    __device__ std::int64_t begin_of(int segment) const {
        const std::int64_t at = static_cast<std::int64_t>(segment) * length;
        return at < in.columns ? at : in.columns;
    }

    /// body(z, id, valid) for all of this warp's segment, by all lanes together.
    template <class Body>
    __device__ void each(const Body& body) const {
        const std::int64_t begin = begin_of(rank * kWarps + warp);
        const std::int64_t end = begin_of(rank * kWarps + warp + 1);
        if constexpr (kVector) {
            for (std::int64_t at = begin; at < end; at += 128 * kLoads) {
                Vec<float> z[kLoads] = {};
#pragma unroll
                for (int i = 0; i < kLoads; ++i) {
                    const std::int64_t id = at + i * 128 + lane * 4;
                    if (id < end) z[i] = load_vec(logits + id);
                }
#pragma unroll
                for (int i = 0; i < kLoads; ++i) {
                    const std::int64_t id = at + i * 128 + lane * 4;
#pragma unroll
                    for (int k = 0; k < 4; ++k)
                        body(z[i].at[k], static_cast<int>(id) + k, id < end);
                }
            }
        } else {
#pragma unroll 4
            for (std::int64_t at = begin; at < end; at += 32) {
                const std::int64_t id = at + lane;
                body(id < end ? logits[id] : 0.0f, static_cast<int>(id), id < end);
            }
        }
    }

    __device__ float scaled(float z, float max) const { return (z - max) * in.inverse; }
    __device__ Mass mass(float z, float max) const { return mass_of(scaled(z, max)); }

    /// Every warp's value, to all blocks, in order of segment. All of the cluster's threads call it.
    template <class T>
    __device__ void exchange(T* all, T* own, T value) {
        if (lane == 0) own[warp] = value;
        cluster.sync();
        for (int i = threadIdx.x; i < segments; i += kThreads)
            all[i] = cluster.map_shared_rank(own, i / kWarps)[i % kWarps];
        cluster.sync();
    }
    __device__ Mass sum_of_all(Mass value) {
        exchange(shared.all, shared.own, warp_sum_mass(value));
        Mass sum = 0;
        for (int i = lane; i < segments; i += 32) sum += shared.all[i];
        return warp_sum_mass(sum);
    }

    __device__ Top top() {
        float max = -INFINITY;
        unsigned size = 0;
        each([&](float z, int, bool valid) {
            if (!valid) return;
            max = fmaxf(max, z);
            size = ::max(size, __float_as_uint(z) & 0x7fffffffu);
        });
        const bool finite = __all_sync(kAll, size < 0x7f800000u) != 0;
        exchange(shared.all_tops, shared.own_top, Top{warp_max(max), finite});
        Top whole{-INFINITY, true};
        for (int i = lane; i < segments; i += 32) {
            whole.max = fmaxf(whole.max, shared.all_tops[i].max);
            whole.finite = whole.finite && shared.all_tops[i].finite;
        }
        return {warp_max(whole.max), __all_sync(kAll, whole.finite) != 0};
    }

    __device__ Mass total(float max) {
        Mass sum = 0;
        each([&](float z, int, bool valid) { sum += valid ? mass(z, max) : 0; });
        return sum_of_all(sum);
    }

    __device__ int first_equal(float max) {
        int first = 0x7fffffff;
        each([&](float z, int id, bool valid) {
            if (valid && z == max) first = min(first, id);
        });
        first = __reduce_min_sync(kAll, first);
        exchange(shared.all, shared.own, static_cast<Mass>(first));
        for (int i = lane; i < segments; i += 32) first = min(first, static_cast<int>(shared.all[i]));
        return __reduce_min_sync(kAll, first);
    }

    __device__ void write(int id, float max, Mass total) const {
        in.tokens[row] = id;
        in.log_probs[row] = log_prob_of(scaled(logits[id], max), total);
    }

    __device__ void count(Mass m, bool here, int shift);
    __device__ void find_digit(const Goal& goal, Mass count_above, Mass mass_above);
    __device__ Kept cut(float max, const Goal& goal);
    template <bool kTruncate>
    __device__ void draw(float max, const Kept& kept, Mass total);
};

/// The sum over the block's threads before this one.
__device__ Mass before_in_block(Mass x, Mass* warp_sums) {
    const Mass scan = warp_scan(x);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 31) warp_sums[warp] = scan;
    __syncthreads();
    Mass before = scan - x;
    for (int i = 0; i < warp; ++i) before += warp_sums[i];
    __syncthreads();
    return before;
}

/// A token that begins with the digits so far, or none: all lanes call it. Bin 0 is left out, since most
/// tokens would meet there.
template <bool kVector>
__device__ void Row<kVector>::count(Mass m, bool here, int shift) {
    const int bin = here ? static_cast<int>((m - 1) >> shift) & (kBins - 1) : 0;
    if (!__any_sync(kAll, bin > 0)) return;
    int same;
    __match_all_sync(kAll, bin, &same);
    if (same) {
        const Mass sum = warp_sum_mass(m);
        if (lane == 0) {
            atomicAdd(&histogram->mass[bin], sum);
            atomicAdd(&histogram->count[bin], 32u);
        }
    } else if (bin > 0) {
        atomicAdd(&histogram->mass[bin], m);
        atomicAdd(&histogram->count[bin], 1u);
    }
}

/// Walks the cluster's histogram from the highest digit down until the goal is reached. Bin 0 holds the
/// sums of all digits.
template <bool kVector>
__device__ void Row<kVector>::find_digit(const Goal& goal, Mass count_above, Mass mass_above) {
    Mass counts[kBinsOfThread], masses[kBinsOfThread], count = 0, mass = 0;
    const int first = kBins - 1 - static_cast<int>(threadIdx.x) * kBinsOfThread;
#pragma unroll
    for (int k = 0; k < kBinsOfThread; ++k) {
        counts[k] = masses[k] = 0;
        for (int b = 0; b < blocks; ++b) {
            const Histogram* from = cluster.map_shared_rank(histogram, b);
            counts[k] += from->count[first - k];
            masses[k] += from->mass[first - k];
        }
        if (first - k == 0) shared.within = masses[k];
        count += counts[k];
        mass += masses[k];
    }
    Mass count_before = before_in_block(count, shared.before);
    Mass mass_before = before_in_block(mass, shared.before);
    // A share of everything: the first digit has seen everything.
    const Mass wanted = goal.count > 0 ? 0 : mass_to_reach(goal.top_p, goal.of > 0 ? goal.of : shared.within);
#pragma unroll
    for (int k = 0; k < kBinsOfThread; ++k) {
        if (first - k == 0) {
            counts[k] -= count_before;
            masses[k] -= mass_before;
        }
        const Mass tokens = count_above + count_before, above = mass_above + mass_before;
        if (!goal.reached(tokens, above, wanted) &&
            goal.reached(tokens + counts[k], above + masses[k], wanted)) {
            shared.digit = static_cast<Mass>(first - k);
            shared.count_above = tokens;
            shared.mass_above = above;
            shared.in_digit = counts[k];
        }
        count_before += counts[k];
        mass_before += masses[k];
    }
    cluster.sync();
}

/// The fewest first tokens that reach the goal; all where nothing reaches it.
template <bool kVector>
__device__ Kept Row<kVector>::cut(float max, const Goal& goal) {
    constexpr Mass kUnreached = kBins;
    Mass prefix = 0, count_above = 0, mass_above = 0, wanted_of = goal.of;
    int listed = -1;  // length of the list, once there is one
    for (int digit = 0; digit < kDigits; ++digit) {
        const int shift = kDigitBits * (kDigits - 1 - digit);
        const bool lists = listed < 0 && digit > 0 && shared.in_digit <= kListed;
        __syncthreads();
        for (int i = threadIdx.x; i < kBins; i += kThreads) {
            histogram->mass[i] = 0;
            histogram->count[i] = 0;
        }
        if (threadIdx.x == 0) {
            shared.digit = kUnreached;
            shared.listed = 0;
        }
        __syncthreads();
        Mass within = 0;
        unsigned tokens = 0;
        const auto take = [&](Mass m) {
            const bool here = m > 0 && (m - 1) >> (shift + kDigitBits) == prefix;
            within += here ? m : 0;
            tokens += here ? 1 : 0;
            if (here && lists) histogram->list[atomicAdd(&shared.listed, 1u)] = m;
            count(m, here, shift);
        };
        if (listed >= 0)
            for (int i = warp * 32; i < listed; i += kThreads)
                take(i + lane < listed ? histogram->list[i + lane] : 0);
        else
            each([&](float z, int, bool valid) { take(valid ? mass(z, max) : 0); });
        within = warp_sum_mass(within);
        tokens = __reduce_add_sync(kAll, tokens);
        if (lane == 0) {
            atomicAdd(&histogram->mass[0], within);
            atomicAdd(&histogram->count[0], tokens);
        }
        cluster.sync();
        if (lists) listed = static_cast<int>(shared.listed);
        find_digit({goal.count, wanted_of, goal.top_p}, count_above, mass_above);
        if (digit == 0) {
            everything = shared.within;
            if (wanted_of == 0) wanted_of = everything;
        }
        if (shared.digit == kUnreached) return {0, 0, everything};
        prefix = prefix << kDigitBits | shared.digit;
        count_above = shared.count_above;
        mass_above = shared.mass_above;
    }
    Kept kept;
    kept.threshold = prefix + 1;
    kept.ties = goal.count > 0 ? goal.count - count_above
                               : (mass_to_reach(goal.top_p, wanted_of) - mass_above + prefix) /
                                     kept.threshold;
    kept.mass = mass_above + kept.ties * kept.threshold;
    return kept;
}

/// The lowest id at which the running sum of kept masses exceeds the draw. Without truncation everything
/// is kept, and `total` is its sum.
template <bool kVector>
template <bool kTruncate>
__device__ void Row<kVector>::draw(float max, const Kept& kept, Mass total) {
    constexpr int kOfLane = kMostBlocks * kWarps / 32;  // segments that a lane looks at
    Run own, runs[kOfLane];
    each([&](float z, int, bool valid) {
        if (!valid) return;
        if constexpr (kTruncate)
            own.add(mass(z, max), kept);
        else
            own.above += mass(z, max);
    });
    const auto spread = [&](Mass value, Mass Run::*to) {
        exchange(shared.all, shared.own, warp_sum_mass(value));
        for (int k = 0; k < kOfLane; ++k)
            if (const int i = lane * kOfLane + k; i < segments) runs[k].*to = shared.all[i];
    };
    // Ties before a segment decide what is kept of it: first they are counted, then masses.
    if constexpr (kTruncate) spread(own.ties, &Run::ties);
    spread(own.above, &Run::above);
    Mass ties = 0, sum = 0;
    for (const Run& run : runs) ties += run.ties;
    Mass ties_before = warp_scan(ties) - ties;
    for (Run& run : runs) {
        run.above = run.mass(ties_before, kept);  // from here on what is kept of it
        const Mass count = run.ties;
        run.ties = ties_before;  // and the ties before it
        ties_before += count;
        sum += run.above;
    }
    const Mass kept_mass = warp_sum_mass(sum);
    if constexpr (!kTruncate) total = kept_mass;
    const Mass target = share_of_mass(static_cast<std::uint32_t>(in.bits[row]), kept_mass);
    Mass before = warp_scan(sum) - sum;
    int segment = -1;
    for (int k = 0; k < kOfLane; ++k) {
        if (segment >= 0) continue;
        if (before <= target && target - before < runs[k].above) {
            segment = lane * kOfLane + k;
            ties_before = runs[k].ties;
        } else {
            before += runs[k].above;
        }
    }
    const int source = __ffs(static_cast<int>(__ballot_sync(kAll, segment >= 0))) - 1;
    segment = __shfl_sync(kAll, segment, source);
    before = __shfl_sync(kAll, before, source);
    ties_before = __shfl_sync(kAll, ties_before, source);
    if (segment / kWarps != rank) return;

    // This block walks the segment again, each thread some tokens that follow each other.
    const int count = (length + kThreads - 1) / kThreads;
    const std::int64_t end = begin_of(segment + 1);
    std::int64_t at = begin_of(segment) + static_cast<std::int64_t>(threadIdx.x) * count;
    const std::int64_t stop = at + count < end ? at + count : end;
    Run mine;
    for (std::int64_t i = at; i < stop; ++i) mine.add(mass(logits[i], max), kept);
    ties_before += before_in_block(mine.ties, shared.before);
    const Mass here = mine.mass(ties_before, kept);
    before += before_in_block(here, shared.before);
    if (target < before || target - before >= here) return;
    for (; at < stop; ++at) {
        Run one;
        one.add(mass(logits[at], max), kept);
        before += one.mass(ties_before, kept);
        ties_before += one.ties;
        if (before > target) break;
    }
    write(static_cast<int>(at), max, total);
}

template <bool kVector, bool kTruncate>
__global__ void __launch_bounds__(kThreads, 2) sample_kernel(Draws in) {
    __shared__ Shared shared;
    extern __shared__ __align__(16) char dynamic[];
    Row<kVector> row{in, shared, reinterpret_cast<Histogram*>(dynamic)};
    const Top top = row.top();
    const bool writes = row.rank == 0 && threadIdx.x == 0;
    if (!top.finite) {
        if (writes) {
            in.tokens[row.row] = -1;
            in.log_probs[row.row] = NAN;
        }
        return;
    }
    if (in.greedy) {
        const Mass total = row.total(top.max);
        const int id = row.first_equal(top.max);
        if (writes) row.write(id, top.max, total);
        return;
    }
    if constexpr (kTruncate) {
        Kept kept;
        if (in.top_k > 0) kept = row.cut(top.max, {.count = static_cast<Mass>(in.top_k)});
        if (in.top_p < 1) kept = row.cut(top.max, {.of = kept.mass, .top_p = in.top_p});
        row.template draw<true>(top.max, kept, row.everything);
    } else {
        row.template draw<false>(top.max, {}, 0);
    }
}

template <bool kVector, bool kTruncate>
void launch(const Context& c, std::int64_t rows, const Draws& in) {
    // As many blocks a row as leave two for every multiprocessor.
    unsigned blocks = 1;
    while (blocks < kMostBlocks && rows * blocks <= c.multiprocessors) blocks *= 2;
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {blocks, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = static_cast<unsigned>(rows) * blocks;
    config.blockDim = kThreads;
    config.dynamicSmemBytes = kTruncate ? sizeof(Histogram) : 0;
    config.stream = c.stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, sample_kernel<kVector, kTruncate>, in));
}

}  // namespace

void sample(const Context& c, Tensor tokens, Tensor log_probs, Tensor logits, Tensor bits,
            const SamplingOptions& options) {
    const std::int64_t rows = tokens.elements(), columns = logits.shape().row_elements();
    if (rows == 0) return;
    require(columns > 0 && columns < std::int64_t{1} << 30, "sample: {} tokens", columns);
    const Draws in{.logits = logits.f32(),
                   .bits = bits.i32(),
                   .tokens = tokens.i32(),
                   .log_probs = log_probs.f32(),
                   .columns = static_cast<int>(columns),
                   .inverse = inverse_temperature(options),
                   .greedy = options.temperature <= 0,
                   .top_k = options.top_k,
                   .top_p = options.top_p};
    const bool truncate = !in.greedy && (options.top_k > 0 || options.top_p < 1);
    const bool vector = vectorizes<float>(columns, in.logits);
    if (truncate)
        vector ? launch<true, true>(c, rows, in) : launch<false, true>(c, rows, in);
    else
        vector ? launch<true, false>(c, rows, in) : launch<false, false>(c, rows, in);
}

}  // namespace gradus::cuda
