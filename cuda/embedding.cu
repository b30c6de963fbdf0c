// SPDX-License-Identifier: Apache-2.0
// Embedding over a slice [offset, offset + Vl) of the vocabulary:
//   embedding           out[t] = table[token[t] - offset], zero outside the slice
//   embedding_backward  d_table[v] += sum of d_out[t] over the t with token[t] - offset = v
// The sum goes without atomics, in a fixed order: (row, position) pairs are sorted by row, stable, so
// that equal tokens form a run in order of position. A block takes kChunk sorted entries and a tile of
// columns. Runs that lie inside a chunk it adds to the table itself; of a run that goes on into other
// chunks it leaves a partial sum, one for the run that came from before (`heads`), one for the run that
// begins here (`tails`). A second kernel adds up the pieces of each such run in order of chunks.
// Bound: bytes of d_out, read once, and of the rows of d_table that occur, read and written once.
#include <cub/device/device_radix_sort.cuh>

#include "kernels.hpp"
#include "rows.cuh"

namespace gradus::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 64;  // sorted entries a block
constexpr int kAhead = 8;   // rows in flight a thread

using Key = std::uint32_t;

/// Entries outside the slice get the key `slice` and so go to the end.
__global__ void keys_kernel(Key* keys, Key* positions, const std::int32_t* tokens, int count,
                            std::int64_t offset, Key slice) {
    const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (t >= count) return;
    const std::int64_t row = tokens[t] - offset;
    keys[t] = row >= 0 && row < slice ? static_cast<Key>(row) : slice;
    positions[t] = static_cast<Key>(t);
}

template <int kCount>
__device__ void add_to(float* to, const float (&x)[kCount]) {
    constexpr int kPiece = kCount < 4 ? kCount : 4;
#pragma unroll
    for (int i = 0; i < kCount; i += kPiece) {
        Vec<float, kPiece> y = load_vec<kPiece>(to + i);
#pragma unroll
        for (int k = 0; k < kPiece; ++k) y.at[k] += x[i + k];
        store_vec(to + i, y);
    }
}
template <int kCount>
__device__ void write_to(float* to, const float (&x)[kCount]) {
    constexpr int kPiece = kCount < 4 ? kCount : 4;
#pragma unroll
    for (int i = 0; i < kCount; i += kPiece) {
        Vec<float, kPiece> y;
#pragma unroll
        for (int k = 0; k < kPiece; ++k) y.at[k] = x[i + k];
        store_vec(to + i, y);
    }
}

/// Block (chunk, tile of columns).
template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    sum_runs_kernel(float* d_table, float* heads, float* tails, const T* d_out, const Key* keys,
                    const Key* positions, int count, std::int64_t columns, Key slice) {
    __shared__ Key key[kChunk];
    __shared__ Key position[kChunk];
    const int first = static_cast<int>(blockIdx.x) * kChunk;
    const int entries = min(kChunk, count - first);
    for (int i = threadIdx.x; i < entries; i += kThreads) {
        key[i] = keys[first + i];
        position[i] = positions[first + i];
    }
    __syncthreads();
    if (key[0] == slice) return;
    const bool continues = first > 0 && keys[first - 1] == key[0];
    const bool goes_on =
        first + entries < count && keys[first + entries] == key[entries - 1];
    const std::int64_t column =
        (static_cast<std::int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kCount;
    if (column >= columns) return;
    const std::int64_t mine = blockIdx.x * columns + column;
    const T* from = d_out + column;

    float sum[kCount] = {};
    int begin = 0;  // of the run
    for (int base = 0; base < entries; base += kAhead) {
        Vec<T, kCount> x[kAhead];
#pragma unroll
        for (int a = 0; a < kAhead; ++a)
            if (base + a < entries) x[a] = load_vec<kCount>(from + position[base + a] * columns);
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
            const int i = base + a;
            if (i >= entries) break;
#pragma unroll
            for (int k = 0; k < kCount; ++k) sum[k] += x[a].get(k);
            const bool last = i + 1 == entries;
            if (!last && key[i + 1] == key[i]) continue;
            if (begin == 0 && continues)
                write_to(heads + mine, sum);
            else if (last && goes_on)
                write_to(tails + mine, sum);
            else if (key[i] < slice)
                add_to(d_table + key[i] * columns + column, sum);
#pragma unroll
            for (int k = 0; k < kCount; ++k) sum[k] = 0;
            begin = i + 1;
        }
    }
}

/// Block (chunk, tile of columns): where a run begins in the chunk and goes on into later ones, adds its
/// tail and their heads to the table.
template <int kCount>
__global__ void __launch_bounds__(kThreads)
    join_runs_kernel(float* d_table, const float* heads, const float* tails, const Key* keys,
                     int count, std::int64_t columns, Key slice) {
    const int first = static_cast<int>(blockIdx.x) * kChunk, next = first + kChunk;
    if (next >= count) return;
    const Key key = keys[next];
    if (key == slice || keys[next - 1] != key) return;
    if (first > 0 && keys[first - 1] == key) return;  // it began earlier
    // Keys are sorted: bisect for the first chunk that begins with another one.
    const int chunks = (count + kChunk - 1) / kChunk;
    int low = static_cast<int>(blockIdx.x) + 1, high = chunks;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (keys[middle * kChunk] == key ? low : high) = middle;
    }
    const std::int64_t column =
        (static_cast<std::int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kCount;
    if (column >= columns) return;
    float sum[kCount];
    const Vec<float, kCount> tail = load_vec<kCount>(tails + blockIdx.x * columns + column);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] = tail.at[k];
#pragma unroll 8
    for (std::int64_t chunk = blockIdx.x + 1; chunk < high; ++chunk) {
        const Vec<float, kCount> head = load_vec<kCount>(heads + chunk * columns + column);
#pragma unroll
        for (int k = 0; k < kCount; ++k) sum[k] += head.at[k];
    }
    add_to(d_table + key * columns + column, sum);
}

constexpr std::int64_t aligned(std::int64_t bytes) { return (bytes + 255) / 256 * 256; }
/// Counters of the sort; its pairs lie in buffers of ours.
constexpr std::int64_t sort_bytes(std::int64_t count) { return aligned(count) + (4 << 20); }
constexpr std::int64_t partial_floats(std::int64_t count, std::int64_t columns) {
    return 2 * ((count + kChunk - 1) / kChunk) * columns;
}

}  // namespace

std::int64_t embedding_workspace(const OpsLimits& limits) {
    const std::int64_t count = limits.max_tokens;
    return 4 * aligned(count * static_cast<std::int64_t>(sizeof(Key))) + sort_bytes(count) +
           partial_floats(count, limits.max_width) * static_cast<std::int64_t>(sizeof(float));
}

void embedding(const Context& c, Tensor out, Tensor table, Tensor tokens, std::int64_t offset) {
    gather_slice(c, out, table, tokens, offset, true);
}

void embedding_backward(const Context& c, Tensor d_table, Tensor d_out, Tensor tokens,
                        std::int64_t offset) {
    const std::int64_t columns = d_table.shape().row_elements(), entries = tokens.elements();
    require(d_table.dtype() == DType::f32 && d_out.elements() >= entries * columns &&
                entries <= (1 << 30) && d_table.dim(0) < (1ll << 31),
            "embedding_backward: {} tokens of {} to {}", entries, d_out.shape().text(),
            d_table.shape().text());
    if (entries == 0 || columns == 0 || d_table.dim(0) == 0) return;
    const int count = static_cast<int>(entries);
    const auto slice = static_cast<Key>(d_table.dim(0));

    // keys, their buffer, positions, their buffer, counters of the sort, partial sums
    const std::int64_t pairs = aligned(count * static_cast<std::int64_t>(sizeof(Key)));
    const std::int64_t partials = partial_floats(count, columns);
    char* at = c.scratch<char>(4 * pairs + sort_bytes(count) +
                               partials * static_cast<std::int64_t>(sizeof(float)));
    const auto array = [&](int i) { return reinterpret_cast<Key*>(at + i * pairs); };
    cub::DoubleBuffer<Key> keys(array(0), array(1)), positions(array(2), array(3));
    float* heads = reinterpret_cast<float*>(at + 4 * pairs + sort_bytes(count));
    float* tails = heads + partials / 2;

    keys_kernel<<<blocks_for(count, 256), 256, 0, c.stream>>>(keys.Current(), positions.Current(),
                                                              tokens.i32(), count, offset, slice);
    check_launch();
    int bits = 1;
    while ((std::int64_t{1} << bits) <= slice) ++bits;
    std::size_t needed = 0;
    check(cub::DeviceRadixSort::SortPairs(nullptr, needed, keys, positions, count, 0, bits, c.stream));
    require(static_cast<std::int64_t>(needed) <= sort_bytes(count),
            "embedding_backward: the sort of {} keys needs {} bytes; {} were planned", count, needed,
            sort_bytes(count));
    check(cub::DeviceRadixSort::SortPairs(at + 4 * pairs, needed, keys, positions, count, 0, bits,
                                          c.stream));
    dispatch(d_out.dtype(), [&]<class T>(T) {
        const auto launch = [&]<int kCount, int kJoined>() {
            const auto grid = [&](int per_thread) {
                return dim3(blocks_for(count, kChunk), blocks_for(columns, kThreads * per_thread));
            };
            sum_runs_kernel<kCount><<<grid(kCount), kThreads, 0, c.stream>>>(
                d_table.f32(), heads, tails, data<T>(d_out), keys.Current(), positions.Current(),
                count, columns, slice);
            check_launch();
            join_runs_kernel<kJoined><<<grid(kJoined), kThreads, 0, c.stream>>>(
                d_table.f32(), heads, tails, keys.Current(), count, columns, slice);
            check_launch();
        };
        if (vectorizes<T>(columns, d_table.f32(), data<T>(d_out)))
            launch.template operator()<Vec<T>::kSize, 4>();
        else
            launch.template operator()<1, 1>();
    });
}

}  // namespace gradus::cuda
