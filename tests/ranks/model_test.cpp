// SPDX-License-Identifier: Apache-2.0
// A model split over tensor ranks against the whole model on one rank.
#include <mpi.h>

#include <boost/test/unit_test.hpp>

#include "../box.hpp"
#include "../model/small_models.hpp"
#include "../mpi_fixture.hpp"

namespace gradus {
namespace {

using test::Floats;
using test::Instance;
using test::Packed;
using test::Tokens;

using test::Mpi;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);

constexpr double kRounding = 1e-5;

/// Sizes that divide by four, in all combinations of biases, q/k norm and a tied head; latent attention
/// and experts.
std::vector<ModelConfig> configs() {
    std::vector<ModelConfig> all;
    for (int flags = 0; flags < 8; ++flags) {
        ModelConfig c = test::full_config();
        c.heads = 8;
        c.kv_heads = 4;
        c.qkv_bias = (flags & 1) != 0;
        c.qk_norm = (flags & 2) != 0;
        c.tied = (flags & 4) != 0;
        all.push_back(c);
    }
    all.push_back(test::latent_config());
    for (ModelConfig c : test::expert_configs()) {
        if (!c.is_latent()) c.kv_heads = 4;
        all.push_back(c);
    }
    return all;
}

/// Tensor sizes that divide the world.
std::vector<int> tensor_sizes() {
    int world = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    std::vector<int> sizes;
    for (const int size : {1, 2, 4})
        if (world % size == 0) sizes.push_back(size);
    return sizes;
}

/// The part of `whole` (all of a parameter or its gradient) in `box`.
Floats cut(const Tensor& whole, const Box& box) {
    const auto part = test::cut(whole.f32(), whole.shape(), box);
    return {part.begin(), part.end()};
}

bool same_on_all(Communicator& group, const Floats& values) {
    Floats low = values, high = values;
    group.all_reduce(std::span(low), Reduce::min);
    group.all_reduce(std::span(high), Reduce::max);
    return low == high;
}

/// The whole model on this rank alone, and its part of the split one.
struct Pair {
    Pair(const ModelConfig& c, const Grid& one, const Grid& grid, Transformer::Limits limits)
        : whole(c, one, limits), part(c, grid, limits) {
        test::randomize(whole.parameters, *whole.ops);
        test::randomize(part.parameters, *part.ops);
    }
    Instance whole, part;
};

/// Calls `check` with every configuration on every grid of this world; experts over tensor ranks and,
/// where each data rank has the same tokens, over data ranks.
template <class Check>
void on_all_grids(Transformer::Limits limits, const Check& check) {
    const Grid one(MPI_COMM_SELF, 1);
    for (const int tensor : tensor_sizes())
        for (const int expert : {1, 2, 4}) {
            int world = 0;
            MPI_Comm_size(MPI_COMM_WORLD, &world);
            if (world / tensor % expert != 0) continue;
            const Grid grid(MPI_COMM_WORLD, tensor, expert);
            for (const ModelConfig& c : configs()) {
                if (c.moe.experts % expert != 0 || (expert > 1 && c.moe.experts == 0)) continue;
                limits.mtp = limits.train && c.mtp_layers > 0;
                Pair pair(c, one, grid, limits);
                BOOST_TEST_CONTEXT(tensor << " tensor ranks, " << expert << " expert ranks, "
                                          << test::describe(c)) {
                    check(pair, grid, c);
                }
            }
        }
}

std::vector<Tokens> sequences(const ModelConfig& c) { return test::random_sequences(c, {5, 1, 11, 3}); }
constexpr Transformer::Limits kLimits{.max_tokens = 20, .max_length = 11, .head_chunk = 7};

/// Where experts are split, each expert rank sends its own tokens to an expert: with the same tokens
/// on all of them its gradient is so many times that of one rank.
void compare_gradients(Pair& pair, const Grid& grid) {
    for (const Parameter& p : pair.part.parameters.all()) {
        if (!p.grad) continue;
        Floats wanted = cut(pair.whole.parameters.at(p.name).grad, p.box);
        if (p.expert)
            for (float& g : wanted) g *= static_cast<float>(grid.expert_size());
        const double error = test::norm_error(test::copy_of(p.grad), wanted);
        BOOST_TEST(error < kRounding, p.name << ": gradient off by " << error);
        if (p.split_dim < 0) BOOST_TEST(same_on_all(grid.tensor(), test::copy_of(p.grad)), p.name);
    }
}

/// Gradients of hidden states of both next tokens and of the routers' balance, by one.
Floats add_other_gradients(Instance& on, Packed& packed) {
    const Shape shape{packed.rows(), on.model.config().hidden};
    Floats d_hidden = test::uniforms(5, shape.elements()), d_second = test::uniforms(6, shape.elements());
    const Tensor next = packed.targets();
    Floats hidden = test::copy_of(on.model.forward(on.parameters, packed.batch(), true));
    if (on.model.config().mtp_layers > 0) {
        const Floats second = test::copy_of(on.model.mtp_forward(on.parameters, packed.batch(), next));
        hidden.insert(hidden.end(), second.begin(), second.end());
        on.model.mtp_backward(on.parameters, packed.batch(), next, test::view(d_second, shape),
                              test::view(d_hidden, shape), 0.3);
    }
    on.model.backward(on.parameters, packed.batch(), test::view(d_hidden, shape), 0.3);
    return hidden;
}

/// Gradients of random factors of log-probs and entropies, by both.
void add_gradients(Pair& pair, Packed& packed) {
    test::ScoreGradients loss{.d_log_prob = test::uniforms(1, packed.rows()),
                              .d_entropy = test::uniforms(2, packed.rows()),
                              .inv_temperature = 1.25f};
    const Floats wanted = test::add_gradients(pair.whole, packed, loss);
    BOOST_TEST(test::max_error(test::add_gradients(pair.part, packed, loss), wanted) < kRounding);
}

}  // namespace

BOOST_AUTO_TEST_CASE(parts_begin_as_the_whole) {
    on_all_grids(kLimits, [](Pair& pair, const Grid& grid, const ModelConfig&) {
        for (const Parameter& p : pair.part.parameters.all()) {
            const Floats values = test::copy_of(p.value);
            BOOST_CHECK(values == cut(pair.whole.parameters.at(p.name).value, p.box));
            // Together the boxes are the whole.
            const std::int64_t elements = grid.tensor().sum(p.box.elements());
            BOOST_TEST(elements * (p.expert ? grid.expert_size() : 1) ==
                       p.global.elements() * (p.split_dim < 0 ? grid.tensor_size() : 1));
            if (p.expert) BOOST_TEST(p.box.offset[0] == grid.expert_rank() * p.box.count[0]);
            if (p.split_dim >= 0)
                BOOST_TEST(p.box.offset[p.split_dim] == grid.tensor_rank() * p.box.count[p.split_dim]);
        }
    });
}

BOOST_AUTO_TEST_CASE(hidden_states_scores_and_logits_are_those_of_one_rank) {
    on_all_grids(kLimits, [](Pair& pair, const Grid& grid, const ModelConfig& c) {
        Packed packed(sequences(c));
        const auto forward = [&](Instance& on) {
            return on.model.forward(on.parameters, packed.batch(), false);
        };
        const Tensor whole = forward(pair.whole), part = forward(pair.part);
        BOOST_TEST(test::max_error(part.floats(), whole.floats()) < kRounding);
        BOOST_TEST(same_on_all(grid.tensor(), test::copy_of(part)));
        const auto wanted = test::score(pair.whole, whole, packed.targets(), 1.25f);
        const auto got = test::score(pair.part, part, packed.targets(), 1.25f);
        BOOST_TEST(test::max_error(got.log_prob, wanted.log_prob) < kRounding);
        BOOST_TEST(test::max_error(got.entropy, wanted.entropy) < kRounding);
        BOOST_TEST(same_on_all(grid.tensor(), got.log_prob));
        for (const std::int64_t rows : {7, 3}) {
            const auto z = pair.whole.model.logits(pair.whole.parameters, whole.rows(4, rows)).floats();
            const auto split = pair.part.model.logits(pair.part.parameters, part.rows(4, rows)).floats();
            BOOST_TEST(test::max_error(split, z) < kRounding);
            BOOST_TEST(same_on_all(grid.tensor(), Floats(split.begin(), split.end())));
        }
    });
}

BOOST_AUTO_TEST_CASE(gradients_are_those_of_one_rank) {
    for (const Recompute recompute : {Recompute::none, Recompute::attention, Recompute::block}) {
        Transformer::Limits limits = kLimits;
        limits.recompute = recompute;
        on_all_grids(limits, [](Pair& pair, const Grid& grid, const ModelConfig& c) {
            Packed packed(sequences(c)), second({test::random_tokens(c, 7, 9)});
            add_gradients(pair, packed);
            compare_gradients(pair, grid);
            add_gradients(pair, second);  // they add up
            compare_gradients(pair, grid);
        });
    }
}

BOOST_AUTO_TEST_CASE(second_tokens_and_balance_are_those_of_one_rank) {
    for (const Recompute recompute : {Recompute::none, Recompute::attention, Recompute::block}) {
        Transformer::Limits limits = kLimits;
        limits.recompute = recompute;
        on_all_grids(limits, [](Pair& pair, const Grid& grid, const ModelConfig& c) {
            if (c.moe.experts == 0) return;
            Packed packed(sequences(c));
            const Floats wanted = add_other_gradients(pair.whole, packed);
            BOOST_TEST(test::max_error(add_other_gradients(pair.part, packed), wanted) < kRounding);
            compare_gradients(pair, grid);
            BOOST_TEST(pair.part.model.take_balance_loss() == pair.whole.model.take_balance_loss(),
                       boost::test_tools::tolerance(1e-5));
            // All data ranks have the same tokens: the same loads beside the mean.
            const double load = pair.whole.model.balance_experts(pair.whole.parameters, 0.1);
            BOOST_TEST(pair.part.model.balance_experts(pair.part.parameters, 0.1) == load,
                       boost::test_tools::tolerance(1e-12));
            for (const Parameter& p : pair.part.parameters.all())
                if (p.name.ends_with("e_score_correction_bias"))
                    BOOST_CHECK(test::copy_of(p.value) ==
                                test::copy_of(pair.whole.parameters.at(p.name).value));
        });
    }
}

/// Expert ranks with different tokens, one of them with none: each has its own sequences' hidden
/// states, and together the gradients of all sequences.
BOOST_AUTO_TEST_CASE(expert_ranks_have_tokens_of_their_own) {
    int world = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    const Grid one(MPI_COMM_SELF, 1), grid(MPI_COMM_WORLD, 1, world);
    for (const ModelConfig& c : test::expert_configs())
        for (const bool idle : {false, true}) {
            if (c.moe.experts % world != 0) continue;
            Transformer::Limits limits = kLimits;
            limits.mtp = c.mtp_layers > 0;
            Pair pair(c, one, grid, limits);
            std::vector<Tokens> mine;
            Floats wanted;
            for (int rank = 0; rank < world; ++rank) {
                if (idle && rank == world - 1 && world > 1) continue;
                const auto own = test::random_sequences(c, {3 + rank, 9 - 2 * rank});
                Packed packed(own);
                const Floats hidden = add_other_gradients(pair.whole, packed);
                if (rank != grid.data_rank()) continue;
                mine = own;
                wanted = hidden;
            }
            Packed packed(mine);
            const Floats got = add_other_gradients(pair.part, packed);
            BOOST_TEST(test::max_error(got, wanted) < kRounding);
            for (const Parameter& p : pair.part.parameters.all()) {
                if (!p.grad) continue;
                if (!p.expert) grid.data().all_reduce(p.grad.floats(), Reduce::sum);
                const Floats whole = cut(pair.whole.parameters.at(p.name).grad, p.box);
                const double error = test::norm_error(test::copy_of(p.grad), whole);
                BOOST_TEST(error < kRounding, p.name << ": gradient off by " << error);
            }
            BOOST_TEST(grid.data().sum(pair.part.model.take_balance_loss()) ==
                           pair.whole.model.take_balance_loss(), boost::test_tools::tolerance(1e-5));
            BOOST_TEST(pair.part.model.balance_experts(pair.part.parameters, 0.1) ==
                           pair.whole.model.balance_experts(pair.whole.parameters, 0.1),
                       boost::test_tools::tolerance(1e-12));
        }
}

BOOST_AUTO_TEST_CASE(decode_steps_are_those_of_one_rank) {
    Transformer::Limits limits = kLimits;
    limits.max_decode = 4;
    on_all_grids(limits, [](Pair& pair, const Grid& grid, const ModelConfig& c) {
        test::Pages one(c, 1, 2, 3, 4), split(c, grid.tensor_size(), 2, 3, 4);
        test::Numbers slots;
        Packed prompts(test::random_sequences(c, {4, 4}));
        for (std::int64_t i = 0; i < 2; ++i)
            for (std::int64_t t = 0; t < 4; ++t) slots.push_back(one.slot(i, t));
        const auto prefill = [&](Instance& on, const test::Pages& pages) {
            return on.model.prefill(on.parameters, prompts.batch(), pages.caches(),
                                    test::view(slots));
        };
        BOOST_TEST(test::max_error(prefill(pair.part, split).floats(),
                                   prefill(pair.whole, one).floats()) < kRounding);
        for (std::int32_t length = 5; length <= 9; ++length) {
            const Tokens tokens = test::random_tokens(c, 20 + static_cast<std::uint64_t>(length), 2);
            const Tensor wanted = test::decode_step(pair.whole, one, tokens, {length, length});
            const Tensor got = test::decode_step(pair.part, split, tokens, {length, length});
            BOOST_TEST(test::max_error(got.floats(), wanted.floats()) < kRounding);
            BOOST_TEST(same_on_all(grid.tensor(), test::copy_of(got)));
        }
    });
}

}  // namespace gradus
