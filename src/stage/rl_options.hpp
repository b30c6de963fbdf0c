// SPDX-License-Identifier: Apache-2.0
// What the deck's loss. keys say, as the options of train/.
#pragma once

#include <string>
#include <vector>

#include "gradus/deck/deck.hpp"
#include "gradus/train/advantage.hpp"
#include "gradus/train/loss.hpp"
#include "gradus/train/value_loss.hpp"

namespace gradus {

/// Of the update after `step` updates. entropy_floor is left to the caller (loss.top_entropy).
PolicyLossOptions policy_loss_options(const Deck& deck, std::int64_t step);
KlOptions kl_options(const Deck& deck);
AdvantageOptions advantage_options(const Deck& deck);
ValueLossOptions value_loss_options(const Deck& deck);

/// Whether any update of a run weighs the divergence to a reference.
bool wants_reference(const Deck& deck);

/// Whether advantages are estimated against a critic's values.
bool wants_critic(const Deck& deck);

/// What does not fit together among the rl. and loss. keys: a line each with its place.
std::vector<std::string> check_rl_keys(const Deck& deck);

}  // namespace gradus
