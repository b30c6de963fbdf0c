// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gradus {

struct RolloutName {
    std::string path;
    std::int64_t step = 0;
    int rank = 0;
    int part = 0;
    bool unfinished = false;  ///< "....h5.tmp"
};
/// The rollout files of a run by step, rank and part; none where there is no such folder.
std::vector<RolloutName> rollout_files(const std::string& run_dir);

}  // namespace gradus
