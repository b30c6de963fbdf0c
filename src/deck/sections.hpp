// SPDX-License-Identifier: Apache-2.0
// The rows of the parameter table, one function a group of sections.
#pragma once

#include <vector>

#include "gradus/deck/parameters.hpp"

namespace gradus {

std::vector<DeckKey> run_parameters();      ///< stage, restart, run., grid., ckpt.
std::vector<DeckKey> model_parameters();    ///< model., policy., data.
std::vector<DeckKey> train_parameters();    ///< train., optim., sft.
std::vector<DeckKey> rl_parameters();       ///< rl., loss., reward.NAME.
std::vector<DeckKey> stage_parameters();    ///< rollout., sample., eval., problems., tokenizer., score., bench.

}  // namespace gradus
