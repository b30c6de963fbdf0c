// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/hugging_face.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <type_traits>

#include "gradus/base/error.hpp"
#include "gradus/model/parameter_info.hpp"

namespace gradus {
namespace {

/// Keys that say nothing about what the model computes.
constexpr std::array kHarmless = std::to_array<std::string_view>(
    {"_name_or_path", "architectures", "attention_dropout", "auto_map", "aux_loss_alpha",
     "bos_token_id", "dtype", "eos_token_id", "ep_size", "hidden_dropout", "initializer_range",
     "max_window_layers", "model_type", "output_router_logits", "pad_token_id", "pretraining_tp",
     "router_aux_loss_coef", "seq_aux", "sliding_window", "torch_dtype", "transformers_version",
     "use_cache"});

/// Whether a value is exactly of the type: the library would take 1.5 and true for whole numbers.
template <class T>
bool is_a(const Json& value) {
    if constexpr (std::is_same_v<T, bool>) {
        return value.is_boolean();
    } else if constexpr (std::is_integral_v<T>) {
        return value.is_number_integer();
    } else if constexpr (std::is_floating_point_v<T>) {
        return value.is_number();
    } else if constexpr (std::is_same_v<T, std::string>) {
        return value.is_string();
    } else {
        return value.is_array() &&
               std::all_of(value.begin(), value.end(), is_a<typename T::value_type>);
    }
}

/// Reads keys of one object, notes which were asked for and collects what is wrong.
class Keys {
  public:
    Keys(const Json& json, std::string prefix, std::string& problems)
        : prefix_(std::move(prefix)), problems_(problems) {
        for (const auto& [key, value] : json.items())
            if (!value.is_null()) json_[key] = value;  // null is as good as absent
    }

    bool has(const char* key) const { return json_.contains(key); }
    const Json& at(const char* key) {
        used_.insert(key);
        return json_.at(key);
    }
    /// `value` becomes that of `key`, or stays where the key is not there.
    template <class T>
    void optional(const char* key, T& value) {
        if (!has(key)) return;
        const Json& found = at(key);
        if (is_a<T>(found))
            value = found.get<T>();
        else
            problem(fmt::format("{}{} = {} is of the wrong type", prefix_, key, shown(found)));
    }
    template <class T>
    void needed(const char* key, T& value) {
        if (has(key)) return optional(key, value);
        problem(fmt::format("{}{} is missing", prefix_, key));
    }
    /// A size: a whole number from 1 to a bound that no model reaches.
    void size(const char* key, std::int64_t& value) {
        needed(key, value);
        bounded(key, value, 1);
    }
    void optional_size(const char* key, std::int64_t& value, std::int64_t least) {
        optional(key, value);
        if (has(key)) bounded(key, value, least);
    }
    /// A setting that is supported at one value only.
    template <class T>
    void only(const char* key, const T& value) {
        T got = value;
        optional(key, got);
        if (got != value)
            problem(fmt::format("{}{} = {} is not supported; known: {}", prefix_, key,
                                shown(json_.at(key)), Json(value).dump()));
    }
    /// A number above zero where it is there.
    void positive(const char* key, double& value) {
        optional(key, value);
        if (has(key) && !(value > 0))
            problem(fmt::format("{}{} = {} is out of range", prefix_, key, shown(json_.at(key))));
    }
    void problem(const std::string& line) { problems_ += "\n  " + line; }
    /// What was not asked for is unknown, but for the harmless and the ignored.
    void finish(std::span<const std::string_view> harmless, std::span<const std::string> ignored) {
        for (const auto& [key, value] : json_.items())
            if (!used_.contains(key) && std::find(harmless.begin(), harmless.end(), key) == harmless.end() &&
                std::find(ignored.begin(), ignored.end(), prefix_ + key) == ignored.end())
                problem(fmt::format("{}{} = {} is unknown", prefix_, key, shown(value)));
    }

  private:
    static std::string shown(const Json& value) {
        const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
        return text.size() <= 60 ? text : text.substr(0, 60) + "...";
    }
    void bounded(const char* key, std::int64_t& value, std::int64_t least) {
        constexpr std::int64_t kMost = std::int64_t{1} << 31;
        if (value >= least && value < kMost) return;
        if (has(key)) problem(fmt::format("{}{} = {} is out of range", prefix_, key, value));
        value = std::max<std::int64_t>(least, 1);
    }

    Json json_ = Json::object();
    std::string prefix_;
    std::string& problems_;
    std::set<std::string, std::less<>> used_;
};

/// Settings of `rope_parameters`, or of the older `rope_scaling`.
void read_rope_object(Keys& keys, ModelConfig& c) {
    keys.optional("rope_theta", c.rope_theta);
    std::string type = "default";
    keys.optional("type", type);
    keys.optional("rope_type", type);
    RopeOptions& r = c.rope;
    keys.only("partial_rotary_factor", 1.0);
    if (type == "default") return;
    if (type == "linear") {
        r.scaling = RopeScaling::linear;
    } else if (type == "llama3") {
        r.scaling = RopeScaling::llama3;
        keys.needed("low_freq_factor", r.low_freq_factor);
        keys.needed("high_freq_factor", r.high_freq_factor);
    } else if (type == "yarn") {
        r.scaling = RopeScaling::yarn;
        keys.positive("beta_fast", r.beta_fast);
        keys.positive("beta_slow", r.beta_slow);
        keys.optional("mscale", r.mscale);
        keys.optional("mscale_all_dim", r.mscale_all_dim);
        keys.optional("attention_factor", r.attention_factor);
        keys.optional("truncate", r.truncate);
    } else {
        keys.problem(fmt::format("rotary scaling of type {} is not supported; known: default, linear, "
                                 "llama3, yarn", type));
        return;
    }
    keys.needed("factor", r.factor);
    keys.positive("factor", r.factor);
    if (r.scaling == RopeScaling::linear) return;
    r.original_positions = c.max_positions;
    keys.optional_size("original_max_position_embeddings", r.original_positions, 1);
    if (r.high_freq_factor == r.low_freq_factor)
        keys.problem("low_freq_factor and high_freq_factor of the rotary scaling are equal");
}

void read_rope(Keys& keys, ModelConfig& c, std::string& problems) {
    keys.optional("rope_theta", c.rope_theta);
    for (const char* name : {"rope_scaling", "rope_parameters"}) {
        if (!keys.has(name)) continue;
        const Json& json = keys.at(name);
        if (!json.is_object()) {
            keys.problem(fmt::format("{} is not an object", name));
            continue;
        }
        Keys inner(json, std::string(name) + ".", problems);
        read_rope_object(inner, c);
        inner.finish({}, {});
    }
    if (!(c.rope_theta > 1)) keys.problem("rope_theta is out of range");
}

void read_common(Keys& keys, ModelConfig& c) {
    keys.size("vocab_size", c.vocab_size);
    keys.size("hidden_size", c.hidden);
    keys.size("num_hidden_layers", c.layers);
    keys.size("num_attention_heads", c.heads);
    c.kv_heads = c.heads;
    keys.optional_size("num_key_value_heads", c.kv_heads, 1);
    keys.size("intermediate_size", c.intermediate);
    keys.size("max_position_embeddings", c.max_positions);
    keys.needed("rms_norm_eps", c.norm_eps);
    keys.positive("rms_norm_eps", c.norm_eps);
    c.tied = false;  // what transformers takes where the key is absent
    keys.optional("tie_word_embeddings", c.tied);
    keys.only("hidden_act", std::string("silu"));
    for (const char* flag : {"attention_bias", "mlp_bias", "use_sliding_window", "use_mrope"})
        keys.only(flag, false);
    if (c.layers > 100000) keys.problem(fmt::format("num_hidden_layers = {} is out of range", c.layers));
    std::vector<std::string> types;
    keys.optional("layer_types", types);
    for (const std::string& type : types)
        if (type != "full_attention") {
            keys.problem(fmt::format("layer_types holds {}, which is not supported; known: full_attention",
                                     type));
            break;
        }
}

void read_qwen3_moe(Keys& keys, ModelConfig& c) {
    MixtureOfExperts& m = c.moe;
    keys.size(keys.has("num_experts") ? "num_experts" : "num_local_experts", m.experts);
    keys.optional_size("num_local_experts", m.experts, 1);
    keys.size("num_experts_per_tok", m.per_token);
    keys.size("moe_intermediate_size", m.intermediate);
    keys.optional("norm_topk_prob", m.normalize);
    std::vector<std::int64_t> dense;
    keys.optional("mlp_only_layers", dense);
    std::int64_t every = 1;
    keys.optional_size("decoder_sparse_step", every, 1);
    for (std::int64_t i = 0; i < std::min<std::int64_t>(c.layers, 100000); ++i)
        if ((i + 1) % every != 0 || std::find(dense.begin(), dense.end(), i) != dense.end())
            m.dense_layers.push_back(i);
}

void read_latent(Keys& keys, ModelConfig& c) {
    LatentAttention& a = c.latent;
    keys.optional_size("q_lora_rank", a.q_rank, 0);
    keys.size("kv_lora_rank", a.kv_rank);
    keys.size("qk_nope_head_dim", a.nope_dim);
    keys.size("qk_rope_head_dim", a.rope_dim);
    keys.size("v_head_dim", a.value_dim);
    c.head_dim = a.nope_dim + a.rope_dim;
    keys.only("qk_head_dim", c.head_dim);
    std::int64_t unused = 0;  // transformers writes the rotated width here
    keys.optional("head_dim", unused);
    if (c.kv_heads != c.heads) keys.problem("num_key_value_heads differs from num_attention_heads");
    c.kv_heads = c.heads;
    c.rope_interleaved = true;
    keys.optional("rope_interleave", c.rope_interleaved);
}

void read_deepseek_moe(Keys& keys, bool v3, ModelConfig& c) {
    MixtureOfExperts& m = c.moe;
    keys.size("n_routed_experts", m.experts);
    keys.optional_size("n_shared_experts", m.shared, 0);
    keys.size("num_experts_per_tok", m.per_token);
    keys.size("moe_intermediate_size", m.intermediate);
    // transformers has other defaults for V3 than V2's code: a V3 file must say what it means.
    if (v3)
        for (const char* key : {"norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group",
                                "first_k_dense_replace"})
            if (!keys.has(key)) keys.problem(fmt::format("{} is missing", key));
    keys.optional("norm_topk_prob", m.normalize);
    keys.optional("routed_scaling_factor", m.scale);
    std::string score = v3 ? "sigmoid" : "softmax", method = v3 ? "noaux_tc" : "greedy";
    keys.optional("scoring_func", score);
    keys.optional("topk_method", method);
    if (score != "sigmoid" && score != "softmax")
        keys.problem(fmt::format("scoring_func = {} is not supported; known: sigmoid, softmax", score));
    m.score = score == "sigmoid" ? RouterScore::sigmoid : RouterScore::softmax;
    std::int64_t groups = 1, top_groups = 1;
    keys.optional_size("n_group", groups, 1);
    keys.optional_size("topk_group", top_groups, 1);
    if (method == "noaux_tc") {
        m.bias = true;
        m.group_best = 2;
    } else if (method != "greedy" && method != "group_limited_greedy") {
        keys.problem(fmt::format("topk_method = {} is not supported; known: noaux_tc, greedy, "
                                 "group_limited_greedy", method));
    }
    if (method != "greedy") {
        m.groups = groups;
        m.top_groups = top_groups;
    }
    // One group limits nothing, however it is scored.
    if (m.groups == 1) m.top_groups = m.group_best = 1;
    // DeepSeek-V2's own code scales weights only where it does not normalise them.
    if (!v3 && m.normalize) m.scale = 1;
    std::int64_t dense = 0, every = 1;
    keys.optional_size("first_k_dense_replace", dense, 0);
    keys.optional_size("moe_layer_freq", every, 1);
    for (std::int64_t i = 0; i < std::min<std::int64_t>(c.layers, 100000); ++i)
        if (i < dense || i % every != 0) m.dense_layers.push_back(i);
}

void read_quantization(Keys& keys, bool& fp8, std::string& problems) {
    if (!keys.has("quantization_config")) return;
    const Json& json = keys.at("quantization_config");
    if (!json.is_object()) return keys.problem("quantization_config is not an object");
    Keys inner(json, "quantization_config.", problems);
    std::string method;
    inner.needed("quant_method", method);
    if (method != "fp8")
        inner.problem(fmt::format("quantization_config.quant_method = {} is not supported; known: fp8",
                                  method));
    inner.only("fmt", std::string("e4m3"));
    inner.only("weight_block_size", std::vector<std::int64_t>{128, 128});
    std::string unused;
    inner.optional("activation_scheme", unused);
    inner.finish({}, {});
    fp8 = true;
}

/// Sizes that are in range each may still not be so together; counted so that nothing overflows.
void check_parameters(const ModelConfig& c, const std::string& file) {
    constexpr double kMost = 1e15;
    double sum = 0;
    for (const ParameterInfo& p : describe_parameters(c)) {
        double elements = 1;
        for (int i = 0; i < p.global.rank(); ++i) elements *= static_cast<double>(p.global[i]);
        sum += elements;
    }
    require<DataError>(sum <= kMost, "{}: these sizes make a model of {:.3g} parameters; known: up to {:.0e}",
                       file, sum, kMost);
}

}  // namespace

HuggingFaceConfig read_hugging_face_config(const Json& config, const std::string& file,
                                           std::span<const std::string> ignored) {
    require<DataError>(config.is_object(), "{}: not a JSON object", file);
    std::string problems;
    Keys keys(config, "", problems);
    HuggingFaceConfig result;
    keys.needed("model_type", result.family);
    const std::string& family = result.family;
    const bool deepseek = family == "deepseek_v2" || family == "deepseek_v3";
    const bool known = deepseek || family == "llama" || family == "qwen2" || family == "qwen3" ||
                       family == "qwen3_moe";
    require<DataError>(known,
                       "{}: the model family \"{}\" (model_type) is not supported; known: llama, qwen2, "
                       "qwen3, qwen3_moe, deepseek_v2, deepseek_v3",
                       file, family);
    ModelConfig& c = result.model;
    read_common(keys, c);
    if (deepseek) {
        read_latent(keys, c);
        read_deepseek_moe(keys, family == "deepseek_v3", c);
        keys.optional_size("num_nextn_predict_layers", result.announced_mtp_layers, 0);
        if (result.announced_mtp_layers > 1)
            keys.problem(fmt::format("num_nextn_predict_layers = {} is not supported; known: 0, 1",
                                     result.announced_mtp_layers));
    } else {
        c.head_dim = c.hidden / c.heads;
        keys.optional_size("head_dim", c.head_dim, 1);
        c.qkv_bias = family == "qwen2";
        c.qk_norm = family == "qwen3" || family == "qwen3_moe";
        if (family == "qwen3_moe") read_qwen3_moe(keys, c);
    }
    read_rope(keys, c, problems);
    read_quantization(keys, result.fp8, problems);
    keys.finish(kHarmless, ignored);
    require<DataError>(problems.empty(),
                       "{}: this model cannot be read as it is:{}\n(a key that does not change what the "
                       "model computes may be named in import.ignore_keys)",
                       file, problems);
    try {
        c.check(1);
    } catch (const DeckError& e) {
        throw DataError(fmt::format("{}: {}", file, e.what()));
    }
    check_parameters(c, file);
    return result;
}

}  // namespace gradus
