// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/packing.hpp"

#include <algorithm>
#include <numeric>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

struct Bin {
    std::int64_t tokens = 0;
    std::vector<std::int64_t> members;
    void add(std::int64_t index, std::int64_t length) {
        members.push_back(index);
        tokens += length;
    }
};

/// Work of a data rank: tokens count first, then the attention's share of it.
struct Load {
    std::int64_t tokens = 0, squares = 0;
    auto operator<=>(const Load&) const = default;
};

/// Each to the rank with the least work so far, longest first.
std::vector<std::vector<std::int64_t>> share_out(std::span<const std::int64_t> lengths,
                                                 std::span<const std::int64_t> longest_first,
                                                 int data_size) {
    std::vector<std::vector<std::int64_t>> shares(static_cast<std::size_t>(data_size));
    std::vector<Load> loads(shares.size());
    for (const std::int64_t index : longest_first) {
        const std::int64_t n = lengths[static_cast<std::size_t>(index)];
        const auto rank = static_cast<std::size_t>(
            std::min_element(loads.begin(), loads.end()) - loads.begin());
        shares[rank].push_back(index);
        loads[rank].tokens += n;
        loads[rank].squares += n * n;
    }
    return shares;
}

/// Best fit: into the fullest bin that has room.
std::vector<Bin> best_fit(std::span<const std::int64_t> lengths,
                          std::span<const std::int64_t> longest_first, std::int64_t capacity) {
    std::vector<Bin> bins;
    for (const std::int64_t index : longest_first) {
        const std::int64_t n = lengths[static_cast<std::size_t>(index)];
        Bin* best = nullptr;
        for (Bin& bin : bins) {
            if (bin.tokens + n <= capacity && (best == nullptr || bin.tokens > best->tokens)) {
                best = &bin;
            }
        }
        if (best == nullptr) best = &bins.emplace_back();
        best->add(index, n);
    }
    return bins;
}

/// Up to `count` bins: the fullest bin that holds several sequences gives its shortest one away.
void spread(std::vector<Bin>& bins, std::span<const std::int64_t> lengths, std::size_t count) {
    while (bins.size() < count) {
        Bin* fullest = nullptr;
        for (Bin& bin : bins) {
            if (bin.members.size() > 1 && (fullest == nullptr || bin.tokens > fullest->tokens)) {
                fullest = &bin;
            }
        }
        Bin fresh;
        if (fullest != nullptr) {
            // Every other sequence, so that both halves are of like size.
            Bin kept;
            for (std::size_t i = 0; i < fullest->members.size(); ++i) {
                const std::int64_t index = fullest->members[i];
                (i % 2 == 0 ? kept : fresh).add(index, lengths[static_cast<std::size_t>(index)]);
            }
            *fullest = std::move(kept);
        }
        bins.push_back(std::move(fresh));
    }
}

}  // namespace

BatchPlan plan_batch(std::span<const std::int64_t> lengths, std::int64_t micro_tokens,
                     int data_size) {
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        require<DataError>(lengths[i] > 0, "sequence {} of the batch has no tokens", i);
        require<DataError>(lengths[i] <= micro_tokens,
                           "sequence {} of the batch has {} tokens, a micro-batch takes {}: raise "
                           "train.micro_tokens or shorten the sequences",
                           i, lengths[i], micro_tokens);
    }
    std::vector<std::int64_t> order(lengths.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return lengths[static_cast<std::size_t>(a)] > lengths[static_cast<std::size_t>(b)];
    });
    std::vector<std::vector<Bin>> ranks;
    std::size_t count = 0;
    for (const auto& share : share_out(lengths, order, data_size)) {
        ranks.push_back(best_fit(lengths, share, micro_tokens));
        count = std::max(count, ranks.back().size());
    }
    BatchPlan plan;
    for (std::vector<Bin>& bins : ranks) {
        spread(bins, lengths, count);
        auto& micro = plan.micro.emplace_back();
        for (Bin& bin : bins) {
            std::sort(bin.members.begin(), bin.members.end());
            micro.push_back(std::move(bin.members));
        }
    }
    return plan;
}

MicroBatch::MicroBatch(std::int64_t max_tokens, Ops& ops, Arena& arena)
    : ops_(ops),
      max_tokens_(max_tokens),
      token_buffer_(arena.take("batch.tokens", DType::i32, {max_tokens})),
      position_buffer_(arena.take("batch.positions", DType::i32, {max_tokens})),
      start_buffer_(arena.take("batch.starts", DType::i32, {max_tokens + 1})),
      target_buffer_(arena.take("batch.targets", DType::i32, {max_tokens})),
      next_buffer_(arena.take("batch.targets", DType::i32, {max_tokens})),
      second_buffer_(arena.take("batch.targets", DType::i32, {max_tokens})) {}

void MicroBatch::fill(std::span<const Sequence* const> sequences, bool all_targets) {
    std::int64_t total = 0;
    for (const Sequence* s : sequences) total += static_cast<std::int64_t>(s->tokens.size());
    const auto count = static_cast<std::int64_t>(sequences.size());
    require(total <= max_tokens_ && count <= max_tokens_,
            "a micro-batch of {} tokens in {} sequences does not fit {} tokens", total, count,
            max_tokens_);
    starts_host_.assign(1, 0);
    packed_.packing.max_length = 0;
    std::vector<std::int32_t> tokens, positions, starts(1, 0), targets, next, second;
    for (auto* v : {&tokens, &positions, &targets, &next, &second})
        v->reserve(static_cast<std::size_t>(total));
    for (const Sequence* s : sequences) {
        const std::size_t n = s->tokens.size();
        require(all_targets || s->weight.size() == n,
                "sequence {} has {} tokens and {} weights", s->address, n, s->weight.size());
        for (std::size_t t = 0; t < n; ++t) {
            const auto target_at = [&](std::size_t at) {
                return at < n && (all_targets || s->weight[at] != 0) ? s->tokens[at] : -1;
            };
            tokens.push_back(s->tokens[t]);
            positions.push_back(static_cast<std::int32_t>(t));
            targets.push_back(target_at(t + 1));
            next.push_back(t + 1 < n ? s->tokens[t + 1] : -1);
            second.push_back(target_at(t + 2));
        }
        const auto length = static_cast<std::int64_t>(n);
        starts_host_.push_back(starts_host_.back() + length);
        starts.push_back(static_cast<std::int32_t>(starts_host_.back()));
        packed_.packing.max_length = std::max(packed_.packing.max_length, length);
    }
    tokens_ = total;
    const auto put = [&](const Tensor& buffer, const std::vector<std::int32_t>& values) {
        const Tensor to = buffer.as({static_cast<std::int64_t>(values.size())});
        ops_.upload(to, values.data());
        return to;
    };
    packed_.tokens = put(token_buffer_, tokens);
    packed_.packing.starts = put(start_buffer_, starts);
    packed_.packing.positions = put(position_buffer_, positions);
    packed_.packing.sequences = count;
    targets_ = put(target_buffer_, targets);
    next_ = put(next_buffer_, next);
    second_targets_ = put(second_buffer_, second);
}

}  // namespace gradus
