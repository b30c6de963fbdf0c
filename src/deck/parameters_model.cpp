// SPDX-License-Identifier: Apache-2.0
#include "sections.hpp"

namespace gradus {
namespace {

constexpr std::string_view kModel = "pretrain sft rl reward_model sample evaluate bench";
constexpr std::string_view kData = "tokenizer pretrain sft rl reward_model sample evaluate";
constexpr std::string_view kTexts = "tokenizer pretrain sft rl sample evaluate";
using enum ParameterType;

}  // namespace

std::vector<DeckKey> model_parameters() {
    return {
        {"model.from", path, "", "", "", "pretrain sft rl reward_model sample evaluate bench export",
         "Checkpoint or run directory to take the weights and the shape of the model from; none: fresh "
         "weights of the shape that the model. keys give."},
        {"model.config", path, "", "", "", kModel,
         "A config.json of Hugging Face that gives the shape of fresh weights, in the place of the other "
         "model. keys; families: llama, qwen2, qwen3, qwen3_moe, deepseek_v2, deepseek_v3."},
        {"model.vocab_size", integer, "tokens", "auto", "auto | >0", kModel,
         "Size of the vocabulary, at least the tokenizer's; `auto`: that, rounded up to a multiple of 8 and "
         "of grid.tensor. Rows beyond the tokenizer's tokens are padding."},
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
        {"model.dtype", choice, "", "auto", "auto | f32 | bf16", kModel,
         "Type of weights and activations; `auto`: bf16 on GPUs (with float32 sums, masters and optimiser "
         "state), f32 on CPUs."},
        {"model.recompute", choice, "", "none", "none | attention | block", kModel,
         "What the backward pass computes again instead of keeping it: nothing, the attention of each block "
         "with its projections, or all of a block but its input."},

        {"policy.tokenizer", path, "", "auto", "auto | bytes", "*",
         "A tokenizer.json or a folder with one, `bytes` (256 bytes and 8 special tokens), or `auto`: the "
         "tokenizer.json that the run of model.from or this run's directory carries in huggingface/, "
         "bytes where there is none. End tokens come from the files beside it: generation_config.json, "
         "else config.json, else tokenizer_config.json."},
        {"policy.template", choice, "", "auto",
         "auto | demo | r1-zero | plain | deepseek-v3 | deepseek-r1 | chatml | qwen2.5 | qwen3 | llama3 | "
         "llama3.1", "*",
         "How a conversation becomes tokens. `auto`: by the tokenizer's special tokens and the model_type "
         "beside it, `r1-zero` where there are none. `r1-zero` (the words of the R1 paper's table 1; a "
         "base model then wants rollout.stop = </answer>) and `plain` go with any tokenizer, `demo` with "
         "bytes. A folder's own Jinja template is carried along, not executed."},
        {"policy.thinking", flag, "", "true", "", "*",
         "false: no reasoning; of the templates only qwen3 has a form for it (its enable_thinking)."},
        {"policy.system", text, "", "", "", "*",
         "System message of the conversations that have none of their own."},

        {"data.path", list, "", kRequired, "", kData,
         "Files of rows, in this order: JSON lines, or one JSON array of objects."},
        {"data.eval_path", list, "", "", "", "rl reward_model", "Files of the rows that eval.every measures on."},
        {"data.eval_share", number, "", "0", "[0,1)", "reward_model",
         "In the place of data.eval_path: this share of the rows is held out of training, by prompt."},
        {"data.messages_field", text, "", "auto", "", kData,
         "Field of a conversation, a list of {role, content}; `auto`: messages."},
        {"data.prompt_field", text, "", "auto", "", "tokenizer pretrain sft rl reward_model sample evaluate score",
         "Field of the question; `auto`: prompt, else question, else problem, else instruction (with input)."},
        {"data.text_field", text, "", "auto", "", kTexts,
         "Field of a document; `auto`: text. Rows are read by the first field that they have of messages, "
         "prompt, question, problem, instruction, text (stages tokenizer and pretrain: text first), or of those that these three keys "
         "name."},
        {"data.response_field", text, "", "auto", "", "tokenizer pretrain sft reward_model score",
         "Field of the response; `auto`: response, else answer of a question; solution, else answer of a "
         "problem; output of an instruction."},
        {"data.answer_field", text, "", "auto", "", "rl sample evaluate score",
         "Field of the reference answer: what it has in \\boxed, else after ####, else all of it. `auto`: "
         "reference, else answer, else solution of a problem."},
        {"data.instruction", text, "", "", "", "rl sample evaluate",
         "Text that is put behind the last question of every prompt, after an empty line."},
        {"data.id_field", text, "", "auto", "", "rl sample evaluate",
         "Field of the row's name; `auto`: id, unique_id or task_id. Rows without one are named by their "
         "line."},
        {"data.chosen_field", text, "", "auto", "", "reward_model", "Field of the preferred response; `auto`: chosen."},
        {"data.rejected_field", text, "", "auto", "", "reward_model", "Field of the other one; `auto`: rejected."},
        {"data.margin_field", text, "", "auto", "", "reward_model",
         "Field of the pair's margin; `auto`: margin, where the row has one."},
        {"data.label_field", text, "", "auto", "", "reward_model",
         "reward_model.kind = pointwise: field that says whether a response is good, true or false, 1 or 0; `auto`: "
         "safe. Dots lead into objects: rewards.accuracy."},
        {"data.kind_field", text, "", "auto", "", "rl",
         "Field of the prompt's kind (reward.NAME.applies_to); `auto`: kind. Rows without one are of kind reasoning."},
        {"data.system_field", text, "", "auto", "", kData,
         "Field of the system message, before policy.system; `auto`: system."},
        {"data.bad_lines", choice, "", "fatal", "fatal | skip", kData,
         "A line that cannot be used ends the run, or is left out and counted."},
        {"data.limit", integer, "rows", "0", ">=0", kData, "Only the first so many rows; 0: all."},
        {"data.shuffle", flag, "", "true", "", "pretrain sft rl reward_model", "A new order each epoch."},
        {"data.shard", integer, "", "0", ">=0", kData,
         "Of data.num_shards parts of the rows, the one that this run takes (job arrays)."},
        {"data.num_shards", integer, "", "1", ">0", kData, "Parts of the rows."},
    };
}

}  // namespace gradus
