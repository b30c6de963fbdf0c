// SPDX-License-Identifier: Apache-2.0
// Pages of keys and values: storing new tokens, copying pages. [page, row] is one index, the slot, because
// pages are contiguous; a slot's numbers are copied in pieces of 16 bytes, or one number where the
// width is odd. Bound: bytes, each read once and written once.
#include "check.hpp"
#include "kernels.hpp"
#include "vector.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 256;

/// Rows of `width` pieces, copied from row r of `from` to row slot[r] of `to`.
template <class Piece>
struct Stored {
    Piece* to;
    const Piece* from;
    std::int64_t width;
};

/// Keys, then values: piece i of a token's k + v.
template <class Piece>
__global__ void kv_store_kernel(Stored<Piece> k, Stored<Piece> v, const std::int32_t* slot,
                                std::int64_t tokens, std::int64_t slots) {
    const std::int64_t width = k.width + v.width;
    const std::int64_t at = blockIdx.x * static_cast<std::int64_t>(kThreads) + threadIdx.x;
    if (at >= tokens * width) return;
    const std::int64_t token = at / width, piece = at % width, row = slot[token];
    if (row < 0) return;
    if (row >= slots) __trap();  // better no run than another sequence's memory
    const Stored<Piece>& part = piece < k.width ? k : v;
    const std::int64_t i = piece < k.width ? piece : piece - k.width;
    part.to[row * part.width + i] = part.from[token * part.width + i];
}

/// A block copies kThreads pieces of each of the pairs blockIdx.y, blockIdx.y + gridDim.y ...
template <class Piece>
__global__ void kv_copy_pages_kernel(Piece* pages, const std::int32_t* from, const std::int32_t* to,
                                     std::int64_t count, std::int64_t width, std::int64_t all) {
    const std::int64_t i = blockIdx.x * static_cast<std::int64_t>(kThreads) + threadIdx.x;
    if (i >= width) return;
    for (std::int64_t pair = blockIdx.y; pair < count; pair += gridDim.y) {
        const std::int64_t source = from[pair], target = to[pair];
        if (source < 0 || target < 0 || source >= all || target >= all) __trap();
        if (source != target) pages[target * width + i] = pages[source * width + i];
    }
}

/// Calls body(Piece{}) with the widest piece that divides rows of `bytes` bytes at `pointers`.
template <class Body, class... Pointers>
void by_piece(std::int64_t size, std::initializer_list<std::int64_t> bytes, const Body& body,
              Pointers... pointers) {
    bool wide = ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
    for (const std::int64_t n : bytes) wide = wide && n % 16 == 0;
    if (wide) return body(uint4{});
    if (size == 4) return body(std::uint32_t{});
    require(size == 2, "paged cache: numbers of {} bytes", size);
    body(std::uint16_t{});
}

void copy_pages(const Context& c, Tensor pages, Tensor from, Tensor to) {
    const std::int64_t bytes = pages.shape().row_elements() * size_of(pages.dtype());
    const std::int64_t count = from.elements();
    if (count == 0 || bytes == 0) return;
    by_piece(
        size_of(pages.dtype()), {bytes},
        [&](auto zero) {
            using Piece = decltype(zero);
            const std::int64_t width = bytes / static_cast<std::int64_t>(sizeof(Piece));
            const dim3 grid(static_cast<unsigned>(blocks_for(width, kThreads)),
                            static_cast<unsigned>(count < 65535 ? count : 65535));
            kv_copy_pages_kernel<<<grid, kThreads, 0, c.stream>>>(
                static_cast<Piece*>(pages.data()), from.i32(), to.i32(), count, width, pages.dim(0));
            check_launch();
        },
        pages.data());
}

}  // namespace

void kv_store(const Context& c, const PagedCache& cache, Tensor k, Tensor v, Tensor slot) {
    const std::int64_t tokens = k.dim(0), size = size_of(k.dtype());
    if (tokens == 0) return;
    const std::int64_t k_bytes = k.shape().row_elements() * size;
    const std::int64_t v_bytes = cache.values ? v.shape().row_elements() * size : 0;
    void* const values = cache.values ? cache.values.data() : nullptr;
    const void* const v_data = cache.values ? v.data() : nullptr;
    by_piece(
        size, {k_bytes, v_bytes},
        [&](auto zero) {
            using Piece = decltype(zero);
            constexpr auto kBytes = static_cast<std::int64_t>(sizeof(Piece));
            const Stored<Piece> keys{static_cast<Piece*>(cache.keys.data()),
                                     static_cast<const Piece*>(k.data()), k_bytes / kBytes};
            const Stored<Piece> others{static_cast<Piece*>(values), static_cast<const Piece*>(v_data),
                                       v_bytes / kBytes};
            const std::int64_t pieces = tokens * (keys.width + others.width);
            if (pieces == 0) return;
            kv_store_kernel<<<blocks_for(pieces, kThreads), kThreads, 0, c.stream>>>(
                keys, others, slot.i32(), tokens, cache.keys.dim(0) * cache.page_size);
            check_launch();
        },
        cache.keys.data(), k.data(), values, v_data);
}

/// All pairs at once: no page is both a source and another pair's target.
void kv_copy_pages(const Context& c, const PagedCache& cache, Tensor from, Tensor to) {
    copy_pages(c, cache.keys, from, to);
    if (cache.values) copy_pages(c, cache.values, from, to);
}

}  // namespace gradus::cuda
