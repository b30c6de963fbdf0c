// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gradus/text/tokenizer.hpp"

namespace gradus {

enum class FinishReason : std::uint8_t { eos, stop, length };

/// One sampled response.
struct RolloutRow {
    std::int64_t step = 0;       ///< policy version (updates made) when it was sampled
    std::int64_t prompt = 0;     ///< index of the prompt in its data set
    std::string prompt_id;
    std::int64_t group = 0;      ///< address of the group: rollout number and place within it
    std::int32_t sample = 0;     ///< within the group
    std::vector<TokenId> prompt_tokens;
    std::vector<TokenId> tokens;          ///< response, end token included
    std::vector<float> log_probs;         ///< sampler's, per response token
    FinishReason finish = FinishReason::eos;
    std::vector<double> rewards;          ///< one a reward, NaN = unscorable, -infinity = not for this prompt
    double reward = 0;                    ///< weighted sum
    double advantage = 0;
    std::string prompt_text, response_text, reference;
};

/// Writes one immutable HDF5 file (step, rank, part) with one column a field; ragged columns as
/// offsets and values. Written beside and renamed. Throws DataError.
void write_rollouts(const std::string& path, const std::vector<std::string>& reward_names,
                    const std::vector<RolloutRow>& rows);
struct RolloutFile {
    std::vector<std::string> reward_names;
    std::vector<RolloutRow> rows;
};
RolloutFile read_rollouts(const std::string& path);
/// run_dir/rollouts/stepNNNNNNN.rankRRRRR.partPPP.h5
std::string rollout_path(const std::string& run_dir, std::int64_t step, int rank, int part);
/// A file of the rollout table.
struct RolloutName {
    std::string path;
    std::int64_t step = 0;
    int rank = 0;
    int part = 0;
    bool unfinished = false;  ///< "....h5.tmp"
};
/// The rollout files of a run by step, rank and part; none where there is no such folder.
std::vector<RolloutName> rollout_files(const std::string& run_dir);
/// Removes the rollout files of a run with step >= `from`: a restart after `from` updates samples
/// them anew (what a checkpoint holds half used was sampled before).
void cut_rollouts(const std::string& run_dir, std::int64_t from);

}  // namespace gradus
