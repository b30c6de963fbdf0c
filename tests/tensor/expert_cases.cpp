// SPDX-License-Identifier: Apache-2.0
// Routing of tokens to experts, the balance loss, and a product an expert.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "op_case.hpp"

namespace gradus::test {

namespace {

/// out = in W_e^T a block of rows, or in W_e; backward of the first form: by `in` the second, by W
/// expert_gemm_backward.
OpCase expert_gemm_case(const std::vector<std::int64_t>& rows, std::int64_t n, std::int64_t k,
                        bool transpose, float beta) {
    std::vector<std::int64_t> expert;  // of each row
    for (std::size_t e = 0; e < rows.size(); ++e) {
        expert.insert(expert.end(), static_cast<std::size_t>(rows[e]), static_cast<std::int64_t>(e));
    }
    const auto total = std::ssize(expert);
    const auto experts = std::ssize(rows);
    OpCase c;
    c.name = fmt::format("expert_gemm {} experts {} rows {}x{}{} beta {}", experts, total, n, k,
                         transpose ? " transposed" : "", beta);
    c.in = {Shape{total, k}, transpose ? Shape{experts, k, n} : Shape{experts, n, k}, Shape{total, n}};
    c.out = {Shape{total, n}};
    c.reference = [=](const Arrays& x) {
        auto out = zeros(total * n);
        for (std::int64_t r = 0; r < total; ++r) {
            const auto weight = expert[static_cast<std::size_t>(r)] * n * k;
            for (std::int64_t j = 0; j < n; ++j) {
                double sum = 0;
                for (std::int64_t i = 0; i < k; ++i)
                    sum += at(x[0], r * k + i) * at(x[1], weight + (transpose ? i * n + j : j * k + i));
                at(out, r * n + j) = sum + (beta != 0 ? beta * at(x[2], r * n + j) : 0);
            }
        }
        return Arrays{out};
    };
    c.forward = [=](Ops& ops, Data& d) {
        if (beta != 0) ops.copy(d.out[0], d.in[2]);
        ops.expert_gemm(d.out[0], d.in[0], d.in[1], transpose ? Transpose::yes : Transpose::no, rows,
                        beta);
    };
    if (!transpose) {
        c.backward = [=](Ops& ops, Data& d) {
            ops.expert_gemm(d.d_in[0], d.d_out[0], d.in[1], Transpose::yes, rows, 0);
            ops.expert_gemm_backward(d.d_in[1], d.d_out[0], d.in[0], rows);
        };
        c.accumulated = {1};
        c.f32_gradients = {1};
        c.graded_in = 2;
    }
    c.flops = 2.0 * static_cast<double>(total * n * k);
    c.tolerance = 2e-6 * std::sqrt(static_cast<double>(k) + 16);
    c.rate_only = c.flops > 1e7;
    return c;
}

/// What the papers say, by sorting: DeepSeek-V3 (arXiv 2412.19437) eq. 12 to 16 and the limit to
/// nodes of section 2.1.2; the choice is by s + b, the gate by s.
struct Router {
    RouterShape shape;
    Doubles bias;

    Doubles scores(const Doubles& logits, std::int64_t t) const {
        Doubles s;
        double sum = 0;
        for (std::int64_t i = 0; i < shape.experts; ++i) {
            const double z = at(logits, t * shape.experts + i);
            s.push_back(shape.sigmoid ? 1 / (1 + std::exp(-z)) : std::exp(z));
            sum += s.back();
        }
        if (!shape.sigmoid) {
            for (double& x : s) x /= sum;
        }
        return s;
    }
    std::vector<std::int64_t> choose(Doubles s) const {
        for (std::size_t i = 0; i < bias.size(); ++i) s[i] += bias[i];
        const auto size = shape.experts / shape.groups;
        std::vector<std::pair<double, std::int64_t>> groups, experts;  // (minus value, number)
        for (std::int64_t g = 0; g < shape.groups; ++g) {
            Doubles in(s.begin() + g * size, s.begin() + (g + 1) * size);
            std::sort(in.rbegin(), in.rend());
            double sum = 0;
            for (std::int64_t i = 0; i < shape.group_best; ++i) sum += at(in, i);
            groups.emplace_back(-sum, g);
        }
        std::sort(groups.begin(), groups.end());
        for (std::int64_t g = 0; g < shape.top_groups; ++g) {
            for (std::int64_t i = 0; i < size; ++i) {
                const auto e = groups[static_cast<std::size_t>(g)].second * size + i;
                experts.emplace_back(-at(s, e), e);
            }
        }
        std::sort(experts.begin(), experts.end());
        std::vector<std::int64_t> chosen;
        for (std::int64_t j = 0; j < shape.per_token; ++j)
            chosen.push_back(experts[static_cast<std::size_t>(j)].second);
        return chosen;
    }
    std::string name() const {
        return fmt::format("{} of {}{}{}{} groups {}/{} by {}", shape.per_token, shape.experts,
                           shape.sigmoid ? " sigmoid" : " softmax", shape.normalize ? " normalised" : "",
                           bias.empty() ? "" : " biased", shape.top_groups, shape.groups,
                           shape.group_best);
    }
};

OpCase route_case(std::int64_t tokens, RouterShape shape, bool biased, bool of_scores) {
    Router router{shape, {}};
    auto bias = std::make_shared<Floats>();
    Lcg random(9);
    for (std::int64_t i = 0; i < shape.experts && biased; ++i) {
        bias->push_back(static_cast<float>(0.4 * random.normal()));
        router.bias.push_back(double{bias->back()});
    }
    const Ints chosen(std::vector<std::int32_t>(static_cast<std::size_t>(tokens * shape.per_token)),
                      Shape{tokens, shape.per_token});
    OpCase c;
    c.name = fmt::format("route T {} {}{}", tokens, router.name(), of_scores ? "" : ", weights alone");
    c.in = {Shape{tokens, shape.experts}};
    c.out = {Shape{tokens, shape.per_token}, Shape{tokens, shape.experts}};
    c.graded = of_scores ? 2 : 1;
    c.reference = [=](const Arrays& x) {
        Doubles weights, all;
        for (std::int64_t t = 0; t < tokens; ++t) {
            const auto s = router.scores(x[0], t);
            double sum = 0;
            for (const auto e : router.choose(s)) sum += at(s, e);
            for (const auto e : router.choose(s))
                weights.push_back(double{shape.scale} * at(s, e) / (shape.normalize ? sum : 1));
            all.insert(all.end(), s.begin(), s.end());
        }
        return Arrays{weights, all};
    };
    c.forward = [=](Ops& ops, Data& d) {
        const Tensor b = biased ? view(*bias) : Tensor();
        ops.route(d.out[1], chosen.tensor(), d.out[0], d.in[0], b, shape);
    };
    c.backward = [=](Ops& ops, Data& d) {
        ops.route_backward(d.d_in[0], d.d_out[0], of_scores ? d.d_out[1] : Tensor(), d.out[1],
                           chosen.tensor(), shape);
    };
    c.all_f32 = true;
    c.bytes = 8.0 * static_cast<double>(tokens * shape.experts);
    c.rate_only = tokens > 1000;
    return c;
}

/// coef sum over sequences of sum_i f_i P_i, f_i = E / (K T) (how often i is among the K best), P_i the
/// mean of s_i / sum s (eq. 17 to 20), added to a loss of 0.75; `in` are scores.
OpCase balance_case(const Packed& packed, std::int64_t experts, std::int64_t per_token, bool sigmoid) {
    constexpr float kCoef = 0.3F, kBefore = 0.75F;
    OpCase c;
    c.name = fmt::format("route_balance S {} T {} {} of {}", packed.lengths.size(), packed.tokens,
                         per_token, experts);
    c.in = {Shape{packed.tokens, experts}};
    c.out = {Shape{1}};
    c.positive = {0};
    c.reference = [=](const Arrays& x) {
        double loss = 0;
        std::int64_t first = 0;
        for (const auto length : packed.lengths) {
            const auto n = static_cast<double>(length);
            for (std::int64_t i = 0; i < experts && length > 0; ++i) {
                double f = 0, p = 0;
                for (std::int64_t t = first; t < first + length; ++t) {
                    std::int64_t better = 0;
                    for (std::int64_t e = 0; e < experts; ++e)
                        better += at(x[0], t * experts + e) > at(x[0], t * experts + i);
                    f += better < per_token;
                    double sum = 0;
                    for (std::int64_t e = 0; e < experts; ++e) sum += at(x[0], t * experts + e);
                    p += at(x[0], t * experts + i) / sum / n;
                }
                loss += f * static_cast<double>(experts) / (static_cast<double>(per_token) * n) * p;
            }
            first += length;
        }
        return Arrays{{double{kBefore} + double{kCoef} * loss}};
    };
    const RouterShape shape{.experts = experts, .per_token = per_token, .sigmoid = sigmoid};
    const auto d_scores =
        std::make_shared<Floats>(static_cast<std::size_t>(packed.tokens * experts), NAN);
    c.forward = [=, in = c.in[0]](Ops& ops, Data& d) {
        ops.fill(d.out[0], kBefore);
        ops.route_balance(d.out[0], view(*d_scores, in), d.in[0],
                          packed.packing(), shape, kCoef);
    };
    c.backward = [=, in = c.in[0]](Ops& ops, Data& d) {
        ops.copy(d.d_in[0], view(*d_scores, in));
        float factor = 0;
        ops.download(&factor, d.d_out[0]);
        ops.scale(d.d_in[0], factor);
    };
    c.all_f32 = true;
    c.bytes = 8.0 * static_cast<double>(packed.tokens * experts);
    c.rate_only = packed.tokens > 1000;
    return c;
}

}  // namespace

std::vector<OpCase> expert_cases() {
    std::vector<OpCase> cases;
    for (const bool transpose : {false, true}) {
        for (const float beta : {0.0F, 1.0F}) {
            cases.push_back(expert_gemm_case({1}, 1, 1, transpose, beta));
            cases.push_back(expert_gemm_case({3, 0, 5, 1}, 7, 9, transpose, beta));
            cases.push_back(expert_gemm_case({0, 0, 33, 0}, 16, 31, transpose, beta));
            cases.push_back(expert_gemm_case({0, 17, 0}, 33, 5, transpose, beta));
            cases.push_back(expert_gemm_case({0, 0}, 4, 5, transpose, beta));  // no token at all
        }
    }
    cases.push_back(expert_gemm_case(std::vector<std::int64_t>(16, 64), 256, 512, false, 0));
    for (const bool sigmoid : {false, true}) {
        for (const bool normalize : {false, true}) {
            for (const bool biased : {false, true}) {
                RouterShape shape{.experts = 8, .per_token = 3, .sigmoid = sigmoid,
                                  .normalize = normalize, .scale = 1};
                cases.push_back(route_case(13, shape, biased, true));
                cases.push_back(route_case(5, shape, biased, false));
                shape.scale = 2.5F;
                shape.groups = 4;
                shape.top_groups = 2;
                cases.push_back(route_case(29, shape, biased, true));
                shape.group_best = 2;
                cases.push_back(route_case(29, shape, biased, true));
            }
            cases.push_back(route_case(1, {.experts = 1, .per_token = 1, .sigmoid = sigmoid,
                                           .normalize = false}, false, true));
            cases.push_back(route_case(6, {.experts = 5, .per_token = 5, .sigmoid = sigmoid,
                                           .normalize = normalize, .scale = 0.5F}, true, true));
            cases.push_back(route_case(0, {.experts = 4, .per_token = 2, .sigmoid = sigmoid,
                                           .normalize = normalize}, false, true));
        }
    }
    cases.push_back(route_case(2048, {.experts = 256, .per_token = 8, .sigmoid = true,
                                      .normalize = true, .scale = 2.5F, .groups = 8,
                                      .top_groups = 4, .group_best = 2}, true, true));
    for (const bool transpose : {false, true})
        cases.push_back(large(expert_gemm_case({300, 0, 129, 1, 64}, 136, 72, transpose, 0)));
    cases.push_back(large(route_case(300, {.experts = 256, .per_token = 8, .sigmoid = true,
                                           .normalize = true, .scale = 2.5F, .groups = 8,
                                           .top_groups = 4, .group_best = 2}, true, true)));
    cases.push_back(balance_case(Packed({1}), 1, 1, false));
    cases.push_back(balance_case(Packed({5, 1, 7}), 6, 2, true));
    cases.push_back(balance_case(Packed({3, 0, 4}), 4, 3, false));
    cases.push_back(balance_case(Packed({}), 4, 2, true));
    cases.push_back(balance_case(Packed({1024, 1024}), 64, 6, true));
    return cases;
}

}  // namespace gradus::test
