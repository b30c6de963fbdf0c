// SPDX-License-Identifier: Apache-2.0
// A model split over tensor ranks against the whole model on one rank.
#include <mpi.h>

#include <boost/test/unit_test.hpp>

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

/// Sizes that divide by four, in all combinations of biases, q/k norm and a tied head.
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
    Floats out;
    const std::int64_t columns = box.count.row_elements(), width = whole.shape().row_elements();
    const std::int64_t first = box.offset.rank() > 1 ? box.offset[1] : 0;
    for (std::int64_t r = 0; r < box.count[0]; ++r) {
        const float* row = whole.f32() + (box.offset[0] + r) * width + first;
        out.insert(out.end(), row, row + columns);
    }
    return out;
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
        test::randomize(whole.parameters);
        test::randomize(part.parameters);
    }
    Instance whole, part;
};

/// Calls `check` with every configuration on every grid of this world.
template <class Check>
void on_all_grids(Transformer::Limits limits, const Check& check) {
    const Grid one(MPI_COMM_SELF, 1);
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        for (const ModelConfig& c : configs()) {
            Pair pair(c, one, grid, limits);
            BOOST_TEST_CONTEXT(tensor << " tensor ranks, " << test::describe(c)) {
                check(pair, grid, c);
            }
        }
    }
}

std::vector<Tokens> sequences(const ModelConfig& c) { return test::random_sequences(c, {5, 1, 11, 3}); }
constexpr Transformer::Limits kLimits{.max_tokens = 20, .max_length = 11, .head_chunk = 7};

void compare_gradients(Pair& pair, const Grid& grid) {
    for (const Parameter& p : pair.part.parameters.all()) {
        const Floats wanted = cut(pair.whole.parameters.at(p.name).grad, p.box);
        const double error = test::norm_error(test::copy_of(p.grad), wanted);
        BOOST_TEST(error < kRounding, p.name << ": gradient off by " << error);
        if (p.split_dim < 0) BOOST_TEST(same_on_all(grid.tensor(), test::copy_of(p.grad)), p.name);
    }
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
            BOOST_TEST(elements == p.global.elements() * (p.split_dim < 0 ? grid.tensor_size() : 1));
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
            const auto z = pair.whole.model.logits(pair.whole.parameters, whole.rows(4, rows));
            const auto split = pair.part.model.logits(pair.part.parameters, part.rows(4, rows));
            BOOST_TEST(test::max_error(split, z) < kRounding);
            BOOST_TEST(same_on_all(grid.tensor(), Floats(split.begin(), split.end())));
        }
    });
}

BOOST_AUTO_TEST_CASE(gradients_are_those_of_one_rank) {
    for (const Recompute recompute : {Recompute::none, Recompute::block}) {
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

BOOST_AUTO_TEST_CASE(decode_steps_are_those_of_one_rank) {
    Transformer::Limits limits = kLimits;
    limits.max_decode = 4;
    on_all_grids(limits, [](Pair& pair, const Grid& grid, const ModelConfig& c) {
        test::Pages one(c, 1, 2, 3, 4), split(c, grid.tensor_size(), 2, 3, 4);
        std::vector<std::int32_t> slots;
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
