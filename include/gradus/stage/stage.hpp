// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "gradus/base/exit_code.hpp"
#include "gradus/deck/deck.hpp"
#include "gradus/ranks/session.hpp"

namespace gradus {

/// Runs the stage that the deck names on all ranks. Returns done or again; throws on failure.
ExitCode run_stage(const Deck& deck, MpiSession& session);

/// What `--check` prints: inputs found, parameters, memory a rank by name, FLOPs a step. Builds the
/// stage's objects on a planned arena for `ranks` ranks that need not exist. Throws DeckError.
std::string plan_stage(const Deck& deck, int ranks);

}  // namespace gradus
