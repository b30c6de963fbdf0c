// SPDX-License-Identifier: Apache-2.0
// Mixture of experts (DeepSeek-V3, arXiv 2412.19437, eq. 12 to 16; Qwen3-MoE):
//   out = shared(h) + sum over the chosen experts e of w_e expert_e(h)
// No token is dropped. A token takes K places; places are sorted by expert, so that each expert
// multiplies one piece of rows. The weight is applied before the expert's last product, which is
// linear: the backward pass then needs no expert outputs. Over expert ranks the rows travel to the
// rank that holds the expert and back; what a layer keeps of them is gate and up only, the inputs
// travel again in the backward pass.
#include <numeric>

#include "gradus/base/error.hpp"
#include "parts.hpp"

namespace gradus {
namespace {

constexpr Transpose kNo = Transpose::no, kYes = Transpose::yes;

/// Where rows come from and go to in an exchange, in rows.
using Offsets = std::vector<std::int64_t>;

struct Kept {
    Tensor scores, chosen, weights;    ///< [T, E], i32 [T, K], [T, K]
    Tensor order, source, place, rows; ///< i32 [P], [P], [T, K], [E] (Ops::sort_by_expert)
    Tensor row_weights;                ///< [R], of the rows that this rank's experts work on
    Tensor gate, up;                   ///< [R, I]
    std::vector<std::int32_t> host_rows;    ///< rows, on the host
    std::vector<std::int64_t> expert_rows;  ///< of each local expert
    // Between expert ranks only.
    Offsets sent, received;            ///< rows to and from each rank
    Tensor by_expert, by_rank;         ///< i32 [R]: received rows in order of expert, and its inverse
};

/// Memory of the exchange as rows of another type: activations or their f32 weights.
Tensor scratch(const Tensor& memory, DType dtype, Shape shape) {
    const Tensor view(memory.data(), dtype, shape);
    require(view.bytes() <= memory.bytes(), "an exchange of {} {} rows does not fit {} {}",
            shape.text(), name_of(dtype), memory.shape().text(), name_of(memory.dtype()));
    return view;
}

class RoutedExperts final : public Experts {
  public:
    RoutedExperts(const PartContext& context, std::size_t slots);
    void prepare(const BlockWeights& w, std::size_t slot, Tensor h) override;
    void finish(const BlockWeights& w, std::size_t slot, Tensor out) override;
    void backward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out, Tensor d_h,
                  const Packing& packing) override;
    void backward_weights(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out) override;
    void set_balance(double coef) override { balance_ = coef; }
    double take_balance_loss() override;
    std::span<const std::int32_t> loads(std::size_t slot) const override {
        return kept_[slot].host_rows;
    }

  private:
    Kept make_kept(Phase phase) const;
    bool travels() const { return ranks_ > 1; }
    void route(const BlockWeights& w, Kept& a, Tensor h);
    void plan_exchange(Kept& a);
    /// Rows [n, N] of `in` at the places of its tokens, before the experts of this rank: [R, N].
    Tensor dispatch(const Kept& a, Tensor in, Tensor index, Tensor out);
    /// The way back: [R, N] -> [P, N] in the order of places.
    Tensor collect(const Kept& a, Tensor rows);
    void exchange(const Offsets& from, Tensor in, const Offsets& to, Tensor out);
    void router_backward(const BlockWeights& w, const Kept& a, Tensor h, Tensor d_h,
                         const Packing& packing);
    std::int64_t row_count(const Kept& a) const {
        return std::accumulate(a.expert_rows.begin(), a.expert_rows.end(), std::int64_t{0});
    }

    PartContext context_;
    Ops& ops_;
    RouterShape shape_;
    std::int64_t hidden_, width_;          ///< H; I of one expert on this rank
    std::int64_t ranks_, local_;           ///< expert ranks; experts of each
    std::int64_t places_, most_rows_;      ///< P and R at most
    double balance_ = 0;
    std::vector<Kept> kept_;
    std::unique_ptr<FeedForward> shared_;
    Tensor logits_, d_logits_, rows_, product_, shared_out_;
    Tensor staging_, raw_;                 ///< both ends of an exchange
    Tensor d_rows_, d_product_, d_row_weights_, d_weights_, d_scores_, balance_loss_;
};

RoutedExperts::RoutedExperts(const PartContext& context, std::size_t slots)
    : context_(context),
      ops_(context.ops),
      hidden_(context.config.hidden),
      width_(context.config.moe.intermediate / context.grid.tensor_size()),
      ranks_(context.grid.expert_size()),
      local_(context.config.moe.experts / ranks_),
      places_(context.tokens * context.config.moe.per_token),
      // All tokens of all expert ranks may choose experts of one rank.
      most_rows_(ranks_ == 1 ? places_
                             : context.tokens * ranks_ * std::min(context.config.moe.per_token, local_)) {
    const MixtureOfExperts& m = context.config.moe;
    shape_ = {.experts = m.experts,
              .per_token = m.per_token,
              .sigmoid = m.score == RouterScore::sigmoid,
              .normalize = m.normalize,
              .scale = static_cast<float>(m.scale),
              .groups = m.groups,
              .top_groups = m.top_groups,
              .group_best = m.group_best};
    for (std::size_t i = 0; i < slots; ++i) kept_.push_back(make_kept(phase_of_slot(i)));
    Phase phase = Phase::always;
    const auto take = [&](Shape shape) { return context.take(kScratchMemory, shape, phase); };
    if (m.shared > 0) {
        shared_ = make_mlp(context, slots, m.shared * width_,
                           [](const BlockWeights& w) -> const MlpWeights& { return w.shared; });
        shared_out_ = take({context.tokens, hidden_});
    }
    const auto take_f32 = [&](Shape shape) { return context.take_f32(kScratchMemory, shape, phase); };
    logits_ = take_f32({context.tokens, m.experts});
    rows_ = take({most_rows_, hidden_});
    product_ = take({most_rows_, width_});
    if (travels()) {
        staging_ = take({places_, hidden_});
        raw_ = take({most_rows_, hidden_});
    }
    if (!context.train) return;
    balance_loss_ = take_f32({1});  // from pass to pass until it is asked for
    phase = Phase::training;
    d_rows_ = take({most_rows_, hidden_});
    d_product_ = take({most_rows_, width_});
    d_logits_ = take({context.tokens, m.experts});
    d_row_weights_ = take_f32({most_rows_});
    d_weights_ = take_f32({context.tokens, m.per_token});
    d_scores_ = take_f32({context.tokens, m.experts});
}

Kept RoutedExperts::make_kept(Phase phase) const {
    const std::int64_t tokens = context_.tokens;
    const auto take = [&](Shape shape) { return context_.take(kKeptMemory, shape, phase); };
    const auto take_f32 = [&](Shape shape) { return context_.take_f32(kKeptMemory, shape, phase); };
    const auto ints = [&](Shape shape) { return context_.take_i32(kKeptMemory, shape, phase); };
    Kept a;
    a.scores = take_f32({tokens, shape_.experts});
    a.chosen = ints({tokens, shape_.per_token});
    a.weights = take_f32({tokens, shape_.per_token});
    a.order = ints({places_});
    a.source = ints({places_});
    a.place = ints({tokens, shape_.per_token});
    a.rows = ints({shape_.experts});
    a.row_weights = take_f32({most_rows_});
    a.gate = take({most_rows_, width_});
    a.up = take({most_rows_, width_});
    a.host_rows.resize(static_cast<std::size_t>(shape_.experts));
    a.expert_rows.resize(static_cast<std::size_t>(local_));
    if (travels()) {
        a.sent.resize(static_cast<std::size_t>(ranks_) + 1);
        a.received.resize(static_cast<std::size_t>(ranks_) + 1);
        a.by_expert = ints({most_rows_});
        a.by_rank = ints({most_rows_});
    }
    return a;
}

/// Tells every rank how many rows come to each of its experts.
void RoutedExperts::plan_exchange(Kept& a) {
    const auto n = static_cast<std::size_t>(shape_.experts), local = static_cast<std::size_t>(local_);
    std::vector<std::int64_t> mine(a.host_rows.begin(), a.host_rows.end()), theirs(n), bytes;
    for (std::int64_t r = 0; r <= ranks_; ++r) bytes.push_back(r * local_ * 8);
    context_.grid.expert().all_to_all(std::as_bytes(std::span(mine)), bytes,
                                      std::as_writable_bytes(std::span(theirs)), bytes);
    std::fill(a.expert_rows.begin(), a.expert_rows.end(), 0);
    for (std::size_t r = 0, i = 0; r < static_cast<std::size_t>(ranks_); ++r) {
        a.sent[r + 1] = a.sent[r];
        a.received[r + 1] = a.received[r];
        for (std::size_t e = 0; e < local; ++e, ++i) {
            a.sent[r + 1] += mine[i];
            a.received[r + 1] += theirs[i];
            a.expert_rows[e] += theirs[i];
        }
    }
    // Rows arrive rank by rank, each rank's by expert.
    std::vector<std::int64_t> next(local, 0);
    for (std::size_t e = 1; e < local; ++e) next[e] = next[e - 1] + a.expert_rows[e - 1];
    std::int32_t at = 0;
    const std::int64_t received = a.received.back();
    std::vector<std::int32_t> by_rank(static_cast<std::size_t>(received)), by_expert(by_rank);
    for (std::size_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < theirs[i]; ++j, ++at) {
            const std::int64_t to = next[i % local]++;
            by_rank[static_cast<std::size_t>(at)] = static_cast<std::int32_t>(to);
            by_expert[static_cast<std::size_t>(to)] = at;
        }
    ops_.upload(a.by_rank.as({received}), by_rank.data());
    ops_.upload(a.by_expert.as({received}), by_expert.data());
}

void RoutedExperts::exchange(const Offsets& from, Tensor in, const Offsets& to, Tensor out) {
    const std::int64_t row = in.shape().row_elements() * size_of(in.dtype());
    Offsets send(from), receive(to);
    for (std::int64_t& x : send) x *= row;
    for (std::int64_t& x : receive) x *= row;
    ops_.all_to_all(context_.grid.expert(), in, send, out, receive);
}

Tensor RoutedExperts::dispatch(const Kept& a, Tensor in, Tensor index, Tensor out) {
    const std::int64_t places = index.elements(), n = in.shape().row_elements();
    const Tensor rows = out.as({row_count(a), n});
    if (!travels()) {
        ops_.gather_rows(rows, in, index);
        return rows;
    }
    const Tensor staging = scratch(staging_, in.dtype(), {places, n});
    const Tensor raw = scratch(raw_, in.dtype(), {row_count(a), n});
    ops_.gather_rows(staging, in, index);
    exchange(a.sent, staging, a.received, raw);
    ops_.gather_rows(rows, raw, a.by_expert.as({row_count(a)}));
    return rows;
}

Tensor RoutedExperts::collect(const Kept& a, Tensor rows) {
    if (!travels()) return rows;
    const std::int64_t n = rows.shape().row_elements();
    const Tensor raw = scratch(raw_, rows.dtype(), {row_count(a), n});
    const Tensor back = scratch(staging_, rows.dtype(), {a.sent.back(), n});
    ops_.gather_rows(raw, rows, a.by_rank.as({row_count(a)}));
    exchange(a.received, raw, a.sent, back);
    return back;
}

void RoutedExperts::route(const BlockWeights& w, Kept& a, Tensor h) {
    const std::int64_t t = h.dim(0), places = t * shape_.per_token;
    const Tensor logits = logits_.rows(0, t), weights = a.weights.rows(0, t);
    const Tensor chosen = a.chosen.rows(0, t), order = a.order.as({places});
    ops_.gemm(logits, h, kNo, w.router->value, kYes, 1, 0);
    ops_.route(a.scores.rows(0, t), chosen, weights, logits,
               w.router_bias != nullptr ? w.router_bias->value : Tensor{}, shape_);
    ops_.sort_by_expert(order, a.source.as({places}), a.place.rows(0, t), a.rows, chosen);
    ops_.download(a.host_rows.data(), a.rows);
    if (travels())
        plan_exchange(a);
    else
        std::copy(a.host_rows.begin(), a.host_rows.end(), a.expert_rows.begin());
    dispatch(a, weights.as({places, 1}), order, a.row_weights);
}

void RoutedExperts::prepare(const BlockWeights& w, std::size_t slot, Tensor h) {
    Kept& a = kept_[slot];
    route(w, a, h);
    const Tensor x = dispatch(a, h, a.source.as({h.dim(0) * shape_.per_token}), rows_);
    const std::int64_t rows = x.dim(0);
    ops_.expert_gemm(a.gate.rows(0, rows), x, w.experts.gate->value, kNo, a.expert_rows, 0);
    ops_.expert_gemm(a.up.rows(0, rows), x, w.experts.up->value, kNo, a.expert_rows, 0);
    if (shared_) shared_->prepare(w, slot, h);
}

void RoutedExperts::finish(const BlockWeights& w, std::size_t slot, Tensor out) {
    const Kept& a = kept_[slot];
    const std::int64_t t = out.dim(0), rows = row_count(a);
    const Tensor product = product_.rows(0, rows), y = rows_.rows(0, rows);
    ops_.swiglu(product, a.gate.rows(0, rows), a.up.rows(0, rows));
    ops_.scale_rows(product, a.row_weights.as({rows}));
    ops_.expert_gemm(y, product, w.experts.down->value, kNo, a.expert_rows, 0);
    ops_.sum_rows(out, collect(a, y), a.place.rows(0, t), false);
    if (!shared_) return;
    shared_->finish(w, slot, shared_out_.rows(0, t));
    ops_.add(out, shared_out_.rows(0, t));
}

void RoutedExperts::router_backward(const BlockWeights& w, const Kept& a, Tensor h, Tensor d_h,
                                    const Packing& packing) {
    const std::int64_t t = h.dim(0);
    const Tensor d_weights = d_weights_.rows(0, t), d_logits = d_logits_.rows(0, t);
    const Tensor exact = logits_.rows(0, t);
    // Each tensor rank holds some columns of an expert, thus a part of this sum.
    context_.sum_over_tensor_ranks(d_weights);
    Tensor d_scores;
    if (balance_ != 0) {
        d_scores = d_scores_.rows(0, t);
        ops_.route_balance(balance_loss_, d_scores, a.scores.rows(0, t), packing, shape_,
                           static_cast<float>(balance_));
    }
    ops_.route_backward(exact, d_weights, d_scores, a.scores.rows(0, t), a.chosen.rows(0, t), shape_);
    ops_.copy(d_logits, exact);
    ops_.gemm(w.router->grad, d_logits, kYes, h, kNo, 1, 1);
    // Every tensor rank has the whole of this product: one of them adds it.
    if (context_.grid.tensor_rank() == 0) ops_.gemm(d_h, d_logits, kNo, w.router->value, kNo, 1, 1);
}

void RoutedExperts::backward(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out,
                             Tensor d_h, const Packing& packing) {
    const Kept& a = kept_[slot];
    const std::int64_t t = h.dim(0), rows = row_count(a), places = t * shape_.per_token;
    const Tensor gate = a.gate.rows(0, rows), up = a.up.rows(0, rows);
    const Tensor product = product_.rows(0, rows), d_product = d_product_.rows(0, rows);
    const Tensor row_weights = a.row_weights.as({rows}), d_row_weights = d_row_weights_.as({rows});
    const Tensor d_y = dispatch(a, d_out, a.source.as({places}), d_rows_);
    ops_.swiglu(product, gate, up);
    ops_.expert_gemm(d_product, d_y, w.experts.down->value, kYes, a.expert_rows, 0);
    ops_.row_dots(d_row_weights, d_product, product);
    ops_.scale_rows(product, row_weights);
    ops_.expert_gemm_backward(w.experts.down->grad, d_y, product, a.expert_rows);
    ops_.scale_rows(d_product, row_weights);
    ops_.swiglu_backward(gate, up, {}, d_product, gate, up);  // now gradients
    const Tensor x = dispatch(a, h, a.source.as({places}), rows_);
    ops_.expert_gemm_backward(w.experts.gate->grad, gate, x, a.expert_rows);
    ops_.expert_gemm_backward(w.experts.up->grad, up, x, a.expert_rows);
    const Tensor d_x = d_rows_.rows(0, rows);
    ops_.expert_gemm(d_x, gate, w.experts.gate->value, kYes, a.expert_rows, 0);
    ops_.expert_gemm(d_x, up, w.experts.up->value, kYes, a.expert_rows, 1);
    const Tensor place = a.place.rows(0, t);
    ops_.sum_rows(d_h, collect(a, d_x), place, false);
    ops_.gather_rows(d_weights_.as({places, 1}), collect(a, d_row_weights.as({rows, 1})),
                     place.as({places}));
    router_backward(w, a, h, d_h, packing);
    if (!shared_) return;
    const Tensor shared = shared_out_.rows(0, t);
    shared_->backward(w, slot, h, d_out, shared, packing);
    ops_.add(d_h, shared);
}

void RoutedExperts::backward_weights(const BlockWeights& w, std::size_t slot, Tensor h, Tensor d_out) {
    if (shared_) shared_->backward_weights(w, slot, h, d_out);
}

double RoutedExperts::take_balance_loss() {
    float loss = 0;
    ops_.download(&loss, balance_loss_);
    ops_.fill(balance_loss_, 0);
    return static_cast<double>(loss);
}

}  // namespace

std::unique_ptr<Experts> make_experts(const PartContext& context, std::size_t slots) {
    return std::make_unique<RoutedExperts>(context, slots);
}

}  // namespace gradus
