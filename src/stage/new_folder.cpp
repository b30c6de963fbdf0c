// SPDX-License-Identifier: Apache-2.0
#include "new_folder.hpp"

#include <algorithm>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/model/parameters.hpp"
#include "gradus/text/tokenizer_json.hpp"

namespace gradus {
namespace {

struct Family {
    const char *type, *architecture;
};

/// The family whose code computes what this model does.
Family family_of(const ModelConfig& c) {
    require<DataError>(
        !c.is_latent() && c.moe.experts == 0 && c.rope == RopeOptions{} && !c.rope_interleaved &&
            c.mtp_layers == 0 && !(c.qkv_bias && c.qk_norm),
        "this model, made from model. keys, is of no family that is exported (llama, qwen2 with "
        "model.qkv_bias, qwen3 with model.qk_norm): {}",
        c.to_json().dump());
    if (c.qkv_bias) return {"qwen2", "Qwen2ForCausalLM"};
    if (c.qk_norm) return {"qwen3", "Qwen3ForCausalLM"};
    return {"llama", "LlamaForCausalLM"};
}

Json config_of(const ModelConfig& c, const Tokenizer& tokenizer, DType dtype) {
    const Family family = family_of(c);
    Json json = {{"architectures", Json::array({family.architecture})},
                 {"attention_bias", false},
                 {"attention_dropout", 0.0},
                 {"bos_token_id", tokenizer.bos()},
                 {"eos_token_id", tokenizer.eos()},
                 {"head_dim", c.head_dim},
                 {"hidden_act", "silu"},
                 {"hidden_size", c.hidden},
                 {"initializer_range", 0.02},
                 {"intermediate_size", c.intermediate},
                 {"max_position_embeddings", c.max_positions},
                 {"model_type", family.type},
                 {"num_attention_heads", c.heads},
                 {"num_hidden_layers", c.layers},
                 {"num_key_value_heads", c.kv_heads},
                 {"rms_norm_eps", c.norm_eps},
                 // Both forms: programs before transformers 5 read rope_theta.
                 {"rope_parameters", {{"rope_theta", c.rope_theta}, {"rope_type", "default"}}},
                 {"rope_theta", c.rope_theta},
                 {"tie_word_embeddings", c.tied},
                 {"torch_dtype", torch_dtype(dtype)},
                 {"use_cache", true},
                 {"vocab_size", c.vocab_size}};
    if (c.qkv_bias) json.erase("attention_bias");  // Qwen2 always has them
    if (tokenizer.bos() < 0) json.erase("bos_token_id");
    return json;
}

/// The byte tokenizer as byte-level BPE without merges. Nothing stands before a text: templates put
/// its <bos> there.
std::string byte_tokenizer_json(const Tokenizer& tokenizer) {
    constexpr TokenId kBytes = 256;
    ByteLevelVocabulary vocabulary{.pre_tokenizer = byte_level_step(false)};
    for (TokenId id = 0; id < tokenizer.vocab_size(); ++id)
        (id < kBytes ? vocabulary.pieces : vocabulary.special).push_back(tokenizer.decode({&id, 1}));
    return write_tokenizer_json(vocabulary);
}

}  // namespace

std::string torch_dtype(DType dtype) {
    switch (dtype) {
        case DType::bf16:
            return "bfloat16";
        case DType::f16:
            return "float16";
        default:
            return "float32";
    }
}

std::vector<FolderWeight> new_weights(const ModelConfig& model) {
    std::vector<FolderWeight> weights;
    const auto add = [&](const std::string& name, const std::string& parameter, const Shape& shape,
                         const Box& box) {
        FolderWeight weight;
        weight.entry = {.name = name, .shape = shape};
        weight.pieces = {{.tensor = "weights/" + parameter, .box = box}};
        weights.push_back(std::move(weight));
    };
    for (const ParameterInfo& p : describe_parameters(model)) {
        const Shape& s = p.global;
        if (!p.expert) {
            add(p.name, p.name, s, {s.rank() == 1 ? Shape{0} : Shape{0, 0}, s});
            continue;
        }
        const std::size_t at = p.name.find("experts.") + 8;
        for (std::int64_t e = 0; e < s[0]; ++e)
            add(p.name.substr(0, at) + std::to_string(e) + "." + p.name.substr(at), p.name,
                {s[1], s[2]}, {{e, 0, 0}, {1, s[1], s[2]}});
    }
    // DeepSeek's files repeat what the module of multi-token prediction shares.
    const std::string mtp = fmt::format("model.layers.{}.", model.layers),
                      embedding = "model.embed_tokens.weight";
    const Shape shared = {model.vocab_size, model.hidden};
    if (model.mtp_layers > 0) {
        add(mtp + "embed_tokens.weight", embedding, shared, {{0, 0}, shared});
        add(mtp + "shared_head.head.weight", model.tied ? embedding : "lm_head.weight", shared,
            {{0, 0}, shared});
    }
    std::sort(weights.begin(), weights.end(),
              [](const auto& a, const auto& b) { return a.entry.name < b.entry.name; });
    return weights;
}

std::map<std::string, std::string> new_folder_files(const ModelConfig& model,
                                                    const std::string& config,
                                                    const Tokenizer& tokenizer, DType dtype,
                                                    const std::set<std::string>& carried) {
    std::map<std::string, std::string> files;
    Json json = config.empty() ? config_of(model, tokenizer, dtype) : Json::parse(config);
    json.erase("quantization_config");
    json["vocab_size"] = model.vocab_size;  // may be padded
    json[json.contains("dtype") ? "dtype" : "torch_dtype"] = torch_dtype(dtype);
    files["config.json"] = json.dump(2) + "\n";
    if (!carried.contains("generation_config.json")) {
        Json generation = {{"eos_token_id", tokenizer.eos()}};
        if (tokenizer.bos() >= 0) generation["bos_token_id"] = tokenizer.bos();
        files["generation_config.json"] = generation.dump(2) + "\n";
    }
    if (carried.contains("tokenizer.json")) return files;
    require<DataError>(tokenizer.identity() == make_byte_tokenizer()->identity(),
                       "the model's tokenizer is {}, but its run carries no tokenizer.json",
                       tokenizer.identity());
    files["tokenizer.json"] = byte_tokenizer_json(tokenizer);
    files["tokenizer_config.json"] = Json{{"bos_token", "<bos>"},
                                          {"eos_token", "<eos>"},
                                          {"clean_up_tokenization_spaces", false},
                                          {"model_max_length", model.max_positions},
                                          {"tokenizer_class", "PreTrainedTokenizerFast"}}
                                         .dump(2) +
                                     "\n";
    return files;
}

}  // namespace gradus
