// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "gradus/ranks/communicator.hpp"

namespace gradus {

/// Process grid: ranks = data x tensor. Tensor ranks are neighbours (fastest index), so that they
/// share a node: world rank = data_rank * tensor_size + tensor_rank. Experts are split inside data:
/// expert_size neighbouring data ranks hold all experts between them, and the data ranks with the
/// same expert_rank = data_rank % expert_size hold the same ones.
class Grid {
  public:
    /// Splits `world` into columns of `tensor_size`, and its data ranks into groups of
    /// `expert_size`. Throws DeckError unless they divide the world.
    Grid(MPI_Comm world, int tensor_size, int expert_size = 1);

    int rank() const { return world_->rank(); }
    int size() const { return world_->size(); }
    int data_rank() const { return data_->rank(); }
    int data_size() const { return data_->size(); }
    int tensor_rank() const { return tensor_->rank(); }
    int tensor_size() const { return tensor_->size(); }
    int expert_rank() const { return expert_->rank(); }
    int expert_size() const { return expert_->size(); }

    Communicator& world() const { return *world_; }
    Communicator& data() const { return *data_; }
    Communicator& tensor() const { return *tensor_; }
    /// The data ranks that hold all experts between them: tokens travel here.
    Communicator& expert() const { return *expert_; }
    /// The data ranks that hold the same experts: their gradients are summed here.
    Communicator& expert_data() const { return *expert_data_; }

    /// A grid that exists only on paper: for `--check --ranks N`. Its communicators have the given
    /// sizes, rank 0, and throw InternalError on any exchange.
    static Grid planned(int data_size, int tensor_size, int expert_size = 1);

  private:
    Grid() = default;
    std::unique_ptr<Communicator> world_, data_, tensor_, expert_, expert_data_;
};

}  // namespace gradus
