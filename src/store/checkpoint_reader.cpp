// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "checkpoint_format.hpp"
#include "gradus/base/error.hpp"
#include "gradus/store/checkpoint.hpp"
#include "hdf5.hpp"

namespace gradus {
namespace {

/// Rows are read in runs of whole blocks of about this size.
constexpr std::int64_t kRunBytes = std::int64_t{16} << 20;

/// A box seen with exactly four dimensions: ones in front.
struct Box4 {
    std::int64_t offset[4] = {0, 0, 0, 0};
    std::int64_t count[4] = {1, 1, 1, 1};
};
Box4 four(const Box& box) {
    Box4 out;
    const int rank = box.count.rank();
    for (int i = 0; i < rank; ++i) {
        out.offset[4 - rank + i] = box.offset[i];
        out.count[4 - rank + i] = box.count[i];
    }
    return out;
}

/// Copies `part` from memory that holds the box `from` to memory that holds the box `to`.
void copy_part(const Box4& part, const Box4& from, const char* source, const Box4& to, char* target,
               std::int64_t element) {
    auto place = [&](const Box4& in, std::int64_t a, std::int64_t b, std::int64_t c) {
        std::int64_t at = part.offset[0] + a - in.offset[0];
        at = at * in.count[1] + part.offset[1] + b - in.offset[1];
        at = at * in.count[2] + part.offset[2] + c - in.offset[2];
        return (at * in.count[3] + part.offset[3] - in.offset[3]) * element;
    };
    const auto bytes = static_cast<std::size_t>(part.count[3] * element);
    for (std::int64_t a = 0; a < part.count[0]; ++a)
        for (std::int64_t b = 0; b < part.count[1]; ++b)
            for (std::int64_t c = 0; c < part.count[2]; ++c)
                std::memcpy(target + place(to, a, b, c), source + place(from, a, b, c), bytes);
}

/// Rows [first, first + count) of `box` as a box of the tensor.
Box rows_of(const Box& box, std::int64_t first, std::int64_t count) {
    const int rank = box.count.rank();
    if (rank == 0) return box;
    std::int64_t offset[4] = {}, size[4] = {};
    for (int i = 0; i < rank; ++i) {
        offset[i] = box.offset[i] + (i == 0 ? first : 0);
        size[i] = i == 0 ? count : box.count[i];
    }
    return {make_shape(rank, offset), make_shape(rank, size)};
}

/// One box of a shard, open for reading rows.
class StoredBox {
  public:
    StoredBox(const std::string& path, hid_t file, const BoxRecord& record)
        : path_(path), record_(record) {
        h5::named<CheckpointError>(place(0, record.rows()), [&] {
            h5::Lock lock;
            dataset_ = h5::open_dataset(file, record.dataset);
            const std::vector<hsize_t> dims = h5::dims_of(dataset_.get());
            require<h5::Hdf5Error>(
                dims.size() == 1 && dims[0] == static_cast<hsize_t>(record.box.elements()),
                "the data set has another shape than the index names");
        });
    }

    /// "chk/shard_00000.h5, tensor weights/x, rows 0 .. 12": rows of the whole tensor.
    std::string place(std::int64_t first, std::int64_t count) const {
        const std::int64_t base = record_.global.rank() == 0 ? 0 : record_.box.offset[0];
        return fmt::format("{}, tensor {}, rows {} .. {}", path_, record_.tensor, base + first,
                           base + first + count - 1);
    }

    void read_rows(std::int64_t first, std::int64_t count, void* out) const {
        h5::named<CheckpointError>(place(first, count), [&] {
            h5::Lock lock;
            const auto start = static_cast<hsize_t>(first * record_.row_elements());
            const auto n = static_cast<hsize_t>(count * record_.row_elements());
            const h5::Space memory = h5::simple_space({n});
            const h5::Space stored(h5::check(H5Dget_space(dataset_.get())));
            h5::check(
                H5Sselect_hyperslab(stored.get(), H5S_SELECT_SET, &start, nullptr, &n, nullptr));
            h5::check(H5Dread(dataset_.get(), h5::type_of(record_.dtype).get(), memory.get(),
                              stored.get(), H5P_DEFAULT, out));
        });
    }

    /// Throws unless blocks [first, first + count), which lie at `data`, have the hashes of the
    /// index.
    void verify(std::int64_t first, std::int64_t count, const char* data) const {
        for (std::int64_t b = first; b < first + count; ++b) {
            const std::int64_t rows = record_.rows_of_block(b), bytes = rows * record_.row_bytes();
            require<CheckpointError>(
                hash_bytes(data, bytes) == record_.hashes[static_cast<std::size_t>(b)],
                "{}: damaged; these bytes do not have the hash that the index names",
                place(b * record_.block_rows, rows));
            data += bytes;
        }
    }

    const BoxRecord& record() const { return record_; }

  private:
    const std::string& path_;
    const BoxRecord& record_;
    h5::Dataset dataset_;
};

/// Calls `use(first block, blocks)` for runs of blocks of about kRunBytes.
template <class Use>
void for_each_run(const BoxRecord& record, std::int64_t first, std::int64_t end, Use&& use) {
    const std::int64_t block_bytes =
        std::max<std::int64_t>(1, record.block_rows * record.row_bytes());
    const std::int64_t step = std::max<std::int64_t>(1, kRunBytes / block_bytes);
    for (std::int64_t b = first; b < end; b += step) use(b, std::min(step, end - b));
}

std::int64_t rows_of_blocks(const BoxRecord& record, std::int64_t first, std::int64_t count) {
    return std::min(record.rows() - first * record.block_rows, count * record.block_rows);
}

/// Reads and hashes a whole box.
void verify_box(const StoredBox& box, std::vector<char>& buffer) {
    const BoxRecord& r = box.record();
    for_each_run(r, 0, r.blocks(), [&](std::int64_t first, std::int64_t count) {
        const std::int64_t rows = rows_of_blocks(r, first, count);
        buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(rows * r.row_bytes())));
        box.read_rows(first * r.block_rows, rows, buffer.data());
        box.verify(first, count, buffer.data());
    });
}

struct Shard {
    std::string path;
    h5::File file;
};

Shard open_shard(const std::string& directory, const ShardRecord& record) {
    Shard shard{.path = directory + "/" + shard_name(record.rank)};
    shard.file = h5::named<CheckpointError>(shard.path, [&] { return h5::open_file(shard.path); });
    return shard;
}

}  // namespace

struct CheckpointReader::Impl {
    struct Place {
        std::size_t shard;
        const BoxRecord* record;
    };

    std::string directory;
    Verify verify = Verify::touched;
    CheckpointIndex index;
    std::map<std::string, std::vector<Place>> tensors;
    std::map<std::size_t, Shard> shards;  // opened when first needed
    std::vector<char> buffer;

    const Shard& shard(std::size_t number);
    const std::vector<Place>& places(const std::string& tensor) const;
    void read_part(const Place& place, const Box& part, const Box& box, char* out);
};

const Shard& CheckpointReader::Impl::shard(std::size_t number) {
    const auto open = shards.find(number);
    if (open != shards.end()) return open->second;
    const ShardRecord& record = index.shards[number];
    check_shards(directory,
                 {.shards = {ShardRecord{.rank = record.rank, .file_bytes = record.file_bytes}}});
    Shard fresh = open_shard(directory, record);
    if (verify == Verify::full)
        for (const BoxRecord& box : record.boxes)
            verify_box(StoredBox(fresh.path, fresh.file.get(), box), buffer);
    return shards.emplace(number, std::move(fresh)).first->second;
}

const std::vector<CheckpointReader::Impl::Place>& CheckpointReader::Impl::places(
    const std::string& tensor) const {
    const auto found = tensors.find(tensor);
    require<CheckpointError>(found != tensors.end(), "{}: there is no tensor {} in this checkpoint",
                             directory, tensor);
    return found->second;
}

/// `part`: what the stored box and the wanted `box` have in common.
void CheckpointReader::Impl::read_part(const Place& place, const Box& part, const Box& box,
                                       char* out) {
    const BoxRecord& r = *place.record;
    const Shard& from = shard(place.shard);
    const StoredBox stored(from.path, from.file.get(), r);
    const std::int64_t element = size_of(r.dtype);
    const bool scalar = r.global.rank() == 0;
    const std::int64_t begin = scalar ? 0 : part.offset[0] - r.box.offset[0];
    const std::int64_t end = begin + (scalar ? 1 : part.count[0]);
    // Rows of the file are then rows of `out`, in the same order.
    const bool whole_rows = part.count.row_elements() == r.row_elements() &&
                            part.count.row_elements() == box.count.row_elements();
    char* const rows_out =
        out + (scalar ? 0 : (part.offset[0] - box.offset[0]) * box.count.row_elements() * element);
    const bool check = verify != Verify::none;
    for_each_run(
        r, begin / r.block_rows, (end + r.block_rows - 1) / r.block_rows,
        [&](std::int64_t first, std::int64_t count) {
            std::int64_t row = first * r.block_rows, rows = rows_of_blocks(r, first, count);
            if (!check) {
                const std::int64_t last = std::min(row + rows, end);
                row = std::max(row, begin);
                rows = last - row;
            }
            const bool direct = whole_rows && row >= begin && row + rows <= end;
            if (!direct)
                buffer.resize(
                    std::max(buffer.size(), static_cast<std::size_t>(rows * r.row_bytes())));
            char* to = direct ? rows_out + (row - begin) * r.row_bytes() : buffer.data();
            stored.read_rows(row, rows, to);
            if (check) stored.verify(first, count, to);
            const Box run = rows_of(r.box, row, rows);
            if (!direct)
                copy_part(four(intersect(run, part)), four(run), to, four(box), out, element);
        });
}

CheckpointReader::CheckpointReader(const std::string& directory, Verify verify)
    : impl_(std::make_unique<Impl>()) {
    impl_->directory = directory;
    impl_->verify = verify;
    impl_->index = read_index(directory);
    check_coverage(impl_->index.shards, directory + "/index.h5");
    for (std::size_t s = 0; s < impl_->index.shards.size(); ++s)
        for (const BoxRecord& record : impl_->index.shards[s].boxes)
            impl_->tensors[record.tensor].push_back({s, &record});
}

CheckpointReader::~CheckpointReader() = default;

const std::string& CheckpointReader::directory() const {
    return impl_->directory;
}
std::int64_t CheckpointReader::step() const {
    return impl_->index.step;
}
const Json& CheckpointReader::state() const {
    return impl_->index.state;
}
const std::string& CheckpointReader::deck() const {
    return impl_->index.deck;
}
bool CheckpointReader::has(const std::string& tensor) const {
    return impl_->tensors.contains(tensor);
}

std::vector<CheckpointReader::TensorInfo> CheckpointReader::tensors() const {
    std::vector<TensorInfo> list;
    for (const auto& [name, places] : impl_->tensors) list.push_back(info(name));
    return list;
}

CheckpointReader::TensorInfo CheckpointReader::info(const std::string& tensor) const {
    const BoxRecord& record = *impl_->places(tensor).front().record;
    return {tensor, record.dtype, record.global};
}

void CheckpointReader::read(const std::string& tensor, const Box& box, void* out) const {
    const auto& places = impl_->places(tensor);
    const Shape& global = places.front().record->global;
    bool fits = box.offset.rank() == global.rank() && box.count.rank() == global.rank();
    for (int i = 0; fits && i < global.rank(); ++i)
        fits = box.offset[i] >= 0 && box.count[i] >= 0 && box.offset[i] + box.count[i] <= global[i];
    require<CheckpointError>(fits, "{}: tensor {} has the shape {}; the box {} is not in it",
                             impl_->directory, tensor, global.text(), box.text());
    std::int64_t found = 0;
    for (const Impl::Place& place : places) {
        const Box part = intersect(place.record->box, box);
        if (part.elements() == 0) continue;
        impl_->read_part(place, part, box, static_cast<char*>(out));
        found += part.elements();
    }
    require<CheckpointError>(found == box.elements(),
                             "{}: tensor {}: a gap; {} of {} elements of the box {} are stored",
                             impl_->directory, tensor, found, box.elements(), box.text());
}

bool verify_checkpoint(const std::string& directory,
                       const std::function<void(const std::string&)>& say) {
    bool good = true;
    auto attempt = [&](auto&& work) {
        try {
            work();
        } catch (const CheckpointError& error) {
            say(error.what());
            good = false;
        }
    };
    CheckpointIndex index;
    attempt([&] {
        index = read_index(directory);
        check_coverage(index.shards, directory + "/index.h5");
    });
    std::vector<char> buffer;
    for (const ShardRecord& record : index.shards)
        attempt([&] {
            check_shards(
                directory,
                {.shards = {ShardRecord{.rank = record.rank, .file_bytes = record.file_bytes}}});
            const Shard shard = open_shard(directory, record);
            for (const BoxRecord& box : record.boxes)
                attempt([&] { verify_box(StoredBox(shard.path, shard.file.get(), box), buffer); });
        });
    return good;
}

}  // namespace gradus
