// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/trainer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "gradus/base/error.hpp"
#include "gradus/train/scores.hpp"

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

template <class Sums>
void reduce(Sums& sums, Communicator& data) {
    const auto fields = sums.summed();
    std::array<double, std::tuple_size_v<std::remove_const_t<decltype(fields)>>> values{};
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = *fields[i];
    data.all_reduce(std::span<double>(values), Reduce::sum);
    for (std::size_t i = 0; i < values.size(); ++i) *fields[i] = values[i];
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
      d_hidden_(arena.take("batch.d_hidden", parameters.dtype(),
                           {limits.micro_tokens, model.config().hidden}, Phase::training)) {
    const auto region = [&](const char* part) { return fmt::format("{}.{}", limits.name, part); };
    regions_ = {region("forward"), region("head"), region("backward"), region("optimizer"), region("values")};
    const bool scalar = parameters.has(kScalarHead);
    for (Tensor* x : scalar ? std::vector{&value_, &d_value_}
                            : std::vector{&log_prob_, &entropy_, &d_log_prob_, &d_entropy_})
        *x = arena.take("batch.loss", DType::f32, {limits.micro_tokens});
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
                            const Pass& pass, const Loss& loss, Tensor d_hidden) {
    Profile::Region region(profile_, regions_.head);
    const std::int64_t n = micro_.tokens();
    const auto rows = static_cast<std::size_t>(n);
    const Tensor log_prob = log_prob_.as({n}), entropy = entropy_.as({n});
    rows_.d_log_prob.assign(rows, 0.0f);
    rows_.d_entropy.assign(rows, 0.0f);
    if (pass.update && pass.linear) {
        rows_.log_prob.assign(rows, 0.0f);
        rows_.entropy.assign(rows, 0.0f);
        loss(members);
        upload_gradients(n);
        model_.head_backward(parameters_, hidden, micro_.targets(), pass.inv_temperature,
                             d_log_prob_.as({n}), d_entropy_.as({n}), d_hidden, log_prob, entropy);
        return;
    }
    model_.head_log_probs(parameters_, hidden, micro_.targets(), pass.inv_temperature, log_prob, entropy);
    download_log_probs(n);
    loss(members);
    if (!pass.update) return;
    upload_gradients(n);
    model_.head_backward(parameters_, hidden, micro_.targets(), pass.inv_temperature,
                         d_log_prob_.as({n}), d_entropy_.as({n}), d_hidden);
}

void Trainer::scalar_head_and_loss(std::span<const Sequence* const> members, Tensor hidden,
                                   const Loss& loss, Tensor d_hidden) {
    Profile::Region region(profile_, regions_.head);
    const Tensor value = value_.as({micro_.tokens()}), d_value = d_value_.as({micro_.tokens()});
    rows_.value.resize(static_cast<std::size_t>(micro_.tokens()));
    rows_.d_value.assign(rows_.value.size(), 0.0f);
    model_.values(parameters_, hidden, value);
    ops_.download(rows_.value.data(), value);
    loss(members);
    ops_.upload(d_value, rows_.d_value.data());
    model_.values_backward(parameters_, hidden, d_value, d_hidden);
}

void Trainer::run_micro_batches(const std::vector<Sequence>& batch, const Pass& pass, const Loss& loss,
                                const MoreLoss& more) {
    const double balance =
        limits_.balance_coef / std::max(1.0, static_cast<double>(batch.size()));
    const BatchPlan plan = plan_batch(lengths_of(batch), limits_.micro_tokens, grid_.data_size());
    const auto& micro = plan.micro[static_cast<std::size_t>(grid_.data_rank())];
    const std::int64_t blocks = model_.config().layers;
    // The last backward pass finishes the gradients: their sums over ranks begin block by block.
    const std::function<void(std::int64_t)> sum = [&](std::int64_t block) { optimizer_.start_sums(block); };
    for (std::size_t i = 0; i < micro.size(); ++i) {
        const std::vector<std::int64_t>& indices = micro[i];
        const bool last = pass.update && i + 1 == micro.size();
        // Fewer sequences than ranks.
        if (indices.empty() && !model_.passes_are_collective()) {
            for (std::int64_t block = blocks - 1; last && block >= -1; --block) sum(block);
            continue;
        }
        const std::vector<const Sequence*> members = members_of(batch, indices);
        Tensor hidden;
        {
            Profile::Region region(profile_, regions_.forward);
            micro_.fill(members, false);
            hidden = model_.forward(parameters_, micro_.packed(), pass.update);
        }
        const std::int64_t n = micro_.tokens();
        const Tensor d_hidden = d_hidden_.as({n, model_.config().hidden});
        if (value_)
            scalar_head_and_loss(members, hidden, loss, d_hidden);
        else
            head_and_loss(members, hidden, pass, loss, d_hidden);
        if (!pass.update) continue;
        if (pass.linear) pending_ = members;
        if (more) take_pending(loss);  // the module takes the memory of the log-probs
        if (more) more(members, d_hidden, balance);
        {
            Profile::Region region(profile_, regions_.backward);
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
    run_micro_batches(batch, {.update = update, .linear = true}, loss_of, more);
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
    Profile::Region region(profile_, regions_.optimizer);
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
    PolicyResult result = policy(batch, options, temperature, true);
    result.grad_norm = update_parameters(lr, result.router);
    return result;
}

Trainer::PolicyResult Trainer::policy_loss(const std::vector<Sequence>& batch,
                                           const PolicyLossOptions& options, double temperature) {
    return policy(batch, options, temperature, false);
}

Trainer::PolicyResult Trainer::policy(const std::vector<Sequence>& batch, const PolicyLossOptions& options,
                                      double temperature, bool update) {
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
            gradus::policy_loss<float>(options, normalizer, columns.tokens(), columns.d_log_prob,
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
    run_micro_batches(batch, {.inv_temperature = inverse(temperature), .update = update}, loss);
    reduce(result.sums, grid_.data());
    result.sums.sampler_gap_max = grid_.data().max(result.sums.sampler_gap_max);
    result.loss = result.sums.loss;
    check_finite(grid_.data(), first_bad, result.loss, optimizer_.steps() + 1,
                 "; a policy ratio that overflows is held by loss.ratio_clamp or loss.dual_clip");
    return result;
}

Trainer::ValueResult Trainer::value_step(const std::vector<Sequence>& batch, const ValueLossOptions& options,
                                         double lr) {
    ValueResult result;
    double targets = 0;
    const auto has_target = [](const Sequence& s, std::size_t t) {
        return s.weight[t] > 0 && !std::isnan(s.returns[t]);
    };
    for (const Sequence& s : batch) {
        require(s.value.size() == s.tokens.size() && s.returns.size() == s.tokens.size(),
                "sequence {}: values and returns do not fit its {} tokens", s.address, s.tokens.size());
        result.tokens += static_cast<double>(s.tokens.size());
        for (std::size_t t = 1; t < s.tokens.size(); ++t) targets += has_target(s, t) ? 1 : 0;
    }
    std::int64_t first_bad = kNone;
    std::vector<std::size_t> row;
    std::vector<float> value, old_value, returns, d_value;
    const Loss loss = [&](std::span<const Sequence* const> members) {
        for (std::size_t i = 0; i < members.size(); ++i) {
            const Sequence& s = *members[i];
            row.clear();
            for (auto* column : {&value, &old_value, &returns}) column->clear();
            for (std::size_t t = 1; t < s.tokens.size(); ++t) {
                if (!has_target(s, t)) continue;
                row.push_back(static_cast<std::size_t>(micro_.row(i, static_cast<std::int64_t>(t))));
                value.push_back(rows_.value[row.back()]);
                old_value.push_back(s.value[t]);
                returns.push_back(s.returns[t]);
            }
            d_value.resize(row.size());
            ValueLossSums sums;
            value_loss<float>(options, targets, {value, old_value, returns}, d_value, sums);
            result.sums.add(sums);
            for (std::size_t k = 0; k < row.size(); ++k) rows_.d_value[row[k]] = d_value[k];
            if (!std::isfinite(sums.loss)) first_bad = std::min(first_bad, s.address);
        }
    };
    run_micro_batches(batch, {.update = true}, loss);
    reduce(result.sums, grid_.data());
    check_finite(grid_.data(), first_bad, result.sums.loss, optimizer_.steps() + 1,
                 "; the rate of a critic is critic.lr");
    result.grad_norm = update_parameters(lr, result.router);
    return result;
}

std::vector<float> Trainer::scores(const std::vector<Sequence>& batch) {
    std::vector<float> scores =
        sequence_scores({model_, micro_, value_, limits_.micro_tokens, grid_, ops_}, parameters_, batch);
    for (std::size_t i = 0; i < scores.size(); ++i)
        require<NumericError>(std::isfinite(scores[i]),
                              "the score of sequence {} is not finite (after {} updates). Lower train.lr and go on from "
                              "an earlier checkpoint",
                              batch[i].address, optimizer_.steps());
    return scores;
}

Trainer::ScoreResult Trainer::score_step(const std::vector<Sequence>& batch, const ScoreLoss& loss, double lr) {
    std::vector<float> d_scores(batch.size(), 0.0f);
    {
        Profile::Region region(profile_, regions_.values);
        loss(scores(batch), d_scores);
    }
    ScoreResult result{.tokens = count(batch).tokens};
    const Loss derivatives = [&](std::span<const Sequence* const> members) {
        for (std::size_t i = 0; i < members.size(); ++i)
            rows_.d_value[static_cast<std::size_t>(micro_.row(i, std::ssize(members[i]->tokens)))] =
                d_scores[static_cast<std::size_t>(members[i] - batch.data())];
    };
    run_micro_batches(batch, {.update = true}, derivatives);
    result.grad_norm = update_parameters(lr, result.router);
    return result;
}

std::vector<std::vector<float>> Trainer::values(const std::vector<Sequence>& batch) {
    const auto head = [this](Tensor hidden) {
        const Tensor value = value_.as({hidden.dim(0)});
        rows_.value.resize(static_cast<std::size_t>(hidden.dim(0)));
        model_.values(parameters_, hidden, value);
        ops_.download(rows_.value.data(), value);
    };
    auto all = score(parameters_, batch, head, rows_.value, regions_.values);
    for (std::size_t i = 0; i < all.size(); ++i)
        require<NumericError>(std::all_of(all[i].begin(), all[i].end(), [](float v) { return std::isfinite(v); }),
                              "the critic's values of sequence {} are not finite (after {} of its updates). Lower "
                              "critic.lr and go on from an earlier checkpoint",
                              batch[i].address, optimizer_.steps());
    return all;
}

std::vector<std::vector<float>> Trainer::log_probs(const ParameterSet& parameters,
                                                   const std::vector<Sequence>& batch,
                                                   double temperature) {
    return score(parameters, batch, log_prob_head(parameters, temperature), rows_.log_prob, "logprobs.forward");
}

double Trainer::entropy_floor(const std::vector<Sequence>& batch, double top, double temperature) {
    if (top >= 1) return -std::numeric_limits<double>::infinity();
    const auto entropies =
        score(parameters_, batch, log_prob_head(parameters_, temperature), rows_.entropy, "logprobs.forward");
    std::vector<double> trained;
    for (std::size_t i = 0; i < batch.size(); ++i)
        for (std::size_t t = 1; t < batch[i].weight.size(); ++t)
            if (batch[i].weight[t] > 0) trained.push_back(static_cast<double>(entropies[i][t]));
    return gradus::entropy_floor(trained, top);
}

std::function<void(Tensor)> Trainer::log_prob_head(const ParameterSet& parameters, double temperature) {
    return [this, &parameters, inv_temperature = inverse(temperature)](Tensor hidden) {
        const std::int64_t n = hidden.dim(0);
        model_.head_log_probs(parameters, hidden, micro_.targets(), inv_temperature, log_prob_.as({n}),
                              entropy_.as({n}));
        download_log_probs(n);
    };
}

std::vector<std::vector<float>> Trainer::score(const ParameterSet& parameters, const std::vector<Sequence>& batch,
                                               const std::function<void(Tensor)>& head,
                                               const std::vector<float>& column, const std::string& region_name) {
    std::vector<std::size_t> starts(1, 0);
    for (const Sequence& s : batch) starts.push_back(starts.back() + s.tokens.size());
    std::vector<float> flat(starts.back(), 0.0f);
    const BatchPlan plan = plan_batch(lengths_of(batch), limits_.micro_tokens, grid_.data_size());
    for (const auto& indices : plan.micro[static_cast<std::size_t>(grid_.data_rank())]) {
        if (indices.empty() && !model_.passes_are_collective()) continue;
        Profile::Region region(profile_, region_name);
        micro_.fill(members_of(batch, indices), true);
        head(model_.forward(parameters, micro_.packed(), false));
        for (std::size_t i = 0; i < indices.size(); ++i) {
            const auto index = static_cast<std::size_t>(indices[i]);
            const std::size_t length = batch[index].tokens.size();
            if (length < 2) continue;
            const float* first = column.data() + micro_.row(i, 1);
            std::copy_n(first, length - 1, flat.data() + starts[index] + 1);
        }
    }
    // Each entry is non-zero on one rank only: the sum is that rank's value, exactly.
    Profile::Region region(profile_, region_name.substr(0, region_name.find('.')) + ".exchange");
    grid_.data().all_reduce(std::span<float>(flat), Reduce::sum);
    std::vector<std::vector<float>> result;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        result.emplace_back(flat.data() + starts[i], flat.data() + starts[i + 1]);
    }
    return result;
}

}  // namespace gradus
