// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/config.hpp"

#include "gradus/base/error.hpp"

namespace gradus {

void ModelConfig::check(int tensor_size) const {
    std::string wrong;
    auto want = [&](bool good, const std::string& line) {
        if (!good) wrong += "\n  " + line;
    };
    auto divides = [&](const char* name, std::int64_t value) {
        want(value % tensor_size == 0,
             fmt::format("model.{} = {} does not divide by grid.tensor = {}", name, value, tensor_size));
    };
    for (const auto& [name, value] :
         {std::pair{"vocab_size", vocab_size}, {"hidden", hidden}, {"layers", layers},
          {"heads", heads}, {"kv_heads", kv_heads}, {"head_dim", head_dim},
          {"intermediate", intermediate}, {"max_positions", max_positions}})
        want(value > 0, fmt::format("model.{} = {} is not positive", name, value));
    if (wrong.empty()) {
        want(heads % kv_heads == 0, fmt::format("model.heads = {} does not divide by model.kv_heads = {}",
                                                heads, kv_heads));
        want(head_dim % 2 == 0,
             fmt::format("model.head_dim = {} is odd; rotary embedding turns pairs", head_dim));
        divides("vocab_size", vocab_size);
        divides("heads", heads);
        divides("kv_heads", kv_heads);
        divides("intermediate", intermediate);
    }
    require<DeckError>(wrong.empty(), "the model's sizes do not fit:{}", wrong);
}

std::int64_t ModelConfig::parameters() const {
    const std::int64_t q = heads * head_dim, kv = kv_heads * head_dim;
    std::int64_t block = hidden * (2 * q + 2 * kv) + 3 * hidden * intermediate + 2 * hidden;
    if (qkv_bias) block += q + 2 * kv;
    if (qk_norm) block += 2 * head_dim;
    return layers * block + hidden + vocab_size * hidden * (tied ? 1 : 2);
}

double ModelConfig::forward_flops(double context) const {
    const auto d = [](std::int64_t n) { return static_cast<double>(n); };
    const double q = d(heads * head_dim), kv = d(kv_heads * head_dim);
    const double products = d(hidden) * (2 * q + 2 * kv) + 3 * d(hidden) * d(intermediate);
    const double attention = 2 * q * context;  // q k^T and p v
    return 2 * (d(layers) * (products + attention) + d(hidden) * d(vocab_size));
}

Json ModelConfig::to_json() const {
    return {{"vocab_size", vocab_size}, {"hidden", hidden},
            {"layers", layers},         {"heads", heads},
            {"kv_heads", kv_heads},     {"head_dim", head_dim},
            {"intermediate", intermediate}, {"max_positions", max_positions},
            {"rope_theta", rope_theta}, {"norm_eps", norm_eps},
            {"qkv_bias", qkv_bias},     {"qk_norm", qk_norm},
            {"tied", tied}};
}

ModelConfig ModelConfig::from_json(const Json& json) {
    ModelConfig c;
    auto get = [&](const char* name, auto& value) {
        require<CheckpointError>(json.contains(name), "the model's description lacks `{}`", name);
        try {
            json.at(name).get_to(value);
        } catch (const Json::exception&) {
            throw CheckpointError(fmt::format("the model's description has `{}` = {}, which is of "
                                              "another type", name, json.at(name).dump()));
        }
    };
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
    return c;
}

}  // namespace gradus
