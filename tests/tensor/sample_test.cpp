// SPDX-License-Identifier: Apache-2.0
// Every device draws the tokens that draw_token() draws.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "gradus/tensor/sample.hpp"
#include "op_case.hpp"

namespace gradus::test {
namespace {

struct Fixture {
    std::unique_ptr<Device> device = make_test_device();
    Arena arena{device.get()};
    std::unique_ptr<Ops> ops = make_test_ops(kLimits, arena);
    Lcg random{23};

    /// All rows of `logits` at once and one by one on the host.
    void check(Floats& logits, std::int64_t rows, const SamplingOptions& options) {
        const auto vocabulary = std::ssize(logits) / rows;
        Numbers tokens(static_cast<std::size_t>(rows), -9), bits;
        Floats log_probs(tokens.size(), NAN);
        for (std::int64_t r = 0; r < rows; ++r) bits.push_back(static_cast<std::int32_t>(random.bits()));
        bits[0] = -1;  // the largest u
        ops->sample(view(tokens), view(log_probs), view(logits, {rows, vocabulary}), view(bits), options);
        for (std::size_t r = 0; r < tokens.size(); ++r) {
            const std::span row(logits.data() + static_cast<std::ptrdiff_t>(r) * vocabulary,
                                static_cast<std::size_t>(vocabulary));
            const auto wanted = draw_token(row, options, static_cast<std::uint32_t>(bits[r]));
            BOOST_TEST(tokens[r] == wanted.token, "row " << r << " of " << rows << " x " << vocabulary
                                                         << ": " << tokens[r] << " for " << wanted.token
                                                         << ", top_p " << options.top_p << " top_k "
                                                         << options.top_k);
            if (wanted.token >= 0)
                BOOST_TEST(std::abs(log_probs[r] - wanted.log_prob) <=
                           2e-6F * (1 + std::abs(wanted.log_prob)));
        }
    }
};

const std::vector<SamplingOptions> kOptions{{},
                                            {.temperature = 0},
                                            {.temperature = 0.6, .top_p = 0.9},
                                            {.temperature = 1.5, .top_k = 20},
                                            {.top_p = 0.95, .top_k = 50},
                                            {.top_p = 1e-9},
                                            {.top_k = 1},
                                            {.temperature = 3, .top_p = 0.999, .top_k = 100000}};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(sampling, Fixture)

BOOST_AUTO_TEST_CASE(random_rows) {
    for (const auto& [rows, vocabulary] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 5}, {33, 263}, {8, 4096}, {9, 5003}, {2, 151936}})
        for (const SamplingOptions& options : kOptions) {
            Floats logits(static_cast<std::size_t>(rows * vocabulary));
            for (float& z : logits) z = static_cast<float>(3 * random.normal());
            check(logits, rows, options);
        }
}

BOOST_AUTO_TEST_CASE(equal_masses_and_far_ones) {
    for (const SamplingOptions& options : kOptions) {
        Floats equal(4 * 5003, 1.25F), few, far(4 * 300);
        for (int i = 0; i < 4 * 1000; ++i) few.push_back(static_cast<float>(i % 3));
        for (std::size_t i = 0; i < far.size(); ++i) far[i] = i % 300 == 17 ? 3e38F : -3e38F;
        check(equal, 4, options);
        check(few, 4, options);
        check(far, 4, options);
    }
}

BOOST_AUTO_TEST_CASE(a_row_that_is_not_finite_has_no_token) {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInf, -kInf})
        for (const SamplingOptions& options : kOptions) {
            Floats logits(3 * 300);
            for (float& z : logits) z = static_cast<float>(random.normal());
            logits[300 + 299] = bad;
            check(logits, 3, options);
        }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus::test
