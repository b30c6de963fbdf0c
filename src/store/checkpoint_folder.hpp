// SPDX-License-Identifier: Apache-2.0
// The folders of a run's checkpoints: how one comes into being, takes its place, and goes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gradus {

/// Steps of the finished checkpoints in `run_dir`, ascending.
std::vector<std::int64_t> checkpoint_steps(const std::string& run_dir);

/// Makes the empty folder `temporary`. Throws CheckpointError where its file system has less than
/// `bytes` free.
void make_unfinished(const std::string& temporary, std::int64_t bytes);

/// Syncs `temporary`, gives it the name of `step`'s checkpoint (an older one of that name goes),
/// and points `latest` to it. Throws CheckpointError.
void publish(const std::string& temporary, const std::string& run_dir, std::int64_t step);

/// After the checkpoint of `step`: the newest `keep` stay, and each `keep_every`-th step (0: none);
/// those of later steps are work that a restart repeats and go.
void prune(const std::string& run_dir, std::int64_t step, int keep, std::int64_t keep_every);

/// Removes a folder with its files, quietly.
void remove_folder(const std::string& path);

}  // namespace gradus
