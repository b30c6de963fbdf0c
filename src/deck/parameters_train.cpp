// SPDX-License-Identifier: Apache-2.0
#include "sections.hpp"

namespace gradus {
namespace {

constexpr std::string_view kTraining = "pretrain sft rl reward_model";
constexpr std::string_view kOptimiser = "pretrain sft rl reward_model bench";
constexpr std::string_view kModel = "pretrain sft rl reward_model sample evaluate bench";
using enum ParameterType;

}  // namespace

std::vector<DeckKey> train_parameters() {
    return {
        {"train.steps", integer, "updates", "0", ">=0", kTraining,
         "Updates in all; 0: from train.epochs (not in stage rl)."},
        {"train.epochs", number, "", "0", ">=0", "pretrain sft reward_model",
         "Passes over the data, in the place of train.steps."},
        {"train.tokens_per_step", integer, "tokens", "8192", ">0", "pretrain sft",
         "Tokens of a global batch, over all ranks; whole sequences until this is reached."},
        {"train.micro_tokens", integer, "tokens", "4096", ">0", kModel,
         "Tokens that a rank takes through the model at once; sets the memory for activations."},
        {"train.max_length", integer, "tokens", "1024", ">0", kModel,
         "Longest sequence, prompt and response; longer text is cut, longer conversations refused."},
        {"train.lr", number, "", "1e-3", ">=0", kTraining, "Peak learning rate."},
        {"train.lr_schedule", choice, "", "cosine", "constant | linear | cosine", kTraining,
         "Course of the learning rate after the warm-up."},
        {"train.lr_min", number, "", "0", ">=0", kTraining, "Learning rate of the last step."},
        {"train.warmup", integer, "steps", "0", ">=0", kTraining, "Steps of linear warm-up."},

        {"optim.beta1", number, "", "0.9", "[0,1)", kOptimiser, "AdamW: decay of the first moment."},
        {"optim.beta2", number, "", "0.95", "[0,1)", kOptimiser, "AdamW: decay of the second moment."},
        {"optim.eps", number, "", "1e-8", ">0", kOptimiser, "AdamW: epsilon."},
        {"optim.weight_decay", number, "", "0.1", ">=0", kOptimiser,
         "AdamW: decoupled weight decay, on matrices only."},
        {"optim.offload", flag, "", "false", "", kOptimiser,
         "Masters and moments stay in page-locked memory of the host, where the GPU updates them over its bus: "
         "12 bytes a parameter less of GPU memory, an update as slow as the bus."},
        {"optim.clip", number, "", "1", ">=0", kOptimiser,
         "Largest norm of the gradient of the whole model; 0: no clipping."},
        {"optim.router_bias_rate", number, "", "0", ">=0", kTraining,
         "After each update, the correction bias of a router moves so far towards experts with less than "
         "the mean load (DeepSeek-V3: 0.001); 0: it stays."},

        {"sft.train_on", choice, "", "all", "all | last", "sft",
         "Responses of a conversation that are trained. Templates that drop past reasoning (deepseek-r1, "
         "qwen3) make a sequence for each."},

        {"reward_model.kind", choice, "", "pairwise", "pairwise | pointwise", "reward_model",
         "Learns from pairs of responses of which one is preferred (Bradley-Terry; DeepSeek-R1's helpful model), or from "
         "labels of single ones (cross entropy; its safety model)."},
        {"reward_model.batch", integer, "rows", "32", ">0", "reward_model",
         "Pairs or labelled responses of an update, over all ranks (DeepSeek-R1: 256)."},
        {"reward_model.margin", number, "", "0", "", "reward_model",
         "pairwise: the chosen response is to be better by this (Llama 2, eq. 2); rows with a margin have their own."},
        {"reward_model.center_coef", number, "", "0", ">=0", "reward_model",
         "pairwise: weight of the mean square of a pair's summed scores, which holds them near 0 (arXiv 2312.09244; TRL: 0.01)."},
    };
}

}  // namespace gradus
