// SPDX-License-Identifier: Apache-2.0
#include "sections.hpp"

namespace gradus {
namespace {

constexpr std::string_view kModel = "pretrain sft rl sample evaluate bench";
constexpr std::string_view kData = "pretrain sft rl sample evaluate";
using enum ParameterType;

}  // namespace

std::vector<DeckKey> model_parameters() {
    return {
        {"model.from", path, "", "", "", "pretrain sft rl sample evaluate bench export",
         "Checkpoint or run directory to take the weights and the shape of the model from; none: fresh "
         "weights of the shape that the model. keys give."},
        {"model.vocab_size", integer, "tokens", "auto", "auto | >0", kModel,
         "Size of the vocabulary; `auto`: the tokenizer's."},
        {"model.hidden", integer, "", "256", ">0", kModel, "Width of the residual stream."},
        {"model.layers", integer, "", "4", ">0", kModel, "Number of blocks."},
        {"model.heads", integer, "", "4", ">0", kModel, "Query heads."},
        {"model.kv_heads", integer, "", "4", ">0", kModel,
         "Key/value heads; divides model.heads (grouped-query attention)."},
        {"model.head_dim", integer, "", "0", ">=0", kModel,
         "Width of a head; 0: model.hidden / model.heads."},
        {"model.intermediate", integer, "", "704", ">0", kModel, "Width of the SwiGLU layer."},
        {"model.max_positions", integer, "tokens", "1024", ">0", kModel, "Longest sequence."},
        {"model.rope_theta", number, "", "10000", ">0", kModel, "Base of the rotary frequencies."},
        {"model.norm_eps", number, "", "1e-5", ">0", kModel, "Epsilon of RMSNorm."},
        {"model.qkv_bias", flag, "", "false", "", kModel, "Biases on q, k and v (as Qwen2 has)."},
        {"model.qk_norm", flag, "", "false", "", kModel, "RMSNorm on the heads of q and k (as Qwen3 has)."},
        {"model.tied", flag, "", "true", "", kModel, "The head uses the embedding's weights."},
        {"model.init_std", number, "", "0.02", ">0", kModel,
         "Standard deviation of fresh weights; o_proj and down_proj: divided by sqrt(2 layers)."},
        {"model.recompute", choice, "", "none", "none | block", kModel,
         "Activations kept for the backward pass: all, or each block's input only."},

        {"policy.template", choice, "", "r1-zero", "demo | r1-zero | plain", "*",
         "How a conversation becomes text: `demo` (special tokens), `r1-zero` (the words of the R1 "
         "paper's table 1), `plain`."},
        {"policy.system", text, "", "", "", "*", "System message put before each conversation."},

        {"data.path", list, "", kRequired, "", kData, "JSONL files, in this order."},
        {"data.eval_path", list, "", "", "", "rl", "JSONL files of the problems that eval.every measures on."},
        {"data.prompt_field", text, "", "prompt", "", "pretrain sft rl sample evaluate score",
         "Field of the question."},
        {"data.response_field", text, "", "response", "", "pretrain sft score", "Field of the response."},
        {"data.answer_field", text, "", "reference", "", "rl sample evaluate score",
         "Field of the reference answer."},
        {"data.id_field", text, "", "id", "", "rl sample evaluate",
         "Field of the row's name; rows without one are named by their line."},
        {"data.bad_lines", choice, "", "fatal", "fatal | skip", kData,
         "A line that cannot be used ends the run, or is left out and counted."},
        {"data.limit", integer, "rows", "0", ">=0", kData, "Only the first so many rows; 0: all."},
        {"data.shuffle", flag, "", "true", "", "pretrain sft rl", "A new order each epoch."},
        {"data.shard", integer, "", "0", ">=0", kData,
         "Of data.num_shards parts of the rows, the one that this run takes (job arrays)."},
        {"data.num_shards", integer, "", "1", ">0", kData, "Parts of the rows."},
    };
}

}  // namespace gradus
