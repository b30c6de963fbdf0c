// SPDX-License-Identifier: Apache-2.0
// A model with its parameters and memory on one grid, and packed batches for it.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../device/test_device.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/model/transformer.hpp"

namespace gradus::test {

using Tokens = Numbers;

inline Floats copy_of(const Tensor& tensor) {
    const auto values = tensor.floats();
    return {values.begin(), values.end()};
}

/// Everything on one grid; `planned`: sizes only.
struct Instance {
    Instance(const ModelConfig& config, const Grid& grid, Transformer::Limits limits,
             bool planned = false)
        : device(make_test_device()),
          arena(planned ? nullptr : device.get()),
          ops(make_test_ops({.max_tokens = std::max(limits.max_tokens, limits.max_decode),
                             .max_length = limits.max_length,
                             .max_head_dim = config.head_dim,
                             .max_heads = config.heads / grid.tensor_size(),
                             .max_width = config.hidden,
                             .max_decode = limits.max_decode},
                            arena)),
          parameters(config, grid, arena, limits.train, "policy", limits.mtp),
          model(config, grid, *ops, arena, limits) {}

    std::unique_ptr<Device> device;
    Arena arena;
    std::unique_ptr<Ops> ops;
    ParameterSet parameters;
    Transformer model;
};

/// Sequences one behind the other; row t predicts targets[t], the next token (-1 at an end).
class Packed {
  public:
    explicit Packed(const std::vector<Tokens>& sequences) : starts_{0} {
        for (const Tokens& sequence : sequences) {
            for (std::size_t t = 0; t < sequence.size(); ++t) {
                tokens_.push_back(sequence[t]);
                positions_.push_back(static_cast<std::int32_t>(t));
                targets_.push_back(t + 1 < sequence.size() ? sequence[t + 1] : -1);
            }
            starts_.push_back(static_cast<std::int32_t>(tokens_.size()));
            longest_ = std::max(longest_, static_cast<std::int64_t>(sequence.size()));
        }
    }

    PackedTokens batch() {
        return {.tokens = view(tokens_),
                .packing = {.starts = view(starts_),
                            .positions = view(positions_),
                            .sequences = static_cast<std::int64_t>(starts_.size()) - 1,
                            .max_length = longest_}};
    }
    std::int64_t rows() const { return static_cast<std::int64_t>(tokens_.size()); }
    std::int64_t start(std::size_t sequence) const { return starts_[sequence]; }
    Tensor targets() { return view(targets_); }

  private:
    Numbers tokens_, positions_, starts_, targets_;
    std::int64_t longest_ = 0;
};

/// Log-probs and entropies of all rows.
struct Scores {
    Floats log_prob, entropy;
};
inline Scores score(Instance& on, Tensor hidden, Tensor targets, float inv_temperature) {
    const auto rows = static_cast<std::size_t>(hidden.dim(0));
    Scores s{Floats(rows), Floats(rows)};
    on.model.head_log_probs(on.parameters, hidden, targets, inv_temperature,
                            view(s.log_prob, {hidden.dim(0)}), view(s.entropy, {hidden.dim(0)}));
    return s;
}

/// dL/dlog_prob and dL/dentropy of a loss.
struct ScoreGradients {
    Floats d_log_prob, d_entropy;
    float inv_temperature = 1;
};
/// Forward, head and backward: gradients of the parameters +=; returns dL/dhidden.
inline Floats add_gradients(Instance& on, Packed& packed, ScoreGradients loss) {
    const std::int64_t rows = packed.rows(), width = on.model.config().hidden;
    Floats d_hidden(static_cast<std::size_t>(rows * width));
    const PackedTokens batch = packed.batch();
    const Tensor hidden = on.model.forward(on.parameters, batch, true);
    on.model.head_backward(on.parameters, hidden, packed.targets(), loss.inv_temperature,
                           view(loss.d_log_prob, {rows}), view(loss.d_entropy, {rows}),
                           view(d_hidden, {rows, width}));
    const Floats result = d_hidden;
    on.model.backward(on.parameters, batch, view(d_hidden, {rows, width}));
    return result;
}

/// Caches of all layers with their pages dealt out in a shuffled order, for sequences of up to
/// `max_pages` pages each.
class Pages {
  public:
    Pages(const ModelConfig& c, int tensor_size, std::int64_t sequences, std::int64_t page_size,
          std::int64_t max_pages)
        : page_size_(page_size), max_pages_(max_pages) {
        const std::int64_t pages = sequences * max_pages;
        const CacheShape shape = cache_shape(c, tensor_size);
        const auto rows = [&](std::int64_t width) {
            const Shape of{pages, page_size, shape.heads, width};
            return view(memory_.emplace_back(static_cast<std::size_t>(of.elements()), NAN), of);
        };
        memory_.reserve(static_cast<std::size_t>(2 * c.layers));
        for (std::int64_t i = 0; i < c.layers; ++i) {
            PagedCache& cache = caches_.emplace_back();
            cache.page_size = page_size;
            cache.keys = rows(shape.key_dim);
            if (shape.value_dim > 0) cache.values = rows(shape.value_dim);
        }
        std::vector<std::int64_t> order(static_cast<std::size_t>(pages));
        random_permutation(5, Stream::test, 0, pages, order.data());
        table_.assign(order.begin(), order.end());
    }

    std::span<const PagedCache> caches() const { return caches_; }
    /// Where token `position` of a sequence is stored.
    std::int32_t slot(std::int64_t sequence, std::int64_t position) const {
        const auto entry = static_cast<std::size_t>(sequence * max_pages_ + position / page_size_);
        return static_cast<std::int32_t>(table_[entry] * page_size_ + position % page_size_);
    }
    /// i32 [sequences, max_pages]
    Tensor table() {
        return view(table_, {std::ssize(table_) / max_pages_, max_pages_});
    }

  private:
    std::int64_t page_size_, max_pages_;
    std::vector<Floats> memory_;
    std::vector<PagedCache> caches_;
    Numbers table_;
};

/// Hidden state of the last of `tokens`, one new token for each of several sequences; sequence i has
/// `lengths[i]` tokens with the new one.
inline Tensor decode_step(Instance& on, Pages& pages, Tokens tokens,
                          Numbers lengths) {
    Numbers positions, slots;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        positions.push_back(lengths[i] - 1);
        slots.push_back(pages.slot(static_cast<std::int64_t>(i), lengths[i] - 1));
    }
    return on.model.decode(on.parameters, view(tokens), view(positions), view(slots), pages.table(),
                           view(lengths), pages.caches());
}

/// Largest difference beside the largest entry of `wanted`; infinite for other sizes or NaN.
inline double max_error(std::span<const float> got, std::span<const float> wanted) {
    if (got.size() != wanted.size()) return INFINITY;
    double scale = 1e-30, worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double error = std::abs(static_cast<double>(got[i]) - wanted[i]);
        if (!(error < INFINITY)) return INFINITY;
        scale = std::max(scale, std::abs(static_cast<double>(wanted[i])));
        worst = std::max(worst, error);
    }
    return worst / scale;
}

/// Norm of the difference over the norm of `wanted`.
inline double norm_error(std::span<const float> got, std::span<const float> wanted) {
    if (got.size() != wanted.size()) return INFINITY;
    double difference = 0, norm = 1e-60;
    for (std::size_t i = 0; i < got.size(); ++i) {
        difference += std::pow(static_cast<double>(got[i]) - wanted[i], 2);
        norm += std::pow(static_cast<double>(wanted[i]), 2);
    }
    return difference < INFINITY ? std::sqrt(difference / norm) : INFINITY;
}

}  // namespace gradus::test
