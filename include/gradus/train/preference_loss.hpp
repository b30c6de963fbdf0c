// SPDX-License-Identifier: Apache-2.0
// The losses of a reward model, which gives a response one number, and how well its numbers tell good from bad.
#pragma once

#include <span>
#include <vector>

namespace gradus {

/// Over the scores that a loss has seen.
struct ScoreLossSums {
    double loss = 0;    ///< already normalised
    double right = 0;   ///< pairs and labels that the scores get right; a tie counts as half
    double margin = 0;  ///< of pairs: chosen - rejected, summed; of labels: the score towards its label
    double items = 0;   ///< pairs or labels
    double score = 0, score_squares = 0;
    double scores = 0;
};

/// The Bradley-Terry loss of pairs (Ouyang et al. 2022, eq. 1; with a margin: Llama 2, arXiv 2307.09288, eq. 2)
///   1/n sum_i -log sigmoid(c_i - r_i - margin_i) + center_coef (c_i + r_i)^2
/// of scores [2n]: c_0, r_0, c_1, r_1 ... The second term (arXiv 2312.09244, as TRL's center_rewards_coefficient)
/// holds scores near 0, which the first leaves open. Derivatives d_score [2n] are written.
template <class Real>
ScoreLossSums pairwise_loss(std::span<const Real> score, std::span<const double> margin, double center_coef,
                            std::span<Real> d_score);

/// Cross entropy of labels: 1/n sum_i -log sigmoid(s_i) of the good ones, -log sigmoid(-s_i) of the others (label 0).
template <class Real>
ScoreLossSums pointwise_loss(std::span<const Real> score, std::span<const double> label, std::span<Real> d_score);

/// How far probabilities can be trusted.
struct Calibration {
    double accuracy = 0;        ///< share of what came true that had more than 1/2; a tie counts as half
    double accuracy_error = 0;  ///< its standard error, of independent items
    double brier = 0;           ///< mean of (1 - p)^2 (Brier 1950, one of the two classes)
    /// Expected calibration error: mean distance between confidence max(p, 1 - p) and accuracy over ten equal bins of
    /// the confidence from 1/2 to 1, weighted by their items (Guo et al. 2017, eq. 3).
    double expected_error = 0;
};
/// Of the probabilities that the model gave to what came true: of a pair sigmoid(c - r), of a label sigmoid(s) or
/// sigmoid(-s). NaN throughout where there are none.
Calibration calibration(std::span<const double> probability);

/// 1 / (1 + e^-x), without overflow.
double sigmoid(double x);

}  // namespace gradus
