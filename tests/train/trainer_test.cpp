// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/trainer.hpp"

#include <mpi.h>

#include <bit>
#include <boost/test/unit_test.hpp>
#include <limits>

#include "../mpi_fixture.hpp"
#include "gradus/base/error.hpp"
#include "tiny.hpp"

namespace gradus {
namespace {

using test::distance;
using test::last_gradient;
using test::make_policy_batch;
using test::Tiny;
using test::tiny_batch;

using test::Mpi;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);

const Grid& grid() {
    static const Grid one(MPI_COMM_SELF, 1);
    return one;
}

/// No clip and no decay: after a first step the first moment is (1 - beta1) times the gradient.
constexpr AdamWOptions kBare{.beta1 = 0.5, .weight_decay = 0, .clip = 0};

/// Adds `factor` times a direction in the order of last_gradient to the parameters.
void move(Tiny& tiny, const std::vector<float>& direction, double factor) {
    tiny.ops->synchronize();
    std::size_t i = 0;
    for (Parameter& p : tiny.parameters.all())
        for (float& x : p.value.floats()) x += static_cast<float>(factor * direction[i++]);
}

/// Log-probs and entropies of one sequence from whole rows of logits, in double.
struct Plain {
    std::vector<double> log_prob, entropy;
    Plain(Tiny& tiny, const ParameterSet& parameters, const Sequence& s, double temperature) {
        const std::size_t n = s.tokens.size();
        log_prob.assign(n, 0);
        entropy.assign(n, 0);
        Arena arena(tiny.device.get());
        MicroBatch micro(static_cast<std::int64_t>(n), *tiny.ops, arena);
        micro.fill(std::vector<const Sequence*>{&s}, true);
        const Tensor hidden = tiny.model.forward(parameters, micro.packed(), false);
        for (std::size_t t = 1; t < n; ++t) {
            const auto row = static_cast<std::int64_t>(t) - 1;
            const auto z = tiny.model.logits(parameters, hidden.rows(row, 1)).floats();
            tiny.ops->synchronize();
            double sum = 0;
            for (const float x : z) sum += std::exp(x / temperature);
            for (const float x : z) {
                const double lp = x / temperature - std::log(sum);
                entropy[t] -= std::exp(lp) * lp;
            }
            log_prob[t] = z[static_cast<std::size_t>(s.tokens[t])] / temperature - std::log(sum);
        }
    }
};

double length_of(const std::vector<float>& x) {
    double squares = 0;
    for (const float value : x) squares += static_cast<double>(value) * value;
    return std::sqrt(squares);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(training)

BOOST_AUTO_TEST_CASE(loss_is_the_mean_over_trained_tokens) {
    Tiny tiny(grid(), 50);
    auto batch = tiny_batch(12);
    batch[5].weight.back() = 0.25f;
    double sum = 0, trained = 0, tokens = 0;
    for (const Sequence& s : batch) {
        const Plain plain(tiny, tiny.parameters, s, 1);
        tokens += static_cast<double>(s.tokens.size());
        for (std::size_t t = 1; t < s.tokens.size(); ++t) {
            if (s.weight[t] == 0) continue;
            sum -= static_cast<double>(s.weight[t]) * plain.log_prob[t];
            ++trained;
        }
    }
    const auto before = tiny.values();
    const Trainer::TokenResult result = tiny.trainer.next_token_loss(batch);
    BOOST_TEST(result.loss == sum / trained, boost::test_tools::tolerance(1e-6));
    BOOST_TEST(result.trained_tokens == trained);
    BOOST_TEST(result.tokens == tokens);
    BOOST_TEST((tiny.values() == before));
}

BOOST_AUTO_TEST_CASE(loss_is_that_of_one_sequence_at_a_time) {
    Tiny tiny(grid(), 60);
    const auto batch = tiny_batch(10);
    double sum = 0, trained = 0;
    for (const Sequence& s : batch) {
        const Trainer::TokenResult one = tiny.trainer.next_token_loss({s});
        sum += one.loss * one.trained_tokens;
        trained += one.trained_tokens;
    }
    BOOST_TEST(tiny.trainer.next_token_loss(batch).loss == sum / trained,
               boost::test_tools::tolerance(1e-6));
}

BOOST_AUTO_TEST_CASE(loss_falls) {
    Tiny tiny(grid(), 64);
    const auto batch = tiny_batch(8);
    const double first = tiny.trainer.next_token_step(batch, 1e-2).loss;
    double last = 0;
    for (int i = 0; i < 60; ++i) last = tiny.trainer.next_token_step(batch, 1e-2).loss;
    BOOST_TEST(last < 0.1 * first, "loss " << first << " -> " << last);
    BOOST_TEST(tiny.optimizer.steps() == 61);
}

BOOST_AUTO_TEST_CASE(gradient_does_not_depend_on_the_micro_batches) {
    const auto batch = tiny_batch(20);
    Tiny whole(grid(), 400, kBare), parts(grid(), 21, kBare);
    const auto a = whole.trainer.next_token_step(batch, 1e-3);
    const auto b = parts.trainer.next_token_step(batch, 1e-3);
    BOOST_TEST(a.loss == b.loss, boost::test_tools::tolerance(1e-6));
    BOOST_TEST(a.grad_norm == b.grad_norm, boost::test_tools::tolerance(1e-5));
    BOOST_TEST(distance(last_gradient(whole), last_gradient(parts)) < 1e-5);
}

BOOST_AUTO_TEST_CASE(gradient_is_that_of_differences) {
    auto batch = tiny_batch(9);
    batch[1].weight.back() = 0.5f;
    Tiny tiny(grid(), 40, kBare);
    const double norm = tiny.trainer.next_token_step(batch, 0).grad_norm;
    const auto gradient = last_gradient(tiny);
    BOOST_TEST(length_of(gradient) == norm, boost::test_tools::tolerance(1e-5));
    const double h = 0.002 / norm;
    move(tiny, gradient, h);
    const double above = tiny.trainer.next_token_loss(batch).loss;
    move(tiny, gradient, -2 * h);
    const double below = tiny.trainer.next_token_loss(batch).loss;
    BOOST_TEST((above - below) / (2 * h) == norm * norm, boost::test_tools::tolerance(5e-4));
}

BOOST_AUTO_TEST_CASE(nothing_to_train_on) {
    Tiny tiny(grid(), 40, kBare);
    const auto before = tiny.values();
    const auto none = tiny.trainer.next_token_step({}, 1);
    BOOST_TEST(none.loss == 0);
    BOOST_TEST(none.grad_norm == 0);
    auto batch = tiny_batch(3);
    for (Sequence& s : batch) s.weight.assign(s.weight.size(), 0.0f);
    const auto masked = tiny.trainer.next_token_step(batch, 1);
    BOOST_TEST(masked.loss == 0);
    BOOST_TEST(masked.grad_norm == 0);
    BOOST_TEST((tiny.values() == before));
}

BOOST_AUTO_TEST_CASE(log_probs_are_those_of_the_logits) {
    Tiny tiny(grid(), 50), other(grid(), 50);
    other.parameters.initialize(*other.ops, 99, 0.4);
    auto batch = tiny_batch(8);
    const auto before = tiny.values();
    for (const double temperature : {1.0, 0.6}) {
        const auto all = tiny.trainer.log_probs(other.parameters, batch, temperature);
        BOOST_REQUIRE(all.size() == batch.size());
        for (std::size_t i = 0; i < batch.size(); ++i) {
            const Plain plain(tiny, other.parameters, batch[i], temperature);
            BOOST_REQUIRE(all[i].size() == batch[i].tokens.size());
            BOOST_TEST(all[i][0] == 0);
            for (std::size_t t = 1; t < all[i].size(); ++t)
                BOOST_TEST(std::abs(all[i][t] - plain.log_prob[t]) < 1e-5);
        }
    }
    BOOST_TEST((tiny.values() == before));
    BOOST_CHECK_THROW(tiny.trainer.log_probs(other.parameters, batch, 0), DeckError);
    // Without weights: they are not asked for.
    for (Sequence& s : batch) s.weight.clear();
    BOOST_TEST(tiny.trainer.log_probs(other.parameters, batch, 1).size() == batch.size());
}

BOOST_AUTO_TEST_CASE(rows_do_not_depend_on_company_by_more_than_rounding) {
    Tiny tiny(grid(), 200);
    const auto batch = tiny_batch(10);
    const auto all = tiny.trainer.log_probs(tiny.parameters, batch, 1);
    for (std::size_t i = 0; i < batch.size(); ++i)
        BOOST_TEST(distance(tiny.trainer.log_probs(tiny.parameters, {batch[i]}, 1)[0], all[i]) <
                   1e-5);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(policy_training)

/// All terms at once.
PolicyLossOptions everything(Aggregation aggregation) {
    return {.clip_low = 0.2,
            .clip_high = 0.25,
            .kl_coef = 0.05,
            .entropy_coef = 0.02,
            .aggregation = aggregation};
}

BOOST_AUTO_TEST_CASE(loss_and_metrics_are_those_of_the_logits) {
    const double temperature = 0.8;
    for (const auto aggregation : {Aggregation::sequence_mean, Aggregation::token_mean}) {
        Tiny tiny(grid(), 50);
        auto batch = tiny_batch(11);
        make_policy_batch(batch, tiny.trainer.log_probs(tiny.parameters, batch, temperature));
        batch[7].weight.assign(batch[7].weight.size(), 0.0f);  // masked, yet one of the sequences
        const PolicyLossOptions o = everything(aggregation);
        double trained = 0;
        for (const Sequence& s : batch)
            for (const float w : s.weight) trained += w;
        double loss = 0, kl = 0, entropy = 0, gap = 0, gap_max = 0, ratio = 0;
        for (const Sequence& s : batch) {
            const Plain plain(tiny, tiny.parameters, s, temperature);
            double own = 0, n = 0;
            for (std::size_t t = 1; t < s.tokens.size(); ++t) {
                if (s.weight[t] == 0) continue;
                const double lp = plain.log_prob[t], a = s.advantage[t];
                const double rho = std::exp(lp - s.old_log_prob[t]);
                const double clipped = std::clamp(rho, 1 - o.clip_low, 1 + o.clip_high);
                const double d = s.ref_log_prob[t] - lp, k3 = std::exp(d) - d - 1;
                own -= std::min(rho * a, clipped * a) - o.kl_coef * k3 +
                       o.entropy_coef * plain.entropy[t];
                ++n;
                kl += k3;
                entropy += plain.entropy[t];
                ratio += rho;
                gap += std::abs(lp - s.sampler_log_prob[t]);
                gap_max = std::max(gap_max, std::abs(lp - s.sampler_log_prob[t]));
            }
            if (n == 0) continue;
            loss += aggregation == Aggregation::token_mean
                        ? own / trained
                        : own / n / static_cast<double>(batch.size());
        }
        const auto before = tiny.values();
        const Trainer::PolicyResult result = tiny.trainer.policy_step(batch, o, temperature, 0);
        const auto tolerance = boost::test_tools::tolerance(2e-5);
        BOOST_TEST(result.loss == loss, tolerance);
        BOOST_TEST(result.sums.kl == kl, tolerance);
        BOOST_TEST(result.sums.entropy == entropy, tolerance);
        BOOST_TEST(result.sums.ratio == ratio, tolerance);
        BOOST_TEST(std::abs(result.sums.sampler_gap - gap) < 1e-6 * trained);
        BOOST_TEST(std::abs(result.sums.sampler_gap_max - gap_max) < 1e-6);
        BOOST_TEST(result.sums.tokens == trained);
        BOOST_TEST(result.sums.clipped_low + result.sums.clipped_high > 0);
        BOOST_TEST((tiny.values() == before));
    }
}

BOOST_AUTO_TEST_CASE(gradient_is_that_of_differences) {
    const double temperature = 0.7;
    for (const auto& [name, options, smooth] : test::losses_of_every_kind()) {
        if (!smooth) continue;
        Tiny tiny(grid(), 60, kBare);
        auto batch = tiny_batch(9);
        make_policy_batch(batch, tiny.trainer.log_probs(tiny.parameters, batch, temperature));
        auto loss = [&] { return tiny.trainer.policy_loss(batch, options, temperature).loss; };
        const double norm = tiny.trainer.policy_step(batch, options, temperature, 0).grad_norm;
        BOOST_REQUIRE(norm > 0);
        const auto gradient = last_gradient(tiny);
        const double h = 2e-4 / norm;  // few ratios cross a clip
        move(tiny, gradient, h);
        const double above = loss();
        move(tiny, gradient, -2 * h);
        const double below = loss();
        const double slope = (above - below) / (2 * h);
        BOOST_TEST(std::abs(slope - norm * norm) < 2e-3 * norm * norm, name << ": " << slope << ", not " << norm * norm);
    }
}

BOOST_AUTO_TEST_CASE(update_does_not_depend_on_the_micro_batches) {
    for (const auto& [name, options, smooth] : test::losses_of_every_kind()) {
        Tiny whole(grid(), 400, kBare), parts(grid(), 21, kBare);
        auto batch = tiny_batch(20);
        make_policy_batch(batch, whole.trainer.log_probs(whole.parameters, batch, 0.8));
        // Another order packs otherwise.
        auto turned = batch;
        std::reverse(turned.begin(), turned.end());
        const auto a = whole.trainer.policy_step(batch, options, 0.8, 1e-3);
        const auto b = parts.trainer.policy_step(turned, options, 0.8, 1e-3);
        BOOST_TEST(std::abs(a.loss - b.loss) < 2e-6 * std::max(1.0, std::abs(a.loss)), name);
        BOOST_TEST(std::abs(a.grad_norm - b.grad_norm) < 2e-5 * a.grad_norm, name);
        BOOST_TEST(distance(last_gradient(whole), last_gradient(parts)) < 2e-5, name);
    }
}

BOOST_AUTO_TEST_CASE(without_an_update_nothing_changes) {
    Tiny tiny(grid(), 60);
    auto batch = tiny_batch(9);
    make_policy_batch(batch, tiny.trainer.log_probs(tiny.parameters, batch, 1));
    const auto before = tiny.values();
    const double loss = tiny.trainer.policy_loss(batch, everything(Aggregation::token_mean), 1).loss;
    BOOST_TEST((tiny.values() == before));
    BOOST_TEST(tiny.optimizer.steps() == 0);
    BOOST_TEST(tiny.trainer.policy_step(batch, everything(Aggregation::token_mean), 1, 1e-3).loss == loss);
}

BOOST_AUTO_TEST_CASE(log_probs_of_the_same_micro_batches_are_the_same_bits) {
    // What a run relies on for a divergence of exactly 0: reference and policy in the update's own batches.
    Tiny tiny(grid(), 40);
    auto batch = tiny_batch(15);
    const auto lp = tiny.trainer.log_probs(tiny.parameters, batch, 0.9);
    for (std::size_t i = 0; i < batch.size(); ++i) {
        batch[i].advantage.assign(batch[i].tokens.size(), 0.5f);
        batch[i].old_log_prob = batch[i].ref_log_prob = batch[i].sampler_log_prob = lp[i];
    }
    const auto result = tiny.trainer.policy_step(batch, {.kl_coef = 1}, 0.9, 1e-3);
    BOOST_TEST(result.sums.kl == 0.0);
    BOOST_TEST(result.sums.ratio == result.sums.tokens);
    BOOST_TEST(result.sums.log_ratio == 0.0);
    BOOST_TEST(tiny.trainer.policy_loss(batch, {.kl_coef = 1}, 0.9).sums.kl > 0);
}

BOOST_AUTO_TEST_CASE(without_old_log_probs_the_ratio_is_one) {
    Tiny absent(grid(), 60, kBare), given(grid(), 60, kBare);
    auto batch = tiny_batch(9);
    make_policy_batch(batch, absent.trainer.log_probs(absent.parameters, batch, 1));
    auto bare = batch;
    const auto lp = absent.trainer.log_probs(absent.parameters, batch, 1);
    for (std::size_t i = 0; i < batch.size(); ++i) {
        batch[i].old_log_prob = lp[i];
        bare[i].old_log_prob.clear();
        bare[i].ref_log_prob.clear();
    }
    const auto a = absent.trainer.policy_step(bare, {}, 1, 1e-3);
    const auto b = given.trainer.policy_step(batch, {}, 1, 1e-3);
    BOOST_TEST(a.sums.ratio == a.sums.tokens);
    BOOST_TEST(a.loss == b.loss, boost::test_tools::tolerance(1e-5));
    BOOST_TEST(a.grad_norm > 0);
    BOOST_TEST(distance(last_gradient(absent), last_gradient(given)) < 1e-5);
}

BOOST_AUTO_TEST_CASE(rewarded_responses_become_likelier) {
    Tiny tiny(grid(), 60);
    auto batch = tiny_batch(8);
    const auto before = tiny.trainer.log_probs(tiny.parameters, batch, 1);
    make_policy_batch(batch, before);
    for (Sequence& s : batch) s.old_log_prob.clear();
    for (int i = 0; i < 5; ++i) tiny.trainer.policy_step(batch, {}, 1, 2e-3);
    const auto after = tiny.trainer.log_probs(tiny.parameters, batch, 1);
    double gain = 0;
    for (std::size_t i = 0; i < batch.size(); ++i)
        for (std::size_t t = 1; t < batch[i].tokens.size(); ++t)
            gain += static_cast<double>(batch[i].weight[t] * batch[i].advantage[t]) *
                    (after[i][t] - before[i][t]);
    BOOST_TEST(gain > 0.1);
}

BOOST_AUTO_TEST_CASE(inputs_that_do_not_fit_are_refused) {
    Tiny tiny(grid(), 60);
    auto batch = tiny_batch(4);
    BOOST_CHECK_THROW(tiny.trainer.policy_step(batch, {}, 1, 0), InternalError);  // no advantages
    make_policy_batch(batch, tiny.trainer.log_probs(tiny.parameters, batch, 1));
    BOOST_CHECK_THROW(tiny.trainer.policy_step(batch, {}, 0, 0), DeckError);
    batch[1].ref_log_prob.clear();
    BOOST_CHECK_THROW(tiny.trainer.policy_step(batch, {.kl_coef = 1}, 1, 0), InternalError);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(training_limits)

BOOST_AUTO_TEST_CASE(a_loss_that_is_no_number_names_its_sequence) {
    Tiny tiny(grid(), 30);
    auto batch = tiny_batch(9);
    const TokenId poisoned = 27;
    for (Sequence& s : batch)
        for (TokenId& token : s.tokens) token = std::min<TokenId>(token, 26);
    for (const std::size_t i : {std::size_t{6}, std::size_t{8}}) {
        batch[i].tokens[0] = poisoned;
        batch[i].weight.assign(batch[i].weight.size(), 1.0f);
    }
    tiny.parameters.at("model.embed_tokens.weight").value.rows(27, 1).floats()[2] =
        std::numeric_limits<float>::quiet_NaN();
    auto bits = [&] {
        std::vector<std::uint32_t> all;
        for (const float x : tiny.values()) all.push_back(std::bit_cast<std::uint32_t>(x));
        return all;
    };
    const auto before = bits();
    auto names = [](const NumericError& e) {
        return std::string(e.what()).find("sequence 6 of the batch") != std::string::npos;
    };
    BOOST_CHECK_EXCEPTION(tiny.trainer.next_token_step(batch, 1), NumericError, names);
    BOOST_CHECK_EXCEPTION(tiny.trainer.next_token_loss(batch), NumericError, names);
    make_policy_batch(batch, std::vector<std::vector<float>>(9, std::vector<float>(64)));
    for (Sequence& s : batch) {
        s.old_log_prob.clear();
        s.sampler_log_prob.clear();
        s.ref_log_prob.clear();
    }
    BOOST_CHECK_EXCEPTION(tiny.trainer.policy_step(batch, {}, 1, 1), NumericError, names);
    BOOST_TEST((bits() == before));
    BOOST_TEST(tiny.optimizer.steps() == 0);
}

BOOST_AUTO_TEST_CASE(a_plan_counts_the_same_bytes) {
    const Tiny real(grid(), 64);
    const Tiny plan(grid(), 64, {}, true);
    BOOST_TEST(plan.arena.bytes() == real.arena.bytes());
    BOOST_TEST(plan.arena.table() == real.arena.table());
    const auto real_slabs = real.optimizer.slabs(), plan_slabs = plan.optimizer.slabs();
    BOOST_REQUIRE(real_slabs.size() == plan_slabs.size());
    for (std::size_t i = 0; i < real_slabs.size(); ++i) {
        BOOST_TEST(real_slabs[i].tensor == plan_slabs[i].tensor);
        BOOST_TEST((real_slabs[i].box == plan_slabs[i].box));
    }
    const Grid paper = Grid::planned(8, 2);
    const Tiny many(paper, 64, {}, true);
    BOOST_TEST(many.arena.bytes() < plan.arena.bytes());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
