// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "gradus/ranks/communicator.hpp"

namespace gradus {

/// Process grid: ranks = data x tensor. Tensor ranks are neighbours (fastest index), so that they
/// share a node: world rank = data_rank * tensor_size + tensor_rank.
class Grid {
  public:
    /// Splits `world` into `tensor_size` columns. Throws DeckError unless it divides the world size.
    Grid(MPI_Comm world, int tensor_size);

    int rank() const { return world_->rank(); }
    int size() const { return world_->size(); }
    int data_rank() const { return data_->rank(); }
    int data_size() const { return data_->size(); }
    int tensor_rank() const { return tensor_->rank(); }
    int tensor_size() const { return tensor_->size(); }

    Communicator& world() const { return *world_; }
    Communicator& data() const { return *data_; }
    Communicator& tensor() const { return *tensor_; }

    /// A grid that exists only on paper: for `--check --ranks N`. Its communicators have the given
    /// sizes, rank 0, and throw InternalError on any exchange.
    static Grid planned(int data_size, int tensor_size);

  private:
    Grid() = default;
    std::unique_ptr<Communicator> world_, data_, tensor_;
};

}  // namespace gradus
