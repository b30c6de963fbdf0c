// SPDX-License-Identifier: Apache-2.0
// A checkpoint of every grid read at every other: training goes on alike, and state that has been at another grid
// comes back as the same bytes. Four ranks; smaller grids use the first of them.
#include <mpi.h>

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>

#include "../mpi_fixture.hpp"
#include "../train/tiny.hpp"

namespace gradus {
namespace {

using test::Mpi;
using test::Tiny;
using test::tiny_batch;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);

struct Layout {
    int data, tensor, expert = 1;
    std::string text() const { return fmt::format("{}x{}x{}", data, tensor, expert); }
    int ranks() const { return data * tensor; }
};

/// The first ranks of the world as a communicator of their own; MPI_COMM_NULL on the others.
struct Part {
    explicit Part(int ranks) {
        int rank = 0;
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        MPI_Comm_split(MPI_COMM_WORLD, rank < ranks ? 0 : MPI_UNDEFINED, rank, &comm);
    }
    ~Part() {
        if (comm != MPI_COMM_NULL) MPI_Comm_free(&comm);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    MPI_Comm comm = MPI_COMM_NULL;
};

/// A run folder that all ranks of the world see.
struct SharedFolder {
    SharedFolder() {
        const Grid world(MPI_COMM_WORLD, 1);
        std::string name = (std::filesystem::temp_directory_path() / "gradus-reshard-XXXXXX").string();
        if (world.rank() == 0) path = mkdtemp(name.data()) != nullptr ? name : "";
        path = world.world().broadcast(path);
    }
    ~SharedFolder() {
        int rank = 0;
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        MPI_Barrier(MPI_COMM_WORLD);
        std::error_code ignored;
        if (rank == 0) std::filesystem::remove_all(path, ignored);
    }
    std::string path;
};

struct Kind {
    const char* name;
    ModelConfig config;
    test::MoreLosses more;
};

/// What to do at a layout: from a checkpoint (or the first weights), write one without a step between, then train.
struct Visit {
    std::string from, to;  ///< folders of runs; "" none
    std::int64_t first = 0;
    int before = 0, after = 0;  ///< steps before `to` is written and after it
};

/// Losses of the steps after; empty on ranks that the layout leaves out.
std::vector<double> visit(const Kind& kind, const Layout& layout, const Visit& what) {
    const Part part(layout.ranks());
    std::vector<double> losses;
    if (part.comm == MPI_COMM_NULL) return losses;
    const Grid grid(part.comm, layout.tensor, layout.expert);
    Tiny tiny(grid, 64, {}, false, kind.config, kind.more);
    if (!what.from.empty()) {
        const CheckpointReader reader(what.from + "/chk0000001");
        load_parameters(tiny.parameters, reader, "weights", *tiny.ops);
        tiny.optimizer.load_masters(reader);
        tiny.optimizer.load(reader, what.first);
    }
    for (int i = 0; i < what.before + what.after; ++i) {
        if (i == what.before && !what.to.empty()) test::write_checkpoint(tiny, what.to, 1);
        const auto step = static_cast<std::uint64_t>(what.first + i);
        const auto result = tiny.trainer.next_token_step(tiny_batch(24, step), 3e-3);
        if (i >= what.before) losses.push_back(result.loss);
    }
    if (what.after == 0 && !what.to.empty()) test::write_checkpoint(tiny, what.to, 1);
    return losses;
}

/// All tensors of a checkpoint: weights (masters), moments.
std::map<std::string, std::string> state(const std::string& run_dir) {
    const CheckpointReader reader(run_dir + "/chk0000001", Verify::full);
    std::map<std::string, std::string> tensors;
    for (const auto& info : reader.tensors()) {
        const std::int64_t none[4] = {};
        std::string bytes(static_cast<std::size_t>(info.global.elements() * size_of(info.dtype)), '\0');
        reader.read(info.name, {make_shape(info.global.rank(), none), info.global}, bytes.data());
        tensors[info.name] = std::move(bytes);
    }
    return tensors;
}

void check_matrix(const Kind& kind, const std::vector<Layout>& layouts) {
    constexpr int kBefore = 3, kAfter = 5;
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    double most = 0;
    for (const Layout& a : layouts) {
        const SharedFolder folder;
        const std::string at_a = folder.path + "/a";
        const std::vector<double> there = visit(kind, a, {.to = at_a, .before = kBefore, .after = kAfter});
        for (const Layout& b : layouts) {
            const std::string name = fmt::format("{}: {} -> {}", kind.name, a.text(), b.text());
            const std::string at_b = folder.path + "/b" + b.text(), back = folder.path + "/back" + b.text();
            const std::vector<double> losses =
                visit(kind, b, {.from = at_a, .to = at_b, .first = kBefore, .after = kAfter});
            visit(kind, a, {.from = at_b, .to = back, .first = kBefore});
            if (rank != 0) continue;
            BOOST_REQUIRE(losses.size() == kAfter && there.size() == kAfter);
            for (std::size_t i = 0; i < kAfter; ++i) {
                const double difference = std::abs(losses[i] - there[i]) / std::abs(there[i]);
                most = std::max(most, difference);
                BOOST_TEST(difference < 1e-4, name << ", step " << i << ": " << losses[i] << ", not " << there[i]);
            }
            const auto first = state(at_a), second = state(at_b), third = state(back);
            BOOST_TEST(first.contains("adam_m/model.norm.weight"));
            BOOST_TEST(first.contains("adam_v/model.norm.weight"));
            BOOST_TEST((first == second), name << ": the other grid holds other bytes");
            BOOST_TEST((first == third), name << ": other bytes come back");
        }
    }
    if (rank == 0) BOOST_TEST_MESSAGE(kind.name << ": largest relative difference of a loss " << most);
}

}  // namespace

BOOST_AUTO_TEST_CASE(any_grid_reads_any_other) {
    check_matrix({"dense", test::tiny_config(), {}}, {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}});
}

BOOST_AUTO_TEST_CASE(experts_too) {
    check_matrix({"experts", test::tiny_experts(), {.balance_coef = 0.01, .router_bias_rate = 0.01, .mtp_coef = 0.1}},
                 {{1, 1}, {2, 1, 2}, {2, 2, 2}, {4, 1, 4}});
}

}  // namespace gradus
