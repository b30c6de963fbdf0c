// SPDX-License-Identifier: Apache-2.0
// A model that says whether an answer is right where rules cannot, and one that rewrites what was
// sampled.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gradus/stage/phase_model.hpp"
#include "gradus/store/rollout_table.hpp"

namespace gradus {

/// The model of judge.from. Made before the sampling, so that what cannot work costs nothing;
/// loaded for the verdicts only.
class Judge {
  public:
    explicit Judge(Run& run);
    /// Its verdict on each row that `judge.of` names, NaN for others and where it has none. Nothing
    /// where the run was asked to stop. On every rank.
    std::optional<std::vector<double>> verdicts(const std::vector<RolloutRow>& rows);

  private:
    Run& run_;
    std::string template_;
    PhaseModel model_;
};

/// The model of rewrite.from, likewise.
class Rewriter {
  public:
    explicit Rewriter(Run& run);
    /// The text of every chosen row as the model puts it; "" where it could not. Nothing where the
    /// run was asked to stop. On every rank.
    std::optional<std::vector<std::string>> texts(const std::vector<RolloutRow>& rows,
                                                  const std::vector<std::size_t>& chosen);

  private:
    Run& run_;
    std::string template_;
    PhaseModel model_;
};

}  // namespace gradus
