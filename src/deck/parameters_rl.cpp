// SPDX-License-Identifier: Apache-2.0
#include "presets.hpp"
#include "sections.hpp"

namespace gradus {
namespace {

using enum ParameterType;
const std::string kPresets = preset_names(presets());

std::vector<DeckKey> rollout_and_reference() {
    return {
        {"rl.prompts", integer, "prompts", "32", ">0", "rl", "Prompts of a rollout."},
        {"rl.group", integer, "samples", "16", ">0", "rl", "Samples a prompt."},
        {"rl.updates", integer, "", "1", ">0", "rl",
         "Updates that a rollout is split into; divides rl.prompts, or without rl.keep_groups the samples."},
        {"rl.epochs", integer, "", "1", ">0", "rl", "Passes over a rollout."},
        {"rl.keep_groups", flag, "", "true", "", "rl",
         "The samples of a prompt go into one update; without, a rollout is split sample by sample."},
        {"rl.reference_every", integer, "steps", "0", ">=0", "rl",
         "The reference becomes a copy of the policy every so many updates (DeepSeek-R1: 400); 0: never."},
        {"rl.reference_mix", number, "", "1", "(0,1]", "rl",
         "Then reference = this x policy + (1 - this) x reference: below 1 a moving average (TR-DPO: 0.6)."},
        {"rl.reference_offload", flag, "", "false", "", "rl",
         "The reference stays in page-locked memory of the host and is copied for each use into memory that "
         "training and generation leave free: its weights less of GPU memory, a copy over the bus a rollout."},
        {"rl.old_logprobs", choice, "", "auto", "auto | trainer | sampler", "rl",
         "Log-probs that the ratio is taken against: the trainer's before the first update (auto: only "
         "computed where a rollout feeds several updates), or the sampler's."},
        {"rl.dynamic_sampling", flag, "", "false", "", "rl",
         "Groups whose rewards are all alike are replaced by groups of further prompts (DAPO)."},
        {"rl.max_rounds", integer, "rounds", "10", ">0", "rl",
         "Rounds of sampling for one rollout; after the last, groups without spread fill it up."},
        {"rl.mask_truncated", flag, "", "false", "", "rl",
         "Responses cut off at rollout.max_new_tokens give no gradient (their rewards still count)."},
        {"rl.truncated_penalty", number, "", "0", ">=0", "rl",
         "Taken off the reward of responses cut off at rollout.max_new_tokens."},
        {"rl.overlong_buffer", integer, "tokens", "0", ">=0", "rl",
         "Soft overlong punishment (DAPO, eq. 13): over the last so many tokens before rollout.max_new_tokens the "
         "reward falls by up to rl.overlong_penalty; 0: it does not."},
        {"rl.overlong_penalty", number, "", "1", ">=0", "rl", "How far it falls, at rollout.max_new_tokens and beyond."},
        {"rl.reward_clip", number, "", "0", ">=0", "rl",
         "The sum of a response's rewards is held within plus and minus this; 0: it is not."},
        {"rl.unscorable", choice, "", "any", "any | all", "rl",
         "A response is left out of the statistics where any of its rewards cannot be judged, or where all "
         "cannot; with `all` the others are summed (TRL)."},
    };
}

std::vector<DeckKey> objective() {
    return {
        {"loss.preset", choice, "", "none", kPresets, "rl",
         "A published recipe: sets keys of loss., rl., train., optim. and rollout. that the deck leaves out (a "
         "deck.resolved leaves out none). gradus --help-deck loss.preset lists what each sets, and its source."},
        {"loss.objective", choice, "", "clip", "clip | cispo | sapo | vespo | reinforce", "rl",
         "A token's term: PPO's clipped ratio; the log-prob weighted by the clipped ratio (CISPO); a soft gate "
         "(SAPO); the log-prob weighted by the whole sequence's ratio (VESPO); the log-prob alone."},
        {"loss.ratio", choice, "", "token", "token | sequence", "rl",
         "Policy ratio of each token, or of the mean log-ratio of its sequence (GSPO)."},
        {"loss.clip_low", schedule, "", "0.2", ">=0", "rl", "Ratios below 1 - this are clipped."},
        {"loss.clip_high", schedule, "", "0.2", ">=0", "rl", "Ratios above 1 + this are clipped."},
        {"loss.delta", number, "", "0", ">=0", "rl",
         "Two-sided clip: the ratio of the unclipped term is at most this (INTELLECT-2); 0: no bound."},
        {"loss.dual_clip", number, "", "0", ">=0", "rl",
         "Where the advantage is negative the term is at most -advantage times this (verl: 3); 0: no bound."},
        {"loss.ratio_clamp", number, "", "0", ">=0", "rl",
         "Logarithms of ratios are held within plus and minus this (verl: 20), those of sequences from above "
         "only; 0: they are not, and a ratio that overflows stops the run."},
        {"loss.sapo_positive", number, "", "1", ">0", "rl", "SAPO: steepness of the gate where the advantage is positive."},
        {"loss.sapo_negative", number, "", "1.05", ">0", "rl", "SAPO: the same where it is not."},
        {"loss.weight_gradient", flag, "", "false", "", "rl",
         "VESPO: the gradient goes through the sequence's weight too, not only through the log-prob."},
        {"loss.aggregation", choice, "", "sequence_mean",
         "sequence_mean | sequence_sum | token_mean | token_sum | constant", "rl",
         "Mean over sequences of their tokens' means (DeepSeekMath eq. 3) or sums; mean or sum over all tokens; "
         "the sum over sequences times loss.length (Dr. GRPO). Counted over the whole update on all ranks."},
        {"loss.length", integer, "tokens", "0", ">=0", "rl",
         "Length that aggregation = constant divides by; 0: rollout.max_new_tokens."},
        {"loss.kl_coef", schedule, "", "0.001", ">=0", "rl",
         "Weight of the KL divergence to the reference; 0 throughout: there is no reference."},
        {"loss.kl", choice, "", "k3", "k1 | k2 | k3 | abs | k1+ | k3+ | abs+", "rl",
         "Estimator of the divergence (Schulman 2020); with +, its value and the gradient of k2 (verl)."},
        {"loss.kl_in", choice, "", "loss", "loss | reward", "rl",
         "The divergence is a term of the loss, or taken off the reward of each token (PPO)."},
        {"loss.kl_clamp_log", number, "", "0", ">=0", "rl",
         "k3: the log-ratio is held within plus and minus this (verl: 20); 0: it is not."},
        {"loss.kl_clamp", number, "", "0", ">=0", "rl", "k3: its value is at most this (verl: 10); 0: no bound."},
        {"loss.kl_correction", choice, "", "none", "none | ratio | score", "rl",
         "The term in the loss is multiplied by the policy ratio (DeepSeek-V3.2), or given the gradient of the "
         "sampling too (NeMo-RL)."},
        {"loss.entropy_coef", schedule, "", "0", "", "rl", "Weight of an entropy bonus."},
        {"loss.entropy_target", number, "nats", "0", ">=0", "rl",
         "The weight of the bonus adapts: it grows while the entropy is below this and falls above it, and "
         "counts only below (Skywork-OR1); 0: it does not adapt."},
        {"loss.entropy_step", number, "", "0.005", ">0", "rl", "How far that weight moves after an update, within 0 and 1."},
        {"loss.top_entropy", number, "", "1", "(0,1]", "rl",
         "Only this share of the tokens, those with the most entropy, have a policy term (arXiv 2506.01939: 0.2). Below 1 "
         "each update begins with a forward pass over all its tokens."},
        {"loss.sampler_ratio", choice, "", "none",
         "none | token_truncate | token_mask | sequence_truncate | sequence_mask", "rl",
         "Policy terms are multiplied by the ratio of the trainer's to the sampler's policy, of a token or of "
         "the whole sequence: held within bounds (TIS), or 0 outside of them (IcePop)."},
        {"loss.sampler_min", number, "", "0", ">=0", "rl", "Lower bound of that ratio."},
        {"loss.sampler_max", number, "", "2", ">0", "rl", "Upper bound of that ratio."},
        {"loss.off_policy_limit", number, "nats", "0", ">=0", "rl",
         "Responses of negative advantage whose mean log-prob fell by more than this since they were sampled have no "
         "policy term (DeepSeek-V3.2, eq. 9); 0: all have."},
    };
}

std::vector<DeckKey> advantages() {
    return {
        {"loss.advantage", choice, "", "group", "group | leave_one_out | rewards | pass_at_k | process | reinforce | gae",
         "rl",
         "Against the group's mean (GRPO); against the mean of the others (RLOO); each reward by itself, then "
         "summed (GDPO); of the best of k (arXiv 2508.10751); the rewards of the steps "
         "from a token on (DeepSeekMath 4.1.3; other rewards count as one more step, the last); the discounted reward (REINFORCE); against the values of a critic (PPO)."},
        {"loss.std", choice, "", "sample", "sample | population | none | batch | mean", "rl",
         "What advantages within a group are divided by: a standard deviation of the group's rewards, nothing "
         "(Dr. GRPO), that of all rewards of the rollout, or the group's mean reward (MaxRL, for rewards >= 0)."},
        {"loss.std_eps", number, "", "1e-4", ">=0", "rl", "Added to that divisor."},
        {"loss.lone_reward", flag, "", "false", "", "rl",
         "Where only one response of a group can be judged its advantage is its reward (verl); without, 0."},
        {"loss.pass_k", integer, "samples", "4", ">0", "rl", "advantage = pass_at_k: the k."},
        {"loss.gamma", number, "", "1", "[0,1]", "rl", "advantage = reinforce or gae: discount a token."},
        {"loss.lambda", number, "", "1", "[0,1]", "rl",
         "advantage = gae: 1 takes whole returns, less leans on the critic (Schulman et al. 2016, eq. 16)."},
        {"loss.whiten", choice, "", "none", "none | sample | population", "rl",
         "Advantages of all tokens of a rollout are brought to mean 0 and variance 1."},
    };
}

std::vector<DeckKey> critic() {
    return {
        {"critic.from", path, "", "", "", "rl",
         "Run directory or checkpoint that the critic starts from: of a run with a critic its critic, else its policy, "
         "with a head that starts at zero; empty: as the policy."},
        {"critic.lr", number, "", "1e-5", ">=0", "rl",
         "Its peak learning rate. Warm-up, schedule and the ratio of floor and peak are those of train.lr."},
        {"critic.warmup", integer, "steps", "0", ">=0", "rl",
         "First updates, in which only the critic learns; the policy's schedule begins after them."},
        {"critic.clip", number, "", "0.5", ">=0", "rl",
         "PPO's value clipping (cliprange_value): in its loss values count as at most this far from those of the rollout; 0: they are not bounded."},
    };
}

std::vector<DeckKey> beside_the_main_loss() {
    return {
        {"loss.balance_coef", number, "", "0", ">=0", "pretrain sft rl reward_model",
         "Weight of the routers' sequence-wise balance loss (DeepSeek-V3: 1e-4), for models with experts."},
        {"loss.mtp_coef", number, "", "0", ">=0", "pretrain sft",
         "Weight of the multi-token prediction loss (DeepSeek-V3: 0.3, later 0.1), for models with that "
         "module; 0: the module stays as it is."},
    };
}

std::vector<DeckKey> rewards() {
    return {
        {"reward.*.kind", choice, "", kRequired, "accuracy | cosine | code | format | tags | language | puzzle | repetition | steps | model",
         "rl score sample evaluate",
         "What the reward NAME measures: whether the answer is right; the same by length; whether a program passes its tests; whether a puzzle is solved; the exact form; how many of its "
         "tags are there once; the share of words in one language; repeated words; the equations of the reasoning; the score of a "
         "trained reward model (stage rl). Stages sample and evaluate take `code` alone, which says how programs are run; they "
         "judge every row by what it asks for."},
        {"reward.*.weight", schedule, "", "1", "", "rl score",
         "Its weight in the sum. A model is not asked at steps at which its weight is 0, but for one that is 0 throughout, "
         "which is measured; prompts to which no reward of weight applies are passed over."},
        {"reward.*.applies_to", list, "", "", "", "rl",
         "Kinds of prompts that it is for (data.kind_field), as in `general`; empty: all. It adds nothing to others."},
        {"reward.*.from", path, "", "", "", "rl",
         "kind = model: run directory or checkpoint of the stage reward_model."},
        {"reward.*.part", choice, "", "response", "response | answer", "rl",
         "kind = model: what it sees beside the prompt: the whole response (DeepSeek-R1's safety model), or what follows "
         "the reasoning (its helpful model)."},
        {"reward.*.normalise", choice, "", "none", "none | score | sigmoid", "rl",
         "kind = model: its score as it is; less the mean and over the standard deviation of the scores that its training "
         "stage ended with (as OpenRLHF); or the sigmoid of it, of a pointwise model a probability."},
        {"reward.*.offload", flag, "", "false", "", "rl",
         "kind = model: its weights stay in page-locked memory of the host and are copied for each use, as "
         "rl.reference_offload does; models of one shape take turns in one place."},
        {"reward.*.language", choice, "", "en",
         "prompt | en | de | fr | es | zh | ja | ko | ru | ar | hi | el | he | th", "rl score",
         "kind = language: the language that the reasoning is to keep to; `prompt`: that of the question."},
        {"reward.*.ngram", integer, "words", "3", ">0", "rl score", "kind = repetition: words of a sequence that is counted."},
        {"reward.*.length", integer, "tokens", "0", ">=0", "rl score",
         "kind = cosine: at this length and beyond the lengths count no more; 0: the longest that is sampled."},
        {"reward.*.right_high", number, "", "1", "", "rl score",
         "kind = cosine: of a right answer without any length (arXiv 2502.03373)."},
        {"reward.*.right_low", number, "", "0.5", "", "rl score", "kind = cosine: of a right answer of that length."},
        {"reward.*.wrong_low", number, "", "-1", "", "rl score", "kind = cosine: of a wrong answer without any length."},
        {"reward.*.wrong_high", number, "", "-0.5", "", "rl score", "kind = cosine: of a wrong answer of that length."},
    };
}

std::vector<DeckKey> code_rewards() {
    return {
        {"reward.*.partial", flag, "", "false", "", "rl score sample evaluate",
         "kind = code: the share of tests that pass; without, 1 where all pass, else 0."},
        {"reward.*.isolation", choice, "", "full", "full | weak", "rl score sample evaluate",
         "kind = code: full wants namespaces that users may make; weak does without: programs can then read what the user "
         "can, and have only their list of system calls and their limits."},
        {"reward.*.timeout", integer, "seconds", "5", ">0", "rl score sample evaluate",
         "kind = code: processor time of a run; on the clock five times as much."},
        {"reward.*.compile_timeout", integer, "seconds", "20", ">0", "rl score sample evaluate", "kind = code: the same of a compilation."},
        {"reward.*.memory", bytes, "", "1GiB", ">0", "rl score sample evaluate",
         "kind = code: address space of a process, and (a quarter more) pages of all processes of a run."},
        {"reward.*.disk", bytes, "", "64MiB", ">0", "rl score sample evaluate", "kind = code: what a run may write into its folder."},
        {"reward.*.output", bytes, "", "1MiB", ">0", "rl score sample evaluate", "kind = code: what a run may print."},
        {"reward.*.processes", integer, "", "32", ">0", "rl score sample evaluate", "kind = code: processes and threads of a run."},
        {"reward.*.workers", integer, "", "0", ">=0", "rl score sample evaluate",
         "kind = code: programs that a rank runs at once; 0: its share of the cores."},
        {"reward.*.python", text, "", "python3", "", "rl score sample evaluate",
         "kind = code: Python, as a name in /usr/local/bin, /usr/bin, /bin, or an absolute path."},
        {"reward.*.compiler", text, "", "g++", "", "rl score sample evaluate", "kind = code: the same of a compiler for C++17 with GCC's options."},
        {"reward.*.folders", list, "", "", "", "rl score sample evaluate",
         "kind = code: further absolute folders that programs can read, such as that of a compiler outside of /usr."},
    };
}

}  // namespace

std::vector<DeckKey> rl_parameters() {
    std::vector<DeckKey> all;
    for (const auto& part : {rollout_and_reference(), objective(), advantages(),
                             beside_the_main_loss(), critic(), rewards(), code_rewards()})
        all.insert(all.end(), part.begin(), part.end());
    return all;
}

}  // namespace gradus
