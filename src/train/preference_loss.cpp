// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/preference_loss.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

/// -log sigmoid(x).
double log_loss(double x) { return x > 0 ? std::log1p(std::exp(-x)) : std::log1p(std::exp(x)) - x; }

double half_where_tied(double x) { return x > 0 ? 1 : x == 0 ? 0.5 : 0; }

void see(ScoreLossSums& sums, double score) {
    sums.score += score;
    sums.score_squares += score * score;
    sums.scores += 1;
}

void judge(ScoreLossSums& sums, double towards) {
    sums.right += half_where_tied(towards);
    sums.margin += towards;
    sums.items += 1;
}

}  // namespace

double sigmoid(double x) { return x > 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }

template <class Real>
ScoreLossSums pairwise_loss(std::span<const Real> score, std::span<const double> margin, double center_coef,
                            std::span<Real> d_score) {
    require(score.size() == 2 * margin.size() && d_score.size() == score.size(), "{} scores of {} pairs",
            score.size(), margin.size());
    ScoreLossSums sums;
    const auto n = static_cast<double>(margin.size());
    for (std::size_t i = 0; i < margin.size(); ++i) {
        const auto c = static_cast<double>(score[2 * i]), r = static_cast<double>(score[2 * i + 1]);
        const double lead = c - r - margin[i], both = c + r;
        sums.loss += (log_loss(lead) + center_coef * both * both) / n;
        const double by_lead = -sigmoid(-lead), by_both = 2 * center_coef * both;
        d_score[2 * i] = static_cast<Real>((by_both + by_lead) / n);
        d_score[2 * i + 1] = static_cast<Real>((by_both - by_lead) / n);
        judge(sums, c - r);
        see(sums, c);
        see(sums, r);
    }
    return sums;
}

template <class Real>
ScoreLossSums pointwise_loss(std::span<const Real> score, std::span<const double> label, std::span<Real> d_score) {
    require(score.size() == label.size() && d_score.size() == score.size(), "{} scores of {} labels", score.size(),
            label.size());
    ScoreLossSums sums;
    const auto n = static_cast<double>(label.size());
    for (std::size_t i = 0; i < label.size(); ++i) {
        const auto s = static_cast<double>(score[i]);
        const double sign = label[i] > 0 ? 1 : -1;
        sums.loss += log_loss(sign * s) / n;
        d_score[i] = static_cast<Real>(-sign * sigmoid(-sign * s) / n);
        judge(sums, sign * s);
        see(sums, s);
    }
    return sums;
}

Calibration calibration(std::span<const double> probability) {
    constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
    if (probability.empty()) return {kNone, kNone, kNone, kNone};
    struct Bin {
        double confidence = 0, right = 0;
    };
    constexpr std::size_t kBins = 10;
    std::array<Bin, kBins> bins;
    Calibration result;
    const auto n = static_cast<double>(probability.size());
    for (const double p : probability) {
        const double confidence = std::max(p, 1 - p), right = half_where_tied(p - 0.5);
        const auto at = static_cast<std::size_t>((confidence - 0.5) * 2 * kBins);
        Bin& bin = bins[std::min(at, kBins - 1)];
        bin.confidence += confidence;
        bin.right += right;
        result.accuracy += right;
        result.brier += (1 - p) * (1 - p);
    }
    result.accuracy /= n;
    result.brier /= n;
    for (const Bin& bin : bins) result.expected_error += std::abs(bin.confidence - bin.right) / n;
    result.accuracy_error = std::sqrt(result.accuracy * (1 - result.accuracy) / n);
    return result;
}

template ScoreLossSums pairwise_loss<float>(std::span<const float>, std::span<const double>, double, std::span<float>);
template ScoreLossSums pairwise_loss<double>(std::span<const double>, std::span<const double>, double,
                                             std::span<double>);
template ScoreLossSums pointwise_loss<float>(std::span<const float>, std::span<const double>, std::span<float>);
template ScoreLossSums pointwise_loss<double>(std::span<const double>, std::span<const double>, std::span<double>);

}  // namespace gradus
