// SPDX-License-Identifier: Apache-2.0
// A reward model's losses by their formulas and by hand, its calibration, its scores, its update against differences.
#include "gradus/train/preference_loss.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>

#include "gradus/base/error.hpp"
#include "tiny.hpp"

namespace gradus {
namespace {

using test::distance;
using test::last_gradient;
using test::Tiny;
using test::tiny_batch;
using boost::test_tools::tolerance;

constexpr AdamWOptions kBare{.beta1 = 0.5, .weight_decay = 0, .clip = 0};
constexpr double kCenter = 0.05;

const Grid& one_rank() {
    static const Grid one(MPI_COMM_SELF, 1);
    return one;
}

/// A reward model whose head is not zero, so that gradients reach the body.
struct TinyRewardModel : Tiny {
    explicit TinyRewardModel(std::int64_t micro_tokens, AdamWOptions options = {})
        : Tiny(one_rank(), micro_tokens, options, false, test::tiny_config().with_scalar_head()) {
        RandomSequence random({.seed = 3, .stream = Stream::test});
        std::vector<float> head(static_cast<std::size_t>(parameters.at(kScalarHead).value.elements()));
        for (float& x : head) x = static_cast<float>(random.uniform() - 0.5);
        ops->upload(parameters.at(kScalarHead).value, head.data());
        ops->synchronize();
    }
};

std::vector<double> margins_of(std::size_t pairs) {
    std::vector<double> margins;
    for (std::size_t i = 0; i < pairs; ++i) margins.push_back(0.1 * static_cast<double>(i % 3));
    return margins;
}

double pair_loss(std::span<const float> scores, std::span<float> d_scores) {
    return pairwise_loss<float>(scores, margins_of(scores.size() / 2), kCenter, d_scores).loss;
}

double label_loss(std::span<const float> scores, std::span<float> d_scores) {
    std::vector<double> labels;
    for (std::size_t i = 0; i < scores.size(); ++i) labels.push_back(i % 3 == 0 ? 1 : 0);
    return pointwise_loss<float>(scores, labels, d_scores).loss;
}

using LossOf = double (*)(std::span<const float>, std::span<float>);

double loss_now(TinyRewardModel& model, const std::vector<Sequence>& batch, LossOf loss) {
    const std::vector<float> scores = model.trainer.scores(batch);
    std::vector<float> unused(scores.size());
    return loss(scores, unused);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(preference)

BOOST_AUTO_TEST_CASE(pairs_by_hand) {
    // sigmoid(log 3) = 3/4; the second pair is the wrong way round by log 3 beyond its margin.
    const double third = std::log(3.0);
    const std::vector<double> score{third + 1, 1, 0, third - 0.5}, margin{0, 0.5};
    std::vector<double> slope(4);
    const ScoreLossSums sums = pairwise_loss<double>(score, margin, 0.1, slope);
    const double both = third + 2, other = third - 0.5;
    BOOST_TEST(sums.loss == 0.5 * (-std::log(0.75) + 0.1 * both * both - std::log(0.25) + 0.1 * other * other),
               tolerance(1e-14));
    BOOST_TEST(slope[0] == 0.5 * (-0.25 + 0.2 * both), tolerance(1e-14));
    BOOST_TEST(slope[1] == 0.5 * (0.25 + 0.2 * both), tolerance(1e-14));
    BOOST_TEST(slope[2] == 0.5 * (-0.75 + 0.2 * other), tolerance(1e-14));
    BOOST_TEST(slope[3] == 0.5 * (0.75 + 0.2 * other), tolerance(1e-14));
    BOOST_TEST(sums.right == 1);
    BOOST_TEST(sums.items == 2);
    BOOST_TEST(sums.scores == 4);
    BOOST_TEST(sums.margin == 0.5, tolerance(1e-14));
    BOOST_TEST(sums.score == 2 * third + 1.5, tolerance(1e-14));
}

BOOST_AUTO_TEST_CASE(labels_by_hand) {
    const double third = std::log(3.0);
    const std::vector<double> score{third, third, 0}, label{1, 0, 1};
    std::vector<double> slope(3);
    const ScoreLossSums sums = pointwise_loss<double>(score, label, slope);
    BOOST_TEST(sums.loss == -(std::log(0.75) + std::log(0.25) + std::log(0.5)) / 3, tolerance(1e-14));
    BOOST_TEST(slope[0] == -0.25 / 3, tolerance(1e-14));
    BOOST_TEST(slope[1] == 0.75 / 3, tolerance(1e-14));
    BOOST_TEST(slope[2] == -0.5 / 3, tolerance(1e-14));
    BOOST_TEST(sums.right == 1.5);  // the tie is half right
    BOOST_TEST(sums.margin == 0.0);
}

BOOST_AUTO_TEST_CASE(derivatives_are_those_of_differences) {
    RandomSequence random({.seed = 5, .stream = Stream::test});
    std::vector<double> score(12), margin(6), label(12), slope(12), unused(12);
    for (double& s : score) s = 6 * random.uniform() - 3;
    for (double& m : margin) m = random.uniform();
    for (double& l : label) l = random.uniform() < 0.5 ? 0 : 1;
    const auto pairs = [&](std::span<double> d) { return pairwise_loss<double>(score, margin, 0.07, d).loss; };
    const auto labels = [&](std::span<double> d) { return pointwise_loss<double>(score, label, d).loss; };
    const auto check = [&](const auto& loss) {
        loss(slope);
        for (std::size_t i = 0; i < score.size(); ++i) {
            const double at = score[i], step = 1e-5;
            score[i] = at + step;
            const double above = loss(unused);
            score[i] = at - step;
            const double below = loss(unused);
            score[i] = at;
            BOOST_TEST(slope[i] == (above - below) / (2 * step), tolerance(1e-6));
        }
    };
    check(pairs);
    check(labels);
}

BOOST_AUTO_TEST_CASE(scores_far_away_stay_finite) {
    const std::vector<double> score{-800, 800}, margin{0}, label{1, 0};
    std::vector<double> slope(2);
    BOOST_TEST(pairwise_loss<double>(score, margin, 0, slope).loss == 1600, tolerance(1e-12));
    BOOST_TEST(slope[0] == -1.0);
    BOOST_TEST(slope[1] == 1.0);
    BOOST_TEST(pointwise_loss<double>(score, label, slope).loss == 800, tolerance(1e-12));
    BOOST_TEST(sigmoid(800) == 1.0);
    BOOST_TEST(sigmoid(-800) == 0.0);
}

BOOST_AUTO_TEST_CASE(calibration_by_hand) {
    // Confidence 0.9 three times, right twice; 0.6 once, right; a tie.
    const std::vector<double> p{0.9, 0.9, 0.1, 0.6, 0.5};
    const Calibration c = calibration(p);
    BOOST_TEST(c.accuracy == 3.5 / 5, tolerance(1e-14));
    BOOST_TEST(c.accuracy_error == std::sqrt(0.7 * 0.3 / 5), tolerance(1e-14));
    BOOST_TEST(c.brier == (0.01 + 0.01 + 0.81 + 0.16 + 0.25) / 5, tolerance(1e-14));
    // Bins of 0.05: {0.9, 0.9, 0.9}: 2.7 against 2; {0.6}: 0.6 against 1; {0.5}: 0.5 against 0.5.
    BOOST_TEST(c.expected_error == (0.7 + 0.4 + 0.0) / 5, tolerance(1e-12));
    BOOST_TEST(calibration(std::vector<double>{1.0, 1.0}).expected_error == 0.0);
    BOOST_TEST(std::isnan(calibration({}).accuracy));
}

BOOST_AUTO_TEST_CASE(scores_are_the_heads_product_after_the_last_token) {
    TinyRewardModel model(40);
    const auto batch = tiny_batch(6);
    const auto scores = model.trainer.scores(batch);
    const std::span<const float> head = model.parameters.at(kScalarHead).value.floats();
    for (std::size_t i = 0; i < batch.size(); ++i) {
        Arena arena(model.device.get());
        MicroBatch micro(40, *model.ops, arena);
        micro.fill(std::vector<const Sequence*>{&batch[i]}, true);
        const Tensor hidden = model.model.forward(model.parameters, micro.packed(), false);
        model.ops->synchronize();
        const auto row = hidden.rows(std::ssize(batch[i].tokens) - 1, 1).floats();
        double sum = 0;
        for (std::size_t k = 0; k < head.size(); ++k) sum += static_cast<double>(row[k]) * head[k];
        BOOST_TEST(std::abs(sum - scores[i]) < 1e-5, "sequence " << i);
    }
}

BOOST_AUTO_TEST_CASE(gradient_is_that_of_differences) {
    for (const LossOf loss : {pair_loss, label_loss}) {
        TinyRewardModel model(40, kBare);
        const auto batch = tiny_batch(10);
        const double plain = loss_now(model, batch, loss);
        double seen = 0;
        const auto result = model.trainer.score_step(
            batch, [&](std::span<const float> s, std::span<float> d) { seen = loss(s, d); }, 0);
        BOOST_TEST(seen == plain, tolerance(1e-5));
        const auto gradient = last_gradient(model);
        double squares = 0;
        for (const float g : gradient) squares += static_cast<double>(g) * g;
        BOOST_TEST(result.grad_norm == std::sqrt(squares), tolerance(1e-5));
        BOOST_TEST(squares > 0);
        // Along the gradient and along its odd entries.
        for (const bool odd : {false, true}) {
            double slope = 0;
            std::vector<float> direction(gradient.size());
            for (std::size_t i = 0; i < gradient.size(); ++i) {
                direction[i] = odd && i % 2 == 0 ? 0.0f : gradient[i];
                slope += static_cast<double>(direction[i]) * gradient[i];
            }
            const auto at = [&](double factor) {
                const std::vector<float> before = model.values();
                std::size_t i = 0;
                for (Parameter& p : model.parameters.all())
                    for (float& x : p.value.floats()) x += static_cast<float>(factor * direction[i++]);
                const double there = loss_now(model, batch, loss);
                std::copy(before.begin(), before.end(), model.parameters.flat_values().f32());
                return there;
            };
            const double step = 1e-3 / std::sqrt(slope);
            BOOST_TEST((at(step) - at(-step)) / (2 * step) == slope, tolerance(2e-3));
        }
    }
}

BOOST_AUTO_TEST_CASE(update_does_not_depend_on_the_micro_batches) {
    for (const LossOf loss : {pair_loss, label_loss}) {
        TinyRewardModel whole(400, kBare), parts(21, kBare);
        const auto batch = tiny_batch(20);
        const auto by = [&](std::span<const float> s, std::span<float> d) { loss(s, d); };
        const auto a = whole.trainer.score_step(batch, by, 1e-3), b = parts.trainer.score_step(batch, by, 1e-3);
        BOOST_TEST(a.grad_norm == b.grad_norm, tolerance(1e-5));
        BOOST_TEST(a.tokens == b.tokens);
        BOOST_TEST(distance(last_gradient(whole), last_gradient(parts)) < 1e-5);
    }
}

BOOST_AUTO_TEST_CASE(learns_what_is_preferred) {
    TinyRewardModel model(64);
    const auto batch = tiny_batch(16);
    for (int i = 0; i < 60; ++i)
        model.trainer.score_step(batch, [](std::span<const float> s, std::span<float> d) { pair_loss(s, d); }, 1e-2);
    const auto scores = model.trainer.scores(batch);
    for (std::size_t i = 0; i < scores.size(); i += 2) BOOST_TEST(scores[i] > scores[i + 1]);
}

BOOST_AUTO_TEST_CASE(a_score_that_is_not_finite_is_named) {
    TinyRewardModel model(64);
    const auto batch = tiny_batch(8);
    auto before = model.values();
    // An embedding that only the first sequence with that token sees.
    const Tensor table = model.parameters.at("model.embed_tokens.weight").value;
    std::size_t first = batch.size();
    for (std::size_t i = batch.size(); i-- > 0;)
        if (std::find(batch[i].tokens.begin(), batch[i].tokens.end(), 5) != batch[i].tokens.end()) first = i;
    BOOST_REQUIRE(first < batch.size());
    table.rows(5, 1).floats()[0] = NAN;
    before = model.values();
    bool asked = false;
    BOOST_CHECK_EXCEPTION(
        model.trainer.score_step(batch, [&](std::span<const float>, std::span<float>) { asked = true; }, 1e-2),
        NumericError, [&](const NumericError& e) {
            return std::string(e.what()).find("sequence " + std::to_string(first) + " ") != std::string::npos;
        });
    BOOST_TEST(!asked);
    const auto after = model.values();
    BOOST_TEST(std::memcmp(before.data(), after.data(), before.size() * sizeof(float)) == 0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
