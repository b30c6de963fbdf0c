// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/parameter_info.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

namespace gradus {
namespace {

/// Names, shapes and splits: columns of the first product of a pair (q, k, v, gate, up), rows of
/// the second (o, down), so that a pair needs one sum over tensor ranks (Shoeybi et al. 2019,
/// arXiv 1909.08053, section 3).
class Describer {
  public:
    explicit Describer(const ModelConfig& config) : c_(config) {}

    std::vector<ParameterInfo> all() {
        add("model.embed_tokens.weight", {c_.vocab_size, c_.hidden}, 0);
        for (std::int64_t layer = 0; layer < c_.layers; ++layer) block(layer);
        for (std::int64_t i = 0; i < c_.mtp_layers; ++i) mtp(c_.layers + i);
        add("model.norm.weight", {c_.hidden}, -1);
        if (c_.scalar_head)
            add(kScalarHead, {1, c_.hidden}, -1);
        else if (!c_.tied)
            add("lm_head.weight", {c_.vocab_size, c_.hidden}, 0);
        return std::move(list_);
    }

  private:
    ParameterInfo& add(const std::string& name, Shape global, int split) {
        ParameterInfo p;
        p.mtp = mtp_;
        p.name = name;
        p.global = global;
        p.split_dim = split;
        p.decay = global.rank() >= 2;
        list_.push_back(std::move(p));
        return list_.back();
    }

    void block(std::int64_t layer) {
        const std::string name = fmt::format("model.layers.{}.", layer);
        add(name + "input_layernorm.weight", {c_.hidden}, -1);
        if (c_.is_latent())
            latent_attention(name + "self_attn.");
        else
            attention(name + "self_attn.");
        add(name + "post_attention_layernorm.weight", {c_.hidden}, -1);
        if (c_.is_moe(layer))
            experts(name + "mlp.");
        else
            mlp(name + "mlp.", c_.intermediate);
    }

    void attention(const std::string& name) {
        const std::int64_t q = c_.heads * c_.head_dim, kv = c_.kv_heads * c_.head_dim;
        add(name + "q_proj.weight", {q, c_.hidden}, 0);
        add(name + "k_proj.weight", {kv, c_.hidden}, 0).joined = true;
        add(name + "v_proj.weight", {kv, c_.hidden}, 0).joined = true;
        if (c_.qkv_bias) {
            add(name + "q_proj.bias", {q}, 0);
            add(name + "k_proj.bias", {kv}, 0).joined = true;
            add(name + "v_proj.bias", {kv}, 0).joined = true;
        }
        if (c_.qk_norm) {
            add(name + "q_norm.weight", {c_.head_dim}, -1);
            add(name + "k_norm.weight", {c_.head_dim}, -1);
        }
        add(name + "o_proj.weight", {c_.hidden, q}, 1);
    }

    /// The down projections are small and every tensor rank has them whole; the up projections are
    /// split by heads.
    void latent_attention(const std::string& name) {
        const LatentAttention& a = c_.latent;
        if (a.q_rank > 0) {
            add(name + "q_a_proj.weight", {a.q_rank, c_.hidden}, -1);
            add(name + "q_a_layernorm.weight", {a.q_rank}, -1);
            add(name + "q_b_proj.weight", {c_.heads * c_.head_dim, a.q_rank}, 0);
        } else {
            add(name + "q_proj.weight", {c_.heads * c_.head_dim, c_.hidden}, 0);
        }
        add(name + "kv_a_proj_with_mqa.weight", {a.kv_rank + a.rope_dim, c_.hidden}, -1);
        add(name + "kv_a_layernorm.weight", {a.kv_rank}, -1);
        add(name + "kv_b_proj.weight", {c_.heads * (a.nope_dim + a.value_dim), a.kv_rank}, 0);
        add(name + "o_proj.weight", {c_.hidden, c_.heads * a.value_dim}, 1);
    }

    void mlp(const std::string& name, std::int64_t width) {
        add(name + "gate_proj.weight", {width, c_.hidden}, 0);
        add(name + "up_proj.weight", {width, c_.hidden}, 0).joined = true;
        add(name + "down_proj.weight", {c_.hidden, width}, 1);
    }

    void experts(const std::string& name) {
        const MixtureOfExperts& m = c_.moe;
        add(name + "gate.weight", {m.experts, c_.hidden}, -1);
        if (m.bias) add(name + "gate.e_score_correction_bias", {m.experts}, -1).trained = false;
        add(name + "experts.gate_proj.weight", {m.experts, m.intermediate, c_.hidden}, 1).expert = true;
        add(name + "experts.up_proj.weight", {m.experts, m.intermediate, c_.hidden}, 1).expert = true;
        add(name + "experts.down_proj.weight", {m.experts, c_.hidden, m.intermediate}, 2).expert = true;
        if (m.shared > 0) mlp(name + "shared_experts.", m.shared * m.intermediate);
    }

    void mtp(std::int64_t layer) {
        const std::string name = fmt::format("model.layers.{}.", layer);
        mtp_ = true;
        add(name + "enorm.weight", {c_.hidden}, -1);
        add(name + "hnorm.weight", {c_.hidden}, -1);
        add(name + "eh_proj.weight", {c_.hidden, 2 * c_.hidden}, -1);
        block(layer);
        add(name + "shared_head.norm.weight", {c_.hidden}, -1);
        mtp_ = false;
    }

    const ModelConfig& c_;
    bool mtp_ = false;
    std::vector<ParameterInfo> list_;
};

}  // namespace

std::vector<ParameterInfo> describe_parameters(const ModelConfig& config) {
    return Describer(config).all();
}

std::int64_t ModelConfig::parameters() const {
    std::int64_t sum = 0;
    for (const ParameterInfo& p : describe_parameters(*this)) sum += p.global.elements();
    return sum;
}

std::int64_t ParameterInfo::block() const {
    constexpr std::string_view kBlocks = "model.layers.";
    return !mtp && name.starts_with(kBlocks) ? std::atoll(name.c_str() + kBlocks.size()) : -1;
}

}  // namespace gradus
