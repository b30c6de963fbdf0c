// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace gradus {

struct ShowOptions {
    std::int64_t step = -1;         ///< -1: the newest
    std::string pick = "random";    ///< random | best | worst | all
    std::string reward;             ///< sort by this reward; "": the weighted sum
    int count = 5;
    std::uint64_t seed = 1;
};
/// Prints rollouts of a run directory as text to stdout. Throws DataError.
void show_run(const std::string& run, const ShowOptions& options);

}  // namespace gradus
