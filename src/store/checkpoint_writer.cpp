// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <thread>

#include "checkpoint_folder.hpp"
#include "checkpoint_format.hpp"
#include "gradus/base/error.hpp"
#include "gradus/base/log.hpp"
#include "gradus/base/profile.hpp"
#include "gradus/store/checkpoint.hpp"

namespace gradus {
namespace {

/// What a shard's file takes beyond its data: headers of boxes, alignment.
constexpr std::int64_t kFileOverhead = std::int64_t{1} << 20, kBoxOverhead = 8192;

Tensor take_staging(const CheckpointOptions& options, std::int64_t bytes, Arena& arena) {
    if (!options.background || bytes <= 0) return {};
    return arena.take("checkpoint staging", DType::i32, {(bytes + 3) / 4});
}

ShardRecord describe(const std::vector<Slab>& slabs, int rank, bool can_fetch) {
    ShardRecord shard{.rank = rank};
    std::map<std::string, int> boxes_of_tensor;
    for (const Slab& slab : slabs) {
        BoxRecord r{
            .tensor = slab.tensor, .dtype = slab.dtype, .global = slab.global, .box = slab.box};
        const int number = boxes_of_tensor[slab.tensor]++;
        r.dataset = number == 0 ? slab.tensor : fmt::format("{}@{}", slab.tensor, number);
        r.block_rows = rows_per_block(r.row_bytes());
        if (slab.data == nullptr || (slab.on_device && !can_fetch))
            shard.error =
                fmt::format("rank {}: tensor {}: the slab has no data that can be read", rank,
                            slab.tensor);
        shard.boxes.push_back(std::move(r));
    }
    return shard;
}

}  // namespace

struct CheckpointWriter::Impl {
    Impl(Communicator& world_, CheckpointOptions options_, std::int64_t bytes, Arena& arena)
        : world(world_),
          options(std::move(options_)),
          staging(take_staging(options, bytes, arena)) {}

    Communicator& world;
    CheckpointOptions options;
    Tensor staging;

    // The checkpoint in flight. The thread owns `shard` until `written` is true.
    bool in_flight = false;
    std::int64_t step = 0;
    Json state;
    std::string deck;
    ShardRecord shard;
    std::vector<const void*> data;
    std::vector<std::vector<char>> fetched;  ///< slabs of the device that staging has no room for
    std::thread thread;
    std::atomic<bool> written{false};

    double began = 0, exposed = 0, last_exposed = 0, last_total = 0;

    std::string temporary() const { return options.run_dir + "/" + checkpoint_name(step) + ".tmp"; }
    void agree_on_boxes();
    void prepare_folder();
    void start(const std::vector<Slab>& slabs);
    void write_own_shard() noexcept;
    void commit();
    std::string commit_on_root(std::vector<ShardRecord> shards);
    void throw_if_any(const std::string& mine);
};

/// Every rank throws the message of the first that has one.
void CheckpointWriter::Impl::throw_if_any(const std::string& mine) {
    const std::vector<std::string> all = world.all_gather(mine);
    for (const std::string& error : all)
        if (!error.empty()) throw CheckpointError(error);
}

void CheckpointWriter::Impl::agree_on_boxes() {
    std::vector<ShardRecord> shards;
    for (const std::string& bytes : world.all_gather(pack(shard))) {
        shards.push_back(unpack_shard(bytes));
        require<CheckpointError>(shards.back().error.empty(), "{}", shards.back().error);
    }
    check_coverage(shards, temporary());
}

void CheckpointWriter::Impl::prepare_folder() {
    std::int64_t bytes = kFileOverhead;
    for (const BoxRecord& r : shard.boxes) bytes += r.bytes() + kBoxOverhead;
    bytes = world.sum(bytes);
    std::string error;
    if (world.rank() == 0) try {
            make_unfinished(temporary(), bytes);
        } catch (const std::exception& problem) {
            error = problem.what();
        }
    throw_if_any(error);
}

void CheckpointWriter::Impl::start(const std::vector<Slab>& slabs) {
    data.clear();
    std::int64_t bytes = 0;
    for (const Slab& slab : slabs) bytes += slab.box.elements() * size_of(slab.dtype);
    // More than was announced is written at once, from where it lies on the host.
    const bool fits = bytes <= staging.bytes() && bytes > 0;
    auto* to = static_cast<char*>(staging.data());
    fetched.clear();
    for (const Slab& slab : slabs) {
        const std::int64_t n = slab.box.elements() * size_of(slab.dtype);
        if (!fits && !slab.on_device) {
            data.push_back(slab.data);
            continue;
        }
        if (!fits) to = fetched.emplace_back(static_cast<std::size_t>(n)).data();
        if (slab.on_device)
            options.fetch(to, slab);
        else
            std::memcpy(to, slab.data, static_cast<std::size_t>(n));
        data.push_back(to);
        to += n;
    }
    written = false;
    in_flight = true;
    if (options.background && fits) try {
            thread = std::thread([this] { write_own_shard(); });
            return;
        } catch (const std::system_error&) {
            // No thread to be had: written here and now.
        }
    write_own_shard();
}

void CheckpointWriter::Impl::write_own_shard() noexcept {
    try {
        if (!shard.boxes.empty()) write_shard(temporary(), shard, data, options.written);
    } catch (const std::exception& error) {
        shard.error = fmt::format("rank {}: {}", shard.rank, error.what());
    }
    written = true;
}

void CheckpointWriter::Impl::commit() {
    if (thread.joinable()) thread.join();
    in_flight = false;
    std::vector<ShardRecord> shards;
    std::string error;
    for (const std::string& bytes : world.all_gather(pack(shard))) {
        shards.push_back(unpack_shard(bytes));
        if (error.empty()) error = shards.back().error;
    }
    if (world.rank() == 0) {
        if (error.empty()) error = commit_on_root(std::move(shards));
        if (!error.empty()) {
            error = fmt::format("checkpoint of step {} was not written: {}", step, error);
            remove_folder(temporary());
        }
    }
    error = world.broadcast(error, 0);
    last_total = now_seconds() - began;
    require<CheckpointError>(error.empty(), "{}", error);
}

std::string CheckpointWriter::Impl::commit_on_root(std::vector<ShardRecord> shards) try {
    std::erase_if(shards, [](const ShardRecord& s) { return s.boxes.empty(); });
    write_index(temporary(),
                {.step = step, .shards = std::move(shards), .state = state, .deck = deck});
    publish(temporary(), options.run_dir, step);
    prune(options.run_dir, step, options.keep, options.keep_every);
    return "";
} catch (const std::exception& error) {
    return error.what();
}

CheckpointWriter::CheckpointWriter(Communicator& world, CheckpointOptions options,
                                   std::int64_t staging_bytes, Arena& arena)
    : impl_(std::make_unique<Impl>(world, std::move(options), staging_bytes, arena)) {}

CheckpointWriter::~CheckpointWriter() {
    if (impl_->thread.joinable()) impl_->thread.join();
}

void CheckpointWriter::write(std::int64_t step, const std::vector<Slab>& slabs, const Json& state,
                             const std::string& deck) {
    Impl& p = *impl_;
    finish();
    const double began = p.began = now_seconds();
    p.step = step;
    p.state = state;
    p.deck = deck;
    std::vector<Slab> pieces;
    for (const Slab& slab : slabs)
        if (slab.box.elements() > 0) pieces.push_back(slab);
    p.shard = describe(pieces, p.world.rank(), p.options.fetch != nullptr);
    p.agree_on_boxes();
    p.prepare_folder();
    p.start(pieces);
    if (!p.options.background) p.commit();
    p.exposed = now_seconds() - began;
    if (!p.in_flight) p.last_exposed = p.exposed;
}

void CheckpointWriter::poll() {
    Impl& p = *impl_;
    if (!p.in_flight) return;
    const double began = now_seconds();
    std::int64_t written = p.written ? 1 : 0;
    p.world.all_reduce(std::span(&written, 1), Reduce::min);
    if (written != 0) p.commit();
    p.exposed += now_seconds() - began;
    if (!p.in_flight) p.last_exposed = p.exposed;
}

void CheckpointWriter::finish() {
    Impl& p = *impl_;
    if (!p.in_flight) return;
    const double began = now_seconds();
    p.commit();
    p.exposed += now_seconds() - began;
    p.last_exposed = p.exposed;
}

double CheckpointWriter::exposed_seconds() const {
    return impl_->last_exposed;
}
double CheckpointWriter::total_seconds() const {
    return impl_->last_total;
}

}  // namespace gradus
