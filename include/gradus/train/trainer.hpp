// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "gradus/base/profile.hpp"
#include "gradus/model/transformer.hpp"
#include "gradus/optim/adamw.hpp"
#include "gradus/train/loss.hpp"
#include "gradus/train/packing.hpp"

namespace gradus {

/// The training step: packs a global batch, runs its micro-batches, updates the parameters. Every
/// data rank is given the same global batch and takes its part of the plan.
class Trainer {
  public:
    struct Limits {
        std::int64_t micro_tokens = 0;  ///< token budget of a micro-batch
        double balance_coef = 0;  ///< weight of the routers' sequence-wise balance loss
        double router_bias_rate = 0;  ///< step of the routers' correction bias after each update
        double mtp_coef = 0;      ///< weight of the multi-token prediction loss (next_token_step)
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
    /// This rank's micro-batches: forward, loss and, where `update`, backward. `linear`: the loss's
    /// gradients do not depend on the log-probs; it is called twice, first for the gradients (log-probs
    /// zero), then for the loss, and the head is passed once.
    void run_micro_batches(const std::vector<Sequence>& batch, float inv_temperature, bool update,
                           bool linear, const Loss& loss, const MoreLoss& more = {});
    /// Head of the micro-batch at hand, and the loss over it; d_hidden is written where `update`.
    void head_and_loss(std::span<const Sequence* const> members, Tensor hidden,
                       float inv_temperature, bool update, bool linear, const Loss& loss,
                       Tensor d_hidden);
    /// The second call of a linear loss, for the micro-batch whose log-probs have not been read.
    void take_pending(const Loss& loss);
    /// One of the columns of rows_ for every token, exchanged between the ranks, as log_probs().
    std::vector<std::vector<float>> score(const ParameterSet& parameters, const std::vector<Sequence>& batch,
                                          double temperature, const std::vector<float>& column);
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
    Tensor log_prob_, entropy_, d_log_prob_, d_entropy_, d_hidden_, d_mtp_hidden_;
    /// The same on the host, an entry a row of the micro-batch at hand.
    struct HostRows {
        std::vector<float> log_prob, entropy, d_log_prob, d_entropy;
    } rows_;
    std::vector<const Sequence*> pending_;  ///< members of that micro-batch
};

}  // namespace gradus
