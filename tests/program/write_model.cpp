// SPDX-License-Identifier: Apache-2.0
// write_model KIND FOLDER [TOKENIZER_JSON]: a Hugging Face folder with random weights, for tests.
// Little memory, whatever its size. A tensor's numbers are a function of its name.
//   large    Qwen2.5-1.5B's shape, BF16, one file
//   mixed    Qwen2, BF16 and F16, several files with an index
//   fp8      DeepSeek-V3 with F8_E4M3 weights, their scales, and the multi-token prediction layer
//   tied     Llama with lm_head.weight though it is tied, and rotary buffers
//   stacked  Qwen3-MoE with all experts of a layer in one tensor
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/model/hugging_face.hpp"
#include "gradus/model/parameters.hpp"
#include "gradus/store/safetensors_writer.hpp"
#include "gradus/tensor/convert.hpp"

namespace gradus {
namespace {

struct Kind {
    Json config;
    std::int64_t shard_bytes = std::int64_t{1} << 40;
    std::function<std::string(const std::string&, const Shape&)> dtype;
    bool mtp = false, tied_head = false, buffers = false, stacked = false;
};

Json base_config(const char* family, const char* architecture, std::int64_t hidden,
                 std::int64_t layers, std::int64_t heads, std::int64_t kv,
                 std::int64_t intermediate, std::int64_t vocabulary) {
    return {{"architectures", Json::array({architecture})},
            {"model_type", family},
            {"hidden_size", hidden},
            {"num_hidden_layers", layers},
            {"num_attention_heads", heads},
            {"num_key_value_heads", kv},
            {"intermediate_size", intermediate},
            {"vocab_size", vocabulary},
            {"hidden_act", "silu"},
            {"rms_norm_eps", 1e-6},
            {"max_position_embeddings", 4096},
            {"rope_theta", 10000.0},
            {"tie_word_embeddings", false},
            {"torch_dtype", "bfloat16"},
            {"bos_token_id", 0},
            {"eos_token_id", 1}};
}

Kind large() {
    Kind kind;
    kind.config = base_config("qwen2", "Qwen2ForCausalLM", 1536, 28, 12, 2, 8960, 151936);
    kind.config["max_position_embeddings"] = 32768;
    kind.config["rope_theta"] = 1000000.0;
    kind.config["tie_word_embeddings"] = true;
    kind.config["bos_token_id"] = 151643;
    kind.config["eos_token_id"] = 151645;
    kind.dtype = [](auto&, auto&) { return "BF16"; };
    return kind;
}

Kind mixed() {
    Kind kind;
    kind.config = base_config("qwen2", "Qwen2ForCausalLM", 32, 2, 4, 2, 96, 264);
    kind.shard_bytes = 20000;
    kind.dtype = [](const std::string& name, auto&) {
        return name.find("mlp") == std::string::npos ? "BF16" : "F16";
    };
    return kind;
}

Kind fp8() {
    Kind kind;
    kind.config = base_config("deepseek_v3", "DeepseekV3ForCausalLM", 160, 2, 4, 4, 144, 264);
    const Json more = {{"q_lora_rank", 48},
                       {"kv_lora_rank", 32},
                       {"qk_nope_head_dim", 24},
                       {"qk_rope_head_dim", 16},
                       {"v_head_dim", 24},
                       {"n_routed_experts", 8},
                       {"n_shared_experts", 1},
                       {"num_experts_per_tok", 2},
                       {"moe_intermediate_size", 136},
                       {"first_k_dense_replace", 1},
                       {"n_group", 4},
                       {"topk_group", 2},
                       {"norm_topk_prob", true},
                       {"routed_scaling_factor", 2.5},
                       {"scoring_func", "sigmoid"},
                       {"topk_method", "noaux_tc"},
                       {"num_nextn_predict_layers", 1},
                       {"quantization_config",
                        {{"activation_scheme", "dynamic"},
                         {"fmt", "e4m3"},
                         {"quant_method", "fp8"},
                         {"weight_block_size", {128, 128}}}}};
    kind.config.update(more);
    kind.shard_bytes = 1000000;
    kind.mtp = true;
    kind.dtype = [](const std::string& name, const Shape& shape) {
        if (name.ends_with("e_score_correction_bias")) return "F32";
        const bool plain = shape.rank() == 1 || name.find("embed") != std::string::npos ||
                           name.find("head") != std::string::npos ||
                           name.ends_with("gate.weight") ||
                           name.find("eh_proj") != std::string::npos;
        return plain ? "BF16" : "F8_E4M3";
    };
    return kind;
}

Kind tied() {
    Kind kind;
    kind.config = base_config("llama", "LlamaForCausalLM", 32, 2, 4, 2, 96, 264);
    kind.config["tie_word_embeddings"] = true;
    kind.tied_head = kind.buffers = true;
    kind.dtype = [](auto&, auto&) { return "F16"; };
    return kind;
}

Kind stacked() {
    Kind kind;
    kind.config = base_config("qwen3_moe", "Qwen3MoeForCausalLM", 32, 2, 4, 2, 96, 264);
    kind.config.update({{"head_dim", 8},
                        {"num_experts", 4},
                        {"num_experts_per_tok", 2},
                        {"moe_intermediate_size", 24},
                        {"norm_topk_prob", true},
                        {"decoder_sparse_step", 1},
                        {"mlp_only_layers", Json::array()}});
    kind.stacked = true;
    kind.dtype = [](auto&, auto&) { return "BF16"; };
    return kind;
}

Kind kind_named(const std::string& name) {
    if (name == "large") return large();
    if (name == "mixed") return mixed();
    if (name == "fp8") return fp8();
    if (name == "tied") return tied();
    if (name == "stacked") return stacked();
    throw DataError("no such kind of model: " + name);
}

std::vector<SafetensorsEntry> entries_of(const Kind& kind, const ModelConfig& model) {
    std::vector<SafetensorsEntry> entries;
    const auto add = [&](const std::string& name, const Shape& shape) {
        const std::string dtype = kind.dtype(name, shape);
        entries.push_back({.name = name, .dtype = dtype, .shape = shape});
        if (dtype == "F8_E4M3")
            entries.push_back({.name = name + "_scale_inv",
                               .dtype = "F32",
                               .shape = {scale_blocks(shape[0]), scale_blocks(shape[1])}});
    };
    for (const ParameterInfo& p : describe_parameters(model)) {
        const Shape& s = p.global;
        const std::size_t at = p.name.find("experts.");
        if (!p.expert) {
            add(p.name, s);
        } else if (!kind.stacked) {
            for (std::int64_t e = 0; e < s[0]; ++e)
                add(p.name.substr(0, at + 8) + std::to_string(e) + "." + p.name.substr(at + 8),
                    {s[1], s[2]});
        } else if (p.name.ends_with("gate_proj.weight")) {
            add(p.name.substr(0, at + 8) + "gate_up_proj", {s[0], 2 * s[1], s[2]});
        } else if (p.name.ends_with("down_proj.weight")) {
            add(p.name.substr(0, at + 8) + "down_proj", s);
        }
    }
    const Shape embedding = {model.vocab_size, model.hidden};
    if (kind.tied_head) add("lm_head.weight", embedding);
    if (kind.buffers)
        for (std::int64_t i = 0; i < model.layers; ++i)
            entries.push_back(
                {.name = fmt::format("model.layers.{}.self_attn.rotary_emb.inv_freq", i),
                 .dtype = "F32",
                 .shape = {model.head_dim / 2}});
    if (kind.mtp) {
        add(fmt::format("model.layers.{}.embed_tokens.weight", model.layers), embedding);
        add(fmt::format("model.layers.{}.shared_head.head.weight", model.layers), embedding);
    }
    std::sort(entries.begin(), entries.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    return entries;
}

/// 65536 numbers of the standard normal distribution, drawn once: a weight is one of them.
std::vector<float> normal_table() {
    std::vector<float> table;
    for (std::uint32_t i = 0; i < 32768; ++i)
        for (const double x : random_normal({.seed = 1, .stream = Stream::test, .position = i}))
            table.push_back(static_cast<float>(x));
    return table;
}

class Filler {
  public:
    Filler(const ModelConfig& model, SafetensorsWriter& out) : model_(model), out_(out) {}

    void fill(const SafetensorsEntry& entry) {
        const std::int64_t n = entry.shape.elements(), element = safetensors_size(entry.dtype);
        const bool norm = entry.name.find("norm") != std::string::npos,
                   scale = entry.name.ends_with("_scale_inv");
        const std::uint64_t seed = std::hash<std::string>{}(source(entry.name));
        const float mean = norm ? 1.0f : scale ? 0.01f : 0.0f, spread = scale ? 0.001f : 0.02f;
        constexpr std::int64_t kStep = 1 << 20;  // divides by the 8 numbers of a draw
        std::vector<float> floats;
        std::vector<char> bytes;
        for (std::int64_t at = 0; at < n; at += kStep) {
            const std::int64_t count = std::min(kStep, n - at);
            floats.clear();
            bytes.resize(static_cast<std::size_t>(count * element));
            for (std::int64_t i = 0; i < count; i += 8) {
                const PhiloxBlock bits =
                    random_bits({.seed = seed,
                                 .stream = Stream::test,
                                 .prompt = static_cast<std::uint64_t>((at + i) / 8)});
                for (const std::uint32_t word : bits)
                    for (const std::uint32_t half : {word & 0xffff, word >> 16})
                        floats.push_back(mean + spread * table_[half]);
            }
            if (entry.dtype == "F8_E4M3")
                for (std::size_t i = 0; i < bytes.size(); ++i) {
                    std::memcpy(&bytes[i], &floats[i], 1);
                    if ((bytes[i] & 0x7f) == 0x7f || bytes[i] == static_cast<char>(0x80))
                        bytes[i] = 0;  // no NaN, and no -0, which an update of 0 makes 0
                }
            else
                from_f32(*float_dtype(entry.dtype), floats.data(), bytes.data(), count);
            out_.write(entry.begin + at * element, bytes.data(), count * element);
        }
    }

  private:
    /// The tensor whose numbers this one has.
    std::string source(const std::string& name) const {
        const std::string mtp = fmt::format("model.layers.{}.", model_.layers);
        if (name == mtp + "embed_tokens.weight" || (model_.tied && name == "lm_head.weight"))
            return "model.embed_tokens.weight";
        return name == mtp + "shared_head.head.weight" ? "lm_head.weight" : name;
    }
    const ModelConfig& model_;
    SafetensorsWriter& out_;
    std::vector<float> table_ = normal_table();
};

void write(const std::string& name, const std::string& folder, const std::string& tokenizer) {
    const Kind kind = kind_named(name);
    ModelConfig model = read_hugging_face_config(kind.config, "config.json").model;
    if (kind.mtp) model.mtp_layers = 1;
    std::filesystem::create_directories(folder);
    const auto shards = split_safetensors(entries_of(kind, model), kind.shard_bytes);
    for (const SafetensorsShard& shard : shards) {
        SafetensorsWriter out(folder + "/" + shard.file, shard.header, shard.data_bytes(), true);
        Filler filler(model, out);
        for (const SafetensorsEntry& entry : shard.entries) filler.fill(entry);
        out.close();
    }
    if (shards.size() > 1)
        write_file_atomically(folder + "/model.safetensors.index.json", safetensors_index(shards));
    write_file_atomically(folder + "/config.json", kind.config.dump(2) + "\n");
    const Json generation = {{"bos_token_id", kind.config["bos_token_id"]},
                             {"eos_token_id", Json::array({kind.config["eos_token_id"]})}};
    write_file_atomically(folder + "/generation_config.json", generation.dump(2) + "\n");
    if (!tokenizer.empty())
        std::filesystem::copy_file(tokenizer, folder + "/tokenizer.json",
                                   std::filesystem::copy_options::overwrite_existing);
}

}  // namespace
}  // namespace gradus

int main(int argc, char** argv) try {
    if (argc != 3 && argc != 4) {
        std::fprintf(stderr, "write_model KIND FOLDER [TOKENIZER_JSON]\n");
        return 2;
    }
    gradus::write(argv[1], argv[2], argc == 4 ? argv[3] : "");
    return 0;
} catch (const std::exception& e) {
    std::fprintf(stderr, "write_model: %s\n", e.what());
    return 3;
}
