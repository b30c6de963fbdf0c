// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/parameters.hpp"

#include <array>
#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kAlign = 16;  // floats: 64 bytes

/// This rank's part of a tensor that is cut over tensor ranks and, where it is of experts, over
/// expert ranks.
Box local_box(const ParameterInfo& p, const Grid& grid) {
    const int rank = p.global.rank();
    std::array<std::int64_t, 3> offset{}, count{};
    for (int i = 0; i < rank; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const bool by_tensor = i == p.split_dim, by_expert = p.expert && i == 0;
        const int parts = by_tensor ? grid.tensor_size() : by_expert ? grid.expert_size() : 1;
        const int part = by_tensor ? grid.tensor_rank() : by_expert ? grid.expert_rank() : 0;
        count[at] = p.global[i] / parts;
        offset[at] = part * count[at];
    }
    if (rank == 1) return {{offset[0]}, {count[0]}};
    if (rank == 2) return {{offset[0], offset[1]}, {count[0], count[1]}};
    return {{offset[0], offset[1], offset[2]}, {count[0], count[1], count[2]}};
}

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
        if (!c_.tied) add("lm_head.weight", {c_.vocab_size, c_.hidden}, 0);
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
        add(name + "k_proj.weight", {kv, c_.hidden}, 0);
        add(name + "v_proj.weight", {kv, c_.hidden}, 0);
        if (c_.qkv_bias) {
            add(name + "q_proj.bias", {q}, 0);
            add(name + "k_proj.bias", {kv}, 0);
            add(name + "v_proj.bias", {kv}, 0);
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
        add(name + "up_proj.weight", {width, c_.hidden}, 0);
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

Tensor piece(Tensor flat, std::int64_t offset, Shape shape) {
    return {flat ? flat.f32() + offset : nullptr, DType::f32, shape};
}

bool ends_with(const std::string& text, std::string_view end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Normal numbers for the elements of this rank's box, addressed by their place in the whole tensor.
void fill_normal(const Parameter& p, std::uint64_t seed, std::uint64_t tensor, double std) {
    // A stack of matrices is a matrix for each number of the first dimension.
    const int last = p.global.rank() - 1;
    const std::int64_t columns = p.box.count[last], width = p.global[last];
    const std::int64_t rows = p.box.elements() / columns, per = p.box.count[last - 1];
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t matrix = last == 2 ? p.box.offset[0] + r / per : 0;
        const std::int64_t row_number = matrix * p.global[last - 1] + p.box.offset[last - 1] + r % per;
        const std::int64_t first = row_number * width + p.box.offset[last];
        float* row = p.value.f32() + r * columns;
        std::int64_t pair = -1;
        std::array<double, 2> draws{};
        for (std::int64_t i = 0; i < columns; ++i) {
            const std::int64_t at = first + i;
            if (at / 2 != pair) {
                pair = at / 2;
                draws = random_normal({.seed = seed,
                                       .stream = Stream::init,
                                       .step = tensor,
                                       .prompt = static_cast<std::uint64_t>(pair)});
            }
            row[i] = static_cast<float>(std * draws[static_cast<std::size_t>(at % 2)]);
        }
    }
}

}  // namespace

std::vector<ParameterInfo> describe_parameters(const ModelConfig& config) {
    return Describer(config).all();
}

std::int64_t ModelConfig::parameters() const {
    std::int64_t sum = 0;
    for (const ParameterInfo& p : describe_parameters(*this)) sum += p.global.elements();
    return sum;
}

ParameterSet::ParameterSet(const ModelConfig& config, const Grid& grid, Arena& arena, bool trained,
                           const std::string& label, bool train_mtp) {
    for (ParameterInfo& info : describe_parameters(config)) {
        index_.emplace(info.name, parameters_.size());
        Parameter& p = parameters_.emplace_back();
        static_cast<ParameterInfo&>(p) = std::move(info);
        p.box = local_box(p, grid);
        p.trained = p.trained && (train_mtp || !p.mtp);
    }
    std::vector<std::int64_t> offsets(parameters_.size());
    std::int64_t total = 0;
    const auto place = [&](auto belongs) {
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            if (!belongs(parameters_[i])) continue;
            offsets[i] = total;
            total += (parameters_[i].box.elements() + kAlign - 1) / kAlign * kAlign;
        }
    };
    place([](const Parameter& p) { return p.trained && !p.expert; });
    dense_ = total;
    place([](const Parameter& p) { return p.trained && p.expert; });
    const std::int64_t with_gradient = total;
    place([](const Parameter& p) { return !p.trained; });
    values_ = arena.take(label + ".weights", DType::f32, {total});
    if (trained) grads_ = arena.take(label + ".gradients", DType::f32, {with_gradient});
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        Parameter& p = parameters_[i];
        p.value = piece(values_, offsets[i], p.box.count);
        if (trained && p.trained) p.grad = piece(grads_, offsets[i], p.box.count);
    }
}

const Parameter& ParameterSet::at(const std::string& name) const {
    const auto found = index_.find(name);
    require(found != index_.end(), "the model has no parameter {}", name);
    return parameters_[found->second];
}

Parameter& ParameterSet::at(const std::string& name) {
    return const_cast<Parameter&>(std::as_const(*this).at(name));
}

void ParameterSet::initialize(std::uint64_t seed, double std) {
    std::int64_t blocks = 0;
    for (const Parameter& p : parameters_) blocks += ends_with(p.name, "input_layernorm.weight");
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        const Parameter& p = parameters_[i];
        if (p.global.rank() == 1) {
            const bool bias = ends_with(p.name, ".bias") || ends_with(p.name, "_bias");
            for (float& x : p.value.floats()) x = bias ? 0.0f : 1.0f;
            continue;
        }
        const bool residual =
            ends_with(p.name, "o_proj.weight") || ends_with(p.name, "down_proj.weight");
        // Residual branches add up over 2 layers (Radford et al. 2019, section 2.3).
        fill_normal(p, seed, i,
                    residual ? std / std::sqrt(2.0 * static_cast<double>(blocks)) : std);
    }
}

}  // namespace gradus
