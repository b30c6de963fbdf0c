// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/transformer.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <map>
#include <set>

#include "../mpi_fixture.hpp"
#include "reference_model.hpp"
#include "small_models.hpp"

namespace gradus {
namespace {

using test::Floats;
using test::Instance;
using test::Packed;
using test::ReferenceModel;
using test::small_configs;
using test::Tokens;

constexpr double kRounding = 1e-5;
const std::vector<std::int64_t> kLengths{5, 1, 11, 3};
constexpr std::int64_t kTokens = 20, kLongest = 11;

using test::Mpi;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);  // the routers' loads are summed over ranks

const Grid& one_rank() {
    static const Grid grid(MPI_COMM_SELF, 1);
    return grid;
}

struct Ready : Instance {
    explicit Ready(const ModelConfig& config,
                   Transformer::Limits limits = {.max_tokens = kTokens, .max_length = kLongest})
        : Instance(config, one_rank(), limits) {
        test::randomize(parameters, *ops);
    }
};

bool same_bits(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Random factors of log-probs and entropies; those of rows without a target are zero.
test::ScoreGradients random_loss(Packed& packed) {
    test::ScoreGradients loss{.d_log_prob = test::uniforms(1, packed.rows()),
                              .d_entropy = test::uniforms(2, packed.rows()),
                              .inv_temperature = 1.25f};
    for (std::int64_t t = 0; t < packed.rows(); ++t)
        if (packed.targets().i32()[t] < 0) loss.d_log_prob[static_cast<std::size_t>(t)] = 0;
    return loss;
}

Floats gradients(Instance& on, Packed& packed) {
    on.ops->fill(on.parameters.flat_grads(), 0);
    test::add_gradients(on, packed, random_loss(packed));
    return test::copy_of(on.parameters.flat_grads());
}

/// The token after each row's, -1 at an end.
test::Numbers next_of(Packed& packed) {
    const std::int32_t* next = packed.targets().i32();
    return {next, next + packed.rows()};
}

/// Of the hidden states, of the second token and of the routers' balance, all at once.
Floats all_gradients(Instance& on, Packed& packed) {
    const Shape shape{packed.rows(), on.model.config().hidden};
    Floats d_hidden = test::uniforms(5, shape.elements()), d_second = test::uniforms(6, shape.elements());
    auto next = next_of(packed);
    on.ops->fill(on.parameters.flat_grads(), 0);
    on.model.forward(on.parameters, packed.batch(), true);
    if (on.model.config().mtp_layers > 0) {
        on.model.mtp_forward(on.parameters, packed.batch(), test::view(next));
        on.model.mtp_backward(on.parameters, packed.batch(), test::view(next),
                              test::view(d_second, shape), test::view(d_hidden, shape), 0.3);
    }
    on.model.backward(on.parameters, packed.batch(), test::view(d_hidden, shape), 0.3);
    return test::copy_of(on.parameters.flat_grads());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(transformer)

BOOST_AUTO_TEST_CASE(hidden_states_scores_and_logits_are_those_of_float64) {
    for (const ModelConfig& c : small_configs()) {
        // Chunks of the head that do not divide the rows.
        Ready on(c, {.max_tokens = kTokens, .max_length = kLongest, .train = false, .head_chunk = 7});
        const auto sequences = test::random_sequences(c, kLengths);
        Packed packed(sequences);
        const ReferenceModel reference(c, on.parameters);
        Floats hidden, logits, log_prob, entropy;
        for (const Tokens& sequence : sequences)
            for (const test::Row& row : reference.hidden(sequence)) {
                const test::Row z = reference.logits(row);
                const TokenId target = packed.targets().i32()[log_prob.size()];
                const auto [lp, h] = reference.score(row, target, 1.25);
                hidden.insert(hidden.end(), row.begin(), row.end());
                logits.insert(logits.end(), z.begin(), z.end());
                log_prob.push_back(static_cast<float>(lp));
                entropy.push_back(static_cast<float>(h));
            }
        const Tensor got = on.model.forward(on.parameters, packed.batch(), false);
        BOOST_TEST(test::max_error(test::copy_of(got), hidden) < kRounding, test::describe(c));
        auto scores = test::score(on, got, packed.targets(), 1.25f);
        for (std::size_t i = 0; i < log_prob.size(); ++i)  // log-probs without a target mean nothing
            if (packed.targets().i32()[i] < 0) scores.log_prob[i] = 0;
        BOOST_TEST(test::max_error(scores.log_prob, log_prob) < kRounding, test::describe(c));
        BOOST_TEST(test::max_error(scores.entropy, entropy) < kRounding, test::describe(c));
        BOOST_TEST(on.model.logit_rows() == 7);
        const auto rows = on.model.logits(on.parameters, got.rows(6, 7));
        const auto from = logits.begin() + 6 * c.vocab_size;
        BOOST_TEST(test::max_error(rows.floats(), Floats(from, from + 7 * c.vocab_size)) < kRounding);
    }
}

BOOST_AUTO_TEST_CASE(a_packed_batch_is_its_sequences_alone) {
    for (const ModelConfig& c : small_configs()) {
        Ready together(c), alone(c);
        const auto sequences = test::random_sequences(c, kLengths);
        Packed packed(sequences);
        const auto loss = random_loss(packed);
        const Floats hidden =
            test::copy_of(together.model.forward(together.parameters, packed.batch(), false));
        const Floats d_hidden = test::add_gradients(together, packed, loss);
        Floats hidden_alone, d_hidden_alone;
        for (std::size_t i = 0; i < sequences.size(); ++i) {
            Packed single({sequences[i]});
            const auto first = packed.start(i), last = packed.start(i + 1);
            const auto part = [&](const Floats& f) {
                return Floats(f.begin() + first, f.begin() + last);
            };
            const Floats h = test::copy_of(alone.model.forward(alone.parameters, single.batch(), true));
            hidden_alone.insert(hidden_alone.end(), h.begin(), h.end());
            const Floats d = test::add_gradients(alone, single,
                                                 {.d_log_prob = part(loss.d_log_prob),
                                                  .d_entropy = part(loss.d_entropy),
                                                  .inv_temperature = loss.inv_temperature});
            d_hidden_alone.insert(d_hidden_alone.end(), d.begin(), d.end());
        }
        BOOST_TEST(test::max_error(hidden, hidden_alone) < kRounding, test::describe(c));
        BOOST_TEST(test::max_error(d_hidden, d_hidden_alone) < kRounding, test::describe(c));
        // Gradients of the sequences add up.
        for (const Parameter& p : together.parameters.all())
            if (p.grad)
                BOOST_TEST(test::norm_error(p.grad.floats(),
                                            alone.parameters.at(p.name).grad.floats()) < kRounding,
                           p.name);
    }
}

BOOST_AUTO_TEST_CASE(hidden_states_of_the_second_token_are_those_of_float64) {
    for (const ModelConfig& c : {test::deepseek_config(), test::mixed_moe_config()}) {
        Ready on(c, {.max_tokens = kTokens, .max_length = kLongest, .mtp = true});
        const auto sequences = test::random_sequences(c, kLengths);
        Packed packed(sequences);
        const ReferenceModel reference(c, on.parameters);
        Floats wanted;
        double balance = 0;
        for (const Tokens& sequence : sequences) {
            const auto pass = reference.run(sequence, true);
            for (const test::Row& row : pass.second) wanted.insert(wanted.end(), row.begin(), row.end());
            balance += pass.balance;
        }
        auto next = next_of(packed);
        const Floats hidden = test::copy_of(on.model.forward(on.parameters, packed.batch(), true));
        const Tensor got = on.model.mtp_forward(on.parameters, packed.batch(), test::view(next));
        BOOST_TEST(test::max_error(test::copy_of(got), wanted) < kRounding, test::describe(c));
        // A model whose module is not trained computes the same hidden states.
        Ready without(c);
        BOOST_CHECK(same_bits(
            test::copy_of(without.model.forward(without.parameters, packed.batch(), true)), hidden));
        all_gradients(on, packed);
        BOOST_TEST(on.model.take_balance_loss() == 0.3 * balance, boost::test_tools::tolerance(1e-5));
        BOOST_CHECK_THROW(without.model.mtp_forward(without.parameters, packed.batch(), test::view(next)),
                          InternalError);
    }
}

BOOST_AUTO_TEST_CASE(routers_are_moved_towards_even_loads) {
    constexpr float kRate = 0.01f;
    for (const ModelConfig& c : test::expert_configs()) {
        Ready on(c, {.max_tokens = kTokens, .max_length = kLongest, .mtp = c.mtp_layers > 0});
        const ReferenceModel reference(c, on.parameters);
        const std::map<std::string, test::Row> before = reference.weights;
        const auto sequences = test::random_sequences(c, kLengths);
        Packed packed(sequences);
        all_gradients(on, packed);
        all_gradients(on, packed);  // loads add up: the signs are those of one pass
        on.model.forward(on.parameters, packed.batch(), false);  // not kept: not counted
        double worst = 0;
        std::map<std::string, std::vector<double>> loads;
        for (const Tokens& sequence : sequences)
            for (const auto& [name, load] : reference.loads(sequence, c.mtp_layers > 0)) {
                auto& sum = loads[name];
                sum.resize(load.size());
                for (std::size_t e = 0; e < load.size(); ++e) sum[e] += load[e];
            }
        const double mean = static_cast<double>(packed.rows() * c.moe.per_token) /
                            static_cast<double>(c.moe.experts);
        for (const auto& [name, load] : loads)
            worst = std::max(worst, *std::max_element(load.begin(), load.end()) / mean);
        BOOST_TEST(on.model.balance_experts(on.parameters, kRate) == worst,
                   boost::test_tools::tolerance(1e-12));
        for (const Parameter& p : on.parameters.all()) {
            const bool bias = p.name.ends_with("e_score_correction_bias");
            for (std::size_t i = 0; i < p.value.floats().size(); ++i) {
                double wanted = before.at(p.name)[i];
                if (bias) {
                    const double load = loads.at(p.name.substr(0, p.name.find("mlp.")))[i];
                    wanted += load < mean ? kRate : load > mean ? -kRate : 0;
                }
                BOOST_REQUIRE_SMALL(p.value.floats()[i] - wanted, 1e-7);
            }
        }
        BOOST_TEST(on.model.balance_experts(on.parameters, kRate) == 0);  // counted anew
    }
}

BOOST_AUTO_TEST_CASE(computing_again_changes_memory_and_no_bit) {
    for (const ModelConfig& c : small_configs()) {
        Transformer::Limits limits{.max_tokens = kTokens, .max_length = kLongest, .mtp = c.mtp_layers > 0};
        Ready keep(c, limits);
        limits.recompute = Recompute::attention;
        Ready attention(c, limits);
        limits.recompute = Recompute::block;
        Ready block(c, limits);
        BOOST_TEST(block.arena.bytes() < attention.arena.bytes());
        BOOST_TEST(attention.arena.bytes() < keep.arena.bytes());
        Packed packed(test::random_sequences(c, kLengths));
        const Floats bare = gradients(keep, packed), all = all_gradients(keep, packed);
        const double balance = keep.model.take_balance_loss(),
                     load = keep.model.balance_experts(keep.parameters, 0.1);
        for (Ready* again : {&attention, &block}) {
            BOOST_CHECK(same_bits(gradients(*again, packed), bare));
            BOOST_CHECK(same_bits(all_gradients(*again, packed), all));
            BOOST_TEST(again->model.take_balance_loss() == balance);
            BOOST_TEST(again->model.balance_experts(again->parameters, 0.1) == load);
            for (const auto flat : {&ParameterSet::flat_values, &ParameterSet::flat_untrained})
                BOOST_CHECK(same_bits(test::copy_of((again->parameters.*flat)()),
                                      test::copy_of((keep.parameters.*flat)())));
        }
    }
}

BOOST_AUTO_TEST_CASE(what_ran_before_leaves_no_trace) {
    for (const ModelConfig& c : small_configs())
        for (const Recompute recompute : {Recompute::none, Recompute::attention, Recompute::block}) {
            const Transformer::Limits limits{.max_tokens = kTokens, .max_length = kLongest,
                                             .mtp = c.mtp_layers > 0, .recompute = recompute};
            Ready used(c, limits), fresh(c, limits);
            Packed large(test::random_sequences(c, kLengths)), small({test::random_tokens(c, 9, 4)});
            gradients(used, large);
            all_gradients(used, large);
            used.model.forward(used.parameters, large.batch(), false);
            BOOST_CHECK(same_bits(all_gradients(used, small), all_gradients(fresh, small)));
            BOOST_CHECK(same_bits(gradients(used, small), gradients(fresh, small)));
        }
}

BOOST_AUTO_TEST_CASE(a_batch_of_no_tokens_adds_nothing) {
    for (const ModelConfig& c : small_configs()) {
        Ready on(c, {.max_tokens = kTokens, .max_length = kLongest, .mtp = c.mtp_layers > 0});
        Packed none({});
        const Tensor hidden = on.model.forward(on.parameters, none.batch(), true);
        BOOST_TEST(hidden.dim(0) == 0);
        for (const float g : gradients(on, none)) BOOST_REQUIRE(g == 0);
        for (const float g : all_gradients(on, none)) BOOST_REQUIRE(g == 0);
        BOOST_TEST(on.model.take_balance_loss() == 0);
        BOOST_TEST(on.model.balance_experts(on.parameters, 0.1) == 0);
    }
}

BOOST_AUTO_TEST_CASE(parameter_sets_may_be_swapped_moved_and_made_anew) {
    const ModelConfig c = test::full_config();
    Ready on(c);
    Packed packed(test::random_sequences(c, kLengths));
    const auto hidden = [&](const ParameterSet& set) {
        return test::copy_of(on.model.forward(set, packed.batch(), false));
    };
    const auto make = [&](std::uint64_t seed) {
        ParameterSet set(c, one_rank(), on.arena, true, "other");
        set.initialize(*on.ops, seed, 0.3);
        return set;
    };
    const Floats own = hidden(on.parameters);
    ParameterSet other = make(1);
    const Floats first = hidden(other);
    BOOST_CHECK(!same_bits(own, first));
    BOOST_CHECK(same_bits(hidden(on.parameters), own));
    BOOST_CHECK(same_bits(hidden(other), first));
    other = make(2);  // another set at the same place
    const Floats second = hidden(other);
    BOOST_CHECK(!same_bits(first, second));
    BOOST_CHECK(same_bits(hidden(make(2)), second));
    // Gradients go to the set that backward() is given.
    on.ops->fill(on.parameters.flat_grads(), 0);
    on.model.forward(other, packed.batch(), true);
    Floats d_hidden(static_cast<std::size_t>(kTokens * c.hidden), 1.0f);
    on.model.backward(other, packed.batch(), test::view(d_hidden, {kTokens, c.hidden}));
    for (const float g : on.parameters.flat_grads().floats()) BOOST_REQUIRE(g == 0);
    BOOST_TEST(other.at("model.norm.weight").grad.f32()[0] != 0);
}

BOOST_AUTO_TEST_CASE(passes_out_of_order_are_refused) {
    const ModelConfig c = test::full_config();
    Ready on(c);
    Packed packed(test::random_sequences(c, kLengths)), shorter({test::random_tokens(c, 1, 4)}),
        too_long(test::random_sequences(c, {kLongest, kLongest}));
    Floats d_hidden(static_cast<std::size_t>(kTokens * c.hidden), 1.0f);
    const auto backward = [&](Packed& batch) {
        on.model.backward(on.parameters, batch.batch(),
                          test::view(d_hidden, {batch.rows(), c.hidden}));
    };
    BOOST_CHECK_THROW(backward(packed), InternalError);
    on.model.forward(on.parameters, packed.batch(), false);
    BOOST_CHECK_THROW(backward(packed), InternalError);
    on.model.forward(on.parameters, packed.batch(), true);
    on.model.forward(on.parameters, packed.batch(), false);
    BOOST_CHECK_THROW(backward(packed), InternalError);
    on.model.forward(on.parameters, packed.batch(), true);
    BOOST_CHECK_THROW(backward(shorter), InternalError);
    BOOST_CHECK_NO_THROW(backward(packed));
    BOOST_CHECK_THROW(backward(packed), InternalError);
    BOOST_CHECK_THROW(on.model.forward(on.parameters, too_long.batch(), false), InternalError);
    Ready untrained(c, {.max_tokens = kTokens, .max_length = kLongest, .train = false});
    BOOST_CHECK_THROW(untrained.model.forward(untrained.parameters, packed.batch(), true),
                      InternalError);
}

BOOST_AUTO_TEST_CASE(planned_memory_is_real_memory) {
    const std::vector<Transformer::Limits> all{
        {.max_tokens = 20, .max_length = 11, .head_chunk = 7},
        {.max_tokens = 20, .max_length = 20, .recompute = Recompute::attention},
        {.max_tokens = 20, .max_length = 20, .recompute = Recompute::block},
        {.max_tokens = 9, .max_length = 9, .train = false, .max_decode = 33, .head_chunk = 11}};
    for (const ModelConfig& c : small_configs())
        for (const int tensor_size : {1, 2}) {
            if (c.kv_heads % tensor_size != 0) continue;
            const Grid grid = Grid::planned(1, tensor_size);
            for (const auto& limits : all) {
                const Instance planned(c, grid, limits, true), real(c, grid, limits);
                BOOST_TEST(planned.arena.bytes() == real.arena.bytes());
                BOOST_TEST(planned.arena.bytes() > 0);
                BOOST_TEST(planned.arena.table() == real.arena.table());
            }
        }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
