// SPDX-License-Identifier: Apache-2.0
#include "gradus/store/safetensors_writer.hpp"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "json_text.hpp"

namespace gradus {
namespace {

void write_at(int descriptor, const std::string& path, const void* data, std::int64_t bytes,
              std::int64_t at) {
    const auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
        const ssize_t n = ::pwrite(descriptor, from, static_cast<std::size_t>(bytes), at);
        if (n < 0 && errno == EINTR) continue;
        require<DataError>(n > 0, "cannot write {}: {}", path, std::strerror(errno));
        from += n;
        at += n;
        bytes -= n;
    }
}

/// Room on the disk before the work, not in its middle. Where a file system cannot reserve, the
/// writes will tell. (posix_fallocate would write every block there.) What is not free is not asked for: a file system
/// takes blocks until none is left before it says so, and one in memory takes the machine's.
void reserve(int descriptor, const std::string& path, std::int64_t bytes) {
    struct statvfs found = {};
    const bool told = ::fstatvfs(descriptor, &found) == 0;
    const double room = static_cast<double>(found.f_bavail) * static_cast<double>(found.f_frsize);
    require<DataError>(!told || found.f_blocks == 0 || room >= static_cast<double>(bytes), "cannot write {} of {} bytes: {}, {:.0f} bytes are free",
                       path, bytes, std::strerror(ENOSPC), room);
    if (::fallocate(descriptor, 0, 0, bytes) == 0) return;
    const bool unknown = errno == EOPNOTSUPP || errno == ENOSYS;
    require<DataError>(unknown && ::ftruncate(descriptor, bytes) == 0,
                       "cannot write {} of {} bytes: {}", path, bytes, std::strerror(errno));
}

}  // namespace

std::string layout_safetensors(std::vector<SafetensorsEntry>& entries,
                               const std::map<std::string, std::string>& metadata) {
    std::string text = "{";
    if (!metadata.empty()) text += "\"__metadata__\":" + Json(metadata).dump();
    std::int64_t at = 0;
    for (SafetensorsEntry& entry : entries) {
        entry.begin = at;
        entry.end = at += entry.shape.elements() * safetensors_size(entry.dtype);
        std::string shape;
        for (int i = 0; i < entry.shape.rank(); ++i)
            shape += fmt::format("{}{}", i > 0 ? "," : "", entry.shape[i]);
        text += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                            text.size() > 1 ? "," : "", json_text(entry.name), entry.dtype, shape,
                            entry.begin, entry.end);
    }
    text += "}";
    text.resize((text.size() + 7) / 8 * 8, ' ');
    return text;
}

void SafetensorsWriter::Close::operator()(int descriptor) const {
    ::close(descriptor);
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::string& header,
                                     std::int64_t data_bytes, bool create)
    : path_(path), data_at_(8 + std::ssize(header)) {
    const int flags = O_WRONLY | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0);
    descriptor_ = UniqueHandle<int, Close, -1>(::open(path.c_str(), flags, 0644));
    require<DataError>(static_cast<bool>(descriptor_), "cannot write {}: {}", path,
                       std::strerror(errno));
    if (!create) return;
    reserve(descriptor_.get(), path, data_at_ + data_bytes);
    std::string start(8, '\0');
    for (std::size_t i = 0; i < 8; ++i)
        start[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
    start += header;
    write_at(descriptor_.get(), path, start.data(), std::ssize(start), 0);
}

void SafetensorsWriter::write(std::int64_t offset, const void* data, std::int64_t bytes) {
    write_at(descriptor_.get(), path_, data, bytes, data_at_ + offset);
}

void SafetensorsWriter::close() {
    const bool synced = ::fsync(descriptor_.get()) == 0;  // before errno is read
    require<DataError>(synced, "cannot sync {}: {}", path_,
                       std::strerror(errno));
    const bool closed = ::close(descriptor_.release()) == 0;  // before errno is read
    require<DataError>(closed, "cannot close {}: {}", path_,
                       std::strerror(errno));
}

std::int64_t SafetensorsShard::data_bytes() const {
    std::int64_t bytes = 0;
    for (const SafetensorsEntry& entry : entries) bytes = std::max(bytes, entry.end);
    return bytes;
}

std::vector<SafetensorsShard> split_safetensors(const std::vector<SafetensorsEntry>& entries,
                                                std::int64_t shard_bytes) {
    std::vector<SafetensorsShard> shards(1);
    std::int64_t filled = 0;
    for (const SafetensorsEntry& entry : entries) {
        const std::int64_t bytes = entry.shape.elements() * safetensors_size(entry.dtype);
        if (filled > 0 && filled + bytes > shard_bytes) {
            shards.emplace_back();
            filled = 0;
        }
        shards.back().entries.push_back(entry);
        filled += bytes;
    }
    for (std::size_t i = 0; i < shards.size(); ++i) {
        shards[i].file = shards.size() == 1 ? "model.safetensors"
                                            : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1,
                                                          shards.size());
        shards[i].header = layout_safetensors(shards[i].entries, {{"format", "pt"}});
    }
    return shards;
}

std::string safetensors_index(const std::vector<SafetensorsShard>& shards) {
    std::map<std::string, std::string> files;
    std::int64_t total = 0;
    for (const SafetensorsShard& shard : shards)
        for (const SafetensorsEntry& entry : shard.entries) {
            files[entry.name] = shard.file;
            total += entry.bytes();
        }
    Json index;
    index["metadata"]["total_size"] = total;
    index["weight_map"] = files;
    return index.dump(2) + "\n";
}

}  // namespace gradus
