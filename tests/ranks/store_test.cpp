// SPDX-License-Identifier: Apache-2.0
// Checkpoints of several ranks: written at one layout and read at another, errors that all ranks
// see.
#define BOOST_TEST_MODULE ranks_store
#include <sys/resource.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <csignal>
#include <filesystem>
#include <numeric>
#include <vector>

#include "../mpi_fixture.hpp"
#include "gradus/base/error.hpp"
#include "gradus/ranks/grid.hpp"
#include "gradus/store/checkpoint.hpp"

namespace gradus {
namespace {

namespace fs = std::filesystem;

using test::Mpi;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);

/// A folder that all ranks see; the last one to leave removes it.
struct SharedFolder {
    SharedFolder() {
        if (grid.rank() == 0) {
            std::string name = (fs::temp_directory_path() / "gradus-ranks-XXXXXX").string();
            path = mkdtemp(name.data()) != nullptr ? name : "";
        }
        path = grid.world().broadcast(path, 0);
    }
    ~SharedFolder() {
        grid.world().barrier();
        std::error_code ignored;
        if (grid.rank() == 0) fs::remove_all(path, ignored);
    }
    Grid grid{MPI_COMM_WORLD, 1};
    std::string path;
};

float element(std::int64_t i) {
    return static_cast<float>(i % 16777216);
}

/// This rank's part of [rows, columns]: by rows, by columns, or all of it on the last rank.
struct Part {
    Part(const Grid& grid, std::int64_t rows, std::int64_t columns, const std::string& cut) {
        const std::int64_t r = grid.rank(), n = grid.size();
        if (cut == "rows") box = {{rows * r / n, 0}, {rows * (r + 1) / n - rows * r / n, columns}};
        if (cut == "columns")
            box = {{0, columns * r / n}, {rows, columns * (r + 1) / n - columns * r / n}};
        if (cut == "last") box = {{0, 0}, {r == n - 1 ? rows : 0, columns}};
        for (std::int64_t i = 0; i < box.count[0]; ++i)
            for (std::int64_t j = 0; j < box.count[1]; ++j)
                values.push_back(element((box.offset[0] + i) * columns + box.offset[1] + j));
        slab = {.tensor = "weights/" + cut,
                .global = {rows, columns},
                .box = box,
                .data = values.data()};
    }
    Box box;
    std::vector<float> values;
    Slab slab;
};

std::string message_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const CheckpointError& error) {
        return error.what();
    }
    return "";
}

/// Calls poll() as a run does until nothing is left to commit; how often.
int poll_until(CheckpointWriter& writer, const std::string& name, const Grid& grid) {
    int calls = 0;
    for (std::int64_t there = 0; there == 0 && calls < 20000; ++calls) {
        writer.poll();
        there = grid.world().sum(std::int64_t{fs::exists(name)});
        usleep(500);
    }
    return calls;
}

}  // namespace

BOOST_AUTO_TEST_CASE(any_layout_is_read_at_any_other) {
    for (const bool background : {false, true}) {
        SharedFolder folder;
        constexpr std::int64_t rows = 501, columns = 1003;
        auto device = make_cpu_device();
        Arena arena(device.get());
        CheckpointWriter writer(folder.grid.world(),
                                {.run_dir = folder.path, .background = background},
                                3 * rows * columns * 4, arena);
        std::vector<Part> parts;
        std::vector<Slab> slabs;
        for (const char* cut : {"rows", "columns", "last"})
            parts.emplace_back(folder.grid, rows, columns, cut);
        for (const Part& part : parts) slabs.push_back(part.slab);
        writer.write(4, slabs, {{"at", 4}}, "deck");
        if (background)
            BOOST_TEST(poll_until(writer, folder.path + "/latest", folder.grid) < 20000);
        folder.grid.world().barrier();
        const std::string found =
            find_checkpoint(folder.path, [](auto& text) { BOOST_ERROR(text); });
        BOOST_TEST(found == folder.path + "/chk0000004");
        const CheckpointReader reader(found);
        for (const char* stored : {"rows", "columns", "last"})
            for (const char* wanted : {"rows", "columns", "last"}) {
                const Part part(folder.grid, rows, columns, wanted);
                std::vector<float> back(part.values.size(), -1.0f);
                reader.read(std::string("weights/") + stored, part.box, back.data());
                BOOST_TEST((back == part.values), stored << " read by " << wanted);
            }
        writer.finish();
    }
}

BOOST_AUTO_TEST_CASE(all_ranks_see_the_same_error) {
    SharedFolder folder;
    Communicator& world = folder.grid.world();
    auto device = make_cpu_device();
    Arena arena(device.get());
    CheckpointWriter writer(world, {.run_dir = folder.path}, 1 << 20, arena);
    // The last rank's box reaches into the one before, or leaves a gap.
    for (const std::int64_t shift : {-1, 1}) {
        Part part(folder.grid, 100, 10, "rows");
        if (folder.grid.rank() == folder.grid.size() - 1) {
            part.slab.box.offset = {part.box.offset[0] + shift, 0};
            part.slab.box.count = {part.box.count[0] - std::max<std::int64_t>(shift, 0), 10};
        }
        const std::string error = message_of([&] { writer.write(1, {part.slab}, {}, ""); });
        BOOST_TEST(error.find("weights/rows") != std::string::npos, error);
        for (const std::string& other : world.all_gather(error)) BOOST_TEST(other == error);
        BOOST_TEST(!fs::exists(folder.path + "/chk0000001.tmp"));
    }
}

BOOST_AUTO_TEST_CASE(a_failure_on_one_rank_ends_the_checkpoint_on_all) {
    for (const bool background : {false, true}) {
        SharedFolder folder;
        Communicator& world = folder.grid.world();
        auto device = make_cpu_device();
        Arena arena(device.get());
        CheckpointWriter writer(world, {.run_dir = folder.path, .background = background}, 8 << 20,
                                arena);
        const Part part(folder.grid, 1000, 1000, "rows");
        writer.write(1, {part.slab}, {}, "");
        writer.finish();
        // Only the last rank cannot write.
        signal(SIGXFSZ, SIG_IGN);
        rlimit old = {};
        getrlimit(RLIMIT_FSIZE, &old);
        const rlimit small = {100000, old.rlim_max};
        if (folder.grid.rank() == folder.grid.size() - 1) setrlimit(RLIMIT_FSIZE, &small);
        const std::string error = message_of([&] {
            writer.write(2, {part.slab}, {}, "");
            for (int i = 0; i < 20000; ++i, usleep(500)) writer.poll();
        });
        setrlimit(RLIMIT_FSIZE, &old);
        BOOST_TEST(error.find("File too large") != std::string::npos, error);
        for (const std::string& other : world.all_gather(error)) BOOST_TEST(other == error);
        BOOST_TEST(!fs::exists(folder.path + "/chk0000002.tmp"));
        BOOST_TEST(find_checkpoint(folder.path, [](auto& text) { BOOST_ERROR(text); }) ==
                   folder.path + "/chk0000001");
        world.barrier();
        writer.write(3, {part.slab}, {}, "");
        writer.finish();
        BOOST_TEST(
            verify_checkpoint(folder.path + "/chk0000003", [](auto& text) { BOOST_ERROR(text); }));
    }
}

BOOST_AUTO_TEST_CASE(a_missing_shard_of_one_rank_is_named) {
    SharedFolder folder;
    auto device = make_cpu_device();
    Arena arena(device.get());
    CheckpointWriter writer(folder.grid.world(), {.run_dir = folder.path}, 1 << 20, arena);
    const Part part(folder.grid, 100, 10, "rows");
    writer.write(1, {part.slab}, {}, "");
    writer.finish();
    const int last = folder.grid.size() - 1;
    const std::string shard = fmt::format("{}/chk0000001/shard_{:05}.h5", folder.path, last);
    if (folder.grid.rank() == 0) fs::remove(shard);
    folder.grid.world().barrier();
    std::vector<float> out(1000);
    const std::string error = message_of([&] {
        CheckpointReader(folder.path + "/chk0000001")
            .read("weights/rows", {{0, 0}, {100, 10}}, out.data());
    });
    BOOST_TEST(error.find(shard) != std::string::npos, error);
    BOOST_CHECK_THROW(find_checkpoint(folder.path, [](auto&) {}), CheckpointError);
}

}  // namespace gradus
