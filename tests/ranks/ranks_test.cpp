// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE ranks
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <vector>

#include "../mpi_fixture.hpp"
#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/ranks/grid.hpp"
#include "gradus/ranks/session.hpp"
#include "gradus/ranks/stop_poll.hpp"
#include "gradus/ranks/watchdog.hpp"

namespace gradus {
namespace {

using test::Mpi;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);

float noise(int rank, std::size_t i) {
    return static_cast<float>(random_normal({.seed = 11,
                                             .stream = Stream::test,
                                             .prompt = static_cast<std::uint64_t>(rank),
                                             .position = static_cast<std::uint32_t>(i)})[0]);
}

}  // namespace

BOOST_AUTO_TEST_CASE(sums_are_in_rank_order_and_equal_everywhere) {
    const Grid grid(MPI_COMM_WORLD, 1);
    for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{1000},
                                std::size_t{1300007}}) {
        std::vector<float> data(n);
        for (std::size_t i = 0; i < n; ++i) data[i] = noise(grid.rank(), i);
        grid.world().all_reduce(std::span(data), Reduce::sum);
        std::size_t different = 0;
        for (std::size_t i = 0; i < n; i += n > 10000 ? 997 : 1) {
            float expected = noise(0, i);
            for (int r = 1; r < grid.size(); ++r) expected += noise(r, i);
            different += data[i] != expected;
        }
        BOOST_TEST(different == 0u);
    }
}

BOOST_AUTO_TEST_CASE(small_exchanges) {
    const Grid grid(MPI_COMM_WORLD, 1);
    Communicator& world = grid.world();
    const int size = world.size(), rank = world.rank();
    BOOST_TEST(world.sum(std::int64_t{rank + 1}) == size * (size + 1) / 2);
    BOOST_TEST(world.max(rank * 1.5) == (size - 1) * 1.5);
    BOOST_TEST(world.min(rank * 1.5) == 0.0);
    BOOST_TEST(world.broadcast(rank == size - 1 ? "from the last" : "", size - 1) ==
               "from the last");
    const auto all = world.all_gather(std::string(static_cast<std::size_t>(rank), 'a' + rank));
    for (int r = 0; r < size; ++r)
        BOOST_TEST(all[static_cast<std::size_t>(r)] ==
                   std::string(static_cast<std::size_t>(r), static_cast<char>('a' + r)));
}

/// What rank `from` sends to rank `to`: as many bytes as the pair makes, often none.
std::string letter(int from, int to, int round) {
    const int n = (3 * from + 5 * to + round) % 4 * (round == 3 ? 40000 : 1);
    return std::string(static_cast<std::size_t>(n), static_cast<char>('a' + 7 * from + to));
}

BOOST_AUTO_TEST_CASE(blocks_of_any_size_go_from_all_to_all) {
    const Grid grid(MPI_COMM_WORLD, 1);
    Communicator& world = grid.world();
    for (int round = 0; round < 4; ++round) {
        std::string send, wanted;
        std::vector<std::int64_t> send_offsets{0}, recv_offsets{0};
        for (int r = 0; r < world.size(); ++r) {
            send += letter(world.rank(), r, round);
            wanted += letter(r, world.rank(), round);
            send_offsets.push_back(std::ssize(send));
            recv_offsets.push_back(std::ssize(wanted));
        }
        std::string got(wanted.size() + 3, '?');  // what lies behind stays
        world.all_to_all(std::as_bytes(std::span(send)), send_offsets,
                         std::as_writable_bytes(std::span(got)), recv_offsets);
        BOOST_TEST(got == wanted + "???");
    }
    // Nothing at all, from nowhere.
    const std::vector<std::int64_t> none(static_cast<std::size_t>(world.size()) + 1, 0);
    BOOST_CHECK_NO_THROW(world.all_to_all({}, none, {}, none));
    // Blocks that do not lie one behind the other from the start of the memory.
    std::string send(static_cast<std::size_t>(2 + world.size()), '-');
    std::vector<std::int64_t> offsets{2};
    for (int r = 0; r < world.size(); ++r) {
        send[static_cast<std::size_t>(2 + r)] = static_cast<char>('a' + world.rank());
        offsets.push_back(3 + r);
    }
    std::string got(send.size(), '?');
    world.all_to_all(std::as_bytes(std::span(send)), offsets, std::as_writable_bytes(std::span(got)), offsets);
    std::string wanted = "??";
    for (int r = 0; r < world.size(); ++r) wanted += static_cast<char>('a' + r);
    BOOST_TEST(got == wanted);
}

// Blocks of any size, some empty, some longer than what is exchanged at once, behind elements that belong to none;
// the sum goes in rank order, so its bits are those of a loop.
BOOST_AUTO_TEST_CASE(a_block_becomes_its_sum_on_its_rank) {
    const Grid grid(MPI_COMM_WORLD, 1);
    Communicator& world = grid.world();
    // Whole numbers of several magnitudes: their sums have rounding, and no product that a compiler could join to it.
    const auto value = [](int rank, std::size_t i) { return static_cast<float>((i % 1000 + 1) << (7 * rank % 20)); };
    for (const std::int64_t length : {0, 1, 3, 1000, 300000}) {
        std::vector<std::int64_t> offsets{2};
        for (int r = 0; r < world.size(); ++r) offsets.push_back(offsets.back() + (r % 3 == 1 ? length / 3 : length + r));
        std::vector<float> data(static_cast<std::size_t>(offsets.back()) + 3);
        for (std::size_t i = 0; i < data.size(); ++i) data[i] = value(world.rank(), i);
        world.reduce_scatter_blocks(data, offsets);
        const auto me = static_cast<std::size_t>(world.rank());
        for (auto i = static_cast<std::size_t>(offsets[me]); i < static_cast<std::size_t>(offsets[me + 1]); ++i) {
            float sum = value(0, i);
            for (int r = 1; r < world.size(); ++r) sum += value(r, i);
            BOOST_REQUIRE(data[i] == sum);
        }
    }
    std::vector<float> small(2);
    const std::vector<std::int64_t> beyond(static_cast<std::size_t>(world.size()) + 1, 3);
    BOOST_CHECK_THROW(world.reduce_scatter_blocks(small, beyond), InternalError);
}

BOOST_AUTO_TEST_CASE(experts_are_split_inside_data) {
    int size = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int tensor = 1; tensor <= size; tensor *= 2)
        for (int expert = 1; expert <= size / tensor; expert *= 2) {
            const Grid grid(MPI_COMM_WORLD, tensor, expert);
            BOOST_TEST(grid.data_size() == size / tensor);
            BOOST_TEST(grid.expert_size() == expert);
            BOOST_TEST(grid.expert_data().size() == grid.data_size() / expert);
            BOOST_TEST(grid.expert_rank() == grid.data_rank() % expert);
            BOOST_TEST(grid.expert_data().rank() == grid.data_rank() / expert);
            BOOST_TEST(grid.rank() == grid.data_rank() * tensor + grid.tensor_rank());
            // Who is in a group: neighbouring data ranks of one column; those of one expert rank.
            const auto of = [&](int data_rank) { return data_rank * tensor + grid.tensor_rank(); };
            std::int64_t neighbours = 0, holders = 0;
            for (int d = 0; d < grid.data_size(); ++d) {
                if (d / expert == grid.data_rank() / expert) neighbours += 1 << of(d);
                if (d % expert == grid.expert_rank()) holders += 1 << of(d);
            }
            BOOST_TEST(grid.expert().sum(std::int64_t{1} << grid.rank()) == neighbours);
            BOOST_TEST(grid.expert_data().sum(std::int64_t{1} << grid.rank()) == holders);
        }
    BOOST_CHECK_THROW(Grid(MPI_COMM_WORLD, 1, size + 1), DeckError);
    BOOST_CHECK_THROW(Grid(MPI_COMM_WORLD, 1, 0), DeckError);
    BOOST_CHECK_THROW(Grid::planned(6, 1, 4), DeckError);
    const Grid planned = Grid::planned(8, 2, 4);
    BOOST_TEST((planned.size() == 16 && planned.expert_size() == 4 && planned.expert_data().size() == 2));
}

BOOST_AUTO_TEST_CASE(grid_has_tensor_ranks_as_neighbours) {
    int size = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int tensor = 1; tensor <= size; tensor *= 2) {
        const Grid grid(MPI_COMM_WORLD, tensor);
        BOOST_TEST(grid.tensor_size() == tensor);
        BOOST_TEST(grid.data_size() == size / tensor);
        BOOST_TEST(grid.rank() == grid.data_rank() * tensor + grid.tensor_rank());
    }
    BOOST_CHECK_THROW(Grid(MPI_COMM_WORLD, size + 1), DeckError);
    const Grid planned = Grid::planned(8, 4);
    BOOST_TEST(planned.size() == 32);
    BOOST_CHECK_THROW(planned.world().barrier(), InternalError);
}

BOOST_AUTO_TEST_CASE(all_ranks_learn_of_a_stop_at_the_same_step) {
    StopPoll never(MPI_COMM_WORLD, 0, 0, "");
    never.begin_step();
    BOOST_TEST((never.end_step() == StopRequest::none));
    StopPoll soon(MPI_COMM_WORLD, 1, 3600, "");
    soon.begin_step();
    BOOST_TEST((soon.end_step() == StopRequest::soon));
}

BOOST_AUTO_TEST_CASE(a_first_step_that_leaves_no_time_for_another_is_the_last) {
    StopPoll poll(MPI_COMM_WORLD, 100, 0, "");
    poll.begin_step();
    poll.observe_step(51);
    BOOST_TEST((poll.end_step() == StopRequest::soon));
}

BOOST_AUTO_TEST_CASE(before_a_step_was_measured_there_is_no_margin) {
    StopPoll poll(MPI_COMM_WORLD, 100, 0, "");
    poll.observe_checkpoint(60);  // a guess: nothing has been written yet
    BOOST_TEST((poll.ask() == StopRequest::none));
    poll.observe_step(1);
    BOOST_TEST((poll.ask() == StopRequest::soon));
}

BOOST_AUTO_TEST_CASE(a_file_asks_for_one_checkpoint_on_all_ranks) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    // Rank 0 alone looks for it.
    const std::string file = fmt::format("checkpoint_now.{}.{}", getpid(), rank);
    if (rank == 0) std::ofstream(file).put('\n');
    StopPoll poll(MPI_COMM_WORLD, 0, 0, "", file);
    poll.begin_step();
    BOOST_TEST((poll.end_step() == StopRequest::none));
    BOOST_TEST((poll.ask() == StopRequest::none));
    BOOST_TEST(poll.take_checkpoint_request());
    BOOST_TEST(!std::filesystem::exists(file));
    poll.begin_step();
    BOOST_TEST((poll.end_step() == StopRequest::none));
    BOOST_TEST(!poll.take_checkpoint_request());
}

BOOST_AUTO_TEST_CASE(who_stands_still) {
    const std::vector<std::string> hosts = {"a", "b", "c"};
    const std::string first = "0 in phase train.forward, in all_reduce over `data`\n";
    const std::string third = "2 in phase train.forward, in all_reduce over `data`\n";
    BOOST_TEST(who_stalls(third + first, hosts) ==
               "the others wait for rank 1 host b: said nothing; stopped, dead or cut off");
    BOOST_TEST(who_stalls(first + third + "1 in phase data.read, after broadcast over `start`\n", hosts) ==
               "the others wait for rank 1 host b: in no exchange with them");
    BOOST_TEST(who_stalls(first + third + "1 in phase data.read, in barrier over `world`\n", hosts) == "");
    BOOST_TEST(who_stalls("", hosts) == "");
    BOOST_TEST(who_stalls("0 in phase start, in x over `y`\n", std::vector<std::string>(100, "h")).find("and 91 more") !=
               std::string::npos);
}

}  // namespace gradus
