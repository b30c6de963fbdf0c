// SPDX-License-Identifier: Apache-2.0
// Training on grids of ranks against the same training on one rank.
#include <mpi.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <filesystem>
#include <limits>

#include "../box.hpp"
#include "../mpi_fixture.hpp"
#include "../train/tiny.hpp"
#include "gradus/base/error.hpp"
#include "gradus/train/preference_loss.hpp"

namespace gradus {
namespace {

using test::distance;
using test::make_policy_batch;
using test::Tiny;
using test::tiny_batch;

using test::Mpi;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);

int world_size() {
    int size = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
}

/// Tensor sizes that divide the world and the tiny model's two key/value heads.
std::vector<int> tensor_sizes() { return world_size() > 1 ? std::vector{1, 2} : std::vector{1}; }

/// What three steps of either kind leave behind.
struct Outcome {
    std::vector<double> numbers;
    std::vector<std::vector<float>> log_probs;
    std::vector<float> values;  ///< this rank's part
};

constexpr PolicyLossOptions kPolicy{.kl_coef = 0.02, .entropy_coef = 0.01};

Outcome train(Tiny& tiny, std::int64_t sequences) {
    Outcome out;
    for (std::uint64_t step = 0; step < 3; ++step) {
        const auto r = tiny.trainer.next_token_step(tiny_batch(sequences, step), 3e-3);
        out.numbers.insert(out.numbers.end(), {r.loss, r.grad_norm, r.tokens, r.trained_tokens});
    }
    auto batch = tiny_batch(sequences, 7);
    out.log_probs = tiny.trainer.log_probs(tiny.parameters, batch, 0.9);
    make_policy_batch(batch, out.log_probs);
    for (int step = 0; step < 3; ++step) {
        const auto r = tiny.trainer.policy_step(batch, kPolicy, 0.9, 1e-3);
        out.numbers.insert(out.numbers.end(),
                           {r.loss, r.grad_norm, r.tokens, r.sums.tokens, r.sums.kl,
                            r.sums.entropy, r.sums.ratio, r.sums.sampler_gap,
                            r.sums.sampler_gap_max});
    }
    out.values = tiny.values();
    return out;
}

/// The part of `whole` (all parameters on one rank) that `part` holds, in the latter's layout.
std::vector<float> cut(const Tiny& whole, const Tiny& part) {
    std::vector<float> values(part.values().size(), 0.0f);
    whole.ops->synchronize();
    const float* base = part.parameters.flat_values().f32();
    for (const Parameter& p : part.parameters.all()) {
        const auto mine = test::cut(whole.parameters.at(p.name).value.f32(), p.global, p.box);
        std::copy(mine.begin(), mine.end(), values.begin() + (p.value.f32() - base));
    }
    return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

BOOST_AUTO_TEST_CASE(any_grid_trains_as_one_rank_does) {
    const Grid one(MPI_COMM_SELF, 1);
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        for (const std::int64_t sequences : {24, 3}) {
            Tiny whole(one, 64), split(grid, 48);
            const Outcome a = train(whole, sequences), b = train(split, sequences);
            BOOST_REQUIRE(a.numbers.size() == b.numbers.size());
            for (std::size_t i = 0; i < a.numbers.size(); ++i)
                BOOST_TEST(std::abs(a.numbers[i] - b.numbers[i]) <
                               2e-4 * std::max(1.0, std::abs(a.numbers[i])),
                           "tensor " << tensor << ", number " << i << ": " << a.numbers[i]
                                     << " on one rank, " << b.numbers[i]);
            for (std::size_t i = 0; i < a.log_probs.size(); ++i)
                BOOST_TEST(distance(a.log_probs[i], b.log_probs[i]) < 1e-3);
            BOOST_TEST(distance(cut(whole, split), b.values) < 2e-3);
        }
    }
}

BOOST_AUTO_TEST_CASE(gradients_of_a_grid_are_those_of_one_rank) {
    // The optimiser's division hides small gradients; its first moment does not.
    const AdamWOptions bare{.beta1 = 0.5, .weight_decay = 0, .clip = 0};
    const Grid one(MPI_COMM_SELF, 1);
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        Tiny whole(one, 64, bare), split(grid, 48, bare);
        const auto a = whole.trainer.next_token_step(tiny_batch(24), 0);
        const auto b = split.trainer.next_token_step(tiny_batch(24), 0);
        BOOST_TEST(a.loss == b.loss, boost::test_tools::tolerance(1e-6));
        BOOST_TEST(a.grad_norm == b.grad_norm, boost::test_tools::tolerance(1e-5));
        // The host reads what the device may still be writing.
        whole.ops->synchronize();
        split.ops->synchronize();
        std::map<std::string, Slab> all;
        for (const Slab& slab : whole.optimizer.slabs()) all.emplace(slab.tensor, slab);
        for (const Slab& mine : split.optimizer.slabs()) {
            if (mine.tensor.rfind("adam_m/", 0) != 0) continue;
            const auto* m = static_cast<const float*>(mine.data);
            const auto wanted = test::cut(static_cast<const float*>(all.at(mine.tensor).data),
                                          mine.global, mine.box);
            // Beside the whole gradient: a row may be nearly zero.
            double worst = 0;
            for (std::size_t i = 0; i < wanted.size(); ++i)
                worst = std::max(worst, std::abs(static_cast<double>(wanted[i]) - m[i]));
            BOOST_TEST(worst < 1e-6 * a.grad_norm, mine.tensor << " " << mine.box.text());
        }
    }
}

BOOST_AUTO_TEST_CASE(losses_of_every_kind_on_any_grid) {
    const AdamWOptions bare{.beta1 = 0.5, .weight_decay = 0, .clip = 0};
    const Grid one(MPI_COMM_SELF, 1);
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        Tiny whole(one, 64, bare), split(grid, 48, bare);
        for (const auto& [name, options, smooth] : test::losses_of_every_kind()) {
            auto batch = tiny_batch(24);
            make_policy_batch(batch, whole.trainer.log_probs(whole.parameters, batch, 0.9));
            const auto a = whole.trainer.policy_step(batch, options, 0.9, 1e-3);
            const auto b = split.trainer.policy_step(batch, options, 0.9, 1e-3);
            BOOST_TEST(std::abs(a.loss - b.loss) < 1e-5 * std::max(1.0, std::abs(a.loss)), name);
            BOOST_TEST(std::abs(a.grad_norm - b.grad_norm) < 1e-4 * a.grad_norm, name);
            BOOST_TEST(distance(cut(whole, split), split.values()) < 1e-3, name);
            // The next begins where this one ended: AdamW turns rounding of small gradients into steps.
            const std::vector<float> same = cut(whole, split);
            std::copy(same.begin(), same.end(), split.parameters.flat_values().f32());
        }
    }
}

BOOST_AUTO_TEST_CASE(a_critic_on_any_grid_learns_as_on_one_rank) {
    ModelConfig config = test::tiny_config();
    config.scalar_head = true;
    const AdamWOptions bare{.beta1 = 0.5, .weight_decay = 0, .clip = 0, .label = "critic"};
    const Grid one(MPI_COMM_SELF, 1);
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        Tiny whole(one, 64, bare, false, config), split(grid, 48, bare, false, config);
        for (Tiny* tiny : {&whole, &split})
            for (std::size_t i = 0; i < 16; ++i)
                tiny->parameters.at(kScalarHead).value.floats()[i] = 0.1f * static_cast<float>(i % 5) - 0.2f;
        for (const std::int64_t sequences : {24, 3}) {
            auto batch = tiny_batch(sequences);
            const auto a = whole.trainer.values(batch), b = split.trainer.values(batch);
            for (std::size_t i = 0; i < a.size(); ++i) {
                BOOST_TEST(distance(a[i], b[i]) < 1e-5);
                batch[i].value = a[i];
                batch[i].returns.assign(a[i].size(), 0.5f * static_cast<float>(i % 3));
            }
            const auto x = whole.trainer.value_step(batch, {}, 1e-3), y = split.trainer.value_step(batch, {}, 1e-3);
            BOOST_TEST(x.sums.loss == y.sums.loss, boost::test_tools::tolerance(1e-6));
            BOOST_TEST(x.sums.tokens == y.sums.tokens);
            BOOST_TEST(x.grad_norm == y.grad_norm, boost::test_tools::tolerance(1e-5));
            BOOST_TEST(distance(cut(whole, split), split.values()) < 2e-4);
        }
        for (const Slab& slab : split.optimizer.slabs()) BOOST_TEST(slab.tensor.rfind("critic/", 0) == 0u);
    }
}

BOOST_AUTO_TEST_CASE(a_reward_model_on_any_grid_learns_as_on_one_rank) {
    const AdamWOptions bare{.beta1 = 0.5, .weight_decay = 0, .clip = 0};
    const ModelConfig config = test::tiny_config().with_scalar_head();
    const Grid one(MPI_COMM_SELF, 1);
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        Tiny whole(one, 64, bare, false, config), split(grid, 48, bare, false, config);
        for (Tiny* tiny : {&whole, &split})
            for (std::size_t i = 0; i < 16; ++i)
                tiny->parameters.at(kScalarHead).value.floats()[i] = 0.1f * static_cast<float>(i % 5) - 0.2f;
        // One pair on more ranks than sequences; pairs whose halves lie on different ranks.
        for (const std::int64_t sequences : {24, 2}) {
            const auto batch = tiny_batch(sequences);
            const auto a = whole.trainer.scores(batch), b = split.trainer.scores(batch);
            BOOST_TEST(distance(a, b) < 1e-5);
            std::vector<float> root = b;
            grid.world().broadcast(std::as_writable_bytes(std::span(root)), 0);
            BOOST_TEST(same_bits(root, b));
            double losses[2];
            const auto loss_into = [&](double& loss) {
                return [&loss](std::span<const float> scores, std::span<float> d_scores) {
                    const std::vector<double> margins(scores.size() / 2, 0.1);
                    loss = pairwise_loss<float>(scores, margins, 0.01, d_scores).loss;
                };
            };
            const auto x = whole.trainer.score_step(batch, loss_into(losses[0]), 1e-3);
            const auto y = split.trainer.score_step(batch, loss_into(losses[1]), 1e-3);
            BOOST_TEST(losses[0] == losses[1], boost::test_tools::tolerance(1e-6));
            BOOST_TEST(x.tokens == y.tokens);
            BOOST_TEST(x.grad_norm == y.grad_norm, boost::test_tools::tolerance(1e-5));
            BOOST_TEST(distance(cut(whole, split), split.values()) < 2e-4);
        }
    }
}

BOOST_AUTO_TEST_CASE(repetitions_give_the_same_bits_and_ranks_agree) {
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        Tiny first(grid, 40), second(grid, 40);
        const Outcome a = train(first, 17), b = train(second, 17);
        BOOST_TEST((a.numbers == b.numbers));
        BOOST_TEST(same_bits(a.values, b.values));
        for (std::size_t i = 0; i < a.log_probs.size(); ++i)
            BOOST_TEST(same_bits(a.log_probs[i], b.log_probs[i]));
        // All ranks of a data group hold the same parameters, all ranks report the same numbers.
        std::vector<float> root = a.values;
        grid.data().broadcast(std::as_writable_bytes(std::span(root)), 0);
        BOOST_TEST(same_bits(root, a.values));
        std::vector<double> numbers = a.numbers;
        grid.world().broadcast(std::as_writable_bytes(std::span(numbers)), 0);
        BOOST_TEST((numbers == a.numbers));
        // Replicated parameters are the same on all tensor ranks.
        for (const Parameter& p : first.parameters.all()) {
            if (p.split_dim >= 0) continue;
            const auto mine = p.value.floats();
            std::vector<float> copy(mine.begin(), mine.end());
            grid.tensor().broadcast(std::as_writable_bytes(std::span(copy)), 0);
            BOOST_TEST(same_bits(copy, {mine.begin(), mine.end()}), p.name);
        }
    }
}

BOOST_AUTO_TEST_CASE(slabs_of_all_ranks_cover_each_tensor_once) {
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        const Tiny tiny(grid, 32);
        std::vector<Slab> slabs = tiny.optimizer.slabs();
        for (const Slab& slab : parameter_slabs(tiny.parameters, grid, "reference", *tiny.ops))
            slabs.push_back(slab);
        for (const char* group : {"weights/", "adam_m/", "adam_v/", "reference/"}) {
            for (const Parameter& p : tiny.parameters.all()) {
                const std::int64_t width = p.global.row_elements();
                std::vector<std::int64_t> covered(static_cast<std::size_t>(p.global.elements()), 0);
                for (const Slab& slab : slabs) {
                    if (slab.tensor != group + p.name) continue;
                    const std::int64_t first = p.global.rank() > 1 ? slab.box.offset[1] : 0;
                    const std::int64_t columns = slab.box.count.row_elements();
                    for (std::int64_t r = 0; r < slab.box.count[0]; ++r)
                        for (std::int64_t c = 0; c < columns; ++c)
                            ++covered[static_cast<std::size_t>(
                                (slab.box.offset[0] + r) * width + first + c)];
                }
                grid.world().all_reduce(std::span(covered), Reduce::sum);
                BOOST_TEST(std::all_of(covered.begin(), covered.end(),
                                       [](std::int64_t n) { return n == 1; }),
                           group << p.name);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(a_checkpoint_of_one_grid_goes_on_at_another) {
    const Grid one(MPI_COMM_SELF, 1);
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        Tiny split(grid, 48);
        for (std::uint64_t step = 0; step < 2; ++step)
            split.trainer.next_token_step(tiny_batch(12, step), 3e-3);
        std::string dir = (std::filesystem::temp_directory_path() /
                           fmt::format("gradus_train_{}", ::getpid()))
                              .string();
        dir = grid.world().broadcast(dir);
        std::filesystem::create_directories(dir);
        grid.world().barrier();
        test::write_checkpoint(split, dir, 2);
        // Every rank goes on alone, and all together on the grid with the tensor ranks swapped.
        const Grid other(MPI_COMM_WORLD, tensor == 1 && grid.size() > 1 ? 2 : 1);
        Tiny alone(one, 64), together(other, 40);
        {
            const CheckpointReader reader(find_checkpoint(dir, [](const std::string&) {}));
            for (Tiny* tiny : {&alone, &together}) {
                load_parameters(tiny->parameters, reader, "weights", *tiny->ops);
                tiny->optimizer.load(reader, 2);
            }
        }
        BOOST_TEST(same_bits(cut(alone, split), split.values()));
        BOOST_TEST(same_bits(cut(alone, together), together.values()));
        const auto batch = tiny_batch(12, 2);
        const double loss = split.trainer.next_token_step(batch, 3e-3).loss;
        BOOST_TEST(alone.trainer.next_token_step(batch, 3e-3).loss == loss,
                   boost::test_tools::tolerance(1e-5));
        BOOST_TEST(together.trainer.next_token_step(batch, 3e-3).loss == loss,
                   boost::test_tools::tolerance(1e-5));
        BOOST_TEST(distance(cut(alone, split), split.values()) < 1e-4);
        BOOST_TEST(distance(cut(alone, together), together.values()) < 1e-4);
        grid.world().barrier();
        if (grid.rank() == 0) std::filesystem::remove_all(dir);
    }
}

BOOST_AUTO_TEST_CASE(all_ranks_stop_at_the_same_bad_number) {
    for (const int tensor : tensor_sizes()) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        Tiny tiny(grid, 40);
        const auto before = tiny.values();
        // A gradient on one rank only.
        if (grid.rank() == grid.size() - 1)
            tiny.parameters.at("model.norm.weight").grad.floats()[1] =
                std::numeric_limits<float>::quiet_NaN();
        BOOST_CHECK_EXCEPTION(tiny.optimizer.step(1), NumericError, [](const NumericError& e) {
            return std::string(e.what()).find("model.norm.weight") != std::string::npos;
        });
        BOOST_TEST(same_bits(tiny.values(), before));
        // A sequence's loss: only the rank that holds it sees it.
        auto batch = tiny_batch(9);
        for (Sequence& s : batch)
            for (TokenId& token : s.tokens) token = std::min<TokenId>(token, 26);
        batch[5].tokens[0] = 27;
        batch[5].weight.assign(batch[5].weight.size(), 1.0f);
        Parameter& table = tiny.parameters.at("model.embed_tokens.weight");
        if (table.box.offset[0] + table.box.count[0] == table.global[0])
            table.value.rows(table.box.count[0] - 1, 1).floats()[0] =
                std::numeric_limits<float>::quiet_NaN();
        BOOST_CHECK_EXCEPTION(tiny.trainer.next_token_step(batch, 1), NumericError,
                              [](const NumericError& e) {
                                  return std::string(e.what()).find("sequence 5") !=
                                         std::string::npos;
                              });
    }
}

}  // namespace gradus
