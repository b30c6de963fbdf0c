// SPDX-License-Identifier: Apache-2.0
// The critic: its loss by its formula, the values of the scalar head, one update against differences.
#include "gradus/train/value_loss.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "gradus/base/error.hpp"
#include "tiny.hpp"

namespace gradus {
namespace {

using test::distance;
using test::last_gradient;
using test::Tiny;
using test::tiny_batch;

constexpr AdamWOptions kBare{.beta1 = 0.5, .weight_decay = 0, .clip = 0};

const Grid& one_rank() {
    static const Grid one(MPI_COMM_SELF, 1);
    return one;
}

ModelConfig critic_config() {
    ModelConfig c = test::tiny_config();
    c.scalar_head = true;
    return c;
}

/// A critic whose head is not zero, so that gradients reach the body.
struct TinyCritic : Tiny {
    explicit TinyCritic(std::int64_t micro_tokens, AdamWOptions options = {})
        : Tiny(one_rank(), micro_tokens, options, false, critic_config()) {
        RandomSequence random({.seed = 3, .stream = Stream::test});
        std::vector<float> head(static_cast<std::size_t>(parameters.at(kScalarHead).value.elements()));
        for (float& x : head) x = static_cast<float>(random.uniform() - 0.5);
        ops->upload(parameters.at(kScalarHead).value, head.data());
        ops->synchronize();
    }
};

/// Values of the rollout near the present ones, returns further off.
std::vector<Sequence> value_batch(TinyCritic& critic, std::int64_t count) {
    std::vector<Sequence> batch = tiny_batch(count);
    const auto now = critic.trainer.values(batch);
    RandomSequence random({.seed = 4, .stream = Stream::test});
    for (std::size_t i = 0; i < batch.size(); ++i) {
        batch[i].value = batch[i].returns = now[i];
        for (std::size_t t = 0; t < now[i].size(); ++t) {
            // Well within 0.15 or well beyond, where the loss has no kink.
            const double far = random.uniform() < 0.5 ? 0.05 : 0.3;
            batch[i].value[t] += static_cast<float>(random.uniform() < 0.5 ? far : -far);
            batch[i].returns[t] += static_cast<float>(2 * random.uniform() - 1);
        }
    }
    return batch;
}

/// In double, from the values of the batch as the critic gives them now.
double plain_loss(TinyCritic& critic, const std::vector<Sequence>& batch, double clip) {
    const auto now = critic.trainer.values(batch);
    double sum = 0, count = 0;
    for (std::size_t i = 0; i < batch.size(); ++i)
        for (std::size_t t = 1; t < batch[i].tokens.size(); ++t) {
            if (!(batch[i].weight[t] > 0)) continue;
            const double v = now[i][t], old = batch[i].value[t], target = batch[i].returns[t];
            const double held = std::min(std::max(v, old - clip), old + clip);
            sum += 0.5 * std::max((v - target) * (v - target), (held - target) * (held - target));
            ++count;
        }
    return sum / count;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(critic)

BOOST_AUTO_TEST_CASE(loss_by_hand) {
    // Within the bound; beyond it towards the return, where the clipped term is larger; beyond it away.
    const std::vector<double> value{1.2, 2.0, -1.0}, old{1.0, 1.0, 0.0}, returns{2.0, 2.0, 1.0};
    std::vector<double> slope(3);
    ValueLossSums sums;
    value_loss<double>({.clip = 0.5}, 4, {value, old, returns}, slope, sums);
    BOOST_TEST(sums.loss == 0.5 * (0.64 + 0.25 + 4.0) / 4, boost::test_tools::tolerance(1e-14));
    BOOST_TEST(slope[0] == -0.2, boost::test_tools::tolerance(1e-14));
    BOOST_TEST(slope[1] == 0.0);
    BOOST_TEST(slope[2] == -0.5, boost::test_tools::tolerance(1e-14));
    BOOST_TEST(sums.clipped == 1);
    BOOST_TEST(sums.tokens == 3);
    // Errors 1, 1, 1 do not vary: all is explained but the mean.
    BOOST_TEST(sums.explained_variance() == 1.0, boost::test_tools::tolerance(1e-12));
    ValueLossSums free;
    value_loss<double>({.clip = 0}, 4, {value, old, returns}, slope, free);
    BOOST_TEST(free.loss == 0.5 * (0.64 + 0.0 + 4.0) / 4, boost::test_tools::tolerance(1e-14));
    ValueLossSums flat;
    const std::vector<double> same{1.0, 1.0, 1.0};
    value_loss<double>({}, 3, {value, old, same}, slope, flat);
    BOOST_TEST(std::isnan(flat.explained_variance()));
}

BOOST_AUTO_TEST_CASE(values_are_the_heads_product) {
    TinyCritic critic(40);
    const auto batch = tiny_batch(6);
    const auto values = critic.trainer.values(batch);
    const std::span<const float> head = critic.parameters.at(kScalarHead).value.floats();
    for (std::size_t i = 0; i < batch.size(); ++i) {
        BOOST_REQUIRE(values[i].size() == batch[i].tokens.size());
        BOOST_TEST(values[i][0] == 0.0f);
        Arena arena(critic.device.get());
        MicroBatch micro(40, *critic.ops, arena);
        micro.fill(std::vector<const Sequence*>{&batch[i]}, true);
        const Tensor hidden = critic.model.forward(critic.parameters, micro.packed(), false);
        critic.ops->synchronize();
        for (std::size_t t = 1; t < values[i].size(); ++t) {
            const auto row = hidden.rows(static_cast<std::int64_t>(t) - 1, 1).floats();
            double sum = 0;
            for (std::size_t k = 0; k < head.size(); ++k) sum += static_cast<double>(row[k]) * head[k];
            BOOST_TEST(std::abs(sum - values[i][t]) < 1e-5, "sequence " << i << " token " << t);
        }
    }
}

BOOST_AUTO_TEST_CASE(a_new_head_gives_zero) {
    Tiny fresh(one_rank(), 40, {}, false, critic_config());
    for (const auto& sequence : fresh.trainer.values(tiny_batch(3)))
        for (const float v : sequence) BOOST_TEST(v == 0.0f);
    BOOST_TEST(!fresh.parameters.has("lm_head.weight"));
}

BOOST_AUTO_TEST_CASE(gradient_is_that_of_differences) {
    TinyCritic critic(40, kBare);
    const auto batch = value_batch(critic, 9);
    const ValueLossOptions options{.clip = 0.15};
    const double plain = plain_loss(critic, batch, options.clip);
    const auto result = critic.trainer.value_step(batch, options, 0);
    BOOST_TEST(result.sums.loss == plain, boost::test_tools::tolerance(1e-5));
    BOOST_TEST(result.sums.clipped > 0);
    BOOST_TEST(result.sums.clipped < result.sums.tokens);
    const auto gradient = last_gradient(critic);
    double squares = 0;
    for (const float g : gradient) squares += static_cast<double>(g) * g;
    BOOST_TEST(result.grad_norm == std::sqrt(squares), boost::test_tools::tolerance(1e-5));
    // Along the gradient and along its odd entries.
    for (const bool odd : {false, true}) {
        double slope = 0;
        std::vector<float> direction(gradient.size());
        for (std::size_t i = 0; i < gradient.size(); ++i) {
            direction[i] = odd && i % 2 == 0 ? 0.0f : gradient[i];
            slope += static_cast<double>(direction[i]) * gradient[i];
        }
        const auto at = [&](double factor) {
            const std::vector<float> before = critic.values();
            std::size_t i = 0;
            for (Parameter& p : critic.parameters.all())
                for (float& x : p.value.floats()) x += static_cast<float>(factor * direction[i++]);
            const double loss = plain_loss(critic, batch, options.clip);
            std::copy(before.begin(), before.end(), critic.parameters.flat_values().f32());
            return loss;
        };
        const double step = 1e-3 / std::sqrt(slope);
        const double found = (at(step) - at(-step)) / (2 * step);
        BOOST_TEST(found == slope, boost::test_tools::tolerance(2e-3));
    }
}

BOOST_AUTO_TEST_CASE(update_does_not_depend_on_the_micro_batches) {
    TinyCritic whole(400, kBare), parts(21, kBare);
    auto batch = value_batch(whole, 20);
    const auto a = whole.trainer.value_step(batch, {}, 1e-3), b = parts.trainer.value_step(batch, {}, 1e-3);
    BOOST_TEST(a.sums.loss == b.sums.loss, boost::test_tools::tolerance(1e-5));
    BOOST_TEST(a.grad_norm == b.grad_norm, boost::test_tools::tolerance(1e-5));
    BOOST_TEST(distance(last_gradient(whole), last_gradient(parts)) < 1e-5);
}

BOOST_AUTO_TEST_CASE(learns_its_returns) {
    TinyCritic critic(64);
    auto batch = value_batch(critic, 8);
    const double first = critic.trainer.value_step(batch, {.clip = 0}, 1e-2).sums.loss;
    for (int i = 0; i < 80; ++i) {
        const auto now = critic.trainer.values(batch);
        for (std::size_t k = 0; k < batch.size(); ++k) batch[k].value = now[k];
        critic.trainer.value_step(batch, {.clip = 0}, 1e-2);
    }
    const auto last = critic.trainer.value_step(batch, {.clip = 0}, 1e-2);
    BOOST_TEST(last.sums.loss < 0.1 * first, first << " -> " << last.sums.loss);
}

BOOST_AUTO_TEST_CASE(tokens_without_a_return_are_left_out) {
    TinyCritic all(64, kBare), some(64, kBare);
    auto batch = value_batch(all, 8);
    auto fewer = batch;
    fewer.erase(fewer.begin() + 5);
    batch[5].returns.assign(batch[5].returns.size(), NAN);
    const auto a = all.trainer.value_step(batch, {}, 1e-3), b = some.trainer.value_step(fewer, {}, 1e-3);
    BOOST_TEST(a.sums.tokens == b.sums.tokens);
    BOOST_TEST(a.sums.loss == b.sums.loss, boost::test_tools::tolerance(1e-6));
    BOOST_TEST(distance(last_gradient(all), last_gradient(some)) < 1e-5);
    for (Sequence& s : batch) s.returns.assign(s.returns.size(), NAN);
    const auto none = all.trainer.value_step(batch, {}, 1e-3);
    BOOST_TEST(none.sums.tokens == 0);
    BOOST_TEST(none.grad_norm == 0);
}

BOOST_AUTO_TEST_CASE(a_loss_that_is_not_finite_is_named) {
    TinyCritic critic(64);
    auto batch = value_batch(critic, 8);
    const auto before = critic.values();
    batch[6].returns.back() = INFINITY;
    batch[6].weight.back() = 1;
    BOOST_CHECK_EXCEPTION(critic.trainer.value_step(batch, {}, 1e-2), NumericError, [](const NumericError& e) {
        return std::string(e.what()).find("sequence 6") != std::string::npos;
    });
    BOOST_TEST((critic.values() == before));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
