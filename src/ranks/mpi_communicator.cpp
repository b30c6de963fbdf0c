// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "gradus/base/error.hpp"
#include "gradus/base/handle.hpp"
#include "gradus/ranks/communicator.hpp"
#include "gradus/ranks/exchange.hpp"
#include "gradus/ranks/session.hpp"

namespace gradus {
namespace {

/// Elements whose sum one step of an all-reduce computes: bounds the scratch memory.
constexpr std::size_t kChunk = std::size_t{1} << 18;

struct CloseComm {
    void operator()(MPI_Comm comm) const {
        int finalized = 0;
        MPI_Finalized(&finalized);
        if (finalized == 0) MPI_Comm_free(&comm);
    }
};

template <class T>
MPI_Datatype mpi_type();
template <>
MPI_Datatype mpi_type<float>() { return MPI_FLOAT; }
template <>
MPI_Datatype mpi_type<double>() { return MPI_DOUBLE; }
template <>
MPI_Datatype mpi_type<std::int64_t>() { return MPI_INT64_T; }

template <class T>
void combine(T* into, const T* from, std::size_t n, Reduce op) {
    switch (op) {
        case Reduce::sum:
            for (std::size_t i = 0; i < n; ++i) into[i] += from[i];
            return;
        case Reduce::max:
            for (std::size_t i = 0; i < n; ++i) into[i] = std::max(into[i], from[i]);
            return;
        case Reduce::min:
            for (std::size_t i = 0; i < n; ++i) into[i] = std::min(into[i], from[i]);
            return;
    }
}

class MpiCommunicator final : public Communicator {
  public:
    MpiCommunicator(MPI_Comm comm, std::string name) : name_(std::move(name)) {
        MPI_Comm duplicate = MPI_COMM_NULL;
        check(MPI_Comm_dup(comm, &duplicate));
        comm_ = Handle(duplicate);
        check(MPI_Comm_set_errhandler(duplicate, MPI_ERRORS_RETURN));
        check(MPI_Comm_rank(duplicate, &rank_));
        check(MPI_Comm_size(duplicate, &size_));
    }

    int rank() const override { return rank_; }
    int size() const override { return size_; }
    const std::string& name() const override { return name_; }

    void all_reduce(std::span<float> data, Reduce op) override { reduce(data, op); }
    void all_reduce(std::span<double> data, Reduce op) override { reduce(data, op); }
    void all_reduce(std::span<std::int64_t> data, Reduce op) override { reduce(data, op); }

    void reduce_scatter_blocks(std::span<float> data, std::span<const std::int64_t> offsets) override {
        const auto n = static_cast<std::size_t>(size_), me = static_cast<std::size_t>(rank_);
        require(offsets.size() == n + 1 && offsets.back() <= static_cast<std::int64_t>(data.size()),
                "reduce_scatter on `{}`: offsets do not fit the data", name_);
        if (size_ == 1) return;
        const Exchange exchange("reduce_scatter", name_);
        std::int64_t longest = 0;
        for (std::size_t r = 0; r < n; ++r) longest = std::max(longest, offsets[r + 1] - offsets[r]);
        // The same slice of every block at a time, packed: MPI counts in int.
        const auto step = static_cast<std::int64_t>(kChunk / n + 1);
        std::vector<float> packed;
        for (std::int64_t at = 0; at < longest; at += step) {
            std::vector<int> starts(n), counts(n);
            packed.clear();
            for (std::size_t r = 0; r < n; ++r) {
                const auto rows = std::clamp<std::int64_t>(offsets[r + 1] - offsets[r] - at, 0, step);
                starts[r] = count(packed.size());
                counts[r] = static_cast<int>(rows);
                if (rows > 0) packed.insert(packed.end(), data.begin() + offsets[r] + at, data.begin() + offsets[r] + at + rows);
            }
            sum_slices(packed.data(), counts, starts, data.data() + (counts[me] > 0 ? offsets[me] + at : 0), Reduce::sum);
        }
    }

    void broadcast(std::span<std::byte> data, int root) override {
        if (size_ == 1) return;
        const Exchange exchange("broadcast", name_);
        for (std::size_t at = 0; at < data.size(); at += kMessage)
            check(MPI_Bcast(data.data() + at, count(std::min(kMessage, data.size() - at)), MPI_BYTE,
                            root, comm_.get()));
    }

    void all_gather_blocks(std::span<std::byte> data,
                           std::span<const std::int64_t> offsets) override {
        require(offsets.size() == static_cast<std::size_t>(size_) + 1 &&
                    offsets.back() <= static_cast<std::int64_t>(data.size()),
                "all_gather_blocks on `{}`: offsets do not fit the data", name_);
        if (size_ == 1) return;
        const Exchange exchange("all_gather", name_);
        if (offsets.back() <= std::numeric_limits<int>::max()) {
            std::vector<int> counts, starts;
            for (int r = 0; r < size_; ++r) {
                const auto i = static_cast<std::size_t>(r);
                starts.push_back(static_cast<int>(offsets[i]));
                counts.push_back(static_cast<int>(offsets[i + 1] - offsets[i]));
            }
            check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data.data(), counts.data(),
                                 starts.data(), MPI_BYTE, comm_.get()));
            return;
        }
        for (int r = 0; r < size_; ++r) {
            const auto i = static_cast<std::size_t>(r);
            broadcast(data.subspan(static_cast<std::size_t>(offsets[i]),
                                   static_cast<std::size_t>(offsets[i + 1] - offsets[i])),
                      r);
        }
    }

    void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_offsets,
                    std::span<std::byte> recv,
                    std::span<const std::int64_t> recv_offsets) override {
        const auto n = static_cast<std::size_t>(size_);
        require(send_offsets.size() == n + 1 && recv_offsets.size() == n + 1 &&
                    send_offsets.back() <= static_cast<std::int64_t>(send.size()) &&
                    recv_offsets.back() <= static_cast<std::int64_t>(recv.size()),
                "all_to_all on `{}`: offsets do not fit the data", name_);
        const Exchange exchange("all_to_all", name_);
        // Requests of at most kMessage bytes each: MPI counts in int.
        std::vector<MPI_Request> requests;
        const auto post = [&](auto bytes, std::span<const std::int64_t> offsets, int r, auto call) {
            const auto i = static_cast<std::size_t>(r);
            for (auto at = static_cast<std::size_t>(offsets[i]),
                      end = static_cast<std::size_t>(offsets[i + 1]);
                 at < end; at += kMessage)
                check(call(bytes.data() + at, count(std::min(kMessage, end - at)), r,
                           &requests.emplace_back()));
        };
        for (int step = 1; step < size_; ++step)
            post(recv, recv_offsets, (rank_ + size_ - step) % size_,
                 [&](void* p, int bytes, int r, MPI_Request* q) {
                     return MPI_Irecv(p, bytes, MPI_BYTE, r, 0, comm_.get(), q);
                 });
        for (int step = 1; step < size_; ++step)
            post(send, send_offsets, (rank_ + step) % size_,
                 [&](const void* p, int bytes, int r, MPI_Request* q) {
                     return MPI_Isend(p, bytes, MPI_BYTE, r, 0, comm_.get(), q);
                 });
        const auto me = static_cast<std::size_t>(rank_);
        std::copy(send.begin() + send_offsets[me], send.begin() + send_offsets[me + 1],
                  recv.begin() + recv_offsets[me]);
        check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE));
    }

    void barrier() override {
        const Exchange exchange("barrier", name_);
        check(MPI_Barrier(comm_.get()));
    }

  private:
    using Handle = UniqueHandle<MPI_Comm, CloseComm>;
    static constexpr std::size_t kMessage = std::size_t{1} << 30;

    static int count(std::size_t n) { return static_cast<int>(n); }

    /// Every rank receives all contributions to its slice of `data` (counts[rank] at starts[rank]) and adds them
    /// in rank order to `sum`: that order is fixed by construction, whatever algorithm the MPI library would
    /// choose.
    template <class T>
    void sum_slices(const T* data, const std::vector<int>& counts, const std::vector<int>& starts, T* sum, Reduce op) {
        thread_local std::vector<T> scratch;
        const auto n = static_cast<std::size_t>(size_), me = static_cast<std::size_t>(rank_);
        const auto mine = static_cast<std::size_t>(counts[me]);
        if (scratch.size() < mine * n) scratch.resize(mine * n);
        std::vector<int> receive_counts(n, counts[me]), receive_starts(n);
        for (std::size_t r = 0; r < n; ++r) receive_starts[r] = count(mine * r);
        check(MPI_Alltoallv(data, counts.data(), starts.data(), mpi_type<T>(), scratch.data(), receive_counts.data(),
                            receive_starts.data(), mpi_type<T>(), comm_.get()));
        std::copy_n(scratch.begin(), mine, sum);
        for (std::size_t r = 1; r < n; ++r) combine(sum, scratch.data() + mine * r, mine, op);
    }

    /// Every rank owns a slice of each chunk, and the slices are gathered: all ranks hold the owner's bits.
    template <class T>
    void reduce(std::span<T> data, Reduce op) {
        if (size_ == 1) return;
        const Exchange exchange("all_reduce", name_);
        const auto n = static_cast<std::size_t>(size_);
        for (std::size_t at = 0; at < data.size(); at += kChunk) {
            const std::span<T> chunk = data.subspan(at, std::min(kChunk, data.size() - at));
            std::vector<int> starts(n + 1), counts(n);
            for (std::size_t r = 0; r <= n; ++r) starts[r] = count(chunk.size() * r / n);
            for (std::size_t r = 0; r < n; ++r) counts[r] = starts[r + 1] - starts[r];
            sum_slices<T>(chunk.data(), counts, starts, chunk.data() + starts[static_cast<std::size_t>(rank_)], op);
            check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, chunk.data(), counts.data(),
                                 starts.data(), mpi_type<T>(), comm_.get()));
        }
    }

    std::string name_;
    Handle comm_;
    int rank_ = 0, size_ = 1;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(MPI_Comm comm, std::string name) {
    return std::make_unique<MpiCommunicator>(comm, std::move(name));
}

}  // namespace gradus
