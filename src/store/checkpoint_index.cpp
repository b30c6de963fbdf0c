// SPDX-License-Identifier: Apache-2.0
// index.h5: the box table in columns, counters, deck, and virtual datasets for people. The whole
// file is under one hash, which stands as text in its first 512 bytes (HDF5's user block).
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>

#include "checkpoint_format.hpp"
#include "gradus/base/error.hpp"
#include "hdf5.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kFormat = 1;
constexpr std::size_t kHeaderBytes = 512;
constexpr const char* kTitle = "Gradus checkpoint index\n";

std::string index_path(const std::string& directory) {
    return directory + "/index.h5";
}

/// The first 512 bytes of a file with these contents after them.
std::string header_of(const char* body, std::size_t bytes) {
    std::string header = fmt::format("{}format {}\nbytes {}\nxxh3 {:016x}\n", kTitle, kFormat,
                                     bytes, hash_bytes(body, static_cast<std::int64_t>(bytes)));
    header.resize(kHeaderBytes, '\0');
    return header;
}

void append_shape(std::vector<std::int64_t>& column, const Shape& shape) {
    for (int i = 0; i < 4; ++i) column.push_back(i < shape.rank() ? shape[i] : 0);
}

/// Columns: one row a tensor, one a box, one a shard; `hash` holds those of all boxes in turn.
struct Columns {
    std::vector<std::string> tensor_name, tensor_dtype, box_dataset, shard_file;
    std::vector<std::int64_t> tensor_rank, tensor_shape;
    std::vector<std::int64_t> box_tensor, box_shard, box_offset, box_count, box_block_rows;
    std::vector<std::int64_t> box_first_hash;
    std::vector<std::int64_t> shard_rank, shard_bytes;
    std::vector<std::uint64_t> hash;
};

Columns columns_of(const CheckpointIndex& index) {
    Columns c;
    std::map<std::string, std::int64_t> tensors;
    for (const ShardRecord& shard : index.shards) {
        for (const BoxRecord& r : shard.boxes) {
            const auto [place, fresh] =
                tensors.emplace(r.tensor, static_cast<std::int64_t>(tensors.size()));
            if (fresh) {
                c.tensor_name.push_back(r.tensor);
                c.tensor_dtype.push_back(name_of(r.dtype));
                c.tensor_rank.push_back(r.global.rank());
                append_shape(c.tensor_shape, r.global);
            }
            c.box_tensor.push_back(place->second);
            c.box_shard.push_back(static_cast<std::int64_t>(c.shard_rank.size()));
            append_shape(c.box_offset, r.box.offset);
            append_shape(c.box_count, r.box.count);
            c.box_dataset.push_back(r.dataset);
            c.box_block_rows.push_back(r.block_rows);
            c.box_first_hash.push_back(static_cast<std::int64_t>(c.hash.size()));
            c.hash.insert(c.hash.end(), r.hashes.begin(), r.hashes.end());
        }
        c.shard_rank.push_back(shard.rank);
        c.shard_file.push_back(shard_name(shard.rank));
        c.shard_bytes.push_back(shard.file_bytes);
    }
    return c;
}

void write_columns(hid_t file, const Columns& c) {
    auto numbers = [](const h5::Group& group, const char* name,
                      const std::vector<std::int64_t>& v) {
        h5::write_column<std::int64_t>(group.get(), name, v);
    };
    auto table = [](const h5::Group& group, const char* name, const std::vector<std::int64_t>& v) {
        h5::write_column<std::int64_t>(group.get(), name, v, {v.size() / 4, 4});
    };
    const h5::Group tensors = h5::make_group(file, "index/tensors");
    h5::write_strings(tensors.get(), "name", c.tensor_name);
    h5::write_strings(tensors.get(), "dtype", c.tensor_dtype);
    numbers(tensors, "rank", c.tensor_rank);
    table(tensors, "shape", c.tensor_shape);
    const h5::Group boxes = h5::make_group(file, "index/boxes");
    numbers(boxes, "tensor", c.box_tensor);
    numbers(boxes, "shard", c.box_shard);
    table(boxes, "offset", c.box_offset);
    table(boxes, "count", c.box_count);
    h5::write_strings(boxes.get(), "dataset", c.box_dataset);
    numbers(boxes, "block_rows", c.box_block_rows);
    numbers(boxes, "first_hash", c.box_first_hash);
    h5::write_column<std::uint64_t>(boxes.get(), "hash", c.hash);
    const h5::Group shards = h5::make_group(file, "index/shards");
    numbers(shards, "rank", c.shard_rank);
    h5::write_strings(shards.get(), "file", c.shard_file);
    numbers(shards, "bytes", c.shard_bytes);
}

std::vector<hsize_t> extent(const Shape& shape) {
    std::vector<hsize_t> dims;
    for (int i = 0; i < shape.rank(); ++i) dims.push_back(static_cast<hsize_t>(shape[i]));
    return dims;
}

struct Source {
    const BoxRecord* record;
    int rank;
};

void write_view(hid_t views, const std::vector<Source>& sources) {
    const BoxRecord& head = *sources.front().record;
    const h5::Properties properties = h5::timeless(H5P_DATASET_CREATE);
    const h5::Space space = h5::simple_space(extent(head.global));
    for (const Source& source : sources) {
        const Box& box = source.record->box;
        h5::check(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, extent(box.offset).data(),
                                      nullptr, extent(box.count).data(), nullptr));
        const h5::Space stored = h5::simple_space({static_cast<hsize_t>(box.elements())});
        h5::check(H5Pset_virtual(properties.get(), space.get(), shard_name(source.rank).c_str(),
                                 fmt::format("/{}", source.record->dataset).c_str(), stored.get()));
    }
    h5::check(H5Sselect_all(space.get()));
    const std::size_t slash = head.tensor.rfind('/');
    const h5::Group group =
        h5::make_group(views, slash == std::string::npos ? "" : head.tensor.substr(0, slash));
    h5::Dataset(h5::check(H5Dcreate2(group.get(), head.tensor.substr(slash + 1).c_str(),
                                     h5::type_of(head.dtype).get(), space.get(), H5P_DEFAULT,
                                     properties.get(), H5P_DEFAULT)));
}

/// Whole tensors for h5dump and h5py, under /tensors. The program itself never reads them: HDF5
/// takes a missing source file for zeros.
void write_views(hid_t file, const CheckpointIndex& index) {
    std::map<std::string, std::vector<Source>> tensors;
    for (const ShardRecord& shard : index.shards)
        for (const BoxRecord& r : shard.boxes)
            if (r.global.rank() > 0) tensors[r.tensor].push_back({&r, shard.rank});
    const h5::Group views = h5::make_group(file, "tensors");
    for (const auto& [name, sources] : tensors) write_view(views.get(), sources);
}

/// Puts the header into the user block and syncs.
void seal(const std::string& path) {
    const std::string content = read_file(path);
    const std::string header =
        header_of(content.data() + kHeaderBytes, content.size() - kHeaderBytes);
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    const bool good = descriptor >= 0 &&
                      ::pwrite(descriptor, header.data(), header.size(), 0) ==
                          static_cast<ssize_t>(header.size()) &&
                      ::fsync(descriptor) == 0;
    const int error = errno;
    if (descriptor >= 0) ::close(descriptor);
    require<CheckpointError>(good, "cannot write {}: {}", path, std::strerror(error));
}

Columns read_columns(hid_t file) {
    Columns c;
    auto numbers = [](const h5::Group& group, const char* name) {
        return h5::read_column<std::int64_t>(group.get(), name);
    };
    auto open = [file](const char* name) {
        return h5::Group(h5::check(H5Gopen2(file, name, H5P_DEFAULT)));
    };
    const h5::Group tensors = open("index/tensors");
    c.tensor_name = h5::read_strings(tensors.get(), "name");
    c.tensor_dtype = h5::read_strings(tensors.get(), "dtype");
    c.tensor_rank = numbers(tensors, "rank");
    c.tensor_shape = numbers(tensors, "shape");
    const h5::Group boxes = open("index/boxes");
    c.box_tensor = numbers(boxes, "tensor");
    c.box_shard = numbers(boxes, "shard");
    c.box_offset = numbers(boxes, "offset");
    c.box_count = numbers(boxes, "count");
    c.box_dataset = h5::read_strings(boxes.get(), "dataset");
    c.box_block_rows = numbers(boxes, "block_rows");
    c.box_first_hash = numbers(boxes, "first_hash");
    c.hash = h5::read_column<std::uint64_t>(boxes.get(), "hash");
    const h5::Group shards = open("index/shards");
    c.shard_rank = numbers(shards, "rank");
    c.shard_file = h5::read_strings(shards.get(), "file");
    c.shard_bytes = numbers(shards, "bytes");
    return c;
}

DType dtype_named(const std::string& name) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::i32, DType::f16, DType::f8_e4m3})
        if (name == name_of(dtype)) return dtype;
    throw CheckpointError(fmt::format("unknown dtype \"{}\"", name));
}

std::vector<ShardRecord> shards_of(const Columns& c) {
    std::vector<ShardRecord> shards(c.shard_rank.size());
    for (std::size_t s = 0; s < shards.size(); ++s) {
        shards[s].rank = static_cast<int>(c.shard_rank[s]);
        shards[s].file_bytes = c.shard_bytes.at(s);
    }
    for (std::size_t b = 0; b < c.box_tensor.size(); ++b) {
        const auto t = static_cast<std::size_t>(c.box_tensor[b]);
        const int rank = static_cast<int>(c.tensor_rank.at(t));
        BoxRecord r{.tensor = c.tensor_name.at(t),
                    .dtype = dtype_named(c.tensor_dtype.at(t)),
                    .global = make_shape(rank, &c.tensor_shape.at(4 * t)),
                    .box = {make_shape(rank, &c.box_offset.at(4 * b)),
                            make_shape(rank, &c.box_count.at(4 * b))},
                    .dataset = c.box_dataset.at(b),
                    .block_rows = c.box_block_rows.at(b)};
        const auto first = c.hash.begin() + c.box_first_hash.at(b);
        r.hashes.assign(first, first + r.blocks());
        shards.at(static_cast<std::size_t>(c.box_shard.at(b))).boxes.push_back(std::move(r));
    }
    return shards;
}

void check_header(const std::string& path) {
    std::string content;
    try {
        content = read_file(path);
    } catch (const DataError& error) {
        throw CheckpointError(error.what());
    }
    const std::string damaged = path + " is damaged: ";
    require<CheckpointError>(content.size() > kHeaderBytes && content.compare(0, 24, kTitle) == 0,
                             "{}it does not begin as a checkpoint's index", damaged);
    const std::string format = fmt::format("format {}\n", kFormat);
    const std::string stored = content.substr(24, content.find('\n', 24) - 24);
    require<CheckpointError>(content.compare(24, format.size(), format) == 0,
                             "{} has \"{}\"; this program reads format {}", path, stored, kFormat);
    const std::string expected =
        header_of(content.data() + kHeaderBytes, content.size() - kHeaderBytes);
    require<CheckpointError>(content.compare(0, kHeaderBytes, expected) == 0,
                             "{}its bytes do not have the hash that its header names", damaged);
}

}  // namespace

void write_index(const std::string& directory, const CheckpointIndex& index) {
    const std::string path = index_path(directory);
    const std::string state = index.state.dump(1);
    h5::named<CheckpointError>(path, [&] {
        h5::Lock lock;
        h5::OutputFile file(path, kHeaderBytes);
        const h5::Group root = h5::make_group(file.id(), "");
        h5::write_attribute(root.get(), "format", kFormat);
        h5::write_attribute(root.get(), "step", index.step);
        h5::write_text(root.get(), "state", state);
        h5::write_text(root.get(), "deck", index.deck);
        write_columns(root.get(), columns_of(index));
        write_views(root.get(), index);
        file.close();
    });
    seal(path);
}

CheckpointIndex read_index(const std::string& directory) {
    const std::string path = index_path(directory);
    check_header(path);
    CheckpointIndex index;
    std::string state;
    h5::named<CheckpointError>(path, [&] {
        h5::Lock lock;
        const h5::File file = h5::open_file(path);
        const h5::Group root = h5::make_group(file.get(), "");
        index.step = h5::read_attribute(root.get(), "step");
        state = h5::read_text(root.get(), "state");
        index.deck = h5::read_text(root.get(), "deck");
        if (index.deck == std::string(1, '\0')) index.deck.clear();
        index.shards = shards_of(read_columns(root.get()));
    });
    index.state = Json::parse(state);
    return index;
}

void check_shards(const std::string& directory, const CheckpointIndex& index) {
    for (const ShardRecord& shard : index.shards) {
        const std::string path = directory + "/" + shard_name(shard.rank);
        std::error_code problem;
        const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(path, problem));
        require<CheckpointError>(!problem, "{} is missing: {}", path, problem.message());
        require<CheckpointError>(bytes == shard.file_bytes,
                                 "{} is damaged: it has {} bytes, the index names {}", path, bytes,
                                 shard.file_bytes);
    }
}

}  // namespace gradus
