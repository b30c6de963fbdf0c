// SPDX-License-Identifier: Apache-2.0
// Gradients of every single weight against differences of the float64 model.
#include <array>
#include <boost/test/unit_test.hpp>

#include "reference_model.hpp"
#include "small_models.hpp"

namespace gradus {
namespace {

using test::Floats;
using test::Instance;
using test::Packed;
using test::ReferenceModel;
using test::Tokens;

constexpr float kInvTemperature = 1 / 0.7f;

/// Losses: of the hidden states, of the log-probs, of the entropies, of the hidden states of the
/// multi-token prediction module; random factors each. And the routers' balance.
enum Loss { of_hidden, of_log_prob, of_entropy, of_second, of_balance, kLosses };
constexpr double kBalance = 0.7;

struct Problem {
    explicit Problem(const ModelConfig& c)
        : sequences(test::random_sequences(c, {5, 1, 7, 3})),
          packed(sequences),
          hidden_factor(test::uniforms(1, packed.rows() * c.hidden)),
          log_prob_factor(test::uniforms(2, packed.rows())),
          entropy_factor(test::uniforms(3, packed.rows())),
          second_factor(test::uniforms(4, packed.rows() * c.hidden)),
          mtp(c.mtp_layers > 0) {
        for (std::int64_t i = 0; i < packed.rows(); ++i)  // -1 at an end, as the targets of the head
            next.push_back(packed.targets().i32()[i]);
        for (std::int64_t t = 0; t < packed.rows(); ++t)  // no log-prob without a target
            if (packed.targets().i32()[t] < 0) log_prob_factor[static_cast<std::size_t>(t)] = 0;
    }
    std::vector<Tokens> sequences;
    Packed packed;
    Floats hidden_factor, log_prob_factor, entropy_factor, second_factor;
    test::Numbers next;
    bool mtp;
};

std::array<double, kLosses> losses(const ReferenceModel& model, Problem& problem) {
    std::array<double, kLosses> sums{};
    std::size_t row = 0, element = 0, second = 0;
    for (const Tokens& sequence : problem.sequences) {
        const ReferenceModel::Pass pass = model.run(sequence, problem.mtp);
        sums[of_balance] += kBalance * pass.balance;
        for (const test::Row& hidden : pass.second)
            for (const double x : hidden) sums[of_second] += x * problem.second_factor[second++];
        for (const test::Row& hidden : pass.hidden) {
            for (const double x : hidden) sums[of_hidden] += x * problem.hidden_factor[element++];
            const TokenId target = problem.packed.targets().i32()[row];
            const auto [log_prob, entropy] = model.score(hidden, target, kInvTemperature);
            sums[of_log_prob] += log_prob * problem.log_prob_factor[row];
            sums[of_entropy] += entropy * problem.entropy_factor[row++];
        }
    }
    return sums;
}

/// Central differences by every weight of `name`, for all losses.
std::array<Floats, kLosses> differences(ReferenceModel& model, Problem& problem,
                                        const std::string& name) {
    constexpr double kStep = 1e-5;
    std::array<Floats, kLosses> out;
    for (double& weight : model.weights.at(name)) {
        const double middle = weight;
        weight = middle + kStep;
        const auto above = losses(model, problem);
        weight = middle - kStep;
        const auto below = losses(model, problem);
        weight = middle;
        for (int i = 0; i < kLosses; ++i) {
            const auto at = static_cast<std::size_t>(i);
            out[at].push_back(static_cast<float>((above[at] - below[at]) / (2 * kStep)));
        }
    }
    return out;
}

/// The module's two passes, given the gradient of its hidden states; `d_hidden` +=.
void second_passes(Instance& on, Problem& problem, Floats d_second, Floats& d_hidden, double balance) {
    const Shape shape{problem.packed.rows(), on.model.config().hidden};
    const Tensor next = test::view(problem.next);
    on.model.mtp_forward(on.parameters, problem.packed.batch(), next);
    on.model.mtp_backward(on.parameters, problem.packed.batch(), next, test::view(d_second, shape),
                          test::view(d_hidden, shape), balance);
}

void add_gradients_of(Loss loss, Instance& on, Problem& problem) {
    Packed& packed = problem.packed;
    const std::int64_t rows = packed.rows(), width = on.model.config().hidden;
    const Floats zero(static_cast<std::size_t>(rows)), zeros(static_cast<std::size_t>(rows * width));
    if (loss == of_log_prob || loss == of_entropy) {
        test::add_gradients(on, packed,
                            {.d_log_prob = loss == of_log_prob ? problem.log_prob_factor : zero,
                             .d_entropy = loss == of_entropy ? problem.entropy_factor : zero,
                             .inv_temperature = kInvTemperature});
        return;
    }
    const double balance = loss == of_balance ? kBalance : 0;
    Floats d_hidden = loss == of_hidden ? problem.hidden_factor : zeros;
    on.model.forward(on.parameters, packed.batch(), true);
    if (problem.mtp)
        second_passes(on, problem, loss == of_second ? problem.second_factor : zeros, d_hidden, balance);
    on.model.backward(on.parameters, packed.batch(), test::view(d_hidden, {rows, width}), balance);
}

void check_gradients(const ModelConfig& config, Recompute recompute = Recompute::none) {
    const Grid grid = Grid::planned(1, 1);
    Problem problem(config);
    std::map<std::string, std::array<Floats, kLosses>> got;
    Instance on(config, grid,
                {.max_tokens = problem.packed.rows(),
                 .max_length = 7,
                 .mtp = problem.mtp,
                 .recompute = recompute,
                 .head_chunk = 5});
    test::randomize(on.parameters, *on.ops);
    for (int loss = 0; loss < kLosses; ++loss) {
        on.ops->fill(on.parameters.flat_grads(), 0);
        add_gradients_of(static_cast<Loss>(loss), on, problem);
        for (const Parameter& p : on.parameters.all())
            if (p.grad) got[p.name][static_cast<std::size_t>(loss)] = test::copy_of(p.grad);
        if (loss == of_balance && config.moe.experts > 0) {
            ReferenceModel reference(config, on.parameters);
            const double wanted = losses(reference, problem)[of_balance];
            BOOST_TEST(on.model.take_balance_loss() == wanted, boost::test_tools::tolerance(1e-5));
            BOOST_TEST(on.model.take_balance_loss() == 0);
        }
    }
    ReferenceModel reference(config, on.parameters);
    for (const Parameter& p : on.parameters.all()) {
        BOOST_REQUIRE(static_cast<bool>(p.grad) != p.name.ends_with("e_score_correction_bias"));
        if (!p.grad) continue;  // the choice moves by it in steps only
        const auto wanted = differences(reference, problem, p.name);
        for (std::size_t loss = 0; loss < kLosses; ++loss) {
            const double error = test::norm_error(got.at(p.name)[loss], wanted[loss]);
            // Rounding of float32 sums, whose order is the BLAS library's for this processor.
            BOOST_TEST(error < 4e-5, p.name << ", loss " << loss << ": off by " << error);
        }
    }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gradients)

BOOST_AUTO_TEST_CASE(with_biases_norms_and_a_head_of_its_own) {
    check_gradients(test::full_config());
}

BOOST_AUTO_TEST_CASE(with_the_head_tied) { check_gradients(test::plain_config()); }

BOOST_AUTO_TEST_CASE(with_biases_and_no_norms) {
    ModelConfig c = test::full_config();
    c.layers = 1;
    c.qk_norm = false;
    check_gradients(c);
}

BOOST_AUTO_TEST_CASE(of_latent_attention_and_yarn) { check_gradients(test::latent_config()); }

BOOST_AUTO_TEST_CASE(of_latent_attention_experts_and_a_second_token) {
    check_gradients(test::deepseek_config());
}

BOOST_AUTO_TEST_CASE(with_attention_computed_again) {
    check_gradients(test::full_config(), Recompute::attention);
    check_gradients(test::latent_config(), Recompute::attention);
}

BOOST_AUTO_TEST_CASE(of_experts_with_softmax) { check_gradients(test::qwen_moe_config()); }

BOOST_AUTO_TEST_CASE(of_experts_scaled_and_a_second_token_with_blocks_computed_again) {
    check_gradients(test::mixed_moe_config(), Recompute::block);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
