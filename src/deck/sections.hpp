// SPDX-License-Identifier: Apache-2.0
// The rows of the parameter table, one function a group of sections.
#pragma once

#include <vector>

#include "gradus/deck/parameters.hpp"

namespace gradus {

std::vector<Parameter> run_parameters();      ///< stage, restart, run., grid., ckpt.
std::vector<Parameter> model_parameters();    ///< model., policy., data.
std::vector<Parameter> train_parameters();    ///< train., optim., rl., loss., reward.NAME.
std::vector<Parameter> stage_parameters();    ///< rollout., sample., eval., problems., score., bench.

}  // namespace gradus
