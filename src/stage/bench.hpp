// SPDX-License-Identifier: Apache-2.0
// Parts of stage bench beside the model's own rates.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "gradus/base/profile.hpp"
#include "gradus/stage/run.hpp"
#include "gradus/stage/stack.hpp"

namespace gradus {

/// What the machine can do, measured in this run.
struct Ceilings {
    std::string product_name;
    double product = 0;    ///< FLOP/s
    double copy = 0;       ///< bytes/s, read and written
    double datasheet = 0;  ///< FLOP/s of dense bfloat16 that the maker names, 0: not known
};
/// On a CPU the product is sgemm over the shapes of a training step; on a GPU one of 8192 cubed.
Ceilings measure_ceilings(Run& run, Stack& stack, std::int64_t runs, Json& result);

/// Operations bound by memory, as shares of a copy's rate.
void bench_operations(Run& run, Stack& stack, Json& result);
/// Causal attention, forward and backward, of the model's heads at several lengths.
void bench_attention(Run& run, Stack& stack, Json& result);
/// Rates of collectives over the data ranks as nccl-tests defines them: bus bandwidth of an all-reduce
/// is bytes / seconds * 2 (n - 1) / n, of an all-gather bytes / seconds * (n - 1) / n.
void bench_collectives(Run& run, Stack& stack, Json& result);

/// Best of several runs: what the machine can do, not what its neighbours left over.
template <class Body>
double best_seconds(std::int64_t runs, const Body& body) {
    double best = 1e300;
    for (std::int64_t i = 0; i < runs; ++i) {
        const double began = now_seconds();
        body();
        best = std::min(best, now_seconds() - began);
    }
    return best;
}

}  // namespace gradus
