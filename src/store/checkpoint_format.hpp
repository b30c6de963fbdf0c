// SPDX-License-Identifier: Apache-2.0
// What a checkpoint folder holds, in memory and in index.h5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gradus/base/json_lines.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// A box of a tensor and where its bytes are. Hashes are XXH3 (64 bits, xxhash.h) of `block_rows`
/// rows each; a row is one index of the box's first dimension.
struct BoxRecord {
    std::string tensor;
    DType dtype = DType::f32;
    Shape global;
    Box box;
    std::string dataset;  ///< one-dimensional, contiguous, in the shard
    std::int64_t block_rows = 1;
    std::vector<std::uint64_t> hashes;

    std::int64_t rows() const { return box.count.rank() == 0 ? 1 : box.count[0]; }
    std::int64_t row_elements() const { return box.count.row_elements(); }
    std::int64_t row_bytes() const { return row_elements() * size_of(dtype); }
    std::int64_t bytes() const { return box.elements() * size_of(dtype); }
    std::int64_t blocks() const { return (rows() + block_rows - 1) / block_rows; }
    /// Rows of block `b`: block_rows but for the last one.
    std::int64_t rows_of_block(std::int64_t b) const;
};

/// What one rank writes. `error` not empty: it could not.
struct ShardRecord {
    int rank = 0;
    std::int64_t file_bytes = 0;
    std::vector<BoxRecord> boxes;
    std::string error;
};

struct CheckpointIndex {
    std::int64_t step = 0;
    std::vector<ShardRecord> shards;  ///< those with boxes, by rank
    Json state;
    std::string deck;
};

/// "shard_00003.h5"
std::string shard_name(int rank);
/// "chk0000200"
std::string checkpoint_name(std::int64_t step);
/// The step of "chk0000200"; -1 for any other name.
std::int64_t checkpoint_step(const std::string& name);

/// Rows of a block: about 1 MiB, at least one row.
std::int64_t rows_per_block(std::int64_t row_bytes);
std::uint64_t hash_bytes(const void* data, std::int64_t bytes);

/// Throws CheckpointError unless the boxes of every tensor are disjoint and cover it, and agree on
/// its type and shape. `where` begins the message.
void check_coverage(const std::vector<ShardRecord>& shards, const std::string& where);

/// For exchange between ranks.
std::string pack(const ShardRecord& shard);
ShardRecord unpack_shard(const std::string& bytes);

/// Writes `directory`/index.h5 and syncs it. Its first 512 bytes are text with a hash of the rest.
/// Throws CheckpointError.
void write_index(const std::string& directory, const CheckpointIndex& index);
/// Throws CheckpointError for a file that is missing, damaged in any bit, or of another format.
CheckpointIndex read_index(const std::string& directory);
/// Throws CheckpointError unless all shards are there with the sizes that the index names.
void check_shards(const std::string& directory, const CheckpointIndex& index);

/// Writes `directory`/shard_RRRRR.h5 with data[i] as boxes[i], syncs it, and fills in the hashes
/// and the file's size. `written` (where given) is told of each piece of the data. Throws
/// CheckpointError.
void write_shard(const std::string& directory, ShardRecord& shard,
                 const std::vector<const void*>& data,
                 const std::function<void(const void*, std::int64_t)>& written);

/// fsync of a folder, so that a rename in it lasts. Throws CheckpointError.
void sync_directory(const std::string& path);

}  // namespace gradus
