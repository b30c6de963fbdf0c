// SPDX-License-Identifier: Apache-2.0
// The step's loss with multi-token prediction and the routers' balance against the float64 model:
//   L = mean CE of the next token + mtp mean CE of the one after it + balance / |batch| sum f P
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "../model/reference_model.hpp"
#include "tiny.hpp"

namespace gradus {
namespace {

using test::ReferenceModel;
using test::Tiny;

constexpr test::MoreLosses kMore{.balance_coef = 0.3, .router_bias_rate = 0.01, .mtp_coef = 0.4};

const Grid& one_rank() {
    static const Grid one(MPI_COMM_SELF, 1);
    return one;
}

/// Sequences with prompts and some uneven weights.
std::vector<Sequence> batch() {
    std::vector<Sequence> sequences = test::tiny_batch(6);
    for (std::size_t i = 0; i < sequences.size(); i += 2)
        for (float& w : sequences[i].weight) w *= 0.5f;
    return sequences;
}

struct Losses {
    double next = 0, second = 0, balance = 0;
    double total() const { return next + kMore.mtp_coef * second + balance; }
};

Losses reference(const ReferenceModel& model, const std::vector<Sequence>& sequences, bool mtp) {
    Losses sum;
    double count = 0, second_count = 0;
    for (const Sequence& s : sequences) {
        const auto pass = model.run(s.tokens, mtp);
        sum.balance += kMore.balance_coef * pass.balance / static_cast<double>(sequences.size());
        for (std::size_t t = 1; t < s.tokens.size(); ++t) {
            if (!(s.weight[t] > 0)) continue;
            count += 1;
            sum.next -= s.weight[t] * model.score(pass.hidden[t - 1], s.tokens[t], 1).first;
            if (t < 2 || !mtp) continue;
            second_count += 1;
            sum.second -= s.weight[t] * model.score(pass.second[t - 2], s.tokens[t], 1).first;
        }
    }
    sum.next /= count;
    sum.second /= std::max(1.0, second_count);
    return sum;
}

/// Slope of the whole loss along `direction` of one parameter.
double slope(ReferenceModel& model, const std::vector<Sequence>& sequences, bool mtp,
             const std::string& name, const test::Row& direction) {
    constexpr double kStep = 1e-5;
    test::Row& weights = model.weights.at(name);
    const test::Row middle = weights;
    const auto at = [&](double step) {
        for (std::size_t i = 0; i < middle.size(); ++i) weights[i] = middle[i] + step * direction[i];
        const double loss = reference(model, sequences, mtp).total();
        weights = middle;
        return loss;
    };
    return (at(kStep) - at(-kStep)) / (2 * kStep);
}

void check_step(const ModelConfig& c) {
    const bool mtp = c.mtp_layers > 0;
    test::MoreLosses more = kMore;
    if (!mtp) more.mtp_coef = 0;
    // Without decay and clipping the first moment is half the gradient.
    Tiny tiny(one_rank(), 40, {.beta1 = 0.5, .weight_decay = 0, .clip = 0}, false, c, more);
    for (const Parameter& p : tiny.parameters.all())
        if (p.name.ends_with("e_score_correction_bias"))
            for (std::int64_t i = 0; i < p.value.elements(); ++i)
                p.value.f32()[i] = 0.05f * static_cast<float>(i * 5 % 8);
    ReferenceModel model(c, tiny.parameters);
    const auto sequences = batch();
    const Losses wanted = reference(model, sequences, mtp);
    // The balance counts the best scores (eq. 18) and not the choice; here they differ.
    BOOST_TEST((model.moved() > 0) == c.moe.bias);
    const auto got = tiny.trainer.next_token_step(sequences, 0);
    const auto near = boost::test_tools::tolerance(1e-5);
    BOOST_TEST(got.loss == wanted.next, near);
    BOOST_TEST(got.mtp_loss == wanted.second, near);
    BOOST_TEST(got.router.balance_loss == wanted.balance, near);
    std::uint64_t stream = 40;
    for (const Slab& slab : tiny.optimizer.slabs()) {
        if (slab.tensor.rfind("adam_m/", 0) != 0) continue;
        const std::string name = slab.tensor.substr(7);
        BOOST_REQUIRE(slab.box.count == slab.global);
        RandomSequence random({.seed = 8, .stream = Stream::test, .prompt = stream++});
        test::Row direction;
        double along = 0, norm = 0;
        const auto* half = static_cast<const float*>(slab.data);
        for (std::int64_t i = 0; i < slab.global.elements(); ++i) {
            direction.push_back(2 * random.uniform() - 1);
            along += 2 * half[i] * direction.back();
            norm += 4.0 * half[i] * half[i];
        }
        const double difference = slope(model, sequences, mtp, name, direction);
        BOOST_TEST(std::abs(along - difference) < 2e-5 * (std::sqrt(norm) + 1e-3),
                   name << ": " << along << ", differences give " << difference);
        BOOST_TEST(norm > 0, name);
    }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(more_losses)

BOOST_AUTO_TEST_CASE(of_experts_with_a_second_token) { check_step(test::tiny_experts()); }

BOOST_AUTO_TEST_CASE(of_a_second_token_alone) {
    ModelConfig c = test::tiny_config();
    c.mtp_layers = 1;
    check_step(c);
}

BOOST_AUTO_TEST_CASE(of_experts_alone) {
    ModelConfig c = test::tiny_config();
    c.moe = {.experts = 5, .per_token = 2, .intermediate = 6};
    check_step(c);
}

// The second step of one trainer is the first of a new one with the same weights: nothing is left of
// the first, in the routers' losses and loads neither.
BOOST_AUTO_TEST_CASE(steps_do_not_depend_on_earlier_ones) {
    Tiny used(one_rank(), 40, {}, false, test::tiny_experts(), kMore);
    Tiny fresh(one_rank(), 40, {}, false, test::tiny_experts(), kMore);
    used.trainer.next_token_step(test::tiny_batch(9, 1), 0);
    used.ops->synchronize();
    used.parameters.copy_from(fresh.parameters, *used.ops);  // biases too
    const auto a = used.trainer.next_token_step(batch(), 0), b = fresh.trainer.next_token_step(batch(), 0);
    BOOST_TEST(a.loss == b.loss);
    BOOST_TEST(a.mtp_loss == b.mtp_loss);
    BOOST_TEST(a.grad_norm == b.grad_norm);
    BOOST_TEST(a.router.balance_loss == b.router.balance_loss);
    BOOST_TEST(a.router.load_max == b.router.load_max);
    BOOST_TEST((used.values() == fresh.values()));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
