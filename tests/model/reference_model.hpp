// SPDX-License-Identifier: Apache-2.0
// The decoder in float64, one sequence at a time, written from the formulas (Touvron et al. 2023,
// arXiv 2302.13971; RMSNorm: Zhang and Sennrich 2019; RoPE: Su et al. 2021; SwiGLU: Shazeer 2020;
// latent attention: DeepSeek-V2, arXiv 2405.04434, eq. 9 to 19; experts and multi-token prediction:
// DeepSeek-V3, arXiv 2412.19437, sections 2.1.2 and 2.2).
#pragma once

#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "gradus/base/error.hpp"
#include "instance.hpp"
#include "reference_parts.hpp"

namespace gradus::test {

class ReferenceModel {
  public:
    /// Whole parameters by name, row-major.
    std::map<std::string, Row> weights;

    /// Takes the values of a set that holds whole parameters.
    ReferenceModel(const ModelConfig& config, const ParameterSet& set)
        : c_(config), rotary_scale_(ReferenceRotary(c_).scale()), scale_(ReferenceRotary(c_).attention()) {
        for (std::int64_t i = 0; i < c_.rope_dim() / 2; ++i)
            frequencies_.push_back(ReferenceRotary(c_).frequency(i));
        for (const Parameter& p : set.all()) {
            const auto values = p.value.floats();
            weights[p.name] = Row(values.begin(), values.end());
        }
    }

    ReferenceModel(const ReferenceModel&) = delete;

    struct Pass {
        Rows hidden;         ///< after the final norm
        Rows second;         ///< of the multi-token prediction module, where it is asked for
        double balance = 0;  ///< sum over the routers
    };
    /// Places that each expert gets, by the prefix of the router's layer.
    using Loads = std::map<std::string, std::vector<double>>;

    Pass run(std::span<const TokenId> tokens, bool mtp) const {
        Pass pass;
        Rows& x = pass.hidden;
        for (const TokenId token : tokens) x.push_back(embedding(token));
        for (std::int64_t layer = 0; layer < c_.layers; ++layer) pass.balance += block(x, layer);
        for (Row& row : x) row = norm(row, "model.norm.weight");
        if (mtp) pass.balance += second(pass.hidden, tokens, pass.second);
        return pass;
    }
    Rows hidden(std::span<const TokenId> tokens) const { return run(tokens, false).hidden; }
    Loads loads(std::span<const TokenId> tokens, bool mtp) const {
        loads_.clear();
        run(tokens, mtp);
        return loads_;
    }
    /// Choices so far of experts that are not of a token's best by the bare scores: the work of
    /// correction biases and groups.
    std::int64_t moved() const { return moved_; }

    Row logits(const Row& hidden) const {
        return product(c_.tied ? "model.embed_tokens.weight" : "lm_head.weight", hidden);
    }

    /// Log-probability of `target` (0 without one, target < 0) and entropy in nats.
    std::pair<double, double> score(const Row& hidden, TokenId target, double inv_temperature) const {
        Row z = logits(hidden);
        double sum = 0, entropy = 0;
        for (double& value : z) sum += std::exp(value *= inv_temperature);
        for (const double value : z) {
            const double log_p = value - std::log(sum);
            entropy -= std::exp(log_p) * log_p;
        }
        const double log_prob =
            target < 0 ? 0 : z[static_cast<std::size_t>(target)] - std::log(sum);
        return {log_prob, entropy};
    }

  private:
    Row embedding(TokenId token) const {
        const Row& table = weights.at("model.embed_tokens.weight");
        return {table.begin() + token * c_.hidden, table.begin() + (token + 1) * c_.hidden};
    }

    /// W x with W [out, in]; of a stack of matrices the `matrix`-th of `matrices`.
    Row product(const std::string& name, const Row& x, std::size_t matrix = 0,
                std::size_t matrices = 1) const {
        const Row& w = weights.at(name);
        Row out(w.size() / x.size() / matrices, 0);
        const std::size_t first = matrix * out.size() * x.size();
        for (std::size_t o = 0; o < out.size(); ++o)
            for (std::size_t i = 0; i < x.size(); ++i) out[o] += w[first + o * x.size() + i] * x[i];
        return out;
    }

    Row norm(const Row& x, const std::string& name) const {
        double squares = 0;
        for (const double value : x) squares += value * value;
        const double rms = std::sqrt(squares / static_cast<double>(x.size()) + c_.norm_eps);
        Row out = x;
        for (std::size_t i = 0; i < x.size(); ++i) out[i] *= weights.at(name)[i] / rms;
        return out;
    }

    /// Heads of q, k or v of one token; q and k normalised where the model does it, and rotated.
    Rows heads(const Row& x, const std::string& prefix, char which, std::size_t position) const {
        Row all = product(prefix + which + "_proj.weight", x);
        if (c_.qkv_bias)
            for (std::size_t i = 0; i < all.size(); ++i)
                all[i] += weights.at(prefix + which + "_proj.bias")[i];
        Rows out;
        for (auto at = all.begin(); at != all.end(); at += c_.head_dim) {
            Row head(at, at + c_.head_dim);
            if (which != 'v' && c_.qk_norm) head = norm(head, prefix + which + "_norm.weight");
            out.push_back(which == 'v' ? head : rotated(head, static_cast<double>(position)));
        }
        return out;
    }

    /// Pair i of x turned by position times its frequency: (x_i, x_{i + D/2}) or (x_2i, x_2i+1).
    Row rotated(const Row& x, double position) const {
        Row out = x;
        const std::size_t half = x.size() / 2;
        for (std::size_t i = 0; i < half; ++i) {
            const double angle = position * frequencies_[i];
            const double c = rotary_scale_ * std::cos(angle), s = rotary_scale_ * std::sin(angle);
            const std::size_t a = c_.rope_interleaved ? 2 * i : i;
            const std::size_t b = c_.rope_interleaved ? 2 * i + 1 : i + half;
            out[a] = x[a] * c - x[b] * s;
            out[b] = x[b] * c + x[a] * s;
        }
        return out;
    }

    /// softmax(scale q k) v over the tokens 0 .. t.
    Row attend(const Row& q, const std::vector<Rows>& k, const std::vector<Rows>& v,
               std::size_t head) const {
        Row out(v[0][head].size(), 0);
        double sum = 0;
        for (std::size_t s = 0; s < k.size(); ++s) {
            double dot = 0;
            for (std::size_t i = 0; i < q.size(); ++i) dot += q[i] * k[s][head][i];
            const double p = std::exp(dot * scale_);
            sum += p;
            for (std::size_t i = 0; i < out.size(); ++i) out[i] += p * v[s][head][i];
        }
        for (double& value : out) value /= sum;
        return out;
    }

    struct Heads {
        Rows q, k, v;
    };

    Heads grouped_heads(const Row& in, const std::string& name, std::size_t position) const {
        return {heads(in, name, 'q', position), heads(in, name, 'k', position),
                heads(in, name, 'v', position)};
    }

    /// Queries and keys are [without rotation, rotated]; the rotated part of a key is all heads' own.
    Heads latent_heads(const Row& in, const std::string& name, std::size_t position) const {
        const LatentAttention& a = c_.latent;
        const auto where = static_cast<double>(position);
        const Row q = a.q_rank > 0
                          ? product(name + "q_b_proj.weight",
                                    norm(product(name + "q_a_proj.weight", in),
                                         name + "q_a_layernorm.weight"))
                          : product(name + "q_proj.weight", in);
        const Row down = product(name + "kv_a_proj_with_mqa.weight", in);
        const Row latent = norm(Row(down.begin(), down.begin() + a.kv_rank), name + "kv_a_layernorm.weight");
        const Row shared = rotated(Row(down.begin() + a.kv_rank, down.end()), where);
        const Row kv = product(name + "kv_b_proj.weight", latent);
        Heads out;
        for (std::int64_t h = 0; h < c_.heads; ++h) {
            const auto of_q = q.begin() + h * (a.nope_dim + a.rope_dim);
            const auto of_kv = kv.begin() + h * (a.nope_dim + a.value_dim);
            Row query(of_q, of_q + a.nope_dim), key(of_kv, of_kv + a.nope_dim);
            append(query, rotated(Row(of_q + a.nope_dim, of_q + a.nope_dim + a.rope_dim), where));
            append(key, shared);
            out.q.push_back(query);
            out.k.push_back(key);
            out.v.emplace_back(of_kv + a.nope_dim, of_kv + a.nope_dim + a.value_dim);
        }
        return out;
    }

    /// Returns the balance loss of its router, 0 without one.
    double block(Rows& x, std::int64_t layer) const {
        const std::string prefix = fmt::format("model.layers.{}.", layer);
        const std::string attention = prefix + "self_attn.";
        const auto group = static_cast<std::size_t>(c_.heads / c_.kv_heads);
        std::vector<Rows> k, v;
        std::vector<Routed> routed;
        for (std::size_t t = 0; t < x.size(); ++t) {
            const Row in = norm(x[t], prefix + "input_layernorm.weight");
            const Heads own =
                c_.is_latent() ? latent_heads(in, attention, t) : grouped_heads(in, attention, t);
            k.push_back(own.k);
            v.push_back(own.v);
            Row joined;
            for (std::size_t h = 0; h < own.q.size(); ++h)
                append(joined, attend(own.q[h], k, v, h / group));
            add(x[t], product(attention + "o_proj.weight", joined));
            const Row h = norm(x[t], prefix + "post_attention_layernorm.weight");
            if (c_.is_moe(layer))
                routed.push_back(experts(x[t], h, prefix + "mlp."));
            else
                add(x[t], mlp(h, prefix + "mlp."));
        }
        if (routed.empty()) return 0;
        auto& loads = loads_[prefix];
        loads.resize(static_cast<std::size_t>(c_.moe.experts));
        for (const Routed& r : routed) {
            const auto best = largest(r.scores, c_.moe.per_token);
            for (const std::size_t e : r.chosen) {
                loads[e] += 1;
                moved_ += std::find(best.begin(), best.end(), e) == best.end();
            }
        }
        return reference_balance(c_.moe, routed);
    }

    /// Of a stack: the `matrix`-th of `matrices`.
    Row mlp(const Row& in, const std::string& name, std::size_t matrix = 0,
            std::size_t matrices = 1) const {
        Row gate = product(name + "gate_proj.weight", in, matrix, matrices);
        const Row up = product(name + "up_proj.weight", in, matrix, matrices);
        for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
        return product(name + "down_proj.weight", gate, matrix, matrices);
    }

    Routed experts(Row& x, const Row& in, const std::string& name) const {
        const auto bias = weights.find(name + "gate.e_score_correction_bias");
        const Routed routed = reference_route(c_.moe, product(name + "gate.weight", in),
                                              bias != weights.end() ? bias->second : Row{});
        for (std::size_t j = 0; j < routed.chosen.size(); ++j) {
            Row out = mlp(in, name + "experts.", routed.chosen[j],
                          static_cast<std::size_t>(c_.moe.experts));
            for (double& value : out) value *= routed.weights[j];
            add(x, out);
        }
        if (c_.moe.shared > 0) add(x, mlp(in, name + "shared_experts."));
        return routed;
    }

    /// h'_i = M [norm(Emb(t_{i + 1})); norm(h_i)], halves in the order of the released weights; a block;
    /// a norm. The last token has no next: its embedding is zero.
    double second(const Rows& hidden, std::span<const TokenId> tokens, Rows& out) const {
        const std::string prefix = fmt::format("model.layers.{}.", c_.layers);
        out.clear();
        for (std::size_t t = 0; t < tokens.size(); ++t) {
            Row next(static_cast<std::size_t>(c_.hidden), 0);
            if (t + 1 < tokens.size()) next = embedding(tokens[t + 1]);
            Row joined = norm(next, prefix + "enorm.weight");
            append(joined, norm(hidden[t], prefix + "hnorm.weight"));
            out.push_back(product(prefix + "eh_proj.weight", joined));
        }
        const double balance = block(out, c_.layers);
        for (Row& row : out) row = norm(row, prefix + "shared_head.norm.weight");
        return balance;
    }

    static void append(Row& x, const Row& y) { x.insert(x.end(), y.begin(), y.end()); }
    static void add(Row& x, const Row& y) {
        for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
    }

    ModelConfig c_;
    double rotary_scale_, scale_;  ///< of cos and sin, of scores
    Row frequencies_;
    mutable Loads loads_;  ///< of the passes since they were last cleared
    mutable std::int64_t moved_ = 0;
};

}  // namespace gradus::test
