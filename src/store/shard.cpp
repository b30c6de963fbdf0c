// SPDX-License-Identifier: Apache-2.0
// Writing one rank's shard.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "checkpoint_format.hpp"
#include "gradus/base/error.hpp"
#include "hdf5.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;

struct OpenBox {
    BoxRecord* record;
    const char* data;
    h5::Dataset dataset;
};

OpenBox open_box(hid_t file, BoxRecord& record, const void* data) {
    h5::Lock lock;
    const std::size_t slash = record.dataset.rfind('/');
    const std::string folder = slash == std::string::npos ? "" : record.dataset.substr(0, slash);
    const h5::Group group = h5::make_group(file, folder);
    return {&record, static_cast<const char*>(data),
            h5::create_dataset(group.get(), record.dataset.substr(slash + 1),
                               h5::type_of(record.dtype).get(),
                               {static_cast<hsize_t>(record.box.elements())})};
}

void write_elements(const OpenBox& box, hid_t type, std::int64_t first, std::int64_t count) {
    h5::Lock lock;
    const hsize_t start = static_cast<hsize_t>(first), n = static_cast<hsize_t>(count);
    const h5::Space memory = h5::simple_space({n});
    const h5::Space target(h5::check(H5Dget_space(box.dataset.get())));
    h5::check(H5Sselect_hyperslab(target.get(), H5S_SELECT_SET, &start, nullptr, &n, nullptr));
    h5::check(H5Dwrite(box.dataset.get(), type, memory.get(), target.get(), H5P_DEFAULT,
                       box.data + first * size_of(box.record->dtype)));
}

/// Hashes a few blocks and writes them while they are still in the cache; the lock is free in
/// between, so that the main thread gets at HDF5 too.
void write_box(const OpenBox& box, const h5::OutputFile& file,
               const std::function<void(const void*, std::int64_t)>& written) {
    BoxRecord& r = *box.record;
    const h5::Type type = h5::type_of(r.dtype);
    r.hashes.clear();
    for (std::int64_t first = 0; first < r.blocks();) {
        const char* begin = box.data + first * r.block_rows * r.row_bytes();
        std::int64_t bytes = 0;
        std::int64_t block = first;
        do {
            const std::int64_t n = r.rows_of_block(block) * r.row_bytes();
            r.hashes.push_back(hash_bytes(begin + bytes, n));
            bytes += n;
            ++block;
        } while (block < r.blocks() && bytes < kChunkBytes);
        write_elements(box, type.get(), first * r.block_rows * r.row_elements(),
                       bytes / size_of(r.dtype));
        file.check_written();
        if (written) written(begin, bytes);
        first = block;
    }
}

}  // namespace

void write_shard(const std::string& directory, ShardRecord& shard,
                 const std::vector<const void*>& data,
                 const std::function<void(const void*, std::int64_t)>& written) {
    const std::string path = directory + "/" + shard_name(shard.rank);
    h5::named<CheckpointError>(path, [&] {
        h5::OutputFile file(path);
        std::vector<OpenBox> boxes;
        for (std::size_t i = 0; i < data.size(); ++i)
            boxes.push_back(open_box(file.id(), shard.boxes[i], data[i]));
        for (const OpenBox& box : boxes) write_box(box, file, written);
        boxes.clear();
        file.close();
    });
    shard.file_bytes = static_cast<std::int64_t>(std::filesystem::file_size(path));
}

void sync_directory(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool good = descriptor >= 0 && ::fsync(descriptor) == 0;
    const int error = errno;
    if (descriptor >= 0) ::close(descriptor);
    // Some file systems have no fsync of folders and say EINVAL.
    require<CheckpointError>(good || error == EINVAL, "cannot sync {}: {}", path,
                             std::strerror(error));
}

}  // namespace gradus
