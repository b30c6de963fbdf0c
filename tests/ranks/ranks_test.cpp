// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE ranks
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <vector>

#include "../mpi_fixture.hpp"
#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/ranks/grid.hpp"
#include "gradus/ranks/session.hpp"
#include "gradus/ranks/stop_poll.hpp"

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

}  // namespace gradus
