// SPDX-License-Identifier: Apache-2.0
#include "collectives.hpp"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>

#include "check.hpp"
#include "gradus/base/log.hpp"
#include "gradus/base/profile.hpp"
#include "gradus/ranks/exchange.hpp"

namespace gradus::cuda {
namespace {

void check(ncclResult_t status, std::source_location at = std::source_location::current()) {
    if (status == ncclSuccess || status == ncclInProgress) return;
    throw CudaError(fmt::format("{}:{}: NCCL: {} ({})", at.file_name(), at.line(),
                                ncclGetErrorString(status), ncclGetLastError(nullptr)));
}

ncclDataType_t type_of(DType dtype) {
    require(dtype == DType::f32 || dtype == DType::bf16, "no sum of {} over ranks", name_of(dtype));
    return dtype == DType::f32 ? ncclFloat32 : ncclBfloat16;
}

ncclRedOp_t op_of(Reduce op) {
    return op == Reduce::sum ? ncclSum : op == Reduce::max ? ncclMax : ncclMin;
}

std::int64_t bytes_of(std::span<const BlockedTensor> all) {
    std::int64_t bytes = 0;
    for (const BlockedTensor& one : all) bytes += one.x.bytes();
    return bytes;
}

/// Sets a variable that NCCL reads, unless the user has.
void prefer(const char* name, const char* value) { setenv(name, value, 0); }

}  // namespace

Collectives::Collectives(const Context& context, bool deterministic, bool overlap)
    : context_(context), overlap_(overlap) {
    cuda::check(cudaStreamCreateWithFlags(&side_, cudaStreamNonBlocking));
    for (cudaEvent_t* event : {&ready_, &done_})
        cuda::check(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
    if (!deterministic) return;
    // NVLink SHARP sums in an order that may differ from call to call.
    prefer("NCCL_NVLS_ENABLE", "0");
    prefer("NCCL_ALGO", "Ring");
    prefer("NCCL_PROTO", "Simple");
}

Collectives::~Collectives() {
    // While an exception unwinds this rank, others may never come to what is in flight.
    if (std::uncaught_exceptions() == 0) end();
    abort();
    cudaEventDestroy(ready_);
    cudaEventDestroy(done_);
    cudaStreamDestroy(side_);
}

void Collectives::end() noexcept {
    constexpr double kSeconds = 30;
    cudaStreamSynchronize(context_.stream);
    cudaStreamSynchronize(side_);
    for (const auto& [group, comm] : groups_) ncclCommFinalize(comm);
    const double began = now_seconds();
    for (auto at = groups_.begin(); at != groups_.end();) {
        ncclResult_t state = ncclInProgress;
        while (ncclCommGetAsyncError(at->second, &state) == ncclSuccess && state == ncclInProgress && now_seconds() - began < kSeconds)
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        if (state != ncclSuccess) {
            ++at;  // left to abort()
            continue;
        }
        ncclCommDestroy(at->second);
        at = groups_.erase(at);
    }
}

void Collectives::abort() noexcept {
    for (auto& [group, comm] : groups_) ncclCommAbort(comm);
    groups_.clear();
}

void Collectives::wait_for(ncclComm_t comm, const std::string& what) {
    constexpr double kSetUpSeconds = 300;
    const double began = now_seconds();
    for (;;) {
        ncclResult_t state = ncclSuccess;
        check(ncclCommGetAsyncError(comm, &state));
        if (state == ncclSuccess) return;
        if (state != ncclInProgress) check(state);
        require<CudaError>(now_seconds() - began < kSetUpSeconds, "NCCL: {} takes more than {} s", what,
                           kSetUpSeconds);
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
}

ncclComm_t Collectives::comm_of(Communicator& group) {
    const auto found = groups_.find(&group);
    if (found != groups_.end()) return found->second;
    ncclUniqueId id{};
    if (group.rank() == 0) check(ncclGetUniqueId(&id));
    group.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.commName = group.name().c_str();
    ncclComm_t comm = nullptr;
    check(ncclCommInitRankConfig(&comm, group.size(), id, group.rank(), &config));
    wait_for(comm, fmt::format("setting up the group `{}`", group.name()));
    return groups_[&group] = comm;
}

void Collectives::say(const char* what, std::int64_t bytes, const Communicator& group) {
    Exchange::started(what, group.name());
    last_ = fmt::format("{} of {} over `{}`", what, format_bytes(static_cast<double>(bytes)), group.name());
}

void Collectives::sum_on(cudaStream_t stream, Communicator& group, Tensor x, Reduce op) {
    ncclComm_t comm = comm_of(group);
    say("all_reduce", x.bytes(), group);
    check(ncclAllReduce(x.data(), x.data(), static_cast<std::size_t>(x.elements()), type_of(x.dtype()),
                        op_of(op), comm, stream));
    wait_for(comm, last_);
}

void Collectives::all_reduce(Communicator& group, Tensor x, Reduce op) {
    finish_sums();
    sum_on(context_.stream, group, x, op);
}

cudaStream_t Collectives::stream_of_sums() {
    if (!overlap_) return context_.stream;
    cuda::check(cudaEventRecord(ready_, context_.stream));
    cuda::check(cudaStreamWaitEvent(side_, ready_, 0));
    started_ = true;
    return side_;
}

void Collectives::start_sum(Communicator& group, Tensor x) { sum_on(stream_of_sums(), group, x, Reduce::sum); }

void Collectives::start_block_sums(Communicator& group, std::span<const BlockedTensor> all) {
    ncclComm_t comm = comm_of(group);
    const cudaStream_t stream = stream_of_sums();
    say("reduce_scatter", bytes_of(all), group);
    check(ncclGroupStart());
    for (const BlockedTensor& one : all) sum_blocks(comm, group, one, stream);
    check(ncclGroupEnd());
    wait_for(comm, last_);
}

void Collectives::sum_blocks(ncclComm_t comm, const Communicator& group, const BlockedTensor& one, cudaStream_t stream) {
    const std::vector<std::int64_t> offsets = one.elements();
    auto* first = one.x.f32();
    if (one.even()) {
        const auto count = static_cast<std::size_t>(offsets[1]);
        auto* mine = first + offsets[static_cast<std::size_t>(group.rank())];
        if (count > 0) check(ncclReduceScatter(first, mine, count, ncclFloat32, ncclSum, comm, stream));
        return;
    }
    for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
        const auto count = static_cast<std::size_t>(offsets[r + 1] - offsets[r]);
        auto* block = first + offsets[r];
        if (count > 0) check(ncclReduce(block, block, count, ncclFloat32, ncclSum, static_cast<int>(r), comm, stream));
    }
}

void Collectives::finish_sums() {
    if (!started_) return;
    started_ = false;
    cuda::check(cudaEventRecord(done_, side_));
    cuda::check(cudaStreamWaitEvent(context_.stream, done_, 0));
}

void Collectives::all_gather_blocks(Communicator& group, std::span<const BlockedTensor> all) {
    finish_sums();
    ncclComm_t comm = comm_of(group);
    say("all_gather", bytes_of(all), group);
    check(ncclGroupStart());
    for (const BlockedTensor& one : all) gather(comm, group, one);
    check(ncclGroupEnd());
    wait_for(comm, last_);
}

void Collectives::gather(ncclComm_t comm, const Communicator& group, const BlockedTensor& one) {
    const auto& offsets = one.offsets;
    auto* first = static_cast<char*>(one.x.data());
    if (one.even()) {
        const auto bytes = static_cast<std::size_t>(offsets[1]);
        auto* mine = first + offsets[static_cast<std::size_t>(group.rank())];
        if (bytes > 0) check(ncclAllGather(mine, first, bytes, ncclInt8, comm, context_.stream));
        return;
    }
    for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
        const auto bytes = static_cast<std::size_t>(offsets[r + 1] - offsets[r]);
        if (bytes > 0)
            check(ncclBroadcast(first + offsets[r], first + offsets[r], bytes, ncclInt8, static_cast<int>(r), comm,
                                context_.stream));
    }
}

void Collectives::all_to_all(Communicator& group, Tensor send,
                             std::span<const std::int64_t> send_offsets, Tensor recv,
                             std::span<const std::int64_t> recv_offsets) {
    finish_sums();
    ncclComm_t comm = comm_of(group);
    say("all_to_all", send.bytes(), group);
    check(ncclGroupStart());
    for (int r = 0; r < group.size(); ++r) {
        const auto at = static_cast<std::size_t>(r);
        const auto out = static_cast<std::size_t>(send_offsets[at + 1] - send_offsets[at]);
        const auto in = static_cast<std::size_t>(recv_offsets[at + 1] - recv_offsets[at]);
        if (out > 0)
            check(ncclSend(static_cast<char*>(send.data()) + send_offsets[at], out, ncclInt8, r, comm,
                           context_.stream));
        if (in > 0)
            check(ncclRecv(static_cast<char*>(recv.data()) + recv_offsets[at], in, ncclInt8, r, comm,
                           context_.stream));
    }
    check(ncclGroupEnd());
    wait_for(comm, last_);
}

void Collectives::check_failures() {
    for (const auto& [group, comm] : groups_) {
        ncclResult_t state = ncclSuccess;
        if (ncclCommGetAsyncError(comm, &state) == ncclSuccess &&
            (state == ncclSuccess || state == ncclInProgress))
            continue;
        throw CudaError(fmt::format("NCCL: the group `{}` failed ({}); last operation: {}", group->name(),
                                    ncclGetErrorString(state), last_));
    }
}

}  // namespace gradus::cuda
