// SPDX-License-Identifier: Apache-2.0
// Advantages of a whole rollout: from rewards (and values) to one number a token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace gradus {

/// Where a token's advantage comes from. r: reward of the response, mean and std over its group.
enum class AdvantageKind {
    group,          ///< (r - mean) / (std + eps) (DeepSeekMath, 4.1.2)
    leave_one_out,  ///< r - mean of the others (RLOO, arXiv 2402.14740); std, where asked for, of the others
    rewards,        ///< each reward standardised in its group, weighted, summed, the sum standardised over the
                    ///< batch (GDPO, arXiv 2601.05242)
    pass_at_k,      ///< of the chance that k responses of the group hold a right one (arXiv 2508.10751, eq. 14, 15)
    process,        ///< sum of the step rewards from the token on, standardised over the group's steps
                    ///< (DeepSeekMath, 4.1.3)
    reinforce,      ///< discounted sum of the rewards from the token on
    gae             ///< generalised advantage estimation over values (Schulman et al. 2016, eq. 16)
};

/// What an advantage within a group is divided by.
enum class GroupStd {
    sample,      ///< the group's, n - 1 below the line
    population,  ///< the group's, n below the line
    none,        ///< nothing (Dr. GRPO)
    batch,       ///< that of all rewards of the rollout, n - 1 below the line
    mean         ///< the group's mean reward (MaxRL)
};

/// Advantages of all tokens of a rollout, shifted to mean 0 and scaled to variance 1.
enum class Whitening { none, sample, population };

struct AdvantageOptions {
    AdvantageKind kind = AdvantageKind::group;
    GroupStd std = GroupStd::sample;
    double eps = 1e-4;          ///< added to the standard deviation
    bool lone_reward = false;   ///< a group of one scored response: r / (1 + eps) (verl), else 0
    int pass_k = 4;             ///< pass_at_k
    double gamma = 1;           ///< discount a token: reinforce, gae
    double lambda = 1;          ///< gae
    Whitening whitening = Whitening::none;
};

/// A reward for the part of a response that ends at token `end` (counted from the response's first).
struct StepReward {
    std::int32_t end = 0;
    double reward = 0;
};

/// One scored response.
struct ScoredResponse {
    std::int64_t group = 0;
    double reward = 0;                  ///< NaN: unscorable
    std::int64_t tokens = 0;
    std::vector<double> parts;          ///< rewards: weighted, NaN where unscorable
    std::vector<StepReward> steps;      ///< process
    std::vector<double> token_rewards;  ///< added at each token (KL in the reward); empty: none
    std::vector<double> values;         ///< gae: V at each token
};

struct TokenAdvantages {
    std::vector<double> advantage;
    std::vector<double> returns;  ///< what a critic learns: advantage before whitening + value; gae only. NaN
                                  ///< of what is unscorable
};

/// Advantages of each token. Responses of a group stand side by side. What is unscorable has no part
/// in any statistics and advantage 0 everywhere; so have groups without spread (of all that is compared
/// within a group) and responses without tokens. Kinds that give a response one number count its token
/// rewards into its reward (verl).
std::vector<TokenAdvantages> token_advantages(const AdvantageOptions& options,
                                              const std::vector<ScoredResponse>& responses);

/// The numbers of one group by AdvantageKind::group, leave_one_out and GroupStd but batch.
std::vector<double> group_advantages(const AdvantageOptions& options, std::span<const double> rewards);

}  // namespace gradus
