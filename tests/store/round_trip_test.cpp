// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "store_fixture.hpp"

namespace gradus {
namespace {

const Json kState = {
    {"stage", "rl"}, {"seed", 18446744073709551615ull}, {"list", {1, 2.5, nullptr}}};
const std::string kDeck = "stage = rl\nmodel.width = 64   # \xc3\xa9t\xc3\xa9\n";

/// `parts` slabs of a [rows, columns] tensor, cut in rows or in columns, and their memory.
struct Cut {
    Cut(const std::string& name, std::int64_t rows, std::int64_t columns, int parts, bool by_rows) {
        memory.resize(static_cast<std::size_t>(parts));
        for (int p = 0; p < parts; ++p) {
            const std::int64_t n = by_rows ? rows : columns;
            const std::int64_t a = n * p / parts, b = n * (p + 1) / parts;
            const Box box = by_rows ? Box{{a, 0}, {b - a, columns}} : Box{{0, a}, {rows, b - a}};
            std::vector<float>& part = memory[static_cast<std::size_t>(p)];
            for (std::int64_t i = 0; i < box.count[0]; ++i)
                for (std::int64_t j = 0; j < box.count[1]; ++j)
                    part.push_back(value_at((box.offset[0] + i) * columns + box.offset[1] + j, 5));
            slabs.push_back(
                {.tensor = name, .global = {rows, columns}, .box = box, .data = part.data()});
        }
    }
    std::vector<std::vector<float>> memory;
    std::vector<Slab> slabs;
};

/// Elements of `box` that differ from what was written.
std::int64_t wrong_elements(const CheckpointReader& reader, const std::string& name,
                            const Box& box) {
    const Shape global = reader.info(name).global;
    std::vector<float> out(static_cast<std::size_t>(box.elements()), -1.0f);
    reader.read(name, box, out.data());
    std::int64_t wrong = 0, at = 0;
    for (std::int64_t i = 0; i < box.count[0]; ++i)
        for (std::int64_t j = 0; j < box.count[1]; ++j, ++at)
            wrong += out[static_cast<std::size_t>(at)] !=
                     value_at((box.offset[0] + i) * global[1] + box.offset[1] + j, 5);
    return wrong;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(checkpoint_round_trip)

BOOST_AUTO_TEST_CASE(every_bit_comes_back) {
    for (const bool background : {false, true}) {
        const Folder folder;
        Store store({.run_dir = folder.path, .background = background});
        std::vector<std::uint32_t> bits(100003);  // NaN payloads and denormals among them
        for (std::size_t i = 0; i < bits.size(); ++i)
            bits[i] = static_cast<std::uint32_t>(i * 2654435761u);
        std::vector<std::uint16_t> halves(65536);
        for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
        std::vector<std::int32_t> whole_numbers{-2147483647 - 1, 0, 2147483647};
        const float scalar = 3.25f;
        std::vector<Slab> slabs = {{.tensor = "weights/a",
                                    .dtype = DType::f32,
                                    .global = {100003},
                                    .box = {{0}, {100003}},
                                    .data = bits.data()},
                                   {.tensor = "weights/b",
                                    .dtype = DType::bf16,
                                    .global = {4, 64, 256},
                                    .box = {{0, 0, 0}, {4, 64, 256}},
                                    .data = halves.data()},
                                   {.tensor = "rollout/n",
                                    .dtype = DType::i32,
                                    .global = {3},
                                    .box = {{0}, {3}},
                                    .data = whole_numbers.data()},
                                   {.tensor = "scalar", .dtype = DType::f32, .data = &scalar}};
        store.writer.write(12, slabs, kState, kDeck);
        store.writer.finish();

        BOOST_TEST(find_checkpoint(folder.path, [](auto& text) { BOOST_ERROR(text); }) ==
                   folder / "chk0000012");
        const CheckpointReader reader(folder / "chk0000012");
        BOOST_TEST(reader.step() == 12);
        BOOST_TEST((reader.state() == kState));
        BOOST_TEST(reader.deck() == kDeck);
        BOOST_TEST(reader.tensors().size() == 4u);
        BOOST_TEST((reader.info("weights/b").dtype == DType::bf16));
        BOOST_TEST((reader.info("weights/b").global == Shape{4, 64, 256}));
        BOOST_TEST(reader.has("scalar"));
        BOOST_TEST(!reader.has("weights"));
        std::vector<std::uint32_t> bits_back(bits.size());
        reader.read("weights/a", {{0}, {100003}}, bits_back.data());
        BOOST_TEST((bits_back == bits));
        std::vector<std::uint16_t> halves_back(halves.size());
        reader.read("weights/b", {{0, 0, 0}, {4, 64, 256}}, halves_back.data());
        BOOST_TEST((halves_back == halves));
        std::vector<std::int32_t> numbers_back(3);
        reader.read("rollout/n", {{0}, {3}}, numbers_back.data());
        BOOST_TEST((numbers_back == whole_numbers));
        float scalar_back = 0;
        reader.read("scalar", {}, &scalar_back);
        BOOST_TEST(scalar_back == scalar);
    }
}

BOOST_AUTO_TEST_CASE(any_box_of_any_layout) {
    constexpr std::int64_t rows = 1000, columns = 1537;  // 6 KB a row: several blocks a box
    const Box boxes[] = {{{0, 0}, {rows, columns}}, {{0, 0}, {1, 1}},
                         {{999, 1536}, {1, 1}},     {{170, 0}, {171, columns}},
                         {{0, 700}, {rows, 200}},   {{333, 511}, {334, 513}},
                         {{499, 767}, {2, 3}},      {{10, 10}, {0, 5}}};
    for (const int parts : {1, 2, 4})
        for (const bool by_rows : {true, false}) {
            const Folder folder;
            Store store({.run_dir = folder.path, .background = true});
            const Cut cut("weights/w", rows, columns, parts, by_rows);
            store.writer.write(1, cut.slabs, {}, "");
            store.writer.finish();
            for (const Verify verify : {Verify::none, Verify::touched, Verify::full}) {
                const CheckpointReader reader(folder / "chk0000001", verify);
                for (const Box& box : boxes)
                    BOOST_TEST(wrong_elements(reader, "weights/w", box) == 0,
                               parts << " parts, box " << box.text());
            }
        }
}

BOOST_AUTO_TEST_CASE(what_is_copied_may_change_at_once) {
    const Folder folder;
    Store store({.run_dir = folder.path, .background = true});
    std::vector<float> values = ramp(1 << 20, 1);
    const std::vector<float> before = values;
    store.writer.write(3, {whole("w", {1 << 20}, values)}, {}, "");
    std::fill(values.begin(), values.end(), -1.0f);
    for (int i = 0; i < 2000 && !std::filesystem::exists(folder / "latest"); ++i) {
        store.writer.poll();
        usleep(1000);
    }
    BOOST_TEST(read_file(folder / "latest") == "chk0000003\n");
    store.writer.finish();
    const CheckpointReader reader(folder / "chk0000003");
    reader.read("w", {{0}, {1 << 20}}, values.data());
    BOOST_TEST((values == before));
    BOOST_TEST(store.writer.total_seconds() > 0);
    BOOST_TEST(store.writer.exposed_seconds() > 0);
}

BOOST_AUTO_TEST_CASE(equal_contents_give_equal_bytes) {
    const Folder first, second;
    const std::vector<float> values = ramp(300000, 2), other = ramp(12, 3);
    for (const Folder* folder : {&first, &second}) {
        Store store({.run_dir = folder->path, .background = folder == &second});
        store.writer.write(
            7, {whole("weights/w", {300, 1000}, values), whole("adam_m/x", {3, 4}, other)}, kState,
            kDeck);
        store.writer.finish();
        usleep(1100000);  // object times have seconds
    }
    for (const char* name : {"index.h5", "shard_00000.h5"}) {
        const std::string a = read_file(first / fmt::format("chk0000007/{}", name));
        BOOST_TEST(a.size() > 2000u);
        BOOST_TEST((a == read_file(second / fmt::format("chk0000007/{}", name))), name);
    }
}

BOOST_AUTO_TEST_CASE(h5dump_shows_whole_tensors) {
    if (!have_h5dump()) {
        BOOST_TEST_MESSAGE("skipped: h5dump is not installed");
        return;
    }
    const Folder folder;
    Store store({.run_dir = folder.path, .background = false});
    const Cut cut("weights/w", 4, 6, 2, false);
    const std::uint16_t half[2] = {0x3fc0, 0xc2f7};  // 1.5, -123.5
    std::vector<Slab> slabs = cut.slabs;
    slabs.push_back({.tensor = "weights/h",
                     .dtype = DType::bf16,
                     .global = {2},
                     .box = {{0}, {2}},
                     .data = half});
    store.writer.write(1, slabs, {{"rollouts", 42}}, "stage = rl\n");
    const std::string index = folder / "chk0000001/index.h5";
    const std::string values = run_command("h5dump -m %.0f -d /tensors/weights/w " + index);
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 6; ++j) {
            const std::string element =
                fmt::format("({},{}): {:.0f}", i, j, value_at(6 * i + j, 5));
            BOOST_TEST(contains(values, element), values << "\nhas no " << element);
        }
    const std::string halves = run_command("h5dump -d /tensors/weights/h " + index);
    BOOST_TEST(contains(halves, "1.5, -123.5"), halves);
    BOOST_TEST(contains(run_command("h5dump -d /state " + index), "rollouts"));
    BOOST_TEST(contains(run_command("h5dump -d /deck " + index), "stage = rl"));
}

BOOST_AUTO_TEST_CASE(more_than_was_announced_is_written_all_the_same) {
    const Folder folder;
    Store store({.run_dir = folder.path, .background = true}, 100);
    const std::vector<float> values = ramp(5000, 4);
    store.writer.write(1, {whole("w", {5000}, values)}, {}, "");
    store.writer.finish();
    std::vector<float> back(5000);
    CheckpointReader(folder / "chk0000001").read("w", {{0}, {5000}}, back.data());
    BOOST_TEST((back == values));
}

BOOST_AUTO_TEST_CASE(open_files_do_not_grow) {
    const Folder folder;
    auto open_files = [] {
        return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
    };
    Store store({.run_dir = folder.path, .keep = 1, .background = true});
    const std::vector<float> values = ramp(1000, 4);
    std::vector<float> back(1000);
    std::ptrdiff_t before = 0;
    for (int step = 1; step <= 50; ++step) {
        store.writer.write(step, {whole("w", {1000}, values)}, {}, "");
        store.writer.finish();
        CheckpointReader(find_checkpoint(folder.path, [](auto&) {
        })).read("w", {{0}, {1000}}, back.data());
        if (step == 1) before = open_files();
    }
    BOOST_TEST(open_files() == before);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
