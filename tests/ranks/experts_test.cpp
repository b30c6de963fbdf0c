// SPDX-License-Identifier: Apache-2.0
// Training with experts split over data ranks against the same training on one rank: balance loss,
// correction biases of routers, multi-token prediction, checkpoints.
#include <mpi.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>

#include "../box.hpp"
#include "../mpi_fixture.hpp"
#include "../train/tiny.hpp"
#include "gradus/base/error.hpp"

namespace gradus {
namespace {

using test::distance;
using test::Tiny;
using test::tiny_batch;

using test::Mpi;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);

constexpr test::MoreLosses kMore{.balance_coef = 0.05, .router_bias_rate = 0.002, .mtp_coef = 0.3};

struct Cut {
    int tensor, expert;
};

/// All that divide the world.
std::vector<Cut> cuts() {
    int world = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    std::vector<Cut> all;
    for (const int tensor : {1, 2, 4})
        for (const int expert : {1, 2, 4})
            if (world % (tensor * expert) == 0) all.push_back({tensor, expert});
    return all;
}

/// The same as softmax over all experts, without groups, shared experts and a second token.
ModelConfig plain_experts() {
    ModelConfig c = test::tiny_config();
    c.kv_heads = 4;
    c.moe = {.experts = 4, .per_token = 2, .intermediate = 8, .normalize = true};
    return c;
}

struct Split : Tiny {
    Split(const Grid& g, std::int64_t micro_tokens, const ModelConfig& c = test::tiny_experts(),
          test::MoreLosses more = kMore)
        : Tiny(g, micro_tokens, {}, false, c, c.mtp_layers > 0 ? more : without_mtp(more)) {}
    static test::MoreLosses without_mtp(test::MoreLosses more) {
        more.mtp_coef = 0;
        return more;
    }
};

std::vector<double> numbers_of(const Trainer::TokenResult& r) {
    return {r.loss,   r.grad_norm, r.tokens, r.trained_tokens, r.mtp_loss, r.router.balance_loss,
            r.router.load_max};
}

struct Outcome {
    std::vector<double> numbers;
    std::vector<std::vector<float>> log_probs;
};

/// Steps of either kind, with all losses.
Outcome train(Tiny& tiny, std::int64_t sequences, int steps) {
    Outcome out;
    for (int step = 0; step < steps; ++step) {
        const auto batch = tiny_batch(sequences, static_cast<std::uint64_t>(step));
        const auto more = numbers_of(tiny.trainer.next_token_step(batch, 2e-3));
        out.numbers.insert(out.numbers.end(), more.begin(), more.end());
    }
    auto batch = tiny_batch(sequences, 7);
    out.log_probs = tiny.trainer.log_probs(tiny.parameters, batch, 0.9);
    test::make_policy_batch(batch, out.log_probs);
    const auto r = tiny.trainer.policy_step(batch, {.kl_coef = 0.02}, 0.9, 1e-3);
    out.numbers.insert(out.numbers.end(),
                       {r.loss, r.grad_norm, r.tokens, r.router.balance_loss, r.router.load_max});
    return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
std::vector<float> copy_of(const Tensor& t) { return {t.floats().begin(), t.floats().end()}; }

/// Calls `check` with each parameter's name, its values here and those of the same box of `whole`.
template <class Check>
void compare(const Tiny& whole, const Tiny& part, const Check& check) {
    // The host reads what the device may still be writing.
    whole.ops->synchronize();
    part.ops->synchronize();
    for (const Parameter& p : part.parameters.all()) {
        const Parameter& of = whole.parameters.at(p.name);
        check(p.name, copy_of(p.value), test::cut(of.value.f32(), p.global, p.box));
    }
}

void expect_near(const std::vector<double>& got, const std::vector<double>& wanted, double tolerance) {
    BOOST_REQUIRE(got.size() == wanted.size());
    for (std::size_t i = 0; i < got.size(); ++i)
        BOOST_TEST(std::abs(got[i] - wanted[i]) < tolerance * std::max(1.0, std::abs(wanted[i])),
                   "number " << i << ": " << wanted[i] << " on one rank, " << got[i]);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(experts_over_ranks)

BOOST_AUTO_TEST_CASE(any_grid_trains_as_one_rank_does) {
    const Grid one(MPI_COMM_SELF, 1);
    for (const auto& [tensor, expert] : cuts()) {
        const Grid grid(MPI_COMM_WORLD, tensor, expert);
        for (const ModelConfig& c : {test::tiny_experts(), plain_experts()})
            for (const std::int64_t sequences : {24, 3, 1}) {  // also fewer than ranks
                if (c.mtp_layers == 0 && sequences != 3) continue;
                Split whole(one, 64, c), split(grid, 48, c);
                const Outcome a = train(whole, sequences, 3), b = train(split, sequences, 3);
                BOOST_TEST_CONTEXT("tensor " << tensor << ", expert " << expert << ", " << sequences
                                             << " sequences") {
                    BOOST_TEST(a.numbers[5] > 0);  // a balance loss
                    BOOST_TEST((a.numbers[4] > 0) == (c.mtp_layers > 0));
                    BOOST_TEST(a.numbers[6] > 1);
                    expect_near(b.numbers, a.numbers, 2e-4);
                    for (std::size_t i = 0; i < a.log_probs.size(); ++i)
                        BOOST_TEST(distance(b.log_probs[i], a.log_probs[i]) < 1e-3);
                    compare(whole, split, [](const std::string& name, const auto& got, const auto& wanted) {
                        // Biases move by whole steps: the loads were counted alike.
                        const double most = name.ends_with("correction_bias") ? 1e-6 : 3e-3;
                        BOOST_TEST(distance(got, wanted) < most, name);
                    });
                }
            }
    }
}

BOOST_AUTO_TEST_CASE(gradients_of_a_grid_are_those_of_one_rank) {
    // The optimiser's division hides small gradients; its first moment does not.
    const AdamWOptions bare{.beta1 = 0.5, .weight_decay = 0, .clip = 0};
    const Grid one(MPI_COMM_SELF, 1);
    for (const auto& [tensor, expert] : cuts()) {
        const Grid grid(MPI_COMM_WORLD, tensor, expert);
        Tiny whole(one, 64, bare, false, test::tiny_experts(), kMore);
        Tiny split(grid, 48, bare, false, test::tiny_experts(), kMore);
        const auto a = whole.trainer.next_token_step(tiny_batch(24), 0);
        const auto b = split.trainer.next_token_step(tiny_batch(24), 0);
        expect_near(numbers_of(b), numbers_of(a), 1e-5);
        whole.ops->synchronize();
        split.ops->synchronize();
        std::map<std::string, Slab> all;
        for (const Slab& slab : whole.optimizer.slabs()) all.emplace(slab.tensor, slab);
        for (const Slab& mine : split.optimizer.slabs()) {
            if (mine.tensor.rfind("adam_m/", 0) != 0) continue;
            const auto wanted = test::cut(static_cast<const float*>(all.at(mine.tensor).data),
                                          mine.global, mine.box);
            const auto* m = static_cast<const float*>(mine.data);
            double worst = 0;
            for (std::size_t i = 0; i < wanted.size(); ++i)
                worst = std::max(worst, std::abs(static_cast<double>(wanted[i]) - m[i]));
            BOOST_TEST(worst < 1e-6 * a.grad_norm, mine.tensor << " " << mine.box.text());
        }
    }
}

// A second object has everything from before but nothing of the first: what a step leaves in a model
// (weights of losses, loads) must not change the next.
BOOST_AUTO_TEST_CASE(repetitions_give_the_same_bits_and_ranks_agree) {
    for (const auto& [tensor, expert] : cuts()) {
        const Grid grid(MPI_COMM_WORLD, tensor, expert);
        Split first(grid, 40), second(grid, 40);
        const Outcome a = train(first, 17, 3), b = train(second, 17, 3);
        BOOST_TEST((a.numbers == b.numbers));
        BOOST_TEST(same_bits(first.values(), second.values()));
        for (std::size_t i = 0; i < a.log_probs.size(); ++i)
            BOOST_TEST(same_bits(a.log_probs[i], b.log_probs[i]));
        std::vector<double> numbers = a.numbers;
        grid.world().broadcast(std::as_writable_bytes(std::span(numbers)), 0);
        BOOST_TEST((numbers == a.numbers));
        for (const Parameter& p : first.parameters.all()) {
            auto copy = copy_of(p.value);
            Communicator& group = p.expert ? grid.expert_data() : grid.data();
            group.broadcast(std::as_writable_bytes(std::span(copy)), 0);
            BOOST_TEST(same_bits(copy, copy_of(p.value)), p.name);
            if (p.split_dim >= 0) continue;
            grid.tensor().broadcast(std::as_writable_bytes(std::span(copy)), 0);
            BOOST_TEST(same_bits(copy, copy_of(p.value)), p.name);
        }
    }
}

BOOST_AUTO_TEST_CASE(slabs_of_all_ranks_cover_each_tensor_once) {
    for (const auto& [tensor, expert] : cuts()) {
        const Grid grid(MPI_COMM_WORLD, tensor, expert);
        const Split tiny(grid, 32);
        std::vector<Slab> slabs = tiny.optimizer.slabs();
        for (const Slab& slab : parameter_slabs(tiny.parameters, grid, "reference", *tiny.ops))
            slabs.push_back(slab);
        for (const std::string group : {"weights/", "adam_m/", "adam_v/", "reference/"})
            for (const Parameter& p : tiny.parameters.all()) {
                // Each element's number, marked where it is covered.
                std::vector<float> element(static_cast<std::size_t>(p.global.elements()));
                for (std::size_t i = 0; i < element.size(); ++i) element[i] = static_cast<float>(i);
                std::vector<std::int64_t> covered(element.size(), 0);
                for (const Slab& slab : slabs) {
                    if (slab.tensor != group + p.name) continue;
                    BOOST_TEST((slab.global == p.global));
                    for (const float i : test::cut(element.data(), p.global, slab.box))
                        ++covered[static_cast<std::size_t>(i)];
                }
                grid.world().all_reduce(std::span(covered), Reduce::sum);
                const std::int64_t wanted = p.trained || group[0] != 'a' ? 1 : 0;
                BOOST_TEST(std::all_of(covered.begin(), covered.end(),
                                       [&](std::int64_t n) { return n == wanted; }),
                           group << p.name);
            }
    }
}

BOOST_AUTO_TEST_CASE(a_checkpoint_of_one_grid_goes_on_at_another) {
    const Grid one(MPI_COMM_SELF, 1);
    for (const auto& [tensor, expert] : cuts()) {
        const Grid grid(MPI_COMM_WORLD, tensor, expert);
        Split split(grid, 48);
        for (std::uint64_t step = 0; step < 2; ++step)
            split.trainer.next_token_step(tiny_batch(12, step), 2e-3);
        std::string dir = (std::filesystem::temp_directory_path() /
                           fmt::format("gradus_experts_{}", ::getpid()))
                              .string();
        dir = grid.world().broadcast(dir);
        std::filesystem::create_directories(dir);
        grid.world().barrier();
        test::write_checkpoint(split, dir, 2);
        // Every rank goes on alone; all go on together on every other grid; and on the same one.
        std::vector<std::unique_ptr<Grid>> grids;
        for (const auto& other : cuts())
            grids.push_back(std::make_unique<Grid>(MPI_COMM_WORLD, other.tensor, other.expert));
        Split alone(one, 64);
        std::vector<std::unique_ptr<Split>> all;
        for (const auto& g : grids) all.push_back(std::make_unique<Split>(*g, 48));
        {
            const CheckpointReader reader(find_checkpoint(dir, [](const std::string&) {}));
            const auto load = [&](Split& on) {
                load_parameters(on.parameters, reader, "weights", *on.ops);
                on.optimizer.load(reader, 2);
            };
            load(alone);
            for (const auto& on : all) load(*on);
        }
        const auto same = [](const std::string& name, const auto& got, const auto& wanted) {
            BOOST_TEST(same_bits(got, wanted), name);
        };
        compare(alone, split, same);
        for (const auto& on : all) compare(alone, *on, same);
        const auto batch = tiny_batch(12, 2);
        const auto wanted = numbers_of(split.trainer.next_token_step(batch, 2e-3));
        expect_near(numbers_of(alone.trainer.next_token_step(batch, 2e-3)), wanted, 2e-5);
        for (std::size_t i = 0; i < all.size(); ++i) {
            const auto got = numbers_of(all[i]->trainer.next_token_step(batch, 2e-3));
            expect_near(got, wanted, 2e-5);
            compare(alone, *all[i], [](const std::string& name, const auto& a, const auto& b) {
                BOOST_TEST(distance(a, b) < 1e-3, name);
            });
            // A restart on the same grid is the run that was not interrupted.
            if (cuts()[i].tensor != tensor || cuts()[i].expert != expert) continue;
            BOOST_TEST((got == wanted));
            BOOST_TEST(same_bits(all[i]->values(), split.values()));
        }
        grid.world().barrier();
        if (grid.rank() == 0) std::filesystem::remove_all(dir);
    }
}

BOOST_AUTO_TEST_CASE(all_ranks_stop_at_the_same_bad_number) {
    for (const auto& [tensor, expert] : cuts()) {
        const Grid grid(MPI_COMM_WORLD, tensor, expert);
        Split tiny(grid, 40);
        const auto before = tiny.values();
        const std::string name = "model.layers.1.mlp.experts.up_proj.weight";
        if (grid.rank() == grid.size() - 1)
            tiny.parameters.at(name).grad.floats()[1] = std::numeric_limits<float>::quiet_NaN();
        BOOST_CHECK_EXCEPTION(tiny.optimizer.step(1), NumericError, [&](const NumericError& e) {
            return std::string(e.what()).find(name) != std::string::npos;
        });
        BOOST_TEST(same_bits(tiny.values(), before));
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
