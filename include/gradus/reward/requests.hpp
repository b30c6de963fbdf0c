// SPDX-License-Identifier: Apache-2.0
// Generated requests that want words, not a result: what people prefer among the answers, and what must not be said.
// A pure function of (seed, number).
#pragma once

#include <cstdint>
#include <string>

namespace gradus {

struct OpenRequest {
    /// `helpful`: answers differ in how much they help; `harmless`: some insult someone.
    std::string kind;
    std::string prompt;
    std::string answer;  ///< the whole, polite one
    std::string thought; ///< what goes before it
};

/// Request number `index` of the family, every other one of either kind.
OpenRequest make_request(std::uint64_t seed, std::int64_t index);

/// A response of either quality, with tags. Of helpful requests the bad ones are curt or answer another request; of
/// harmless ones they insult someone, in the answer or in the reasoning only. `draw` tells several of a request apart.
std::string make_reply(const OpenRequest& request, bool good, std::uint64_t seed, std::int64_t index, std::uint32_t draw = 0);

/// Whether reply number `index` of a text in which the share `good` of them is good is one.
bool is_good_reply(std::uint64_t seed, std::int64_t index, double good);

}  // namespace gradus
