// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "gradus/base/exit_code.hpp"
#include "gradus/deck/deck.hpp"
#include "gradus/ranks/session.hpp"
#include "gradus/ranks/watchdog.hpp"
#include "gradus/reward/sandbox.hpp"

namespace gradus {

/// Keys that must fit together. Throws DeckError with all that do not, before anything is allocated.
void check_keys(const Deck& deck);

/// Runs the stage that the deck names on all ranks. Returns done or again; throws on failure, with the
/// phase that failed (profile region) in `phase`.
ExitCode run_stage(const Deck& deck, MpiSession& session, const Sandbox& sandbox, Watchdog& watchdog, std::string& phase);

/// What `--check` prints, and whether all inputs are there.
struct Plan {
    std::string text;
    bool complete = true;
};
/// Inputs found, parameters, memory a rank by name, FLOPs and bytes sent. Builds the stage's objects
/// on a planned arena for `ranks` ranks that need not exist. Where the model of an earlier stage is
/// not there yet the shape comes from the deck's keys. Throws DeckError.
Plan plan_stage(const Deck& deck, int ranks);

}  // namespace gradus
