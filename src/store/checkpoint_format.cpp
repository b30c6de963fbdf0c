// SPDX-License-Identifier: Apache-2.0
#include "checkpoint_format.hpp"

// Compiled here, for this processor: the distributions' library knows only its oldest.
#define XXH_INLINE_ALL
#ifdef __AVX2__
#define XXH_VECTOR XXH_AVX2  // faster than memory, and GCC 12 warns of its own header for 512 bits
#endif
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "gradus/base/bytes.hpp"
#include "gradus/base/error.hpp"

namespace gradus {

std::int64_t BoxRecord::rows_of_block(std::int64_t b) const {
    return std::min(block_rows, rows() - b * block_rows);
}

std::string shard_name(int rank) {
    return fmt::format("shard_{:05}.h5", rank);
}
std::string checkpoint_name(std::int64_t step) {
    return fmt::format("chk{:07}", step);
}

std::int64_t checkpoint_step(const std::string& name) {
    std::int64_t step = -1;
    if (name.size() < 10 || name.compare(0, 3, "chk") != 0) return -1;
    const char* end = name.data() + name.size();
    const auto [at, problem] = std::from_chars(name.data() + 3, end, step);
    return problem == std::errc{} && at == end && checkpoint_name(step) == name ? step : -1;
}

std::int64_t rows_per_block(std::int64_t row_bytes) {
    return std::max<std::int64_t>(1,
                                  (std::int64_t{1} << 20) / std::max<std::int64_t>(1, row_bytes));
}

std::uint64_t hash_bytes(const void* data, std::int64_t bytes) {
    return XXH3_64bits(data, static_cast<std::size_t>(bytes));
}

namespace {

bool inside(const Box& box, const Shape& global) {
    if (box.offset.rank() != global.rank() || box.count.rank() != global.rank()) return false;
    for (int i = 0; i < global.rank(); ++i)
        if (box.offset[i] < 0 || box.count[i] < 0 || box.offset[i] + box.count[i] > global[i])
            return false;
    return true;
}

struct Piece {
    const BoxRecord* record;
    int rank;
    std::int64_t first() const { return record->global.rank() == 0 ? 0 : record->box.offset[0]; }
    std::int64_t end() const { return first() + record->rows(); }
};

void check_tensor(std::vector<Piece>& pieces, const std::string& where) {
    const BoxRecord& head = *pieces.front().record;
    std::int64_t covered = 0;
    for (const Piece& piece : pieces) {
        const BoxRecord& r = *piece.record;
        require<CheckpointError>(r.dtype == head.dtype && r.global == head.global,
                                 "{}: tensor {} is {} {} on rank {}, but {} {} on rank {}", where,
                                 r.tensor, name_of(r.dtype), r.global.text(), piece.rank,
                                 name_of(head.dtype), head.global.text(), pieces.front().rank);
        require<CheckpointError>(inside(r.box, r.global),
                                 "{}: tensor {}: the box {} of rank {} is outside its shape {}",
                                 where, r.tensor, r.box.text(), piece.rank, r.global.text());
        covered += r.box.elements();
    }
    // Sorted by their first row, a box can only overlap those that begin before it ends.
    std::stable_sort(pieces.begin(), pieces.end(),
                     [](const Piece& a, const Piece& b) { return a.first() < b.first(); });
    for (std::size_t i = 0; i < pieces.size(); ++i)
        for (std::size_t j = i + 1; j < pieces.size() && pieces[j].first() < pieces[i].end(); ++j) {
            const Box &a = pieces[i].record->box, &b = pieces[j].record->box;
            require<CheckpointError>(
                intersect(a, b).elements() == 0,
                "{}: tensor {}: the boxes {} of rank {} and {} of rank {} overlap", where,
                head.tensor, a.text(), pieces[i].rank, b.text(), pieces[j].rank);
        }
    require<CheckpointError>(covered == head.global.elements(),
                             "{}: tensor {} {}: a gap; the {} boxes cover {} of {} elements", where,
                             head.tensor, head.global.text(), pieces.size(), covered,
                             head.global.elements());
}

}  // namespace

void check_coverage(const std::vector<ShardRecord>& shards, const std::string& where) {
    std::map<std::string, std::vector<Piece>> tensors;
    for (const ShardRecord& shard : shards)
        for (const BoxRecord& record : shard.boxes)
            tensors[record.tensor].push_back({&record, shard.rank});
    for (auto& [name, pieces] : tensors) check_tensor(pieces, where);
}

namespace {

/// One list of fields for both directions.
template <class Archive, class Record>
void exchange(Archive& a, Record& r) {
    a.text(r.tensor);
    a.value(r.dtype);
    a.value(r.global);
    a.value(r.box);
    a.text(r.dataset);
    a.value(r.block_rows);
    a.array(r.hashes);
}

}  // namespace

std::string pack(const ShardRecord& shard) {
    ByteWriter out;
    out.value(shard.rank);
    out.value(shard.file_bytes);
    out.text(shard.error);
    for (const BoxRecord& record : shard.boxes) exchange(out, record);
    return out.take();
}

ShardRecord unpack_shard(const std::string& bytes) {
    ByteReader in(bytes);
    ShardRecord shard;
    in.value(shard.rank);
    in.value(shard.file_bytes);
    in.text(shard.error);
    while (!in.empty()) exchange(in, shard.boxes.emplace_back());
    return shard;
}

}  // namespace gradus
