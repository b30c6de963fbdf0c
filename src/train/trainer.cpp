// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/trainer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();

std::vector<std::int64_t> lengths_of(const std::vector<Sequence>& batch) {
    std::vector<std::int64_t> lengths;
    for (const Sequence& s : batch) lengths.push_back(static_cast<std::int64_t>(s.tokens.size()));
    return lengths;
}

struct BatchCounts {
    double tokens = 0, trained = 0;
    double second = 0;  ///< trained tokens that multi-token prediction predicts
};

BatchCounts count(const std::vector<Sequence>& batch) {
    BatchCounts counts;
    for (const Sequence& s : batch) {
        counts.tokens += static_cast<double>(s.tokens.size());
        for (std::size_t t = 1; t < s.weight.size(); ++t) {
            if (!(s.weight[t] > 0)) continue;
            counts.trained += 1;
            counts.second += t > 1 ? 1 : 0;
        }
    }
    return counts;
}

std::vector<const Sequence*> members_of(const std::vector<Sequence>& batch,
                                        const std::vector<std::int64_t>& indices) {
    std::vector<const Sequence*> members;
    for (const std::int64_t i : indices) members.push_back(&batch[static_cast<std::size_t>(i)]);
    return members;
}

/// All ranks agree on the first sequence with a loss that is not a number, or on none.
void check_finite(Communicator& data, std::int64_t first_bad, double loss, std::int64_t step,
                  const char* advice = "") {
    std::array<std::int64_t, 1> first = {first_bad};
    data.all_reduce(std::span<std::int64_t>(first), Reduce::min);
    if (first[0] != kNone) {
        throw NumericError(fmt::format("the loss of sequence {} of the batch is not finite "
                                       "(optimiser step {}, batch loss {}); the parameters are as "
                                       "before the step. Lower train.lr, or look at the sequence{}",
                                       first[0], step, loss, advice));
    }
}

float inverse(double temperature) {
    require<DeckError>(temperature > 0,
                       "a temperature of {} has no log-probs to train on: it must be above 0",
                       temperature);
    return static_cast<float>(1.0 / temperature);
}

/// The trained tokens of one sequence, side by side.
struct TokenColumns {
    std::vector<std::int64_t> row;
    std::vector<float> log_prob, entropy, old_log_prob, ref_log_prob, sampler_log_prob, advantage;
    std::vector<float> d_log_prob, d_entropy;

    void gather(const Sequence& s, std::size_t place, const MicroBatch& micro,
                std::span<const float> log_probs, std::span<const float> entropies) {
        for (auto* v : {&log_prob, &entropy, &old_log_prob, &ref_log_prob, &sampler_log_prob, &advantage})
            v->clear();
        row.clear();
        for (std::size_t t = 1; t < s.tokens.size(); ++t) {
            if (!(s.weight[t] > 0)) continue;
            row.push_back(micro.row(place, static_cast<std::int64_t>(t)));
            const auto r = static_cast<std::size_t>(row.back());
            log_prob.push_back(log_probs[r]);
            entropy.push_back(entropies[r]);
            // On-policy: the ratio is 1 and its gradient that of the log-prob.
            old_log_prob.push_back(s.old_log_prob.empty() ? log_probs[r] : s.old_log_prob[t]);
            if (!s.ref_log_prob.empty()) ref_log_prob.push_back(s.ref_log_prob[t]);
            if (!s.sampler_log_prob.empty()) sampler_log_prob.push_back(s.sampler_log_prob[t]);
            advantage.push_back(s.advantage[t]);
        }
        d_log_prob.assign(row.size(), 0.0f);
        d_entropy.assign(row.size(), 0.0f);
    }
    PolicyTokens<float> tokens() const {
        return {.log_prob = log_prob,
                .entropy = entropy,
                .old_log_prob = old_log_prob,
                .advantage = advantage,
                .ref_log_prob = ref_log_prob,
                .sampler_log_prob = sampler_log_prob};
    }
};

void check_policy_sequence(const Sequence& s, const PolicyLossOptions& options) {
    const std::size_t n = s.tokens.size();
    auto fits = [n](const std::vector<float>& v) { return v.empty() || v.size() == n; };
    require(s.advantage.size() == n && fits(s.old_log_prob) && fits(s.ref_log_prob) &&
                fits(s.sampler_log_prob) && (options.kl_coef == 0 || !s.ref_log_prob.empty()),
            "sequence {}: per-token inputs of the policy loss do not fit its {} tokens", s.address,
            n);
}

void reduce(PolicyLossSums& sums, Communicator& data) {
    std::array<double, 14> values{};
    const auto fields = sums.summed();
    static_assert(std::tuple_size_v<std::remove_const_t<decltype(fields)>> == values.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = *fields[i];
    data.all_reduce(std::span<double>(values), Reduce::sum);
    for (std::size_t i = 0; i < values.size(); ++i) *fields[i] = values[i];
    sums.sampler_gap_max = data.max(sums.sampler_gap_max);
}

}  // namespace

Trainer::Trainer(Transformer& model, ParameterSet& parameters, AdamW& optimizer, const Grid& grid,
                 Ops& ops, Arena& arena, Profile& profile, Limits limits)
    : model_(model),
      parameters_(parameters),
      optimizer_(optimizer),
      grid_(grid),
      ops_(ops),
      profile_(profile),
      limits_(limits),
      micro_(limits.micro_tokens, ops, arena),
      log_prob_(arena.take("batch.loss", DType::f32, {limits.micro_tokens})),
      entropy_(arena.take("batch.loss", DType::f32, {limits.micro_tokens})),
      d_log_prob_(arena.take("batch.loss", DType::f32, {limits.micro_tokens})),
      d_entropy_(arena.take("batch.loss", DType::f32, {limits.micro_tokens})),
      d_hidden_(arena.take("batch.d_hidden", parameters.dtype(),
                           {limits.micro_tokens, model.config().hidden}, Phase::training)) {
    if (limits.mtp_coef > 0)
        d_mtp_hidden_ = arena.take("batch.d_hidden", parameters.dtype(),
                                   {limits.micro_tokens, model.config().hidden}, Phase::training);
}

void Trainer::download_log_probs(std::int64_t n) {
    rows_.log_prob.resize(static_cast<std::size_t>(n));
    rows_.entropy.resize(static_cast<std::size_t>(n));
    ops_.download(rows_.log_prob.data(), log_prob_.as({n}));
    ops_.download(rows_.entropy.data(), entropy_.as({n}));
}

void Trainer::upload_gradients(std::int64_t n) {
    ops_.upload(d_log_prob_.as({n}), rows_.d_log_prob.data());
    ops_.upload(d_entropy_.as({n}), rows_.d_entropy.data());
}

void Trainer::head_and_loss(std::span<const Sequence* const> members, Tensor hidden,
                            float inv_temperature, bool update, bool linear, const Loss& loss,
                            Tensor d_hidden) {
    Profile::Region region(profile_, "train.head");
    const std::int64_t n = micro_.tokens();
    const auto rows = static_cast<std::size_t>(n);
    const Tensor log_prob = log_prob_.as({n}), entropy = entropy_.as({n});
    rows_.d_log_prob.assign(rows, 0.0f);
    rows_.d_entropy.assign(rows, 0.0f);
    if (update && linear) {
        rows_.log_prob.assign(rows, 0.0f);
        rows_.entropy.assign(rows, 0.0f);
        loss(members);
        upload_gradients(n);
        model_.head_backward(parameters_, hidden, micro_.targets(), inv_temperature,
                             d_log_prob_.as({n}), d_entropy_.as({n}), d_hidden, log_prob, entropy);
        return;
    }
    model_.head_log_probs(parameters_, hidden, micro_.targets(), inv_temperature, log_prob, entropy);
    download_log_probs(n);
    loss(members);
    if (!update) return;
    upload_gradients(n);
    model_.head_backward(parameters_, hidden, micro_.targets(), inv_temperature,
                         d_log_prob_.as({n}), d_entropy_.as({n}), d_hidden);
}

void Trainer::run_micro_batches(const std::vector<Sequence>& batch, float inv_temperature,
                                bool update, bool linear, const Loss& loss, const MoreLoss& more) {
    const double balance =
        limits_.balance_coef / std::max(1.0, static_cast<double>(batch.size()));
    const BatchPlan plan = plan_batch(lengths_of(batch), limits_.micro_tokens, grid_.data_size());
    const auto& micro = plan.micro[static_cast<std::size_t>(grid_.data_rank())];
    const std::int64_t blocks = model_.config().layers;
    // The last backward pass finishes the gradients: their sums over ranks begin block by block.
    const std::function<void(std::int64_t)> sum = [&](std::int64_t block) { optimizer_.start_sums(block); };
    for (std::size_t i = 0; i < micro.size(); ++i) {
        const std::vector<std::int64_t>& indices = micro[i];
        const bool last = update && i + 1 == micro.size();
        // Fewer sequences than ranks.
        if (indices.empty() && !model_.passes_are_collective()) {
            for (std::int64_t block = blocks - 1; last && block >= -1; --block) sum(block);
            continue;
        }
        const std::vector<const Sequence*> members = members_of(batch, indices);
        Tensor hidden;
        {
            Profile::Region region(profile_, "train.forward");
            micro_.fill(members, false);
            hidden = model_.forward(parameters_, micro_.packed(), update);
        }
        const std::int64_t n = micro_.tokens();
        const Tensor d_hidden = d_hidden_.as({n, model_.config().hidden});
        head_and_loss(members, hidden, inv_temperature, update, linear, loss, d_hidden);
        if (!update) continue;
        if (linear) pending_ = members;
        if (more) take_pending(loss);  // the module takes the memory of the log-probs
        if (more) more(members, d_hidden, balance);
        {
            Profile::Region region(profile_, "train.backward");
            model_.backward(parameters_, micro_.packed(), d_hidden, balance,
                            last ? sum : std::function<void(std::int64_t)>{});
            if (last) sum(-1);
            ops_.synchronize();
        }
        take_pending(loss);
    }
}

void Trainer::take_pending(const Loss& loss) {
    if (pending_.empty()) return;
    download_log_probs(micro_.tokens());
    loss(pending_);
    pending_.clear();
}

Trainer::TokenResult Trainer::next_token(const std::vector<Sequence>& batch, bool update) {
    const BatchCounts counts = count(batch);
    double sum = 0, second_sum = 0;
    std::int64_t first_bad = kNone;
    MoreLoss more;
    if (predicts_more(update))
        more = [&](std::span<const Sequence* const> members, Tensor d_hidden, double balance) {
            second_sum += more_tokens(members, counts.second, d_hidden, balance);
        };
    const Loss loss_of = [&](std::span<const Sequence* const> members) {
        for (std::size_t i = 0; i < members.size(); ++i) {
            const Sequence& s = *members[i];
            double loss = 0;
            for (std::size_t t = 1; t < s.tokens.size(); ++t) {
                if (!(s.weight[t] > 0)) continue;
                const auto r =
                    static_cast<std::size_t>(micro_.row(i, static_cast<std::int64_t>(t)));
                loss -= static_cast<double>(s.weight[t]) * rows_.log_prob[r];
                rows_.d_log_prob[r] = static_cast<float>(-s.weight[t] / counts.trained);
            }
            if (!std::isfinite(loss)) first_bad = std::min(first_bad, s.address);
            sum += loss;
        }
    };
    run_micro_batches(batch, 1.0f, update, true, loss_of, more);
    TokenResult result{.loss = grid_.data().sum(sum) / std::max(1.0, counts.trained),
                       .tokens = counts.tokens,
                       .trained_tokens = counts.trained};
    if (more) result.mtp_loss = grid_.data().sum(second_sum) / std::max(1.0, counts.second);
    check_finite(grid_.data(), first_bad, result.loss, optimizer_.steps() + 1);
    return result;
}

double Trainer::more_tokens(std::span<const Sequence* const> members, double count,
                            Tensor d_hidden, double balance) {
    Profile::Region region(profile_, "train.mtp");
    const std::int64_t n = micro_.tokens();
    const Tensor d_out = d_mtp_hidden_.as(d_hidden.shape());
    const Tensor out = model_.mtp_forward(parameters_, micro_.packed(), micro_.next());
    rows_.d_log_prob.assign(static_cast<std::size_t>(n), 0.0f);
    rows_.d_entropy.assign(static_cast<std::size_t>(n), 0.0f);
    const auto each = [&](const auto& body) {
        for (std::size_t i = 0; i < members.size(); ++i) {
            const Sequence& s = *members[i];
            for (std::size_t t = 2; t < s.tokens.size(); ++t)
                if (s.weight[t] > 0)
                    body(s.weight[t], static_cast<std::size_t>(
                                          micro_.row(i, static_cast<std::int64_t>(t) - 1)));
        }
    };
    each([&](float weight, std::size_t row) {
        rows_.d_log_prob[row] = static_cast<float>(-limits_.mtp_coef * weight / count);
    });
    upload_gradients(n);
    model_.head_backward(parameters_, out, micro_.second_targets(), 1.0f, d_log_prob_.as({n}),
                         d_entropy_.as({n}), d_out, log_prob_.as({n}), entropy_.as({n}));
    model_.mtp_backward(parameters_, micro_.packed(), micro_.next(), d_out, d_hidden, balance);
    download_log_probs(n);
    double sum = 0;
    each([&](float weight, std::size_t row) {
        sum -= static_cast<double>(weight) * rows_.log_prob[row];
    });
    return sum;
}

double Trainer::update_parameters(double lr, RouterResult& router) {
    if (model_.config().moe.experts > 0)
        router.balance_loss = grid_.data().sum(model_.take_balance_loss());
    Profile::Region region(profile_, "train.optimizer");
    const double norm = optimizer_.step(lr, true);
    router.load_max = model_.balance_experts(parameters_, limits_.router_bias_rate);
    return norm;
}

Trainer::TokenResult Trainer::next_token_step(const std::vector<Sequence>& batch, double lr) {
    TokenResult result = next_token(batch, true);
    result.grad_norm = update_parameters(lr, result.router);
    return result;
}

Trainer::TokenResult Trainer::next_token_loss(const std::vector<Sequence>& batch) {
    return next_token(batch, false);
}

Trainer::PolicyResult Trainer::policy_step(const std::vector<Sequence>& batch,
                                           const PolicyLossOptions& options, double temperature,
                                           double lr) {
    for (const Sequence& s : batch) check_policy_sequence(s, options);
    const BatchCounts counts = count(batch);
    const LossNormalizer normalizer{.tokens = counts.trained,
                                    .sequences = static_cast<double>(batch.size())};
    PolicyResult result{.tokens = counts.tokens};
    TokenColumns columns;
    std::int64_t first_bad = kNone;
    const Loss loss = [&](std::span<const Sequence* const> members) {
        for (std::size_t i = 0; i < members.size(); ++i) {
            const Sequence& s = *members[i];
            PolicyLossSums sums;
            columns.gather(s, i, micro_, rows_.log_prob, rows_.entropy);
            policy_loss<float>(options, normalizer, columns.tokens(), columns.d_log_prob,
                               columns.d_entropy, sums);
            result.sums.add(sums);
            for (std::size_t k = 0; k < columns.row.size(); ++k) {
                const auto r = static_cast<std::size_t>(columns.row[k]);
                rows_.d_log_prob[r] = columns.d_log_prob[k];
                rows_.d_entropy[r] = columns.d_entropy[k];
            }
            if (!std::isfinite(sums.loss)) first_bad = std::min(first_bad, s.address);
        }
    };
    run_micro_batches(batch, inverse(temperature), true, false, loss);
    reduce(result.sums, grid_.data());
    result.loss = result.sums.loss;
    check_finite(grid_.data(), first_bad, result.loss, optimizer_.steps() + 1,
                 "; a policy ratio that overflows is held by loss.ratio_clamp or loss.dual_clip");
    result.grad_norm = update_parameters(lr, result.router);
    return result;
}

std::vector<std::vector<float>> Trainer::log_probs(const ParameterSet& parameters,
                                                   const std::vector<Sequence>& batch,
                                                   double temperature) {
    return score(parameters, batch, temperature, rows_.log_prob);
}

double Trainer::entropy_floor(const std::vector<Sequence>& batch, double top, double temperature) {
    if (top >= 1) return -std::numeric_limits<double>::infinity();
    const auto entropies = score(parameters_, batch, temperature, rows_.entropy);
    std::vector<double> trained;
    for (std::size_t i = 0; i < batch.size(); ++i)
        for (std::size_t t = 1; t < batch[i].weight.size(); ++t)
            if (batch[i].weight[t] > 0) trained.push_back(static_cast<double>(entropies[i][t]));
    return gradus::entropy_floor(trained, top);
}

std::vector<std::vector<float>> Trainer::score(const ParameterSet& parameters, const std::vector<Sequence>& batch,
                                               double temperature, const std::vector<float>& column) {
    const float inv_temperature = inverse(temperature);
    std::vector<std::size_t> starts(1, 0);
    for (const Sequence& s : batch) starts.push_back(starts.back() + s.tokens.size());
    std::vector<float> flat(starts.back(), 0.0f);
    const BatchPlan plan = plan_batch(lengths_of(batch), limits_.micro_tokens, grid_.data_size());
    for (const auto& indices : plan.micro[static_cast<std::size_t>(grid_.data_rank())]) {
        if (indices.empty() && !model_.passes_are_collective()) continue;
        Profile::Region region(profile_, "logprobs.forward");
        micro_.fill(members_of(batch, indices), true);
        const Tensor hidden = model_.forward(parameters, micro_.packed(), false);
        const std::int64_t n = micro_.tokens();
        model_.head_log_probs(parameters, hidden, micro_.targets(), inv_temperature,
                              log_prob_.as({n}), entropy_.as({n}));
        download_log_probs(n);
        for (std::size_t i = 0; i < indices.size(); ++i) {
            const auto index = static_cast<std::size_t>(indices[i]);
            const std::size_t length = batch[index].tokens.size();
            if (length < 2) continue;
            const float* first = column.data() + micro_.row(i, 1);
            std::copy_n(first, length - 1, flat.data() + starts[index] + 1);
        }
    }
    // Each entry is non-zero on one rank only: the sum is that rank's value, exactly.
    Profile::Region region(profile_, "logprobs.exchange");
    grid_.data().all_reduce(std::span<float>(flat), Reduce::sum);
    std::vector<std::vector<float>> result;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        result.emplace_back(flat.data() + starts[i], flat.data() + starts[i + 1]);
    }
    return result;
}

}  // namespace gradus
