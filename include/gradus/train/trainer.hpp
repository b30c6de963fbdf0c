// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gradus/base/profile.hpp"
#include "gradus/model/transformer.hpp"
#include "gradus/optim/adamw.hpp"
#include "gradus/train/loss.hpp"
#include "gradus/train/packing.hpp"
#include "gradus/train/value_loss.hpp"

namespace gradus {

/// The training step: packs a global batch, runs its micro-batches, updates the parameters. Every
/// data rank is given the same global batch and takes its part of the plan. Parameters with a scalar
/// head have values(), value_step(), scores() and score_step(), others the rest.
class Trainer {
  public:
    struct Limits {
        std::int64_t micro_tokens = 0;  ///< token budget of a micro-batch
        double balance_coef = 0;  ///< weight of the routers' sequence-wise balance loss
        double router_bias_rate = 0;  ///< step of the routers' correction bias after each update
        double mtp_coef = 0;      ///< weight of the multi-token prediction loss (next_token_step)
        std::string_view name = "train";  ///< of its regions in the profile: NAME.forward ...
    };
    Trainer(Transformer& model, ParameterSet& parameters, AdamW& optimizer, const Grid& grid,
            Ops& ops, Arena& arena, Profile& profile, Limits limits);

    /// Of models with experts.
    struct RouterResult {
        double balance_loss = 0;  ///< with its weight
        double load_max = 0;      ///< largest load of an expert over the mean of its layer
    };
    struct TokenResult {
        double loss = 0;  ///< mean cross entropy a trained token (nats)
        double grad_norm = 0;
        double tokens = 0, trained_tokens = 0;
        double mtp_loss = 0;      ///< mean cross entropy of the second next token, not weighted
        RouterResult router;
    };
    /// Next-token cross entropy over tokens of weight > 0, mean over the global batch.
    TokenResult next_token_step(const std::vector<Sequence>& batch, double lr);
    /// The same loss without an update.
    TokenResult next_token_loss(const std::vector<Sequence>& batch);

    struct PolicyResult {
        PolicyLossSums sums;  ///< reduced over ranks, means where divided by sums.tokens
        double loss = 0, grad_norm = 0, tokens = 0;
        RouterResult router;
    };
    /// One policy update over tokens of weight > 0; sequences without any count as sequences all
    /// the same. Without `old_log_prob` the update is on-policy: ratio 1. The gap is that of the
    /// present log-probs to `sampler_log_prob`: from a rollout's second update on it holds the
    /// policy's own movement too. Throws NumericError naming the first sequence whose loss is
    /// not finite, before the parameters change.
    PolicyResult policy_step(const std::vector<Sequence>& batch, const PolicyLossOptions& options,
                             double temperature, double lr);
    /// The same loss without an update.
    PolicyResult policy_loss(const std::vector<Sequence>& batch, const PolicyLossOptions& options,
                             double temperature);

    /// The scalar head at every token t >= 1, of the state before it, exchanged as log_probs(). Throws
    /// NumericError naming the first sequence that has one which is not finite.
    std::vector<std::vector<float>> values(const std::vector<Sequence>& batch);
    struct ValueResult {
        ValueLossSums sums;  ///< reduced over ranks
        double grad_norm = 0, tokens = 0;
        RouterResult router;
    };
    /// One update of a critic towards Sequence::returns over tokens of weight > 0 that have one. Throws
    /// NumericError as policy_step.
    ValueResult value_step(const std::vector<Sequence>& batch, const ValueLossOptions& options, double lr);

    /// The scalar head after the last token of each sequence, on all ranks. Throws NumericError naming the first that
    /// is not finite.
    std::vector<float> scores(const std::vector<Sequence>& batch);
    /// From the scores of a whole batch a loss's derivatives by each, which are zero before. Every rank calls it, with
    /// the same scores.
    using ScoreLoss = std::function<void(std::span<const float> scores, std::span<float> d_scores)>;
    struct ScoreResult {
        double grad_norm = 0, tokens = 0;
        RouterResult router;
    };
    /// One update of a reward model: a forward pass over all, the loss, then forward and backward with its derivatives,
    /// so that what is compared need not lie in one micro-batch or on one rank. Throws NumericError as scores(), before
    /// the parameters change.
    ScoreResult score_step(const std::vector<Sequence>& batch, const ScoreLoss& loss, double lr);

    /// Log-probs at `temperature` of every token t >= 1 under `parameters`, for this rank's share,
    /// exchanged so that all ranks hold all: result[i][t], entry 0 is 0.
    std::vector<std::vector<float>> log_probs(const ParameterSet& parameters,
                                              const std::vector<Sequence>& batch,
                                              double temperature);
    /// The entropy that the share `top` of the trained tokens with the most entropy reaches under the
    /// policy (PolicyLossOptions::entropy_floor); a forward pass over the batch. -infinity for top = 1.
    double entropy_floor(const std::vector<Sequence>& batch, double top, double temperature);

  private:
    /// Called once a micro-batch: from rows_.log_prob and rows_.entropy it gives rows_.d_log_prob and
    /// rows_.d_entropy, which are zero before.
    using Loss = std::function<void(std::span<const Sequence* const>)>;
    /// Called before the backward pass, adds to d_hidden; the last is the weight of the balance loss.
    using MoreLoss = std::function<void(std::span<const Sequence* const>, Tensor, double)>;
    /// What a pass over a batch is for.
    struct Pass {
        float inv_temperature = 1;
        bool update = false;
        /// The loss's gradients do not depend on the log-probs; it is called twice, first for the gradients
        /// (log-probs zero), then for the loss, and the head is passed once.
        bool linear = false;
    };
    /// This rank's micro-batches: forward, loss and, where it is an update, backward.
    void run_micro_batches(const std::vector<Sequence>& batch, const Pass& pass, const Loss& loss,
                           const MoreLoss& more = {});
    /// Head of the micro-batch at hand, and the loss over it; d_hidden is written where it is an update.
    void head_and_loss(std::span<const Sequence* const> members, Tensor hidden, const Pass& pass,
                       const Loss& loss, Tensor d_hidden);
    /// The same of a scalar head, always an update: from rows_.value the loss gives rows_.d_value.
    void scalar_head_and_loss(std::span<const Sequence* const> members, Tensor hidden, const Loss& loss,
                              Tensor d_hidden);
    /// The second call of a linear loss, for the micro-batch whose log-probs have not been read.
    void take_pending(const Loss& loss);
    /// `column` of rows_, which `head` fills, for every token, exchanged between the ranks as log_probs().
    std::vector<std::vector<float>> score(const ParameterSet& parameters, const std::vector<Sequence>& batch,
                                          const std::function<void(Tensor)>& head,
                                          const std::vector<float>& column, const std::string& region);
    /// Log-probs and entropies of the micro-batch at hand, to rows_.
    std::function<void(Tensor)> log_prob_head(const ParameterSet& parameters, double temperature);
    PolicyResult policy(const std::vector<Sequence>& batch, const PolicyLossOptions& options,
                        double temperature, bool update);
    void download_log_probs(std::int64_t n);
    void upload_gradients(std::int64_t n);
    TokenResult next_token(const std::vector<Sequence>& batch, bool update);
    bool predicts_more(bool update) const { return update && limits_.mtp_coef > 0; }
    /// The module's forward and backward for the micro-batch at hand; d_hidden += . Returns the sum
    /// of the cross entropies.
    double more_tokens(std::span<const Sequence* const> members, double count, Tensor d_hidden,
                       double balance);
    /// Clips and updates; then the routers' biases.
    double update_parameters(double lr, RouterResult& router);

    Transformer& model_;
    ParameterSet& parameters_;
    AdamW& optimizer_;
    const Grid& grid_;
    Ops& ops_;
    Profile& profile_;
    Limits limits_;
    MicroBatch micro_;
    Tensor log_prob_, entropy_, d_log_prob_, d_entropy_;
    Tensor value_, d_value_;  ///< in their place where the head is scalar
    Tensor d_hidden_, d_mtp_hidden_;
    /// Of the profile's regions.
    struct Regions {
        std::string forward, head, backward, optimizer, values;
    } regions_;
    /// The same on the host, an entry a row of the micro-batch at hand.
    struct HostRows {
        std::vector<float> log_prob, entropy, d_log_prob, d_entropy, value, d_value;
    } rows_;
    std::vector<const Sequence*> pending_;  ///< members of that micro-batch
};

}  // namespace gradus
