// SPDX-License-Identifier: Apache-2.0
// Sharded checkpoints. A folder chkNNNNNNN holds shard_RRRRR.h5, one serial-HDF5 file a writing
// rank with disjoint boxes of tensors, and index.h5 by rank 0: box table with xxh3 hashes of blocks
// of rows, counters, resolved deck, and virtual datasets for people. It comes into being as
// chkNNNNNNN.tmp, is synced and renamed; then `latest` is replaced by rename.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/ranks/communicator.hpp"
#include "gradus/tensor/arena.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// A piece of a tensor that this rank writes: contiguous memory holding `box`, row-major.
struct Slab {
    std::string tensor;  ///< "weights/model.norm.weight", "adam_m/...", "rollout/tokens"
    DType dtype = DType::f32;
    Shape global;        ///< shape of the whole tensor
    Box box;             ///< what this slab covers of it
    const void* data = nullptr;
    bool on_device = false;  ///< `data` is memory of the device (CheckpointOptions::fetch)
};

struct CheckpointOptions {
    std::string run_dir;
    int keep = 2;                 ///< newest K stay
    std::int64_t keep_every = 0;  ///< every M-th step stays too; 0: none
    bool background = true;       ///< a thread writes while the run goes on
    /// Copies a slab of device memory to the host. Slabs of the host are copied without it.
    std::function<void(void* to, const Slab& slab)> fetch;
    /// Told of memory of slabs (begin, bytes) that is in the file now, by the thread that writes.
    std::function<void(const void*, std::int64_t)> written;
    /// Called while this rank waits for a checkpoint, each time that some rank has written more of it.
    std::function<void()> progress;
};

/// A checkpoint could not be stored (disk full, unwritable, read back wrong). All ranks throw it alike, what was
/// written of it is gone, the checkpoints before it stay, and the writer can be used again.
struct NotStored : CheckpointError {
    using CheckpointError::CheckpointError;
};

/// Writes checkpoints of one run. All calls are collective over `world`.
class CheckpointWriter {
  public:
    /// `staging_bytes`: size of this rank's largest checkpoint, taken from `arena` (host memory) as
    /// "checkpoint staging" where background writing is on.
    CheckpointWriter(Communicator& world, CheckpointOptions options, std::int64_t staging_bytes,
                     Arena& arena);
    ~CheckpointWriter();
    CheckpointWriter(const CheckpointWriter&) = delete;
    CheckpointWriter& operator=(const CheckpointWriter&) = delete;

    /// Copies the slabs and returns; a checkpoint still in flight is finished first. `state` (equal
    /// on all ranks) and `deck` go to the index. Throws CheckpointError where boxes of a tensor overlap or leave
    /// a gap, NotStored (of the background too: it surfaces in the next call).
    void write(std::int64_t step, const std::vector<Slab>& slabs, const Json& state,
               const std::string& deck);
    /// Takes a background checkpoint on: once all ranks have written their shards a thread of rank 0 commits it.
    /// Called once a step; waits for nothing. Throws NotStored.
    void poll();
    /// Waits for what is in flight. Must be called before the end. Throws NotStored.
    void finish();
    /// Seconds that the last checkpoint kept the run waiting, and that it took in all.
    double exposed_seconds() const;
    double total_seconds() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

enum class Verify { none, touched, full };

/// Reads a checkpoint at any grid: by intersection of boxes.
class CheckpointReader {
  public:
    /// Throws CheckpointError for a missing or damaged index.
    explicit CheckpointReader(const std::string& directory, Verify verify = Verify::touched);
    ~CheckpointReader();

    const std::string& directory() const;
    std::int64_t step() const;
    const Json& state() const;
    const std::string& deck() const;

    struct TensorInfo {
        std::string name;
        DType dtype;
        Shape global;
    };
    std::vector<TensorInfo> tensors() const;
    bool has(const std::string& tensor) const;
    TensorInfo info(const std::string& tensor) const;
    /// Fills `out` (contiguous, box.count) with `box` of the tensor. Row blocks that are touched are
    /// read whole and their hashes verified (unless Verify::none). Throws CheckpointError naming
    /// file, tensor and rows: missing shard, truncated, flipped bit, box outside, gap.
    void read(const std::string& tensor, const Box& box, void* out) const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// The checkpoint folder that `where` names: a checkpoint folder itself, or a run directory (its
/// `latest`; where that is damaged, the newest good one before it, told through `note`).
/// "" where a run directory holds none.
std::string find_checkpoint(const std::string& where,
                            const std::function<void(const std::string&)>& note);
/// What tells a checkpoint from all others, wherever it lies: a hash of its index, which holds those of all its blocks.
/// Throws CheckpointError where it cannot be read.
std::string checkpoint_identity(const std::string& directory);
/// Points RUN/latest to `directory` where it does not already. Throws CheckpointError.
void repair_latest(const std::string& run_dir, const std::string& directory);

/// For a checkpoint of a run that proved damaged while it was read: it gets the name chkNNNNNNN.damaged, and the newest
/// whole one before it is returned. "" where there is none; the name stays then.
std::string set_aside(const std::string& directory, const std::function<void(const std::string&)>& note);

/// Reads every byte; prints a line a problem to `say`. Returns whether all is good.
bool verify_checkpoint(const std::string& directory,
                       const std::function<void(const std::string&)>& say);

/// Removes chk*.tmp left by a killed run.
void remove_unfinished(const std::string& run_dir);

}  // namespace gradus
