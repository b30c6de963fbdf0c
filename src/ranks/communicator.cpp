// SPDX-License-Identifier: Apache-2.0
#include "gradus/ranks/communicator.hpp"

#include "gradus/base/error.hpp"

namespace gradus {

double Communicator::sum(double value) {
    all_reduce(std::span(&value, 1), Reduce::sum);
    return value;
}
std::int64_t Communicator::sum(std::int64_t value) {
    all_reduce(std::span(&value, 1), Reduce::sum);
    return value;
}
double Communicator::max(double value) {
    all_reduce(std::span(&value, 1), Reduce::max);
    return value;
}
double Communicator::min(double value) {
    all_reduce(std::span(&value, 1), Reduce::min);
    return value;
}

std::vector<std::string> Communicator::all_gather(const std::string& mine) {
    const auto n = static_cast<std::size_t>(size());
    std::vector<std::int64_t> lengths(n, 0);
    lengths[static_cast<std::size_t>(rank())] = static_cast<std::int64_t>(mine.size());
    all_reduce(std::span(lengths), Reduce::sum);
    std::vector<std::int64_t> offsets(n + 1, 0);
    for (std::size_t r = 0; r < n; ++r) offsets[r + 1] = offsets[r] + lengths[r];
    std::vector<std::byte> bytes(static_cast<std::size_t>(offsets[n]));
    const auto* from = reinterpret_cast<const std::byte*>(mine.data());
    std::copy(from, from + mine.size(), bytes.begin() + offsets[static_cast<std::size_t>(rank())]);
    all_gather_blocks(bytes, offsets);
    std::vector<std::string> all(n);
    for (std::size_t r = 0; r < n; ++r)
        all[r].assign(reinterpret_cast<const char*>(bytes.data()) + offsets[r],
                      static_cast<std::size_t>(lengths[r]));
    return all;
}

std::string Communicator::broadcast(std::string value, int root) {
    auto length = static_cast<std::int64_t>(value.size());
    broadcast(std::as_writable_bytes(std::span(&length, 1)), root);
    value.resize(static_cast<std::size_t>(length));
    broadcast(std::as_writable_bytes(std::span(value)), root);
    return value;
}

}  // namespace gradus
