// SPDX-License-Identifier: Apache-2.0
// The decoder in float64, one sequence at a time, written from the formulas (Touvron et al. 2023,
// arXiv 2302.13971; RMSNorm: Zhang and Sennrich 2019; RoPE: Su et al. 2021; SwiGLU: Shazeer 2020).
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "gradus/base/error.hpp"
#include "instance.hpp"

namespace gradus::test {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

class ReferenceModel {
  public:
    /// Whole parameters by name, row-major.
    std::map<std::string, Row> weights;

    /// Takes the values of a set that holds whole parameters.
    ReferenceModel(const ModelConfig& config, const ParameterSet& set) : c_(config) {
        for (const Parameter& p : set.all()) {
            const auto values = p.value.floats();
            weights[p.name] = Row(values.begin(), values.end());
        }
    }

    /// Hidden states after the final norm.
    Rows hidden(const Tokens& tokens) const {
        Rows x;
        const Row& table = weights.at("model.embed_tokens.weight");
        for (const TokenId token : tokens)
            x.emplace_back(table.begin() + token * c_.hidden, table.begin() + (token + 1) * c_.hidden);
        for (std::int64_t layer = 0; layer < c_.layers; ++layer)
            block(x, fmt::format("model.layers.{}.", layer));
        for (Row& row : x) row = norm(row, "model.norm.weight");
        return x;
    }

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
    /// W x with W [out, in].
    Row product(const std::string& name, const Row& x) const {
        const Row& w = weights.at(name);
        Row out(w.size() / x.size(), 0);
        for (std::size_t o = 0; o < out.size(); ++o)
            for (std::size_t i = 0; i < x.size(); ++i) out[o] += w[o * x.size() + i] * x[i];
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

    /// Pairs (x_i, x_{i + D/2}) turned by position theta^(-2i/D).
    Row rotated(const Row& x, double position) const {
        Row out = x;
        const std::size_t half = x.size() / 2;
        for (std::size_t i = 0; i < half; ++i) {
            const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(x.size());
            const double angle = position * std::pow(c_.rope_theta, exponent);
            out[i] = x[i] * std::cos(angle) - x[i + half] * std::sin(angle);
            out[i + half] = x[i + half] * std::cos(angle) + x[i] * std::sin(angle);
        }
        return out;
    }

    /// softmax(q k / sqrt(D)) v over the tokens 0 .. t.
    Row attend(const Row& q, const std::vector<Rows>& k, const std::vector<Rows>& v,
               std::size_t head) const {
        Row out(q.size(), 0);
        double sum = 0;
        for (std::size_t s = 0; s < k.size(); ++s) {
            double dot = 0;
            for (std::size_t i = 0; i < q.size(); ++i) dot += q[i] * k[s][head][i];
            const double p = std::exp(dot / std::sqrt(static_cast<double>(q.size())));
            sum += p;
            for (std::size_t i = 0; i < q.size(); ++i) out[i] += p * v[s][head][i];
        }
        for (double& value : out) value /= sum;
        return out;
    }

    void block(Rows& x, const std::string& prefix) const {
        const std::string attention = prefix + "self_attn.";
        const auto group = static_cast<std::size_t>(c_.heads / c_.kv_heads);
        std::vector<Rows> k, v;
        for (std::size_t t = 0; t < x.size(); ++t) {
            const Row in = norm(x[t], prefix + "input_layernorm.weight");
            const Rows q = heads(in, attention, 'q', t);
            k.push_back(heads(in, attention, 'k', t));
            v.push_back(heads(in, attention, 'v', t));
            Row joined;
            for (std::size_t h = 0; h < q.size(); ++h) {
                const Row part = attend(q[h], k, v, h / group);
                joined.insert(joined.end(), part.begin(), part.end());
            }
            add(x[t], product(attention + "o_proj.weight", joined));
            mlp(x[t], prefix);
        }
    }

    void mlp(Row& x, const std::string& prefix) const {
        const Row in = norm(x, prefix + "post_attention_layernorm.weight");
        Row gate = product(prefix + "mlp.gate_proj.weight", in);
        const Row up = product(prefix + "mlp.up_proj.weight", in);
        for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
        add(x, product(prefix + "mlp.down_proj.weight", gate));
    }

    static void add(Row& x, const Row& y) {
        for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
    }

    ModelConfig c_;
};

}  // namespace gradus::test
