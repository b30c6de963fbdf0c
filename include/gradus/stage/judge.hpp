// SPDX-License-Identifier: Apache-2.0
// A model that says whether an answer is right where rules cannot, and one that rewrites what was sampled.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gradus/stage/sampling.hpp"

namespace gradus {

/// The verdict in a reply: 1, 0, or NaN where it has none. The last of the two words in its final part counts, whole
/// words as they are written; one within the other's (CORRECT in INCORRECT) is none.
double verdict_in(const std::string& reply, const std::string& yes, const std::string& no);

/// The judge's verdict on each row of `samples` that `judge.of` names, NaN for others and where it has none; empty
/// where the deck has no judge. Nothing where the run was asked to stop. On every rank.
std::optional<std::vector<double>> judge_samples(Run& run, const Samples& samples);

/// The text of every chosen row as the model of `rewrite.from` puts it; "" where it could not. Nothing where the run was
/// asked to stop. On every rank.
std::optional<std::vector<std::string>> rewrite_samples(Run& run, const Samples& samples, const std::vector<std::size_t>& chosen);

}  // namespace gradus
