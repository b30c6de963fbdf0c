// SPDX-License-Identifier: Apache-2.0
#include "presets.hpp"
#include "sections.hpp"

namespace gradus {
namespace {

constexpr std::string_view kGenerating = "rl sample evaluate bench";
using enum ParameterType;
const std::string kBenchmarks = preset_names(benchmarks());

}  // namespace

std::vector<DeckKey> stage_parameters() {
    return {
        {"rollout.max_new_tokens", integer, "tokens", "512", ">0", kGenerating, "Longest response."},
        {"rollout.temperature", schedule, "", "1", ">=0", kGenerating,
         "Sampling temperature; 0: the likeliest token."},
        {"rollout.top_p", number, "", "1", "(0,1]", kGenerating,
         "Only the likeliest tokens that make up this probability; stage rl wants 1."},
        {"rollout.top_k", integer, "tokens", "0", ">=0", kGenerating,
         "Only the likeliest so many tokens; 0: all; stage rl wants 0."},
        {"rollout.stop", list, "", "", "", kGenerating,
         "Texts that end a response. In a word of any list, a backslash before a blank keeps it, and "
         "backslash n is a line break."},
        {"rollout.slots", integer, "sequences", "64", ">0", kGenerating,
         "Sequences that a data rank generates at once."},
        {"rollout.page_size", integer, "tokens", "16", ">0", kGenerating,
         "Tokens of a page of the key/value cache."},
        {"rollout.cache_tokens", integer, "tokens", "0", ">=0", kGenerating,
         "Most tokens in a data rank's key/value cache, all sequences and prompts together; where they do "
         "not last, sequences wait and are computed again. 0: enough for rollout.slots of full length."},
        {"rollout.part", integer, "prompts", "0", ">=0", "rl sample evaluate",
         "Responses are sampled in parts of so many prompts: a finished part is kept on disk, and a run that is asked to stop does "
         "so after one. 0: eight times what the slots of all data ranks hold."},
        {"rollout.merge", list, "", "", "", "sample evaluate",
         "Run directories of the shards of this deck (data.num_shards): nothing is sampled, their samples are read."},

        {"sample.n", integer, "samples", "4", ">0", "sample", "Samples a prompt."},
        {"sample.keep_correct", flag, "", "true", "", "sample", "Keep only those with the right answer."},
        {"sample.keep_format", flag, "", "true", "", "sample", "Keep only those in R1's form."},
        {"sample.language", choice, "", "en", "prompt | en | de | fr | es | zh | ja | ko | ru | ar | hi | el | he | th",
         "sample", "Language that the reasoning is to be in; `prompt`: that of the question."},
        {"sample.min_language", number, "", "0", "[0,1]", "sample",
         "Least share of the reasoning's words in that language."},
        {"sample.max_length", integer, "tokens", "0", ">=0", "sample", "Longest response kept; 0: any."},
        {"sample.max_paragraph", integer, "words", "0", ">=0", "sample",
         "Longest paragraph of the reasoning (text between blank lines; Chinese and Japanese by the character); 0: any."},
        {"sample.keep_code_blocks", flag, "", "true", "", "sample", "Keep those with code between fences in the reasoning."},
        {"sample.max_repetition", number, "", "1", "[0,1]", "sample",
         "Largest share of repeated n-grams."},
        {"sample.repetition_ngram", integer, "words", "3", ">0", "sample", "And their n."},
        {"sample.near_duplicate", number, "", "0", "[0,1]", "sample",
         "A response is left out if one kept before of the same prompt shares this part of their n-grams or more (Jaccard); "
         "0: only if it is the same."},
        {"sample.near_duplicate_elsewhere", number, "", "0", "[0,1]", "sample",
         "The same over all rows, the mixed in ones too, prompt and response together; 0: not looked for."},
        {"sample.near_duplicate_ngram", integer, "words", "5", ">0", "sample", "And the n of both."},
        {"sample.max_per_prompt", integer, "samples", "0", ">=0", "sample",
         "At most so many a prompt; 0: all."},
        {"sample.decontaminate", list, "", "", "", "sample",
         "JSONL files of test sets: a prompt that shares sample.decontaminate_ngram words in a row with one of theirs is not "
         "sampled."},
        {"sample.decontaminate_ngram", integer, "words", "10", ">0", "sample",
         "How many; a shorter prompt is left out if it is the same as one of theirs."},
        {"sample.mix", list, "", "", "", "sample",
         "JSONL files of further SFT data (as sft reads them) to write among the samples."},
        {"sample.mix_rows", integer, "rows", "0", ">=0", "sample", "So many of them, drawn at random; 0: all, or as sample.mix_share says."},
        {"sample.mix_share", number, "", "0", "[0,1)", "sample",
         "So many of them that they are this share of all rows written (R1: 0.25); 0: as sample.mix_rows says."},
        {"sample.refused_examples", integer, "samples", "3", ">=0", "sample",
         "Of each filter and source so many of the refused are written to refused.jsonl, with the reason."},
        {"sample.output", path, "", "", "", "sample", "SFT data; none: sft.jsonl in the run directory."},

        {"judge.from", path, "", "", "", "sample",
         "Run directory or checkpoint of a model that is asked whether an answer is right, after the sampling; a sample that "
         "it calls right counts as correct. It has its own tokenizer and its family's template."},
        {"judge.of", choice, "", "wrong", "wrong | unscorable | all", "sample",
         "The samples that it is asked about: those that the rule does not call right, those that the rule cannot judge, all."},
        {"judge.template", path, "", "", "", "sample",
         "File of the question to it, with {answer} and {reference}, and if wanted {question}, {response} (the part after the "
         "reasoning), {yes}, {no}; none: a plain one."},
        {"judge.by", choice, "", "verdict", "verdict | probability", "sample",
         "What counts: the last verdict that it writes, or the probability of its writing judge.yes rather than judge.no."},
        {"judge.yes", text, "", "CORRECT", "", "sample", "Its word for a right answer."},
        {"judge.no", text, "", "INCORRECT", "", "sample", "Its word for a wrong one."},
        {"judge.threshold", number, "", "0.5", "[0,1]", "sample", "judge.by = probability: from here on an answer is right."},
        {"judge.max_length", integer, "tokens", "4096", ">0", "sample",
         "Longest question and reply; answers that are too long have no verdict."},
        {"judge.max_new_tokens", integer, "tokens", "512", ">0", "sample", "Longest reply."},
        {"judge.temperature", number, "", "0", ">=0", "sample", "Sampling temperature of the reply."},
        {"rewrite.from", path, "", "", "", "sample",
         "Run directory or checkpoint of a model that rewrites what passed the filters (cold-start data: one language, readable); "
         "the rewritten samples go through the filters again."},
        {"rewrite.template", path, "", "", "", "sample",
         "File of the request to it, with {response}, and if wanted {question}, {reasoning}, {answer}, {reference}; none: a plain one."},
        {"rewrite.max_length", integer, "tokens", "4096", ">0", "sample",
         "Longest request and text; samples that are too long are refused."},
        {"rewrite.max_new_tokens", integer, "tokens", "2048", ">0", "sample", "Longest rewritten text."},
        {"rewrite.temperature", number, "", "0.6", ">=0", "sample", "Sampling temperature of it."},

        {"eval.n", integer, "samples", "16", ">0", "rl evaluate", "Samples a problem."},
        {"eval.k", list, "", "1 4 16", ">0", "evaluate",
         "Values of k for pass@k; of the default, those up to eval.n."},
        {"eval.every", integer, "steps", "0", ">=0", "rl reward_model",
         "Steps between measurements on held-out rows: of pass@1 on data.eval_path, of a reward model's accuracy (which "
         "is also measured at the end); 0: none."},
        {"eval.limit", integer, "rows", "64", ">=0", "rl",
         "Only the first so many rows of data.eval_path; 0: all."},
        {"eval.temperature", number, "", "0.6", ">=0", "rl", "Sampling temperature of those measurements."},
        {"eval.top_p", number, "", "0.95", "(0,1]", "rl", "And their top-p."},
        {"eval.benchmark", choice, "", "none", kBenchmarks, "evaluate",
         "A benchmark by name: sets keys that the deck leaves out, and the data must have its rows. gradus --help-deck "
         "eval.benchmark lists what each sets, and its source."},
        {"eval.problems", integer, "problems", "0", ">=0", "evaluate",
         "The data have so many problems, or the log warns that it is not the whole benchmark; 0: any number."},
        {"eval.by", list, "", "", "", "evaluate",
         "Fields of the data's rows, as in `level subject`: pass@1 is told for each of their values too."},
        {"eval.name", text, "", "", "", "evaluate", "Name of the row; none: the run directory's."},

        {"problems.count", integer, "problems", "4000", ">0", "problems", "Problems for training."},
        {"problems.eval_count", integer, "problems", "256", ">0", "problems",
         "Problems for evaluation, none of them in training."},
        {"problems.documents", integer, "documents", "30000", ">=0", "problems",
         "Documents of base text."},
        {"problems.worked", number, "", "0.5", "[0,1]", "problems",
         "Share of documents that reason; the others answer at once."},
        {"problems.imperfect", number, "", "0.1", "[0,1]", "problems",
         "Share of worked documents with an error or a broken tag."},
        {"problems.mixed", number, "", "0.2", "[0,1]", "problems",
         "Share of worked documents that mix languages."},
        {"problems.min_terms", integer, "", "3", "[2,20]", "problems", "Fewest operands of a problem."},
        {"problems.max_terms", integer, "", "5", "[2,20]", "problems", "Most operands of a problem."},
        {"problems.requests", integer, "requests", "0", ">=0", "problems",
         "Requests that want words, half of kind helpful, half of kind harmless: prompts (requests.jsonl), replies of mixed "
         "quality for SFT (replies.jsonl), preferences (helpful.jsonl) and labels (harmless.jsonl) for reward models."},
        {"problems.good", number, "", "0.4", "[0,1]", "problems", "Share of good ones among those replies."},
        {"problems.words", number, "", "0.3", "[0,1]", "problems", "Share of problems told in words."},

        {"import.path", path, "", kRequired, "", "import",
         "Folder as Hugging Face ships it: config.json, *.safetensors, tokenizer.json ..."},
        {"import.ignore_keys", list, "", "", "", "import",
         "Keys of config.json that may be there though this program does not know them, because they do not "
         "change what the model computes."},
        {"export.path", path, "", kRequired, "", "export",
         "Folder to make. Must be free, empty, or an earlier export of the same run."},
        {"export.dtype", choice, "", "auto", "auto | bf16 | f16 | f32", "export",
         "Type of all weights; `auto`: each as in the folder that was imported (8-bit ones that were trained: "
         "bf16), of a model that was not: as in the checkpoint."},
        {"export.shard_bytes", integer, "bytes", "auto", "auto | >0", "export",
         "Largest weight file; more are split, with an index. `auto`: as the imported folder was split, "
         "where no type has changed, else 5e9."},

        {"tokenizer.vocab_size", integer, "tokens", "8192", ">0", "tokenizer",
         "Tokens in all: 256 bytes, what the merges make, special tokens."},
        {"tokenizer.pattern", choice, "", "gpt2", "gpt2 | llama3 | qwen2 | deepseek | digits", "tokenizer",
         "How a text is cut into words, in which the merges happen: as these models do, or `digits`: every "
         "digit by itself, then as gpt2. Of digits llama3 and deepseek keep three together, qwen2 one."},
        {"tokenizer.special", list, "", "<bos> <eos> <user> <assistant> <think> </think> <answer> </answer>", "",
         "tokenizer", "Special tokens, the last ids in this order; the default ones are those of template demo."},
        {"tokenizer.bos", text, "", "<bos>", "", "tokenizer",
         "Of the special tokens, the one that begins a text; empty: none does."},
        {"tokenizer.eos", text, "", "<eos>", "", "tokenizer", "And the one that ends a response."},
        {"tokenizer.min_frequency", integer, "", "2", ">0", "tokenizer",
         "A pair that occurs less often is not merged."},
        {"tokenizer.output", path, "", "", "", "tokenizer",
         "Folder for tokenizer.json and tokenizer_config.json; none: the run directory."},

        {"score.input", path, "", kRequired, "", "score", "JSONL of responses with references."},
        {"score.output", path, "", "", "", "score",
         "The same rows with every reward; none: scored.jsonl in the run directory."},

        {"bench.tokens", integer, "tokens", "4096", ">0", "bench", "Tokens of a training step."},
        {"bench.steps", integer, "", "5", ">0", "bench", "Repetitions of each measurement."},
        {"bench.prompt", integer, "tokens", "64", ">0", "bench", "Length of the prompts to generate from."},
        {"bench.what", list, "", "train generate checkpoint",
         "train | generate | checkpoint | tokenizer | answers | code | attention | operations | collectives | control", "bench",
         "What to measure."},
        {"bench.text", list, "", "", "", "bench",
         "Files to measure the tokenizer (JSONL or plain text, *.txt) or the answers (JSONL) on; none: generated problems."},
    };
}

}  // namespace gradus
