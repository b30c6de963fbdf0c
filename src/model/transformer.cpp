// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/transformer.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>

#include "block.hpp"
#include "mtp.hpp"
#include "gradus/base/error.hpp"

namespace gradus {
namespace {

constexpr Transpose kNo = Transpose::no, kYes = Transpose::yes;

struct ModelWeights {
    Parameter *embedding = nullptr, *norm = nullptr;
    Parameter *head = nullptr, *scalar_head = nullptr;  ///< one of them
    std::vector<BlockWeights> blocks;  ///< the module's of multi-token prediction last
    MtpWeights mtp;
};

ModelWeights look_up(const ModelConfig& c, const ParameterSet& set) {
    // Forward passes only read; gradients are written through the set that backward() was given.
    ParameterSet& parameters = const_cast<ParameterSet&>(set);
    ModelWeights w;
    w.embedding = &parameters.at("model.embed_tokens.weight");
    w.norm = &parameters.at("model.norm.weight");
    std::int64_t blocks = c.layers;
    if (parameters.has(kScalarHead)) {
        w.scalar_head = &parameters.at(kScalarHead);
    } else {
        w.head = c.tied ? w.embedding : &parameters.at("lm_head.weight");
        blocks += c.mtp_layers;
    }
    for (std::int64_t layer = 0; layer < blocks; ++layer)
        w.blocks.push_back(find_block_weights(c, parameters, layer));
    if (blocks > c.layers) w.mtp = find_mtp_weights(parameters, c.layers);
    return w;
}

}  // namespace

struct Transformer::Impl {
    Impl(const ModelConfig& config, const Grid& grid, Ops& ops, Arena& arena, const Limits& limits);

    const ModelWeights& weights(const ParameterSet& parameters);
    /// Residual stream at the input of block `layer`; layer == config.layers: after the last.
    Tensor stream(std::int64_t layer, std::int64_t tokens) const;
    PartContext parts(Arena& arena);
    void count_loads(std::int64_t layer);
    void embed(const ModelWeights& w, Tensor tokens, Tensor out);
    Tensor run(const ParameterSet& parameters, const PackedTokens& batch,
               std::span<const PagedCache> caches, Tensor slot, bool keep);
    /// The norm of the output of block `layer`.
    NextNorm norm_after(const ModelWeights& w, std::int64_t layer) const;
    void sum_over_tensor_ranks(Tensor x, Reduce op = Reduce::sum) {
        if (grid.tensor_size() > 1) ops.all_reduce(grid.tensor(), x, op);
    }
    /// Logits of this rank's slice of the vocabulary for rows of `hidden`, and their statistics.
    Tensor chunk_logits(const ModelWeights& w, Tensor hidden);
    void chunk_statistics(Tensor logits, Tensor targets, float inv_temperature);
    std::int64_t vocabulary_offset() const { return grid.tensor_rank() * vocabulary; }

    ModelConfig config;
    const Grid& grid;
    Ops& ops;
    Limits limits;
    std::int64_t rows;        ///< most tokens of any pass
    std::int64_t vocabulary;  ///< this rank's slice
    Blocks blocks;
    std::optional<MtpModule> mtp;
    std::vector<Tensor> streams;         ///< one a layer and one more, or one; passes that keep nothing: the first
    Tensor hidden, final_inv_rms, d_stream;
    Tensor logits, d_logits, slices, gathered, row_max, sums;
    Tensor first_row;      ///< zeros, i32: where the scalar head's gradient is spread from
    Tensor d_values;       ///< in the type of the activations
    /// By the set's list, whose entries the pointers are, and its memory, where joined ones lie: a set may
    /// be moved or made anew.
    std::map<std::pair<const Parameter*, const void*>, ModelWeights> looked_up;
    std::int64_t kept_tokens = -1;  ///< of the pass that backward() may follow, -1: none
    std::vector<double> loads;      ///< tokens sent to each expert of each layer, [layers, E]
};

Transformer::Impl::Impl(const ModelConfig& c, const Grid& g, Ops& o, Arena& arena, const Limits& l)
    : config(c),
      grid(g),
      ops(o),
      limits(l),
      rows(std::max(l.max_tokens, l.max_decode)),
      vocabulary(c.vocab_size / g.tensor_size()),
      blocks(parts(arena), c.layers + (l.mtp ? c.mtp_layers : 0),
             l.recompute) {
    limits.head_chunk = std::min(limits.head_chunk, rows);
    if (limits.mtp && config.mtp_layers > 0) mtp.emplace(parts(arena));
    loads.resize(static_cast<std::size_t>((config.layers + config.mtp_layers) * config.moe.experts));
    const auto take = [&](const char* name, Shape shape, Phase phase = Phase::always) {
        return arena.take(name, l.dtype, shape, phase);
    };
    const auto take_f32 = [&](const char* name, Shape shape) {
        return arena.take(name, DType::f32, shape);
    };
    for (std::int64_t i = 0; i < (limits.train ? config.layers + 1 : 1); ++i)
        streams.push_back(take("activations.residual", {rows, config.hidden},
                               phase_of_slot(static_cast<std::size_t>(i))));
    hidden = take("activations.residual", {rows, config.hidden});
    final_inv_rms = take_f32("activations.scratch", {rows});
    if (limits.train) d_stream = take("activations.scratch", {rows, config.hidden}, Phase::training);
    logits = take_f32("head", {limits.head_chunk, vocabulary});
    d_logits = logits;
    if (limits.train && limits.dtype != DType::f32)
        d_logits = take("head", {limits.head_chunk, vocabulary}, Phase::training);
    if (grid.tensor_size() > 1) {
        slices = take_f32("head", {grid.tensor_size(), limits.head_chunk, vocabulary});
        gathered = take_f32("head", {limits.head_chunk, config.vocab_size});
    }
    row_max = take_f32("head", {limits.head_chunk});
    sums = take_f32("head", {limits.head_chunk, 3});
    if (limits.train) {
        first_row = arena.take("head", DType::i32, {rows});
        d_values = take("head", {rows});
    }
}

PartContext Transformer::Impl::parts(Arena& arena) {
    return {.config = config,
            .grid = grid,
            .ops = ops,
            .arena = arena,
            .tokens = rows,
            .decode_rows = limits.max_decode,
            .train = limits.train,
            .dtype = limits.dtype};
}

void Transformer::Impl::count_loads(std::int64_t layer) {
    const LayerSlots& slots = blocks.slots(layer);
    if (!slots.moe) return;
    double* sum = loads.data() + layer * config.moe.experts;
    for (const std::int32_t tokens : blocks.experts()->loads(slots.feed)) *sum++ += tokens;
}

const ModelWeights& Transformer::Impl::weights(const ParameterSet& parameters) {
    const std::pair key(parameters.all().data(),
                        static_cast<const void*>(parameters.flat_values().data()));
    const auto found = looked_up.find(key);
    if (found != looked_up.end()) return found->second;
    return looked_up.emplace(key, look_up(config, parameters)).first->second;
}

Tensor Transformer::Impl::stream(std::int64_t layer, std::int64_t tokens) const {
    return streams[static_cast<std::size_t>(layer)].rows(0, tokens);
}

void Transformer::Impl::embed(const ModelWeights& w, Tensor tokens, Tensor out) {
    ops.embedding(out, w.embedding->value, tokens, vocabulary_offset());
    sum_over_tensor_ranks(out);
}

NextNorm Transformer::Impl::norm_after(const ModelWeights& w, std::int64_t layer) const {
    if (layer + 1 < config.layers) return {.weight = w.blocks[static_cast<std::size_t>(layer) + 1].norm1};
    return {.weight = w.norm, .out = hidden, .inv_rms = final_inv_rms};
}

Tensor Transformer::Impl::run(const ParameterSet& parameters, const PackedTokens& batch,
                              std::span<const PagedCache> caches, Tensor slot, bool keep) {
    const std::int64_t tokens = batch.tokens.elements();
    require(tokens <= rows, "a pass of {} tokens; memory was planned for {}", tokens, rows);
    kept_tokens = -1;
    const ModelWeights& w = weights(parameters);
    embed(w, batch.tokens, stream(0, tokens));
    blocks.begin(w.blocks[0], stream(0, tokens));
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
        const auto i = static_cast<std::size_t>(layer);
        blocks.forward(w.blocks[i], layer, stream(keep ? layer : 0, tokens),
                       stream(keep ? layer + 1 : 0, tokens), norm_after(w, layer), batch.packing,
                       caches.empty() ? nullptr : &caches[i], slot, keep);
        if (keep) count_loads(layer);
    }
    return hidden.rows(0, tokens);
}

Tensor Transformer::Impl::chunk_logits(const ModelWeights& w, Tensor x) {
    const Tensor out = logits.rows(0, x.dim(0));
    ops.gemm(out, x, kNo, w.head->value, kYes, 1, 0);
    return out;
}

void Transformer::Impl::chunk_statistics(Tensor z, Tensor targets, float inv_temperature) {
    const Tensor max = row_max.rows(0, z.dim(0)), sum = sums.rows(0, z.dim(0));
    if (grid.tensor_size() == 1) {
        ops.head_statistics(max, sum, z, targets, inv_temperature);
        return;
    }
    ops.head_max(max, z, inv_temperature);
    sum_over_tensor_ranks(max, Reduce::max);
    ops.head_sums(sum, z, max, targets, vocabulary_offset(), inv_temperature);
    sum_over_tensor_ranks(sum);
}

Transformer::Transformer(const ModelConfig& config, const Grid& grid, Ops& ops, Arena& arena,
                         Limits limits)
    : impl_(std::make_unique<Impl>(config, grid, ops, arena, limits)) {}
Transformer::~Transformer() = default;

const ModelConfig& Transformer::config() const { return impl_->config; }
DType Transformer::dtype() const { return impl_->limits.dtype; }
std::int64_t Transformer::logit_rows() const { return impl_->limits.head_chunk; }

Tensor Transformer::forward(const ParameterSet& parameters, const PackedTokens& batch, bool keep) {
    require(!keep || impl_->limits.train, "activations are to be kept by a model without backward");
    const Tensor hidden = impl_->run(parameters, batch, {}, {}, keep);
    if (keep) impl_->kept_tokens = hidden.dim(0);
    return hidden;
}

Tensor Transformer::prefill(const ParameterSet& parameters, const PackedTokens& batch,
                            std::span<const PagedCache> caches, Tensor slot) {
    return impl_->run(parameters, batch, caches, slot, false);
}

void Transformer::backward(ParameterSet& parameters, const PackedTokens& batch, Tensor d_hidden,
                           double balance, const std::function<void(std::int64_t)>& done) {
    Impl& m = *impl_;
    if (m.blocks.experts() != nullptr) m.blocks.experts()->set_balance(balance);
    const std::int64_t tokens = batch.tokens.elements();
    require(m.kept_tokens == tokens,
            "a backward pass of {} tokens does not follow a forward pass of them that keeps its "
            "activations", tokens);
    m.kept_tokens = -1;  // the pass writes gradients over activations
    const ModelWeights& w = m.weights(parameters);
    const Tensor d_x = m.d_stream.rows(0, tokens);
    m.ops.rms_norm_backward(d_x, w.norm->grad, d_hidden, m.stream(m.config.layers, tokens),
                            w.norm->value, m.final_inv_rms.rows(0, tokens), false);
    for (std::int64_t layer = m.config.layers - 1; layer >= 0; --layer) {
        const BlockWeights& b = w.blocks[static_cast<std::size_t>(layer)];
        const Tensor x = m.stream(layer, tokens);
        m.blocks.recompute(b, layer, x, batch.packing, m.limits.recompute);
        m.blocks.backward(b, layer, x, d_x, batch.packing);
        if (done) done(layer);
    }
    m.ops.embedding_backward(w.embedding->grad, d_x, batch.tokens, m.vocabulary_offset());
}

double Transformer::take_balance_loss() {
    Experts* experts = impl_->blocks.experts();
    return experts != nullptr ? experts->take_balance_loss() : 0;
}

double Transformer::balance_experts(ParameterSet& parameters, double rate) {
    Impl& m = *impl_;
    const std::int64_t experts = m.config.moe.experts;
    if (experts == 0) return 0;
    m.grid.data().all_reduce(std::span(m.loads), Reduce::sum);
    const ModelWeights& w = m.weights(parameters);
    double worst = 0;
    for (std::size_t layer = 0; layer < w.blocks.size(); ++layer) {
        const std::span loads(m.loads.data() + static_cast<std::int64_t>(layer) * experts,
                              static_cast<std::size_t>(experts));
        const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(experts);
        if (mean == 0) continue;  // a dense layer, or a module that is not trained
        worst = std::max(worst, *std::max_element(loads.begin(), loads.end()) / mean);
        const Parameter* bias = w.blocks[layer].router_bias;
        if (bias == nullptr || rate == 0) continue;
        std::vector<float> values(loads.size());
        m.ops.download(values.data(), bias->value);
        for (std::size_t e = 0; e < loads.size(); ++e) {
            if (loads[e] == mean) continue;
            values[e] += static_cast<float>(loads[e] < mean ? rate : -rate);
        }
        m.ops.upload(bias->value, values.data());
    }
    std::fill(m.loads.begin(), m.loads.end(), 0.0);
    return worst;
}

bool Transformer::passes_are_collective() const { return impl_->grid.expert_size() > 1; }

Tensor Transformer::mtp_forward(const ParameterSet& parameters, const PackedTokens& batch,
                                Tensor next) {
    Impl& m = *impl_;
    const std::int64_t tokens = batch.tokens.elements();
    require(m.mtp.has_value() && m.kept_tokens == tokens,
            "multi-token prediction does not follow a forward pass that keeps its activations");
    const ModelWeights& w = m.weights(parameters);
    m.embed(w, next, m.mtp->embedding(tokens));
    const Tensor out = m.mtp->forward(w.mtp, w.blocks.back(), m.blocks, m.hidden.rows(0, tokens),
                                      batch.packing);
    m.count_loads(m.config.layers);
    return out;
}

void Transformer::mtp_backward(ParameterSet& parameters, const PackedTokens& batch, Tensor next,
                               Tensor d_mtp_hidden, Tensor d_hidden, double balance) {
    Impl& m = *impl_;
    if (m.blocks.experts() != nullptr) m.blocks.experts()->set_balance(balance);
    const ModelWeights& w = m.weights(parameters);
    const Tensor d_embedding = m.mtp->backward(w.mtp, w.blocks.back(), m.blocks,
                                               m.hidden.rows(0, d_hidden.dim(0)), batch.packing,
                                               m.limits.recompute,
                                               d_mtp_hidden, d_hidden);
    m.ops.embedding_backward(w.embedding->grad, d_embedding, next, m.vocabulary_offset());
}

CacheShape cache_shape(const ModelConfig& c, int tensor_size) {
    if (c.is_latent()) return {.heads = 1, .key_dim = c.latent.kv_rank + c.latent.rope_dim};
    return {.heads = c.kv_heads / tensor_size, .key_dim = c.head_dim, .value_dim = c.head_dim};
}

void Transformer::head_log_probs(const ParameterSet& parameters, Tensor hidden, Tensor targets,
                                 float inv_temperature, Tensor log_prob, Tensor entropy) {
    Impl& m = *impl_;
    const ModelWeights& w = m.weights(parameters);
    for (std::int64_t at = 0; at < hidden.dim(0); at += m.limits.head_chunk) {
        const std::int64_t n = std::min(m.limits.head_chunk, hidden.dim(0) - at);
        const Tensor z = m.chunk_logits(w, hidden.rows(at, n));
        m.chunk_statistics(z, targets.rows(at, n), inv_temperature);
        m.ops.head_finish(log_prob.rows(at, n), entropy.rows(at, n), m.sums.rows(0, n));
    }
}

void Transformer::head_backward(ParameterSet& parameters, Tensor hidden, Tensor targets,
                                float inv_temperature, Tensor d_log_prob, Tensor d_entropy,
                                Tensor d_hidden, Tensor log_prob, Tensor entropy) {
    Impl& m = *impl_;
    const ModelWeights& w = m.weights(parameters);
    for (std::int64_t at = 0; at < hidden.dim(0); at += m.limits.head_chunk) {
        const std::int64_t n = std::min(m.limits.head_chunk, hidden.dim(0) - at);
        const Tensor x = hidden.rows(at, n), d_x = d_hidden.rows(at, n);
        const Tensor z = m.chunk_logits(w, x), d_z = m.d_logits.rows(0, n);
        m.chunk_statistics(z, targets.rows(at, n), inv_temperature);
        if (log_prob)
            m.ops.head_finish(log_prob.rows(at, n), entropy.rows(at, n), m.sums.rows(0, n));
        m.ops.head_backward(d_z, z, m.row_max.rows(0, n), m.sums.rows(0, n), targets.rows(at, n),
                            d_log_prob.rows(at, n), d_entropy.rows(at, n), m.vocabulary_offset(),
                            inv_temperature);
        m.ops.gemm(w.head->grad, d_z, kYes, x, kNo, 1, 1);
        m.ops.gemm(d_x, d_z, kNo, w.head->value, kNo, 1, 0);
    }
    m.sum_over_tensor_ranks(d_hidden);
}

void Transformer::values(const ParameterSet& parameters, Tensor hidden, Tensor value) {
    Impl& m = *impl_;
    const Tensor weight = m.weights(parameters).scalar_head->value;
    m.ops.gemm(value.as({hidden.dim(0), 1}), hidden, kNo, weight, kYes, 1, 0);
}

void Transformer::values_backward(ParameterSet& parameters, Tensor hidden, Tensor d_value,
                                  Tensor d_hidden) {
    Impl& m = *impl_;
    const Parameter& head = *m.weights(parameters).scalar_head;
    const std::int64_t n = hidden.dim(0);
    // Every tensor rank has the whole head and all rows: nothing to sum.
    m.ops.copy(m.d_values.as({n}), d_value);
    m.ops.gemm(head.grad, m.d_values.as({1, n}), kNo, hidden, kNo, 1, 1);
    m.ops.gather_rows(d_hidden, head.value, m.first_row.as({n}));
    m.ops.scale_rows(d_hidden, d_value);
}

Tensor Transformer::decode(const ParameterSet& parameters, Tensor tokens, Tensor positions,
                           Tensor slot, Tensor page_table, Tensor lengths,
                           std::span<const PagedCache> caches) {
    Impl& m = *impl_;
    const std::int64_t rows = tokens.elements();
    require(rows <= m.limits.max_decode, "{} rows to decode; memory was planned for {}", rows,
            m.limits.max_decode);
    m.kept_tokens = -1;
    const ModelWeights& w = m.weights(parameters);
    // A decode step keeps nothing: one stream, changed in place.
    const Tensor x = m.stream(0, rows);
    m.embed(w, tokens, x);
    m.blocks.begin(w.blocks[0], x);
    const DecodeRows decode_rows{positions, slot, page_table, lengths};
    for (std::int64_t layer = 0; layer < m.config.layers; ++layer) {
        const auto i = static_cast<std::size_t>(layer);
        m.blocks.decode(w.blocks[i], layer, x, m.norm_after(w, layer), decode_rows, caches[i]);
    }
    return m.hidden.rows(0, rows);
}

Tensor Transformer::logits(const ParameterSet& parameters, Tensor hidden) {
    Impl& m = *impl_;
    const std::int64_t n = hidden.dim(0);
    require(n <= m.limits.head_chunk, "{} rows of logits; memory was planned for {}", n,
            m.limits.head_chunk);
    const Tensor z = m.chunk_logits(m.weights(parameters), hidden);
    if (m.grid.tensor_size() == 1) return z;
    // Slices arrive rank by rank, [parts, n, Vl]; rows of the whole vocabulary leave.
    const int parts = m.grid.tensor_size();
    const Tensor all = m.slices.as({parts, n, m.vocabulary}), out = m.gathered.rows(0, n);
    m.ops.copy(all.rows(m.grid.tensor_rank(), 1), z);
    std::vector<std::int64_t> offsets;
    for (int r = 0; r <= parts; ++r) offsets.push_back(r * z.bytes());
    m.ops.all_gather_blocks(m.grid.tensor(), std::vector{BlockedTensor{all, offsets}});
    for (int r = 0; r < parts; ++r)
        m.ops.copy_columns(out, r * m.vocabulary, all.rows(r, 1).as({n, m.vocabulary}), 0, m.vocabulary);
    return out;
}

bool Transformer::decode_is_recordable() const { return impl_->config.moe.experts == 0; }

}  // namespace gradus
