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

/// Writes fields of one object of the description.
class WriteFields {
  public:
    template <class T>
    void operator()(const char* name, const T& value) {
        json[name] = value;
    }
    template <class Enum, std::size_t N>
    void operator()(const char* name, Enum value,
                    const std::array<std::pair<Enum, const char*>, N>& names) {
        const auto found = std::find_if(names.begin(), names.end(),
                                        [&](const auto& n) { return n.first == value; });
        json[name] = found->second;
    }
    Json json = Json::object();
};

/// Reads fields of one object of the description.
class ReadFields {
  public:
    explicit ReadFields(const Json& json) : json_(json) {}
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

// One list of fields for both directions.

template <class Archive, class Rope>
void rope_fields(Archive& field, Rope& r) {
    field("scaling", r.scaling, kScalings);
    field("factor", r.factor);
    field("original_positions", r.original_positions);
    field("low_freq_factor", r.low_freq_factor);
    field("high_freq_factor", r.high_freq_factor);
    field("beta_fast", r.beta_fast);
    field("beta_slow", r.beta_slow);
    field("mscale", r.mscale);
    field("mscale_all_dim", r.mscale_all_dim);
    field("attention_factor", r.attention_factor);
    field("truncate", r.truncate);
}

template <class Archive, class Latent>
void latent_fields(Archive& field, Latent& a) {
    field("q_rank", a.q_rank);
    field("kv_rank", a.kv_rank);
    field("nope_dim", a.nope_dim);
    field("rope_dim", a.rope_dim);
    field("value_dim", a.value_dim);
}

template <class Archive, class Moe>
void moe_fields(Archive& field, Moe& m) {
    field("experts", m.experts);
    field("per_token", m.per_token);
    field("intermediate", m.intermediate);
    field("shared", m.shared);
    field("dense_layers", m.dense_layers);
    field("score", m.score, kScores);
    field("bias", m.bias);
    field("normalize", m.normalize);
    field("scale", m.scale);
    field("groups", m.groups);
    field("top_groups", m.top_groups);
    field("group_best", m.group_best);
}

template <class Archive, class Config>
void plain_fields(Archive& field, Config& c) {
    field("vocab_size", c.vocab_size);
    field("hidden", c.hidden);
    field("layers", c.layers);
    field("heads", c.heads);
    field("kv_heads", c.kv_heads);
    field("head_dim", c.head_dim);
    field("intermediate", c.intermediate);
    field("max_positions", c.max_positions);
    field("rope_theta", c.rope_theta);
    field("norm_eps", c.norm_eps);
    field("qkv_bias", c.qkv_bias);
    field("qk_norm", c.qk_norm);
    field("tied", c.tied);
}

}  // namespace

bool ModelConfig::is_moe(std::int64_t layer) const {
    return moe.experts > 0 &&
           !std::binary_search(moe.dense_layers.begin(), moe.dense_layers.end(), layer);
}

ModelConfig ModelConfig::with_scalar_head() const {
    ModelConfig c = *this;
    c.scalar_head = true;
    c.mtp_layers = 0;
    return c;
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
    return 2 * (blocks + d(hidden) * (scalar_head ? 1 : d(vocab_size)));
}

Json ModelConfig::to_json() const {
    WriteFields out;
    plain_fields(out, *this);
    // What plain models do not have is left out, so that their descriptions stay short.
    const auto object = [&](const char* name, auto fields, const auto& value) {
        WriteFields inner;
        fields(inner, value);
        out.json[name] = inner.json;
    };
    if (rope_interleaved) out("rope_interleaved", true);
    if (rope != RopeOptions{}) object("rope", [](auto& f, auto& v) { rope_fields(f, v); }, rope);
    if (is_latent()) object("latent", [](auto& f, auto& v) { latent_fields(f, v); }, latent);
    if (moe.experts > 0) object("moe", [](auto& f, auto& v) { moe_fields(f, v); }, moe);
    if (mtp_layers > 0) out("mtp_layers", mtp_layers);
    if (scalar_head) out("scalar_head", true);
    return out.json;
}

ModelConfig ModelConfig::from_json(const Json& json) {
    ModelConfig c;
    const ReadFields in(json);
    plain_fields(in, c);
    const auto object = [&](const char* name, auto fields, auto& value) {
        if (!json.contains(name)) return;
        const ReadFields inner(json[name]);
        fields(inner, value);
    };
    if (json.contains("rope_interleaved")) in("rope_interleaved", c.rope_interleaved);
    object("rope", [](auto& f, auto& v) { rope_fields(f, v); }, c.rope);
    object("latent", [](auto& f, auto& v) { latent_fields(f, v); }, c.latent);
    object("moe", [](auto& f, auto& v) { moe_fields(f, v); }, c.moe);
    if (json.contains("mtp_layers")) in("mtp_layers", c.mtp_layers);
    if (json.contains("scalar_head")) in("scalar_head", c.scalar_head);
    return c;
}

}  // namespace gradus
