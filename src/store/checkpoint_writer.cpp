// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

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

    // The checkpoint in flight. A thread owns `shard` while it is being written, and on rank 0 all that
    // commit_on_root() reads; until `done` is true.
    enum class Flight { none, writing, committing };
    Flight flight = Flight::none;
    std::int64_t step = 0;
    Json state;
    std::string deck;
    ShardRecord shard;
    std::vector<const void*> data;
    std::vector<std::vector<char>> fetched;  ///< slabs of the device that staging has no room for
    std::vector<ShardRecord> shards;         ///< of all ranks, on rank 0
    std::string problem;                     ///< of the commit, on rank 0
    std::thread thread;
    std::atomic<bool> done{false};
    std::atomic<std::int64_t> bytes_written{0};

    double began = 0, exposed = 0, last_exposed = 0, last_total = 0;

    std::string temporary() const { return options.run_dir + "/" + checkpoint_name(step) + ".tmp"; }
    void agree_on_boxes();
    void prepare_folder();
    void start(const std::vector<Slab>& slabs);
    void in_background(bool apart, void (Impl::*work)() noexcept);
    void write_own_shard() noexcept;
    void begin_commit();
    void end_commit();
    void commit_on_root() noexcept;
    void advance();
    void wait();
    void throw_if_any(const std::string& mine);
    /// Adds the time of `work` to what the checkpoint keeps the run waiting.
    template <class Work>
    void timed(const Work& work) {
        const double from = now_seconds();
        work();
        exposed += now_seconds() - from;
        if (flight == Flight::none) last_exposed = exposed;
    }
};

/// Every rank throws the message of the first that has one.
void CheckpointWriter::Impl::throw_if_any(const std::string& mine) {
    const std::vector<std::string> all = world.all_gather(mine);
    for (const std::string& error : all)
        if (!error.empty()) throw NotStored(error);
}

void CheckpointWriter::Impl::agree_on_boxes() {
    std::vector<ShardRecord> all;
    for (const std::string& bytes : world.all_gather(pack(shard))) {
        all.push_back(unpack_shard(bytes));
        require<CheckpointError>(all.back().error.empty(), "{}", all.back().error);
    }
    check_coverage(all, temporary());
}

void CheckpointWriter::Impl::prepare_folder() {
    std::int64_t bytes = kFileOverhead;
    for (const BoxRecord& r : shard.boxes) bytes += r.bytes() + kBoxOverhead;
    bytes = world.sum(bytes);
    std::string error;
    if (world.rank() == 0) try {
            make_unfinished(temporary(), bytes);
        } catch (const std::exception& e) {
            error = e.what();
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
    flight = Flight::writing;
    bytes_written = 0;
    in_background(options.background && fits, &Impl::write_own_shard);
}

/// Does `work` in a thread, or here and now where not `apart` or where there is no thread to be had.
void CheckpointWriter::Impl::in_background(bool apart, void (Impl::*work)() noexcept) {
    if (thread.joinable()) thread.join();
    done = false;
    if (apart) try {
            thread = std::thread(work, this);
            return;
        } catch (const std::system_error&) {
        }
    (this->*work)();
}

void CheckpointWriter::Impl::write_own_shard() noexcept {
    try {
        const auto written = [this](const void* begin, std::int64_t bytes) {
            bytes_written += bytes;
            if (options.written) options.written(begin, bytes);
        };
        if (!shard.boxes.empty()) write_shard(temporary(), shard, data, written);
    } catch (const std::exception& error) {
        shard.error = fmt::format("rank {}: {}", shard.rank, error.what());
    }
    done = true;
}

/// All ranks have written their shards, or failed to.
void CheckpointWriter::Impl::begin_commit() {
    shards.clear();
    problem.clear();
    for (const std::string& bytes : world.all_gather(pack(shard))) {
        shards.push_back(unpack_shard(bytes));
        if (problem.empty()) problem = shards.back().error;
    }
    flight = Flight::committing;
    done = true;
    if (world.rank() == 0) in_background(options.background, &Impl::commit_on_root);
}

void CheckpointWriter::Impl::commit_on_root() noexcept {
    try {
        std::erase_if(shards, [](const ShardRecord& s) { return s.boxes.empty(); });
        if (problem.empty()) {
            write_index(temporary(), {.step = step, .shards = shards, .state = state, .deck = deck});
            // Nothing takes the place of a good checkpoint before it has been found whole.
            check_shards(temporary(), read_index(temporary()));
            publish(temporary(), options.run_dir, step);
            prune(options.run_dir, step, options.keep, options.keep_every);
        }
    } catch (const std::exception& error) {
        problem = error.what();
    }
    if (!problem.empty()) {
        problem = fmt::format("the checkpoint of step {} could not be stored: {}", step, problem);
        remove_folder(temporary());
    }
    done = true;
}

void CheckpointWriter::Impl::end_commit() {
    if (thread.joinable()) thread.join();
    flight = Flight::none;
    problem = world.broadcast(problem, 0);
    last_total = now_seconds() - began;
    require<NotStored>(problem.empty(), "{}", problem);
}

/// All ranks have done the present part: the next one.
void CheckpointWriter::Impl::advance() {
    if (flight == Flight::writing)
        begin_commit();
    else
        end_commit();
}

/// Until nothing is in flight. A slow file system is no standstill: each look tells whether any rank came on.
void CheckpointWriter::Impl::wait() {
    constexpr auto kFirst = std::chrono::microseconds(100), kLongest = std::chrono::microseconds(50000);
    std::int64_t before = -1;
    for (auto pause = kFirst; flight != Flight::none; pause = std::min(2 * pause, kLongest)) {
        std::int64_t look[2] = {done ? 0 : 1, bytes_written};
        world.all_reduce(std::span(look), Reduce::sum);
        if (look[0] == 0) {
            advance();
            pause = kFirst;
            continue;
        }
        if (options.progress && std::exchange(before, look[1]) != look[1]) options.progress();
        std::this_thread::sleep_for(pause);
    }
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
    p.began = now_seconds();
    p.exposed = 0;
    p.timed([&] {
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
        if (!p.options.background) p.wait();
    });
}

void CheckpointWriter::poll() {
    Impl& p = *impl_;
    if (p.flight == Impl::Flight::none) return;
    p.timed([&] {
        std::int64_t done = p.done ? 1 : 0;
        p.world.all_reduce(std::span(&done, 1), Reduce::min);
        if (done != 0) p.advance();
    });
}

void CheckpointWriter::finish() {
    Impl& p = *impl_;
    if (p.flight == Impl::Flight::none) return;
    p.timed([&] { p.wait(); });
}

double CheckpointWriter::exposed_seconds() const {
    return impl_->last_exposed;
}
double CheckpointWriter::total_seconds() const {
    return impl_->last_total;
}

}  // namespace gradus
