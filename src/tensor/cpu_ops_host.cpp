// SPDX-License-Identifier: Apache-2.0
// Between host and device, which are one here, between ranks, and the first weights.
#include <array>
#include <cstring>

#include "cpu_ops.hpp"
#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus::cpu {
namespace {

class CpuRecording final : public Recording {
  public:
    explicit CpuRecording(std::function<void()> work) : work_(std::move(work)) {}
    void replay() override { work_(); }

  private:
    std::function<void()> work_;
};

std::span<std::byte> bytes_of(const Tensor& x) {
    return {static_cast<std::byte*>(x.data()), static_cast<std::size_t>(x.bytes())};
}

}  // namespace

void CpuOps::upload(Tensor to, const void* from) {
    if (to.bytes() > 0) std::memcpy(to.data(), from, static_cast<std::size_t>(to.bytes()));
}

void CpuOps::download(void* to, Tensor from) {
    if (from.bytes() > 0) std::memcpy(to, from.data(), static_cast<std::size_t>(from.bytes()));
}

std::unique_ptr<Recording> CpuOps::record(std::function<void()> work) {
    work();
    return std::make_unique<CpuRecording>(std::move(work));
}

void CpuOps::all_reduce(Communicator& group, Tensor x, Reduce op) {
    group.all_reduce(x.floats(), op);
}

void CpuOps::start_block_sums(Communicator& group, std::span<const BlockedTensor> all) {
    for (const BlockedTensor& one : all) group.reduce_scatter_blocks(one.x.floats(), one.elements());
}

void CpuOps::all_gather_blocks(Communicator& group, std::span<const BlockedTensor> all) {
    for (const auto& [x, offsets] : all) group.all_gather_blocks(bytes_of(x), offsets);
}

void CpuOps::all_to_all(Communicator& group, Tensor send, std::span<const std::int64_t> send_offsets,
                        Tensor recv, std::span<const std::int64_t> recv_offsets) {
    group.all_to_all(bytes_of(send), send_offsets, bytes_of(recv), recv_offsets);
}

void CpuOps::fill_normal(Tensor x, const NormalFill& fill) {
    const std::int64_t columns = x.dim(x.shape().rank() - 1), rows = x.elements() / columns;
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t matrix = fill.matrix_begin + r / fill.rows;
        const std::int64_t row = matrix * fill.global_rows + fill.row_begin + r % fill.rows;
        const std::int64_t first = row * fill.global_columns + fill.column_begin;
        float* to = x.f32() + r * columns;
        std::int64_t pair = -1;
        std::array<double, 2> draws{};
        for (std::int64_t i = 0; i < columns; ++i) {
            const std::int64_t at = first + i;
            if (at / 2 != pair) {
                pair = at / 2;
                draws = random_normal({.seed = fill.seed,
                                       .stream = Stream::init,
                                       .step = fill.tensor,
                                       .prompt = static_cast<std::uint64_t>(pair)});
            }
            to[i] = static_cast<float>(fill.std * draws[static_cast<std::size_t>(at % 2)]);
        }
    }
}

}  // namespace gradus::cpu
