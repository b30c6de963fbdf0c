// SPDX-License-Identifier: Apache-2.0
#include "gradus/ranks/grid.hpp"

#include "gradus/base/error.hpp"
#include "gradus/ranks/session.hpp"

namespace gradus {
namespace {

/// A group that exists on paper only.
class PlannedCommunicator final : public Communicator {
  public:
    PlannedCommunicator(int size, std::string name) : size_(size), name_(std::move(name)) {}
    int rank() const override { return 0; }
    int size() const override { return size_; }
    const std::string& name() const override { return name_; }
    void all_reduce(std::span<float>, Reduce) override { refuse(); }
    void all_reduce(std::span<double>, Reduce) override { refuse(); }
    void all_reduce(std::span<std::int64_t>, Reduce) override { refuse(); }
    void reduce_scatter_blocks(std::span<float>, std::span<const std::int64_t>) override { refuse(); }
    void broadcast(std::span<std::byte>, int) override { refuse(); }
    void all_gather_blocks(std::span<std::byte>, std::span<const std::int64_t>) override { refuse(); }
    void all_to_all(std::span<const std::byte>, std::span<const std::int64_t>, std::span<std::byte>,
                    std::span<const std::int64_t>) override {
        refuse();
    }
    void barrier() override { refuse(); }

  private:
    [[noreturn]] void refuse() const {
        throw InternalError(fmt::format("exchange on the planned communicator `{}`", name_));
    }
    int size_;
    std::string name_;
};

std::unique_ptr<Communicator> split(MPI_Comm world, int color, int key, const char* name) {
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(world, color, key, &part));
    auto communicator = make_mpi_communicator(part, name);
    check(MPI_Comm_free(&part));
    return communicator;
}

void check_sizes(int data_size, int expert_size) {
    require<DeckError>(expert_size > 0 && data_size % expert_size == 0,
                       "{} data ranks do not divide into groups of grid.expert = {}", data_size,
                       expert_size);
}

}  // namespace

Grid::Grid(MPI_Comm world, int tensor_size, int expert_size)
    : world_(make_mpi_communicator(world, "world")) {
    const int size = world_->size(), rank = world_->rank();
    require<DeckError>(tensor_size > 0 && size % tensor_size == 0,
                       "{} ranks do not divide into columns of grid.tensor = {}", size, tensor_size);
    check_sizes(size / tensor_size, expert_size);
    const int column = rank % tensor_size, data_rank = rank / tensor_size;
    tensor_ = split(world, data_rank, rank, "tensor");
    data_ = split(world, column, rank, "data");
    expert_ = split(world, data_rank / expert_size * tensor_size + column, rank, "expert");
    expert_data_ = split(world, data_rank % expert_size * tensor_size + column, rank, "expert data");
}

Grid Grid::planned(int data_size, int tensor_size, int expert_size) {
    check_sizes(data_size, expert_size);
    Grid grid;
    grid.world_ = std::make_unique<PlannedCommunicator>(data_size * tensor_size, "world");
    grid.data_ = std::make_unique<PlannedCommunicator>(data_size, "data");
    grid.tensor_ = std::make_unique<PlannedCommunicator>(tensor_size, "tensor");
    grid.expert_ = std::make_unique<PlannedCommunicator>(expert_size, "expert");
    grid.expert_data_ =
        std::make_unique<PlannedCommunicator>(data_size / expert_size, "expert data");
    return grid;
}

}  // namespace gradus
