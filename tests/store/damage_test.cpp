// SPDX-License-Identifier: Apache-2.0
// What the outside can do to a checkpoint: every damage is an error with the file's name, and the
// checkpoint before it is still found.
#include <cstring>

#include "../../src/store/checkpoint_format.hpp"
#include "../../src/store/hdf5.hpp"
#include "store_fixture.hpp"

// HDF5 1.10 itself loses some 400 bytes with each damaged file that it refuses.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace gradus {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kRows = 700, kColumns = 1000;

/// A run with checkpoints of steps 1 and 2 in two boxes.
struct TwoCheckpoints {
    TwoCheckpoints() {
        Store store({.run_dir = folder.path, .keep = 5, .background = false});
        for (const std::int64_t step : {1, 2})
            store.writer.write(step, slabs(), {{"at", step}}, "deck");
    }
    std::vector<Slab> slabs() const {
        return {whole("weights/w", {kRows, kColumns}, values), whole("weights/v", {16}, small)};
    }
    std::string second(const std::string& file) const {
        return folder / fmt::format("chk0000002/{}", file);
    }
    std::string found(std::string* notes = nullptr) const {
        std::string text;
        const std::string path = find_checkpoint(folder.path, [&](auto& note) { text += note; });
        if (notes != nullptr) *notes = text;
        return path;
    }
    std::string read_error(const std::string& tensor = "weights/w", Verify verify = Verify::touched,
                           Box box = {{0, 0}, {kRows, kColumns}}) const {
        return message_of<CheckpointError>([&] {
            std::vector<float> out(static_cast<std::size_t>(box.elements()));
            CheckpointReader(folder / "chk0000002", verify).read(tensor, box, out.data());
        });
    }
    /// Nothing about the first checkpoint has changed.
    void check_first() const {
        BOOST_TEST(verify_checkpoint(folder / "chk0000001", [](auto& text) { BOOST_ERROR(text); }));
        BOOST_TEST(find_checkpoint(folder / "chk0000001", [](auto&) {}) == folder / "chk0000001");
    }
    /// The second one is passed over, and that is told.
    void check_passed_over(const std::string& reason) const {
        std::string notes;
        BOOST_TEST(found(&notes) == folder / "chk0000001");
        BOOST_TEST(contains(notes, reason), notes);
        BOOST_TEST(contains(notes, "chk0000001"), notes);
        BOOST_CHECK_THROW(find_checkpoint(folder / "chk0000002", [](auto&) {}), CheckpointError);
        BOOST_TEST(!verify_checkpoint(folder / "chk0000002", [](auto&) {}));
        check_first();
    }

    Folder folder;
    std::vector<float> values = ramp(kRows * kColumns, 1), small = ramp(16, 2);
};

/// Where the bytes of `values` begin in a file.
std::int64_t data_offset(const std::string& path, const std::vector<float>& values) {
    const std::string content = read_file(path);
    const std::size_t at =
        content.find(std::string(reinterpret_cast<const char*>(values.data()), 64));
    BOOST_REQUIRE(at != std::string::npos);
    return static_cast<std::int64_t>(at);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(checkpoint_damage)

BOOST_AUTO_TEST_CASE(whole_ones_are_fine) {
    const TwoCheckpoints run;
    std::string notes;
    BOOST_TEST(run.found(&notes) == run.folder / "chk0000002");
    BOOST_TEST(notes.empty());
    BOOST_TEST(run.read_error().empty());
    BOOST_TEST(verify_checkpoint(run.folder / "chk0000002", [](auto& text) { BOOST_ERROR(text); }));
}

BOOST_AUTO_TEST_CASE(a_flipped_bit_in_the_data) {
    for (const std::int64_t row :
         {std::int64_t{0}, std::int64_t{1}, std::int64_t{350}, kRows - 1}) {
        const TwoCheckpoints run;
        const std::string path = run.second("shard_00000.h5");
        flip_byte(path, data_offset(path, run.values) + row * kColumns * 4 + 17);
        for (const Verify verify : {Verify::touched, Verify::full}) {
            const std::string error = run.read_error("weights/w", verify);
            BOOST_TEST(contains(error, "chk0000002/shard_00000.h5"), error);
            BOOST_TEST(contains(error, "weights/w"), error);
            // 1 MiB are 262 rows of 4000 bytes.
            const std::int64_t block = row / 262 * 262, end = std::min(kRows, block + 262) - 1;
            BOOST_TEST(contains(error, fmt::format("rows {} .. {}", block, end)), error);
        }
        // One row of the block is enough to notice; another block, another tensor are good.
        BOOST_TEST(!run.read_error("weights/w", Verify::touched, {{row, 3}, {1, 1}}).empty());
        const std::int64_t elsewhere = (row + 300) % kRows;
        BOOST_TEST(run.read_error("weights/w", Verify::touched, {{elsewhere, 3}, {1, 1}}).empty());
        BOOST_TEST(run.read_error("weights/v", Verify::touched, {{0}, {16}}).empty());
        BOOST_TEST(!run.read_error("weights/v", Verify::full, {{0}, {16}}).empty());
        BOOST_TEST(run.read_error("weights/w", Verify::none).empty());
        std::string said;
        BOOST_TEST(
            !verify_checkpoint(run.folder / "chk0000002", [&](auto& text) { said += text; }));
        BOOST_TEST(contains(said, "chk0000002/shard_00000.h5"), said);
        run.check_first();
    }
}

BOOST_AUTO_TEST_CASE(a_truncated_shard) {
    for (const double part : {0.0, 0.0001, 0.5, 0.999999}) {
        const TwoCheckpoints run;
        const std::string path = run.second("shard_00000.h5");
        const auto bytes = static_cast<double>(fs::file_size(path));
        fs::resize_file(path, static_cast<std::uintmax_t>(part * bytes));
        const std::string error = run.read_error();
        BOOST_TEST(contains(error, "chk0000002/shard_00000.h5"), error);
        BOOST_TEST(contains(error, "bytes"), error);
        run.check_passed_over("chk0000002/shard_00000.h5");
    }
}

BOOST_AUTO_TEST_CASE(a_missing_shard) {
    const TwoCheckpoints run;
    fs::remove(run.second("shard_00000.h5"));
    const std::string error = run.read_error();
    BOOST_TEST(contains(error, "chk0000002/shard_00000.h5"), error);
    BOOST_TEST(contains(error, "missing"), error);
    run.check_passed_over("shard_00000.h5 is missing");
}

BOOST_AUTO_TEST_CASE(a_missing_or_truncated_index) {
    for (const std::uintmax_t left : {0, 100, 512, 600, 5000}) {
        const TwoCheckpoints run;
        fs::resize_file(run.second("index.h5"), left);
        const std::string error = run.read_error();
        BOOST_TEST(contains(error, "chk0000002/index.h5"), error);
        run.check_passed_over("chk0000002/index.h5");
    }
    const TwoCheckpoints run;
    fs::remove(run.second("index.h5"));
    BOOST_TEST(contains(run.read_error(), "chk0000002/index.h5"));
    run.check_passed_over("chk0000002/index.h5");
}

BOOST_AUTO_TEST_CASE(any_flipped_byte_of_the_index) {
    const TwoCheckpoints run;
    const std::string path = run.second("index.h5");
    const auto bytes = static_cast<std::int64_t>(fs::file_size(path));
    int unnoticed = 0, tried = 0;
    for (std::int64_t at = 0; at < bytes; at += at < 600 ? 5 : 97, ++tried) {
        flip_byte(path, at);
        unnoticed += !contains(run.read_error(), "chk0000002/index.h5");
        unnoticed += run.found() != run.folder / "chk0000001";
        flip_byte(path, at);
    }
    BOOST_TEST(tried > 200);
    BOOST_TEST(unnoticed == 0);
    BOOST_TEST(run.read_error().empty());
}

BOOST_AUTO_TEST_CASE(any_flipped_byte_of_a_shard) {
    // HDF5's own structures too: an error or the right numbers, nothing else.
    const Folder folder;
    const std::vector<float> values = ramp(300, 1);
    {
        Store store({.run_dir = folder.path, .background = false});
        store.writer.write(1, {whole("weights/w", {30, 10}, values)}, {}, "");
    }
    const std::string path = folder / "chk0000001/shard_00000.h5";
    const auto bytes = static_cast<std::int64_t>(fs::file_size(path));
    const std::int64_t data = data_offset(path, values);
    int noticed = 0, silent = 0, nameless = 0;
    for (std::int64_t at = 0; at < bytes; ++at) {
        flip_byte(path, at);
        std::vector<float> out(300, -1.0f);
        const std::string error = message_of<CheckpointError>([&] {
            CheckpointReader(folder / "chk0000001")
                .read("weights/w", {{0, 0}, {30, 10}}, out.data());
        });
        noticed += !error.empty();
        nameless += !error.empty() && !contains(error, "chk0000001/shard_00000.h5");
        silent += error.empty() && (out != values || (at >= data && at < data + 1200));
        flip_byte(path, at);
    }
    BOOST_TEST(silent == 0);
    BOOST_TEST(nameless == 0);
    BOOST_TEST(noticed > 1400);  // 1200 bytes of data and the structures in use
}

BOOST_AUTO_TEST_CASE(latest_missing_damaged_or_wrong) {
    const TwoCheckpoints run;
    for (const std::string text :
         {"", "chk", "\x00\xff garbage", "../chk0000001", "chk0000009\n"}) {
        write_file_atomically(run.folder / "latest", text);
        std::string notes;
        BOOST_TEST(run.found(&notes) == run.folder / "chk0000002");
        BOOST_TEST(contains(notes, "chk0000002"), notes);
    }
    fs::remove(run.folder / "latest");
    std::string notes;
    BOOST_TEST(run.found(&notes) == run.folder / "chk0000002");
    BOOST_TEST(contains(notes, "latest"), notes);
    // `latest` counts, not the number.
    write_file_atomically(run.folder / "latest", "chk0000001\n");
    BOOST_TEST(run.found(&notes) == run.folder / "chk0000001");
    BOOST_TEST(notes.empty());
}

BOOST_AUTO_TEST_CASE(none_there_and_none_whole) {
    const Folder folder;
    auto silent = [](auto& text) { BOOST_ERROR(text); };
    BOOST_TEST(find_checkpoint(folder.path, silent).empty());
    BOOST_TEST(find_checkpoint(folder / "no such run", silent).empty());
    BOOST_TEST(find_checkpoint(folder / "chk0000001", silent).empty());
    const TwoCheckpoints run;
    for (const char* name : {"chk0000001", "chk0000002"})
        fs::remove(run.folder / name + "/index.h5");
    // A fresh start in silence would write over them.
    const std::string error = message_of<CheckpointError>([&] { run.found(); });
    BOOST_TEST(contains(error, "chk0000001/index.h5"), error);
    BOOST_TEST(contains(error, "chk0000002/index.h5"), error);
}

BOOST_AUTO_TEST_CASE(a_gap_in_the_index) {
    const TwoCheckpoints run;
    CheckpointIndex index = read_index(run.folder / "chk0000002");
    for (BoxRecord& box : index.shards[0].boxes)
        if (box.tensor == "weights/w") box.box = {{1, 0}, {kRows - 1, kColumns}};
    for (BoxRecord& box : index.shards[0].boxes)
        box.hashes.resize(static_cast<std::size_t>(box.blocks()));
    write_index(run.folder / "chk0000002", index);
    const std::string error = run.read_error();
    BOOST_TEST(contains(error, "chk0000002"), error);
    BOOST_TEST(contains(error, "weights/w"), error);
    BOOST_TEST(contains(error, "gap"), error);
}

BOOST_AUTO_TEST_CASE(a_shard_of_another_shape) {
    const TwoCheckpoints run;
    CheckpointIndex index = read_index(run.folder / "chk0000002");
    for (BoxRecord& box : index.shards[0].boxes)
        if (box.tensor == "weights/v") box.global = {4}, box.box = {{0}, {4}};
    write_index(run.folder / "chk0000002", index);
    const std::string error = run.read_error("weights/v", Verify::touched, {{0}, {4}});
    BOOST_TEST(contains(error, "chk0000002/shard_00000.h5"), error);
    BOOST_TEST(contains(error, "weights/v"), error);
}

BOOST_AUTO_TEST_CASE(a_box_outside_and_a_tensor_that_is_not_there) {
    const TwoCheckpoints run;
    for (const Box& box : {Box{{0, 0}, {kRows + 1, 1}}, Box{{kRows, 0}, {1, 1}}, Box{{0}, {1}}}) {
        const std::string error = run.read_error("weights/w", Verify::touched, box);
        BOOST_TEST(contains(error, "weights/w"), error);
        BOOST_TEST(contains(error, "[700, 1000]"), error);
    }
    BOOST_TEST(contains(run.read_error("weights/x"), "weights/x"));
}

BOOST_AUTO_TEST_CASE(another_format) {
    const TwoCheckpoints run;
    flip_byte(run.second("index.h5"), 24 + 7);  // the 1 of "format 1"
    const std::string error = run.read_error();
    BOOST_TEST(contains(error, "reads format 1"), error);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
