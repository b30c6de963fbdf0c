// SPDX-License-Identifier: Apache-2.0
#include "gradus/rollout/sampler.hpp"

#include <algorithm>
#include <boost/math/distributions/chi_squared.hpp>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <string>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::uint64_t which, std::int64_t count, double width) {
    std::vector<float> logits;
    for (std::int64_t i = 0; i < count; ++i)
        logits.push_back(static_cast<float>(
            width * (2 * random_uniform({.seed = 2,
                                         .stream = Stream::test,
                                         .step = which,
                                         .prompt = static_cast<std::uint64_t>(i)}) -
                     1)));
    return logits;
}

RandomAddress draw_number(std::uint32_t i) {
    return {.seed = 11, .stream = Stream::sample_token, .step = 3, .prompt = 7, .position = i};
}

/// softmax(logits / temperature) in double.
std::vector<double> softmax(std::span<const float> logits, double temperature) {
    const double top = *std::max_element(logits.begin(), logits.end());
    std::vector<double> p;
    for (const float z : logits) p.push_back(std::exp((z - top) / temperature));
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& x : p) x /= total;
    return p;
}

/// Keeps the `top_k` largest, lower ids first among equals, then the smallest set that reaches
/// `top_p` of those, and makes the sum 1.
std::vector<double> truncate(std::vector<double> p, const SamplingOptions& options) {
    std::vector<std::size_t> order(p.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return p[a] > p[b]; });
    if (options.top_k > 0)
        order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
    auto mass = [&] {
        double sum = 0;
        for (const std::size_t i : order) sum += p[i];
        return sum;
    };
    const double wanted = options.top_p * mass();
    double sum = 0;
    std::size_t keep = 0;
    while (keep < order.size() && sum < wanted * (1 - 1e-12)) sum += p[order[keep++]];
    order.resize(keep);
    std::vector<double> kept(p.size(), 0);
    for (const std::size_t i : order) kept[i] = p[i] / mass();
    return kept;
}

/// Pearson's statistic of `draws` against `p` beside its 0.9999 quantile; infinite where a token
/// of probability 0 was drawn.
double misfit(const std::vector<std::int64_t>& draws, const std::vector<double>& p) {
    const auto n =
        static_cast<double>(std::accumulate(draws.begin(), draws.end(), std::int64_t{0}));
    double statistic = 0;
    int bins = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
        if (p[i] == 0) {
            if (draws[i] > 0) return INFINITY;
            continue;
        }
        statistic += std::pow(static_cast<double>(draws[i]) - n * p[i], 2) / (n * p[i]);
        ++bins;
    }
    if (bins < 2) return 0;
    return statistic / quantile(boost::math::chi_squared(bins - 1), 0.9999);
}

std::vector<std::int64_t> draw(std::span<const float> logits, const SamplingOptions& options,
                               std::uint32_t count) {
    std::vector<std::int64_t> draws(logits.size(), 0);
    for (std::uint32_t i = 0; i < count; ++i)
        ++draws[static_cast<std::size_t>(sample_token(logits, options, draw_number(i)).token)];
    return draws;
}

std::set<TokenId> support(std::span<const float> logits, const SamplingOptions& options) {
    std::set<TokenId> tokens;
    const auto draws = draw(logits, options, 400);
    for (std::size_t i = 0; i < draws.size(); ++i)
        if (draws[i] > 0) tokens.insert(static_cast<TokenId>(i));
    return tokens;
}

bool speaks_of(const Error& error, std::initializer_list<const char*> words) {
    const std::string text = error.what();
    return std::all_of(words.begin(), words.end(),
                       [&](const char* word) { return text.find(word) != std::string::npos; });
}

}  // namespace

BOOST_AUTO_TEST_SUITE(sampler)

BOOST_AUTO_TEST_CASE(frequencies_are_those_of_the_softmax) {
    const std::vector<float> logits = random_logits(1, 12, 2);
    for (const double temperature : {0.4, 1.0, 1.7}) {
        const auto draws = draw(logits, {.temperature = temperature}, 100000);
        BOOST_TEST(misfit(draws, softmax(logits, temperature)) < 1);
        // The statistic sees a temperature that is off by five percent.
        BOOST_TEST(misfit(draws, softmax(logits, 1.05 * temperature)) > 2);
    }
}

BOOST_AUTO_TEST_CASE(frequencies_after_truncation) {
    const std::vector<float> logits = random_logits(2, 20, 3);
    for (const SamplingOptions& options :
         std::initializer_list<SamplingOptions>{{.temperature = 1, .top_p = 1, .top_k = 5},
                                                {.temperature = 0.7, .top_p = 0.8, .top_k = 0},
                                                {.temperature = 1.5, .top_p = 0.6, .top_k = 0},
                                                {.temperature = 1.5, .top_p = 0.9, .top_k = 8},
                                                {.temperature = 2, .top_p = 0.5, .top_k = 1},
                                                {.temperature = 1, .top_p = 0.999, .top_k = 200}}) {
        BOOST_TEST_CONTEXT("temperature " << options.temperature << " top_p " << options.top_p
                                          << " top_k " << options.top_k) {
            const auto p = truncate(softmax(logits, options.temperature), options);
            BOOST_TEST(misfit(draw(logits, options, 60000), p) < 1);
        }
    }
}

// Masses that are powers of two are exact: the rule of the smallest set has no rounding to hide in.
BOOST_AUTO_TEST_CASE(smallest_set_and_ties) {
    const auto ln2 = static_cast<float>(std::log(2.0));
    const std::vector<float> equal(4, 1.25f);
    using Set = std::set<TokenId>;
    BOOST_TEST((support(equal, {.top_p = 0.25}) == Set{0}));
    BOOST_TEST((support(equal, {.top_p = 0.26}) == Set{0, 1}));
    BOOST_TEST((support(equal, {.top_p = 0.5}) == Set{0, 1}));
    BOOST_TEST((support(equal, {.top_p = 0.75}) == Set{0, 1, 2}));
    BOOST_TEST((support(equal, {.top_p = 0.76}) == Set{0, 1, 2, 3}));
    BOOST_TEST((support(equal, {.top_p = 1e-9}) == Set{0}));
    BOOST_TEST((support(equal, {.top_k = 1}) == Set{0}));
    BOOST_TEST((support(equal, {.top_k = 3}) == Set{0, 1, 2}));
    BOOST_TEST((support(equal, {.top_p = 0.5, .top_k = 3}) == Set{0, 1}));
    BOOST_TEST((support(equal, {.top_p = 0.34, .top_k = 3}) == Set{0, 1}));

    // About 1/8, 1/2, 1/8, 1/4: the equal ones are taken by id.
    const std::vector<float> steps{0, 2 * ln2, 0, ln2};
    BOOST_TEST((support(steps, {.top_p = 0.49}) == Set{1}));
    BOOST_TEST((support(steps, {.top_p = 0.51}) == Set{1, 3}));
    BOOST_TEST((support(steps, {.top_p = 0.74}) == Set{1, 3}));
    BOOST_TEST((support(steps, {.top_p = 0.80}) == Set{0, 1, 3}));
    BOOST_TEST((support(steps, {.top_p = 0.88}) == Set{0, 1, 2, 3}));
    BOOST_TEST((support(steps, {.top_k = 3}) == Set{0, 1, 3}));
    BOOST_TEST((support(steps, {.top_k = 4}) == Set{0, 1, 2, 3}));
    // top_p is a share of what top-k leaves: 1/2 of 3/4 is 0.67.
    BOOST_TEST((support(steps, {.top_p = 0.66, .top_k = 2}) == Set{1}));
    BOOST_TEST((support(steps, {.top_p = 0.68, .top_k = 2}) == Set{1, 3}));
}

// Many small tokens behind a few large ones: together they count, and a top_k that cuts none of
// them off changes nothing.
BOOST_AUTO_TEST_CASE(the_tail_counts) {
    std::vector<float> logits(1000, 0.0f);
    for (std::size_t i = 0; i < 10; ++i) logits[10 * i] = 4.6f - 0.1f * static_cast<float>(i);
    for (const double top_p : {0.15, 0.25, 0.35}) {
        const auto p = truncate(softmax(logits, 1), {.top_p = top_p});
        std::set<TokenId> wanted;
        for (std::size_t i = 0; i < p.size(); ++i)
            if (p[i] > 0) wanted.insert(static_cast<TokenId>(i));
        BOOST_TEST((wanted.size() > 1 && wanted.size() < 10));
        BOOST_TEST((support(logits, {.top_p = top_p}) == wanted));
        BOOST_TEST((support(logits, {.top_p = top_p, .top_k = 1000}) == wanted));
        BOOST_TEST((support(logits, {.top_p = top_p, .top_k = 5000}) == wanted));
    }
}

BOOST_AUTO_TEST_CASE(the_draw_is_the_inverse_distribution_at_the_address) {
    const std::vector<float> logits = random_logits(3, 50, 3);
    for (const SamplingOptions& options :
         {SamplingOptions{.temperature = 0.8}, SamplingOptions{.temperature = 1.3, .top_p = 0.7}}) {
        const auto p = truncate(softmax(logits, options.temperature), options);
        int checked = 0;
        for (std::uint32_t i = 0; i < 3000; ++i) {
            const double u = random_uniform(draw_number(i));
            double below = 0;
            std::size_t token = 0;
            while (below + p[token] <= u) below += p[token++];
            if (u - below < 1e-6 || below + p[token] - u < 1e-6) continue;  // rounding decides
            BOOST_TEST(sample_token(logits, options, draw_number(i)).token ==
                       static_cast<TokenId>(token));
            ++checked;
        }
        BOOST_TEST(checked > 2900);
    }
}

BOOST_AUTO_TEST_CASE(log_prob_is_after_temperature_and_before_truncation) {
    const std::vector<float> logits = random_logits(4, 1000, 15);
    for (const double temperature : {0.3, 1.0, 2.5}) {
        const auto p = softmax(logits, temperature);
        for (const SamplingOptions& options : std::initializer_list<SamplingOptions>{
                 {.temperature = temperature},
                 {.temperature = temperature, .top_p = 0.5},
                 {.temperature = temperature, .top_k = 3},
                 {.temperature = temperature, .top_p = 0.9, .top_k = 20}}) {
            for (std::uint32_t i = 0; i < 100; ++i) {
                const SampledToken drawn = sample_token(logits, options, draw_number(i));
                const double wanted = std::log(p[static_cast<std::size_t>(drawn.token)]);
                BOOST_TEST(std::abs(drawn.log_prob - wanted) < 1e-6 + 2e-7 * std::abs(wanted));
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(greedy_takes_the_first_of_the_largest) {
    const SamplingOptions greedy{.temperature = 0};
    const std::vector<float> logits{-1, 2, 0.5f, 2, 2};
    const auto p = softmax(logits, 1);
    for (std::uint32_t i = 0; i < 20; ++i) {
        const SampledToken drawn = sample_token(logits, greedy, draw_number(i));
        BOOST_TEST(drawn.token == 1);
        BOOST_TEST(std::abs(drawn.log_prob - std::log(p[1])) < 1e-6);
    }
    BOOST_TEST(sample_token(std::vector<float>(7, -3.0f), greedy, {}).token == 0);
    BOOST_TEST(sample_token(std::vector<float>{-5, -4, -3}, greedy, {}).token == 2);
    // Truncation does not matter then.
    const SamplingOptions cut{.temperature = 0, .top_p = 0.1, .top_k = 2};
    BOOST_TEST(sample_token(logits, cut, {}).token == 1);
    BOOST_TEST(std::abs(sample_token(logits, cut, {}).log_prob - std::log(p[1])) < 1e-6);
}

BOOST_AUTO_TEST_CASE(a_draw_is_a_function_of_its_address) {
    const std::vector<float> logits = random_logits(5, 200, 1);
    auto sequence = [&](RandomAddress base) {
        std::vector<TokenId> tokens;
        for (std::uint32_t i = 0; i < 16; ++i) {
            RandomAddress address = base;
            address.position += i;
            tokens.push_back(sample_token(logits, {}, address).token);
        }
        return tokens;
    };
    const RandomAddress base{.seed = 1,
                             .stream = Stream::sample_token,
                             .step = 2,
                             .prompt = 3,
                             .sample = 4,
                             .position = 5};
    const auto first = sequence(base);
    for (int field = 0; field < 6; ++field) {
        RandomAddress other = base;
        if (field == 0) ++other.seed;
        if (field == 1) other.stream = Stream::eval;
        if (field == 2) ++other.step;
        if (field == 3) ++other.prompt;
        if (field == 4) ++other.sample;
        if (field == 5) other.position += 100;
        BOOST_TEST((sequence(other) != first));
    }
    BOOST_TEST((sequence(base) == first));
}

BOOST_AUTO_TEST_CASE(logits_that_are_not_finite) {
    const RandomAddress address{.prompt = 41, .sample = 5, .position = 77};
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity}) {
        for (const std::size_t at : {0u, 9u, 36u}) {
            for (const double temperature : {0.0, 1.0}) {
                std::vector<float> logits = random_logits(6, 37, 2);
                logits[at] = bad;
                BOOST_CHECK_EXCEPTION(sample_token(logits, {.temperature = temperature}, address),
                                      NumericError, [&](const NumericError& e) {
                                          const std::string name = "logit " + std::to_string(at);
                                          return e.code() == ExitCode::numeric &&
                                                 speaks_of(e,
                                                           {name.c_str(), "not finite", "prompt 41",
                                                            "sample 5", "token 77"});
                                      });
            }
        }
    }
    const std::vector<float> nothing(8, -kInfinity);
    BOOST_CHECK_THROW(sample_token(nothing, {}, address), NumericError);
}

BOOST_AUTO_TEST_CASE(extremes) {
    BOOST_TEST(sample_token(std::vector<float>{-7}, {}, {}).token == 0);
    BOOST_TEST(sample_token(std::vector<float>{-7}, {}, {}).log_prob == 0);
    // A temperature whose inverse float32 does not hold, and logits whose difference it does not.
    const std::vector<float> logits = random_logits(7, 30, 2);
    const TokenId best = sample_token(logits, {.temperature = 0}, {}).token;
    for (const double temperature : {1e-6, 1e-38, 1e-45, 1e-300}) {
        for (std::uint32_t i = 0; i < 20; ++i) {
            const SampledToken drawn =
                sample_token(logits, {.temperature = temperature}, draw_number(i));
            BOOST_TEST(drawn.token == best);
            BOOST_TEST(drawn.log_prob == 0);
        }
    }
    const std::vector<float> far{-3e38f, 3e38f, -3e38f};
    for (const double top_p : {0.5, 1.0}) {
        BOOST_TEST(sample_token(far, {.top_p = top_p}, {}).token == 1);
        BOOST_TEST(sample_token(far, {.top_p = top_p}, {}).log_prob == 0);
    }
    // A flat distribution over a large vocabulary: sums stay exact.
    const std::vector<float> flat(150000, 0.5f);
    const SampledToken drawn = sample_token(flat, {}, draw_number(1));
    BOOST_TEST(drawn.token == static_cast<TokenId>(150000 * random_uniform(draw_number(1))));
    BOOST_TEST(std::abs(drawn.log_prob + std::log(150000.0)) < 1e-6);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
