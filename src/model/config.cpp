// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/config.hpp"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

constexpr std::array<std::pair<RopeScaling, const char*>, 4> kScalings = {
    {{RopeScaling::none, "none"}, {RopeScaling::linear, "linear"}, {RopeScaling::llama3, "llama3"},
     {RopeScaling::yarn, "yarn"}}};
constexpr std::array<std::pair<RouterScore, const char*>, 2> kScores = {
    {{RouterScore::softmax, "softmax"}, {RouterScore::sigmoid, "sigmoid"}}};

/// Collects what is wrong with a shape.
class Problems {
  public:
    void want(bool good, const std::string& line) {
        if (!good) text_ += "\n  " + line;
    }
    void positive(const char* name, std::int64_t value) {
        want(value > 0, fmt::format("model.{} = {} is not positive", name, value));
    }
    void divides(const char* name, std::int64_t value, const char* key, std::int64_t by) {
        want(value % by == 0, fmt::format("model.{} = {} does not divide by {} = {}", name, value, key, by));
    }
    bool none() const { return text_.empty(); }
    const std::string& text() const { return text_; }

  private:
    std::string text_;
};

void check_moe(const ModelConfig& c, int tensor_size, int expert_size, Problems& problems) {
    const MixtureOfExperts& m = c.moe;
    problems.positive("moe.intermediate", m.intermediate);
    problems.positive("moe.groups", m.groups);
    problems.want(m.per_token > 0 && m.per_token <= m.experts,
                  fmt::format("model.moe.per_token = {} of {} experts", m.per_token, m.experts));
    if (!problems.none()) return;
    problems.divides("moe.experts", m.experts, "model.moe.groups", m.groups);
    problems.divides("moe.experts", m.experts, "grid.expert", expert_size);
    problems.divides("moe.intermediate", m.intermediate, "grid.tensor", tensor_size);
    const std::int64_t group = m.experts / m.groups;
    problems.want(m.top_groups >= 1 && m.top_groups <= m.groups && m.per_token <= m.top_groups * group,
                  fmt::format("model.moe: {} experts a token cannot come from {} of {} groups of {}",
                              m.per_token, m.top_groups, m.groups, group));
    problems.want(m.group_best >= 1 && m.group_best <= group,
                  fmt::format("model.moe.group_best = {} of {} experts in a group", m.group_best, group));
    problems.want(std::is_sorted(m.dense_layers.begin(), m.dense_layers.end()),
                  "model.moe.dense_layers is not in ascending order");
}

Json rope_to_json(const RopeOptions& r) {
    const auto name = std::find_if(kScalings.begin(), kScalings.end(),
                                   [&](const auto& s) { return s.first == r.scaling; });
    return {{"scaling", name->second},
            {"factor", r.factor},
            {"original_positions", r.original_positions},
            {"low_freq_factor", r.low_freq_factor},
            {"high_freq_factor", r.high_freq_factor},
            {"beta_fast", r.beta_fast},
            {"beta_slow", r.beta_slow},
            {"mscale", r.mscale},
            {"mscale_all_dim", r.mscale_all_dim},
            {"attention_factor", r.attention_factor},
            {"truncate", r.truncate}};
}

Json latent_to_json(const LatentAttention& a) {
    return {{"q_rank", a.q_rank},
            {"kv_rank", a.kv_rank},
            {"nope_dim", a.nope_dim},
            {"rope_dim", a.rope_dim},
            {"value_dim", a.value_dim}};
}

Json moe_to_json(const MixtureOfExperts& m) {
    return {{"experts", m.experts},
            {"per_token", m.per_token},
            {"intermediate", m.intermediate},
            {"shared", m.shared},
            {"dense_layers", m.dense_layers},
            {"score", m.score == RouterScore::sigmoid ? "sigmoid" : "softmax"},
            {"bias", m.bias},
            {"normalize", m.normalize},
            {"scale", m.scale},
            {"groups", m.groups},
            {"top_groups", m.top_groups},
            {"group_best", m.group_best}};
}

/// Reads fields of one object of the description.
class Fields {
  public:
    explicit Fields(const Json& json) : json_(json) {}
    template <class T>
    void operator()(const char* name, T& value) const {
        require<CheckpointError>(json_.contains(name), "the model's description lacks `{}`", name);
        if constexpr (std::is_same_v<T, std::int64_t>)
            if (!json_.at(name).is_number_integer()) wrong(name);  // the library would cut 1.5 to 1
        try {
            json_.at(name).get_to(value);
        } catch (const Json::exception&) {
            wrong(name);
        }
    }
    template <class Enum, std::size_t N>
    void operator()(const char* name, Enum& value,
                    const std::array<std::pair<Enum, const char*>, N>& names) const {
        std::string text;
        (*this)(name, text);
        const auto found = std::find_if(names.begin(), names.end(),
                                        [&](const auto& n) { return n.second == text; });
        if (found == names.end()) wrong(name);
        value = found->first;
    }

  private:
    [[noreturn]] void wrong(const char* name) const {
        throw CheckpointError(fmt::format("the model's description has `{}` = {}, which is of "
                                          "another type", name, json_.at(name).dump()));
    }
    const Json& json_;
};

RopeOptions rope_from_json(const Json& json) {
    RopeOptions r;
    const Fields get(json);
    get("scaling", r.scaling, kScalings);
    get("factor", r.factor);
    get("original_positions", r.original_positions);
    get("low_freq_factor", r.low_freq_factor);
    get("high_freq_factor", r.high_freq_factor);
    get("beta_fast", r.beta_fast);
    get("beta_slow", r.beta_slow);
    get("mscale", r.mscale);
    get("mscale_all_dim", r.mscale_all_dim);
    get("attention_factor", r.attention_factor);
    get("truncate", r.truncate);
    return r;
}

LatentAttention latent_from_json(const Json& json) {
    LatentAttention a;
    const Fields get(json);
    get("q_rank", a.q_rank);
    get("kv_rank", a.kv_rank);
    get("nope_dim", a.nope_dim);
    get("rope_dim", a.rope_dim);
    get("value_dim", a.value_dim);
    return a;
}

MixtureOfExperts moe_from_json(const Json& json) {
    MixtureOfExperts m;
    const Fields get(json);
    get("experts", m.experts);
    get("per_token", m.per_token);
    get("intermediate", m.intermediate);
    get("shared", m.shared);
    get("dense_layers", m.dense_layers);
    get("score", m.score, kScores);
    get("bias", m.bias);
    get("normalize", m.normalize);
    get("scale", m.scale);
    get("groups", m.groups);
    get("top_groups", m.top_groups);
    get("group_best", m.group_best);
    return m;
}

}  // namespace

bool ModelConfig::is_moe(std::int64_t layer) const {
    return moe.experts > 0 &&
           !std::binary_search(moe.dense_layers.begin(), moe.dense_layers.end(), layer);
}

void ModelConfig::check(int tensor_size, int expert_size) const {
    Problems problems;
    for (const auto& [name, value] :
         {std::pair{"vocab_size", vocab_size}, {"hidden", hidden}, {"layers", layers},
          {"heads", heads}, {"kv_heads", kv_heads}, {"head_dim", head_dim},
          {"intermediate", intermediate}, {"max_positions", max_positions}})
        problems.positive(name, value);
    if (is_latent())
        for (const auto& [name, value] :
             {std::pair{"latent.nope_dim", latent.nope_dim}, {"latent.rope_dim", latent.rope_dim},
              {"latent.value_dim", latent.value_dim}})
            problems.positive(name, value);
    if (problems.none()) {
        problems.divides("heads", heads, "model.kv_heads", kv_heads);
        problems.want(rope_dim() % 2 == 0,
                      fmt::format("model.head_dim = {} is odd; rotary embedding turns pairs", rope_dim()));
        for (const auto& [name, value] : {std::pair{"vocab_size", vocab_size}, {"heads", heads},
                                          {"kv_heads", kv_heads}, {"intermediate", intermediate}})
            problems.divides(name, value, "grid.tensor", tensor_size);
        if (is_latent())
            problems.want(head_dim == latent.nope_dim + latent.rope_dim && heads == kv_heads,
                          "with latent attention model.head_dim is nope_dim + rope_dim and every head has "
                          "its own keys");
    }
    if (moe.experts > 0)
        check_moe(*this, tensor_size, expert_size, problems);
    else
        problems.want(expert_size == 1,
                      fmt::format("grid.expert = {}, but the model has no experts", expert_size));
    require<DeckError>(problems.none(), "the model's sizes do not fit:{}", problems.text());
}

double ModelConfig::forward_flops(double context) const {
    const auto d = [](std::int64_t n) { return static_cast<double>(n); };
    const double q = d(heads * head_dim), kv = d(kv_heads * head_dim), out = d(heads * value_dim());
    double projections = d(hidden) * (2 * q + 2 * kv);
    if (is_latent()) {
        const double queries = latent.q_rank > 0 ? d(latent.q_rank) * (d(hidden) + q) : d(hidden) * q;
        projections = queries + d(hidden) * d(latent.kv_rank + latent.rope_dim) +
                      d(latent.kv_rank) * d(heads * (latent.nope_dim + latent.value_dim)) +
                      out * d(hidden);
    }
    const double attention = (q + out) * context;  // q k^T and p v
    double blocks = 0;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        const double width = is_moe(layer) ? d((moe.per_token + moe.shared) * moe.intermediate)
                                           : d(intermediate);
        blocks += projections + attention + 3 * d(hidden) * width;
        if (is_moe(layer)) blocks += d(hidden) * d(moe.experts);
    }
    return 2 * (blocks + d(hidden) * d(vocab_size));
}

Json ModelConfig::to_json() const {
    Json json = {{"vocab_size", vocab_size}, {"hidden", hidden},
                 {"layers", layers},         {"heads", heads},
                 {"kv_heads", kv_heads},     {"head_dim", head_dim},
                 {"intermediate", intermediate}, {"max_positions", max_positions},
                 {"rope_theta", rope_theta}, {"norm_eps", norm_eps},
                 {"qkv_bias", qkv_bias},     {"qk_norm", qk_norm},
                 {"tied", tied}};
    // What plain models do not have is left out, so that their descriptions stay short.
    if (rope_interleaved) json["rope_interleaved"] = true;
    if (rope != RopeOptions{}) json["rope"] = rope_to_json(rope);
    if (is_latent()) json["latent"] = latent_to_json(latent);
    if (moe.experts > 0) json["moe"] = moe_to_json(moe);
    if (mtp_layers > 0) json["mtp_layers"] = mtp_layers;
    return json;
}

ModelConfig ModelConfig::from_json(const Json& json) {
    ModelConfig c;
    const Fields get(json);
    get("vocab_size", c.vocab_size);
    get("hidden", c.hidden);
    get("layers", c.layers);
    get("heads", c.heads);
    get("kv_heads", c.kv_heads);
    get("head_dim", c.head_dim);
    get("intermediate", c.intermediate);
    get("max_positions", c.max_positions);
    get("rope_theta", c.rope_theta);
    get("norm_eps", c.norm_eps);
    get("qkv_bias", c.qkv_bias);
    get("qk_norm", c.qk_norm);
    get("tied", c.tied);
    if (json.contains("rope_interleaved")) get("rope_interleaved", c.rope_interleaved);
    if (json.contains("rope")) c.rope = rope_from_json(json["rope"]);
    if (json.contains("latent")) c.latent = latent_from_json(json["latent"]);
    if (json.contains("moe")) c.moe = moe_from_json(json["moe"]);
    if (json.contains("mtp_layers")) get("mtp_layers", c.mtp_layers);
    return c;
}

}  // namespace gradus
