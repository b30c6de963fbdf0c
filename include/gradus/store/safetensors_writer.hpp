// SPDX-License-Identifier: Apache-2.0
// Writing safetensors files: all places are known before the first byte, so that several ranks can
// fill one file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "gradus/base/handle.hpp"
#include "gradus/store/safetensors.hpp"

namespace gradus {

/// Lays the entries out one after the other, in their order (`begin` and `end` are set), and
/// returns the header's JSON, padded so that the data begin at a multiple of eight.
std::string layout_safetensors(std::vector<SafetensorsEntry>& entries,
                               const std::map<std::string, std::string>& metadata);

/// A file being written.
class SafetensorsWriter {
  public:
    /// Creates `path` with this header and room for the data, or (`create` false) opens the file
    /// that another rank has created so. Throws DataError; a disk without room says so here.
    SafetensorsWriter(const std::string& path, const std::string& header, std::int64_t data_bytes,
                      bool create);
    /// Puts `bytes` bytes at `offset` of the data. Throws DataError.
    void write(std::int64_t offset, const void* data, std::int64_t bytes);
    /// Everything to the disk. Throws DataError.
    void close();

  private:
    struct Close {
        void operator()(int descriptor) const;
    };
    std::string path_;
    std::int64_t data_at_ = 0;
    UniqueHandle<int, Close, -1> descriptor_;
};

/// One file of a folder and what is in it.
struct SafetensorsShard {
    std::string file;
    std::string header;
    std::vector<SafetensorsEntry> entries;
    std::int64_t data_bytes() const;
};

/// Cuts the entries, in their order, into files of at most `shard_bytes` of data (one tensor may be
/// more): "model.safetensors", or "model-00001-of-0000N.safetensors" and so on.
std::vector<SafetensorsShard> split_safetensors(const std::vector<SafetensorsEntry>& entries,
                                                std::int64_t shard_bytes);

/// model.safetensors.index.json of such files.
std::string safetensors_index(const std::vector<SafetensorsShard>& shards);

}  // namespace gradus
