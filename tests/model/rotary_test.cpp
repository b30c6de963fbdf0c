// SPDX-License-Identifier: Apache-2.0
// Rotary frequencies of released models, worked out by hand from the formulas.
#include "../../src/model/rotary.hpp"

#include <boost/test/unit_test.hpp>

#include "reference_parts.hpp"
#include "small_models.hpp"

namespace gradus {
namespace {

constexpr float kPart = 1e-6f;

void expect(const std::vector<float>& got, const std::vector<std::pair<std::size_t, float>>& wanted) {
    for (const auto& [i, value] : wanted)
        BOOST_TEST(got.at(i) == value, boost::test_tools::tolerance(kPart));
}

/// Llama-3.1-8B: f = 500000^(-2i/128), factor 8 over 8192 positions.
ModelConfig llama() {
    ModelConfig c = test::full_config();
    c.head_dim = 128;
    c.rope_theta = 5e5;
    c.rope = {.scaling = RopeScaling::llama3, .factor = 8, .original_positions = 8192,
              .low_freq_factor = 1, .high_freq_factor = 4};
    return c;
}

/// DeepSeek-V3: f = 10000^(-2i/64), YaRN with factor 40 over 4096 positions.
ModelConfig deepseek() {
    ModelConfig c = test::latent_config();
    c.latent = {.q_rank = 1536, .kv_rank = 512, .nope_dim = 128, .rope_dim = 64, .value_dim = 128};
    c.head_dim = 192;
    c.rope_theta = 1e4;
    c.rope = {.scaling = RopeScaling::yarn, .factor = 40, .original_positions = 4096, .mscale = 1,
              .mscale_all_dim = 1};
    return c;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(rotary)

BOOST_AUTO_TEST_CASE(without_scaling_and_linear) {
    ModelConfig c = llama();
    c.rope = {};
    expect(rotary_frequencies(c), {{0, 1}, {32, 1.414213562e-3f}, {63, 2.455140791e-6f}});
    c.rope = {.scaling = RopeScaling::linear, .factor = 4};
    expect(rotary_frequencies(c), {{0, 0.25f}, {32, 3.535533906e-4f}, {63, 6.137851978e-7f}});
    BOOST_TEST(rotary_scale(c) == 1);
    BOOST_TEST(attention_scale(c) == 1 / std::sqrt(128.0f));
    c.head_dim = 4;
    BOOST_TEST(rotary_frequencies(c).size() == 2u);
}

// A wave of 2 pi / f positions: shorter than 8192 / 4 it stays (up to i = 28), longer than 8192 / 1 it
// is divided by 8 (from i = 36); between, with s = (8192 f / (2 pi) - 1) / (4 - 1), (1 - s) f / 8 + s f.
BOOST_AUTO_TEST_CASE(llama3) {
    expect(rotary_frequencies(llama()),
           {{0, 1}, {20, 1.656044008e-2f}, {28, 3.211445995e-3f}, {29, 2.166570764e-3f},
            {32, 5.248461610e-4f}, {35, 9.556212354e-5f}, {36, 7.784655274e-5f}, {63, 3.068925989e-7f}});
    BOOST_TEST(rotary_scale(llama()) == 1);
    BOOST_TEST(attention_scale(llama()) == 1 / std::sqrt(128.0f));
}

// low = floor(64 ln(4096 / (32 2 pi)) / (2 ln 10000)) = floor(10.47) = 10, high = ceil(22.51) = 23;
// s = 1 - clamp((i - 10) / 13, 0, 1), (1 - s) f / 40 + s f.
BOOST_AUTO_TEST_CASE(yarn) {
    expect(rotary_frequencies(deepseek()),
           {{0, 1}, {10, 5.623413252e-2f}, {11, 3.900692657e-2f}, {16, 5.5e-3f},
            {22, 1.778279410e-4f}, {23, 3.333803580e-5f}, {31, 3.333803580e-6f}});
    ModelConfig c = deepseek();
    c.rope.truncate = false;  // between 10.472241 and 22.513441: s(16) = 0.540930, s(22) = 0.042640
    expect(rotary_frequencies(c), {{10, 5.623413252e-2f}, {16, 5.524062977e-03f}, {22, 1.183877316e-04f}});
}

// 0.1 m ln(40) + 1 is 1.368888 for m = 1 and 1.260804 for m = 0.707; 192^-0.5 = 0.0721688.
BOOST_AUTO_TEST_CASE(scales_of_yarn) {
    ModelConfig c = deepseek();
    const auto near = boost::test_tools::tolerance(1e-6f);
    BOOST_TEST(rotary_scale(c) == 1.0f, near);
    BOOST_TEST(attention_scale(c) == 0.13523378f, near);
    c.rope.mscale = c.rope.mscale_all_dim = 0.707;  // DeepSeek-V2
    BOOST_TEST(rotary_scale(c) == 1.0f, near);
    BOOST_TEST(attention_scale(c) == 0.11472139f, near);
    c.rope.mscale = 1;
    BOOST_TEST(rotary_scale(c) == 1.36888795f / 1.26080378f, near);
    c.rope.attention_factor = 1.25;
    BOOST_TEST(rotary_scale(c) == 1.25f, near);
    // Grouped attention (Qwen2.5 with factor 4): 0.1 ln(4) + 1.
    c = llama();
    c.rope = {.scaling = RopeScaling::yarn, .factor = 4, .original_positions = 32768};
    BOOST_TEST(rotary_scale(c) == 1.13862944f, near);
    BOOST_TEST(attention_scale(c) == 1 / std::sqrt(128.0f), near);
}

BOOST_AUTO_TEST_CASE(small_models_as_the_float64_model_has_them) {
    for (const ModelConfig& c : test::small_configs()) {
        const test::ReferenceRotary reference(c);
        const auto got = rotary_frequencies(c);
        BOOST_REQUIRE(std::ssize(got) == c.rope_dim() / 2);
        for (std::int64_t i = 0; i < c.rope_dim() / 2; ++i)
            BOOST_TEST(double{got[static_cast<std::size_t>(i)]} == reference.frequency(i),
                       boost::test_tools::tolerance(1e-6));
        BOOST_TEST(double{rotary_scale(c)} == reference.scale(), boost::test_tools::tolerance(1e-6));
        BOOST_TEST(double{attention_scale(c)} == reference.attention(), boost::test_tools::tolerance(1e-6));
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
