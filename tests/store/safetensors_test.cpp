// SPDX-License-Identifier: Apache-2.0
// Files and folders of safetensors: what is written comes back, and hand-made bytes of every kind
// of damage are refused with words that name file and tensor.
#include <cstring>
#include <filesystem>

#include "gradus/store/read_floats.hpp"
#include "gradus/store/safetensors.hpp"
#include "gradus/store/safetensors_writer.hpp"
#include "gradus/tensor/convert.hpp"
#include "store_fixture.hpp"

namespace gradus {
namespace {

std::string length_bytes(std::uint64_t n) {
    std::string bytes(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(n >> (8 * i) & 0xff);
    return bytes;
}
std::string file_of(const std::string& header, std::size_t data) {
    return length_bytes(header.size()) + header + std::string(data, '\x5a');
}
SafetensorsHeader parse(const std::string& bytes) {
    return parse_safetensors("f.safetensors", std::as_bytes(std::span(bytes)), std::ssize(bytes));
}
std::string refusal(const std::string& bytes) {
    return message_of<DataError>([&] { parse(bytes); });
}
std::string refusal(const std::string& header, std::size_t data) {
    return refusal(file_of(header, data));
}

void put(const std::string& path, const std::string& bytes) {
    std::ofstream out(path, std::ios::binary);
    out << bytes;
    BOOST_REQUIRE(out.good());
}

constexpr const char* kTwo = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]}})";

}  // namespace

BOOST_AUTO_TEST_SUITE(safetensors)

BOOST_AUTO_TEST_CASE(reads_what_the_format_allows) {
    const auto two = parse(file_of(kTwo, 12));
    BOOST_REQUIRE(two.entries.size() == 2u);
    BOOST_TEST(two.entries[1].name == "b");
    BOOST_TEST(two.entries[1].dtype == "BF16");
    BOOST_TEST((two.entries[1].shape == Shape{2, 1}));
    BOOST_TEST(two.entries[1].begin == 8);
    BOOST_TEST(two.data_bytes == 12);
    BOOST_TEST(two.text == kTwo);
    // Any order of tensors and keys, padding, metadata, scalars, empty tensors, whole numbers.
    const auto odd = parse(file_of(
        R"({ "__metadata__":{"format":"pt","":"x"},"z":{"data_offsets":[2,10],"dtype":"I64","shape":[]},)"
        R"("n":{"shape":[0,9223372036854775807,4],"dtype":"F32","data_offsets":[2,2]},)"
        R"("\u00e9":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}   )",
        10));
    BOOST_TEST(odd.metadata.at("format") == "pt");
    BOOST_REQUIRE(odd.entries.size() == 3u);
    BOOST_TEST(odd.entries[0].shape.rank() == 0);
    BOOST_TEST(odd.entries[2].name == "\xc3\xa9");
    BOOST_TEST(!float_dtype(odd.entries[0].dtype).has_value());
    BOOST_TEST(parse(file_of("{}", 0)).entries.empty());
}

BOOST_AUTO_TEST_CASE(refuses_every_kind_of_damage) {
    const struct {
        std::string what, bytes, words;
    } cases[] = {
        {"shorter than the length", "\x01\x02\x03", "it has 3 bytes"},
        {"header beyond the file", length_bytes(100) + "{}", "cut off"},
        {"header of more than 100 MB", length_bytes(100000001) + "{}",
         "claims 100000001 bytes, more than"},
        {"a length of 2^64 - 1", std::string(8, '\xff') + "{}",
         "claims 18446744073709551615 bytes"},
        {"no JSON", file_of("{\"a\":", 0), "not JSON"},
        {"two values", file_of("{} {}", 0), "not JSON"},
        {"no UTF-8", file_of("{\"\xff\":{}}", 0), "not JSON"},
        {"not an object", file_of("[]", 0), "not an object"},
        {"a number for a tensor", file_of(R"({"a":1})", 0), "tensor \"a\""},
        {"deep nesting", file_of(std::string(100000, '['), 0), "not an object"},
        {"nesting in a tensor", file_of(R"({"a":{"shape":[[[[)", 0),
         "tensor \"a\": the shape has a list"},
        {"a name twice",
         file_of(
             R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
             2),
         "the name \"a\" stands there twice"},
        {"a key twice",
         file_of(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1),
         "the key \"dtype\" stands there twice"},
        {"unknown key",
         file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1),
         "unknown key \"x\""},
        {"missing key", file_of(R"({"a":{"dtype":"U8","shape":[1]}})", 1),
         "one of dtype, shape and data_offsets is missing"},
        {"unknown type", file_of(R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}})", 1),
         "tensor \"a\": unknown dtype \"F4\""},
        {"type is a number", file_of(R"({"a":{"dtype":4,"shape":[1],"data_offsets":[0,1]}})", 1),
         "dtype is 4"},
        {"more bytes than type x shape",
         file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}})", 9),
         "F32 [2] takes 8 bytes, its data_offsets hold 9"},
        {"fewer bytes", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
         "takes 8 bytes, its data_offsets hold 4"},
        {"negative size", file_of(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8),
         "the shape has -2"},
        {"a size with a fraction",
         file_of(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8),
         "the shape has 2.0"},
        {"a size of 2^63",
         file_of(R"({"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8]}})", 8),
         "too large"},
        {"a product that overflows",
         file_of(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
                 0),
         "more elements than can be counted"},
        {"five dimensions",
         file_of(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1],"data_offsets":[0,1]}})", 1),
         "more than four dimensions"},
        {"ends before it begins",
         file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}})", 2),
         "ends at byte 1 before it begins at 2"},
        {"one offset", file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1]}})", 1),
         "not two numbers"},
        {"three offsets", file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}})", 1),
         "more than two"},
        {"truncated data", file_of(kTwo, 11),
         "tensor \"b\": it ends at byte 12 of the data, but the file holds 11"},
        {"trailing bytes", file_of(kTwo, 13), "1 bytes after the last tensor"},
        {"overlap",
         file_of(
             R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
             7),
         "tensors \"a\" and \"b\" overlap"},
        {"a gap",
         file_of(
             R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
             3),
         "1 bytes before tensor \"b\""},
        {"metadata of numbers", file_of(R"({"__metadata__":{"a":1}})", 0), "__metadata__ holds 1"},
    };
    for (const auto& c : cases) {
        const std::string message = refusal(c.bytes);
        BOOST_TEST(contains(message, c.words), c.what << ": " << message);
        BOOST_TEST(message.starts_with("f.safetensors: "), c.what << ": " << message);
    }
    BOOST_TEST(refusal(kTwo, 12) == "");
}

BOOST_AUTO_TEST_CASE(every_cut_of_a_file_is_refused) {
    const std::string whole = file_of(kTwo, 12);
    for (std::size_t n = 0; n < whole.size(); ++n) BOOST_TEST(!refusal(whole.substr(0, n)).empty());
}

BOOST_AUTO_TEST_CASE(written_files_come_back) {
    const Folder folder;
    std::vector<SafetensorsEntry> entries = {
        {.name = "w", .dtype = "BF16", .shape = {300, 7}},
        {.name = "odd \"name\"\n", .dtype = "F8_E4M3", .shape = {5}},
        {.name = "n", .dtype = "F32", .shape = {2}}};
    const std::string header = layout_safetensors(entries, {{"format", "pt"}});
    BOOST_TEST(header.size() % 8 == 0u);
    const std::string path = folder / "a.safetensors";
    std::string bytes(4213, '\0');
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 % 251);
    SafetensorsWriter first(path, header, entries.back().end, true);
    SafetensorsWriter second(path, header, entries.back().end, false);
    BOOST_REQUIRE(entries.back().end == 4213);
    second.write(1000, bytes.data() + 1000, 3213);  // out of order, by two writers
    first.write(0, bytes.data(), 1000);
    first.close();
    second.close();
    const SafetensorsFile file(path);
    BOOST_TEST(file.header().text == header);
    BOOST_TEST(file.header().metadata.at("format") == "pt");
    BOOST_REQUIRE(file.header().entries.size() == 3u);
    for (std::size_t i = 0; i < 3; ++i) {
        const SafetensorsEntry& entry = file.header().entries[i];
        BOOST_TEST(entry.name == entries[i].name);
        BOOST_TEST((entry.shape == entries[i].shape));
        BOOST_TEST(std::memcmp(file.data(entry), bytes.data() + entry.begin,
                               static_cast<std::size_t>(entry.bytes())) == 0);
    }
    const std::byte* data = file.data(file.header().entries[0]);
    release_pages(data, 4213);
    BOOST_TEST(std::memcmp(data, bytes.data(), 4213) == 0);
}

BOOST_AUTO_TEST_CASE(a_full_disk_is_said_at_once) {
    if (access("/dev/full", W_OK) == 0)
        BOOST_TEST(contains(
            message_of<DataError>([] { SafetensorsWriter("/dev/full", "{}      ", 8, true); }),
            "cannot write /dev/full"));
    const Folder folder;
    std::error_code none;
    const auto room = std::filesystem::space(folder.path, none).capacity;  // never free, whatever others do
    BOOST_TEST(contains(message_of<DataError>([&] {
                            SafetensorsWriter(folder / "a", "{}      ",
                                              static_cast<std::int64_t>(room) + (1 << 20), true);
                        }),
                        "No space left"));
    BOOST_TEST(contains(
        message_of<DataError>([&] { SafetensorsWriter(folder / "no/a", "{}      ", 8, true); }),
        "No such file"));
}

BOOST_AUTO_TEST_CASE(folders_are_split_and_read) {
    const Folder folder;
    std::vector<SafetensorsEntry> entries;
    for (int i = 0; i < 5; ++i)
        entries.push_back({.name = fmt::format("t{}", i), .dtype = "F16", .shape = {50}});
    BOOST_TEST(split_safetensors(entries, 500).size() == 1u);
    BOOST_TEST(split_safetensors(entries, 500)[0].file == "model.safetensors");
    BOOST_TEST(split_safetensors(entries, 1).size() == 5u);
    const auto shards = split_safetensors(entries, 299);
    BOOST_REQUIRE(shards.size() == 3u);
    BOOST_TEST(shards[2].file == "model-00003-of-00003.safetensors");
    for (const SafetensorsShard& shard : shards) {
        SafetensorsWriter out(folder / shard.file, shard.header, shard.data_bytes(), true);
        for (const SafetensorsEntry& entry : shard.entries) {
            const std::string fill(100, entry.name[1]);
            out.write(entry.begin, fill.data(), 100);
        }
        out.close();
    }
    const std::string index = safetensors_index(shards);
    put(folder / "model.safetensors.index.json", index);
    BOOST_TEST(Json::parse(index)["metadata"]["total_size"] == 500);
    put(folder / "stray.safetensors", "anything");
    {
        const SafetensorsFolder read(folder.path);
        BOOST_TEST(read.tensors().size() == 5u);
        BOOST_TEST(static_cast<char>(*read.tensors().at("t3").data) == '3');
        BOOST_TEST(read.file_names()[read.tensors().at("t3").file] ==
                   "model-00002-of-00003.safetensors");
        BOOST_TEST((read.strays() == std::vector<std::string>{"stray.safetensors"}));
    }
    const auto refused = [&](const std::string& text) {
        put(folder / "model.safetensors.index.json", text);
        return message_of<DataError>([&] { SafetensorsFolder unused(folder.path); });
    };
    auto map = Json::parse(index);
    const auto with = [&](const std::string& name, const Json& file) {
        Json changed = map;
        changed["weight_map"][name] = file;
        return refused(changed.dump());
    };
    const std::string first = "model-00001-of-00003.safetensors";
    BOOST_TEST(contains(with("t9", first), first + " holds no tensor \"t9\""));
    BOOST_TEST(
        contains(with("t3", first),
                 "tensor \"t3\" is in model-00002-of-00003.safetensors, the weight_map says"));
    BOOST_TEST(contains(with("t4", 3), "its file is not a text"));
    for (const char* outside : {"../a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "..",
                                ".a.safetensors", "", "config.json"})
        BOOST_TEST(contains(with("t4", outside), "is not the name of a .safetensors file beside"),
                   outside);
    BOOST_TEST(contains(with("t4", "gone.safetensors"), "cannot open"));
    Json fewer = map;
    fewer["weight_map"].erase("t4");
    fewer["weight_map"]["t3"] = "model-00002-of-00003.safetensors";
    BOOST_TEST(refused(fewer.dump()) == "");  // its file has become a stray
    fewer = map;
    fewer["weight_map"].erase("t1");
    BOOST_TEST(
        contains(refused(fewer.dump()), "tensor \"t1\" of " + first + " is not in its weight_map"));
    BOOST_TEST(contains(refused("{"), "not JSON"));
    BOOST_TEST(contains(refused("[]"), "weight_map"));
    BOOST_TEST(contains(refused(R"({"weight_map":{"t0":"x.safetensors","t0":"y.safetensors"}})"),
                        "\"t0\" stands there twice"));
    BOOST_TEST(contains(refused(R"({"weight_map":{}})"), "empty"));
    BOOST_TEST(contains(refused(R"({"a":[[[[1]]]]})"), "nested too deep"));
    // The same tensor in a second file.
    std::filesystem::copy_file(folder / first, folder / "twice.safetensors");
    BOOST_TEST(
        contains(with("t9", "twice.safetensors"), "is in " + first + " and in twice.safetensors"));
    put(folder / "model.safetensors", file_of("{}", 0));
    BOOST_TEST(contains(refused(index), "both model.safetensors and"));
    std::filesystem::remove(folder / "model.safetensors.index.json");
    BOOST_TEST(SafetensorsFolder(folder.path).tensors().empty());
    std::filesystem::remove(folder / "model.safetensors");
    BOOST_TEST(contains(message_of<DataError>([&] { SafetensorsFolder unused(folder.path); }),
                        "neither model.safetensors nor"));
    BOOST_TEST(contains(message_of<DataError>([&] { SafetensorsFolder unused(folder / "none"); }),
                        "no such folder"));
}

BOOST_AUTO_TEST_CASE(floats_of_any_type_are_read_as_float32) {
    const Folder folder;
    constexpr std::int64_t kExperts = 3, kRows = 150, kColumns = 260, kWide = 3, kHigh = 2;
    Store store({.run_dir = folder.path, .background = false});
    std::vector<std::uint8_t> eights(kExperts * kRows * kColumns);
    for (std::size_t i = 0; i < eights.size(); ++i)
        eights[i] = static_cast<std::uint8_t>(i * 7 % 127);
    std::vector<std::uint16_t> halves(kRows * kColumns);
    for (std::size_t i = 0; i < halves.size(); ++i)
        halves[i] = static_cast<std::uint16_t>(i % 0x7c00);
    std::vector<float> scales(kExperts * kHigh * kWide);
    for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = 0.25f * static_cast<float>(i + 1);
    std::int64_t told = 0;
    Store reported({.run_dir = folder / "told",
                    .background = false,
                    .written = [&](const void*, std::int64_t bytes) { told += bytes; }});
    const Shape stack{kExperts, kRows, kColumns}, matrix{kRows, kColumns},
        blocks{kExperts, kHigh, kWide};
    std::vector<Slab> slabs = {{.tensor = "weights/e",
                                .dtype = DType::f8_e4m3,
                                .global = stack,
                                .box = {{0, 0, 0}, stack},
                                .data = eights.data()},
                               {.tensor = "scale_inv/e",
                                .dtype = DType::f32,
                                .global = blocks,
                                .box = {{0, 0, 0}, blocks},
                                .data = scales.data()},
                               {.tensor = "weights/m",
                                .dtype = DType::f8_e4m3,
                                .global = matrix,
                                .box = {{0, 0}, matrix},
                                .data = eights.data()},
                               {.tensor = "scale_inv/m",
                                .dtype = DType::f32,
                                .global = {kHigh, kWide},
                                .box = {{0, 0}, {kHigh, kWide}},
                                .data = scales.data()},
                               {.tensor = "weights/h",
                                .dtype = DType::f16,
                                .global = matrix,
                                .box = {{0, 0}, matrix},
                                .data = halves.data()},
                               {.tensor = "weights/bare",
                                .dtype = DType::f8_e4m3,
                                .global = matrix,
                                .box = {{0, 0}, matrix},
                                .data = eights.data()}};
    reported.writer.write(1, slabs, {}, "");
    BOOST_TEST(told == std::ssize(eights) + 2 * kRows * kColumns * 2 + std::ssize(scales) * 4 + 24);
    const CheckpointReader reader(folder / "told/chk0000001");
    const Box part{{1, 100, 120}, {2, 50, 21}};
    std::vector<float> out(static_cast<std::size_t>(part.elements()));
    check_floats(reader, "weights/e", stack);
    read_floats(reader, "weights/e", part, out.data());
    std::size_t at = 0;
    for (std::int64_t e = 1; e < 3; ++e)
        for (std::int64_t r = 100; r < 150; ++r)
            for (std::int64_t c = 120; c < 141; ++c) {
                float number = 0;
                to_f32(DType::f8_e4m3,
                       &eights[static_cast<std::size_t>((e * kRows + r) * kColumns + c)], &number,
                       1);
                const float scale =
                    scales[static_cast<std::size_t>((e * kHigh + r / 128) * kWide + c / 128)];
                BOOST_REQUIRE(out[at++] == number * scale);
            }
    out.assign(static_cast<std::size_t>(kRows * kColumns), 0);
    read_floats(reader, "weights/h", {{0, 0}, matrix}, out.data());
    for (std::size_t i = 0; i < out.size(); ++i) {
        float number = 0;
        to_f32(DType::f16, &halves[i], &number, 1);
        BOOST_REQUIRE(out[i] == number);
    }
    BOOST_TEST(
        contains(message_of<CheckpointError>([&] { check_floats(reader, "weights/bare", matrix); }),
                 "holds no scales scale_inv/bare"));
    BOOST_TEST(
        contains(message_of<CheckpointError>([&] { check_floats(reader, "weights/h", stack); }),
                 "f16 [150, 260]"));
    BOOST_TEST(
        contains(message_of<CheckpointError>([&] { check_floats(reader, "weights/none", stack); }),
                 "no tensor weights/none"));
    if (have_h5dump()) {
        const std::string dump = run_command("h5dump -d weights/h -s 15360 -c 1 " +
                                             folder / "told/chk0000001/shard_00000.h5");
        BOOST_TEST(contains(dump, ": 1\n"), dump);  // 0x3c00
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
