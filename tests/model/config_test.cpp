// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/config.hpp"

#include <boost/test/unit_test.hpp>

#include "gradus/base/error.hpp"
#include "gradus/model/parameters.hpp"
#include "small_models.hpp"

namespace gradus {
namespace {

using test::full_config;

/// The message of check(), empty where it finds nothing wrong.
std::string complaint(const ModelConfig& c, int tensor_size = 1) {
    try {
        c.check(tensor_size);
        return "";
    } catch (const DeckError& error) {
        return error.what();
    }
}

bool says(const std::string& message, const std::string& words) {
    return message.find(words) != std::string::npos;
}

const std::vector<std::pair<std::string, std::int64_t ModelConfig::*>> kSizes{
    {"vocab_size", &ModelConfig::vocab_size},       {"hidden", &ModelConfig::hidden},
    {"layers", &ModelConfig::layers},               {"heads", &ModelConfig::heads},
    {"kv_heads", &ModelConfig::kv_heads},           {"head_dim", &ModelConfig::head_dim},
    {"intermediate", &ModelConfig::intermediate},   {"max_positions", &ModelConfig::max_positions}};

}  // namespace

BOOST_AUTO_TEST_SUITE(config)

BOOST_AUTO_TEST_CASE(sizes_that_fit_pass) {
    for (const ModelConfig& c : test::small_configs()) BOOST_TEST(complaint(c) == "");
    BOOST_TEST(complaint(full_config(), 2) == "");
}

BOOST_AUTO_TEST_CASE(every_size_that_is_not_positive_is_named) {
    for (const auto& [name, member] : kSizes)
        for (const std::int64_t value : {0, -8}) {
            ModelConfig c = full_config();
            c.*member = value;
            const std::string message = complaint(c);
            const std::string line = fmt::format("model.{} = {} is not positive", name, value);
            BOOST_TEST(says(message, line), message);
            for (const auto& [other, unused] : kSizes)
                if (other != name) BOOST_TEST(!says(message, "model." + other + " "), message);
        }
}

BOOST_AUTO_TEST_CASE(all_wrong_sizes_are_named_at_once) {
    ModelConfig c = full_config();
    c.hidden = 0;
    c.layers = -1;
    BOOST_TEST(says(complaint(c), "model.hidden = 0"));
    BOOST_TEST(says(complaint(c), "model.layers = -1"));
    c = full_config();
    c.kv_heads = 3;
    c.head_dim = 5;
    BOOST_TEST(says(complaint(c), "model.heads = 4 does not divide by model.kv_heads = 3"));
    BOOST_TEST(says(complaint(c), "model.head_dim = 5 is odd"));
}

BOOST_AUTO_TEST_CASE(sizes_that_do_not_divide_over_tensor_ranks_are_named) {
    const std::string by3 = complaint(full_config(), 3);
    for (const char* line : {"model.vocab_size = 28 does not divide by grid.tensor = 3",
                             "model.heads = 4 does not divide by grid.tensor = 3",
                             "model.kv_heads = 2 does not divide by grid.tensor = 3",
                             "model.intermediate = 20 does not divide by grid.tensor = 3"})
        BOOST_TEST(says(by3, line), by3);
    BOOST_TEST(!says(by3, "model.hidden"), by3);
    const std::string by4 = complaint(full_config(), 4);
    BOOST_TEST(says(by4, "model.kv_heads = 2"), by4);
    BOOST_TEST(!says(by4, "model.heads"), by4);
}

BOOST_AUTO_TEST_CASE(parameters_are_the_sum_of_all_shapes) {
    const Grid grid = Grid::planned(1, 1);
    for (int flags = 0; flags < 8; ++flags) {
        ModelConfig c = full_config();
        c.qkv_bias = (flags & 1) != 0;
        c.qk_norm = (flags & 2) != 0;
        c.tied = (flags & 4) != 0;
        Arena arena(nullptr);
        const ParameterSet set(c, grid, arena, false, "policy");
        std::int64_t sum = 0;
        for (const Parameter& p : set.all()) sum += p.global.elements();
        BOOST_TEST(c.parameters() == sum, test::describe(c));
    }
    // By hand: embedding 28 x 12 twice, final norm 12, and in each of two blocks norms 2 x 12,
    // q and o 24 x 12 each, k and v 12 x 12 each, biases 24 + 12 + 12, q/k norms 2 x 6, MLP 3 x 12 x 20.
    BOOST_TEST(full_config().parameters() ==
               672 + 12 + 2 * (24 + 2 * 288 + 2 * 144 + 48 + 12 + 720));
    // Latent attention (kv norm 7, rest as in the products), a dense and an expert layer, the module: two
    // norms, 12 x 24, a block with experts, a norm.
    const std::int64_t latent = 44 * 12 + 13 * 12 + 7 + 32 * 7 + 12 * 12 + 24;
    const std::int64_t experts = 8 * 12 + 8 + 9 * 3 * 12 * 8;
    BOOST_TEST(test::deepseek_config().parameters() ==
               672 + 12 + latent + 720 + latent + experts + (24 + 288 + latent + experts + 12));
}

BOOST_AUTO_TEST_CASE(flops_are_two_a_weight_and_context) {
    ModelConfig c = full_config();
    c.qkv_bias = c.qk_norm = false;
    // Norms and the embedding's look-up are no products.
    const std::int64_t products = c.parameters() - 5 * c.hidden - c.vocab_size * c.hidden;
    BOOST_TEST(c.forward_flops(0) == 2.0 * static_cast<double>(products));
    // A context token costs a product for its score and one for its value, in each head and layer.
    BOOST_TEST(c.forward_flops(10) - c.forward_flops(0) == 10.0 * 2 * 2 * 24 * 2);
}

// A token goes through its experts and the shared ones, not through all.
BOOST_AUTO_TEST_CASE(flops_of_latent_attention_and_experts) {
    ModelConfig c = test::deepseek_config();
    // q 44 x 12, kv_a 13 x 12, kv_b 32 x 7, o 12 x 12; a dense MLP; router and 3 + 1 experts; the head.
    const double attention = 44 * 12 + 13 * 12 + 32 * 7 + 12 * 12;
    const double dense = 3 * 12 * 20, experts = 8 * 12 + 4 * 3 * 12 * 8, head = 12 * 28;
    BOOST_TEST(c.forward_flops(0) == 2 * (2 * attention + dense + experts + head));
    // Scores of 44 numbers and values of 12, in two layers.
    BOOST_TEST(c.forward_flops(10) - c.forward_flops(0) == 10.0 * 2 * 2 * (44 + 12));
    c = test::latent_config();  // q_a 6 x 12, q_b 44 x 6
    BOOST_TEST(c.forward_flops(0) ==
               2 * (2 * (attention - 44 * 12 + 6 * 12 + 44 * 6 + dense) + head));
}

BOOST_AUTO_TEST_CASE(description_and_back) {
    for (const ModelConfig& c : test::small_configs())
        BOOST_CHECK(ModelConfig::from_json(Json::parse(c.to_json().dump())) == c);
    const Json json = full_config().to_json();
    BOOST_TEST(json.at("kv_heads") == 2);
    BOOST_TEST(json.at("rope_theta") == 100.0);
    BOOST_TEST(json.at("norm_eps") == 1e-3);
    BOOST_TEST(json.at("tied") == false);
    BOOST_TEST(json.size() == 13u);
}

/// No field at its default.
ModelConfig unusual_config() {
    return {.vocab_size = 101, .hidden = 102, .layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 105,
            .intermediate = 106, .max_positions = 107, .rope_theta = 108.5, .norm_eps = 0.125,
            .qkv_bias = true, .qk_norm = true, .tied = false, .rope_interleaved = true,
            .rope = {.scaling = RopeScaling::yarn, .factor = 2.5, .original_positions = 110,
                     .low_freq_factor = 1.5, .high_freq_factor = 4.5, .beta_fast = 33.5,
                     .beta_slow = 1.25, .mscale = 0.7, .mscale_all_dim = 0.8,
                     .attention_factor = 1.1, .truncate = false},
            .latent = {.q_rank = 111, .kv_rank = 112, .nope_dim = 113, .rope_dim = 114, .value_dim = 115},
            .moe = {.experts = 116, .per_token = 117, .intermediate = 118, .shared = 119,
                    .dense_layers = {0, 2}, .score = RouterScore::sigmoid, .bias = true,
                    .normalize = true, .scale = 2.5, .groups = 120, .top_groups = 121,
                    .group_best = 122},
            .mtp_layers = 1};
}

BOOST_AUTO_TEST_CASE(description_and_back_of_every_field) {
    const ModelConfig c = unusual_config();
    BOOST_CHECK(ModelConfig::from_json(Json::parse(c.to_json().dump())) == c);
    for (const auto scaling : {RopeScaling::none, RopeScaling::linear, RopeScaling::llama3}) {
        ModelConfig other = c;
        other.rope.scaling = scaling;
        BOOST_CHECK(ModelConfig::from_json(Json::parse(other.to_json().dump())) == other);
        BOOST_CHECK(!(other == c));
    }
}

BOOST_AUTO_TEST_CASE(a_description_that_lacks_a_field_is_refused) {
    const Json whole = full_config().to_json(), unusual = unusual_config().to_json();
    const auto refuses = [](const Json& json, const std::string& name) {
        BOOST_CHECK_EXCEPTION(ModelConfig::from_json(json), CheckpointError, [&](const CheckpointError& e) {
            return says(e.what(), "`" + name + "`");
        });
    };
    for (const auto& [name, value] : whole.items()) {
        Json json = whole;
        json.erase(name);
        refuses(json, name);
        json[name] = "many";
        refuses(json, name);
    }
    for (const char* part : {"rope", "latent", "moe"})
        for (const auto& [name, value] : unusual.at(part).items()) {
            Json json = unusual;
            json[part].erase(name);
            refuses(json, name);
            json[part][name] = "many";
            refuses(json, name);
            if (!value.is_number_integer()) continue;
            json[part][name] = 1.5;  // no silent rounding of a size
            refuses(json, name);
        }
}

BOOST_AUTO_TEST_CASE(experts_that_do_not_fit_are_named) {
    const auto bad = [](auto change) {
        ModelConfig c = test::deepseek_config();
        change(c.moe);
        return complaint(c);
    };
    BOOST_TEST(complaint(test::deepseek_config(), 4) == "");
    using M = MixtureOfExperts;
    for (const std::int64_t n : {0, -1, 9})
        BOOST_TEST(says(bad([&](M& m) { m.per_token = n; }), "model.moe.per_token"));
    BOOST_TEST(says(bad([](M& m) { m.groups = 3; }), "model.moe.groups = 3"));
    BOOST_TEST(says(bad([](M& m) { m.groups = 0; }), "model.moe.groups = 0"));
    BOOST_TEST(says(bad([](M& m) { m.top_groups = 5; }), "groups"));
    BOOST_TEST(says(bad([](M& m) { m.per_token = 5; }), "5 experts a token"));  // 2 groups of 2
    BOOST_TEST(says(bad([](M& m) { m.group_best = 3; }), "model.moe.group_best = 3"));
    BOOST_TEST(says(bad([](M& m) { m.intermediate = 0; }), "model.moe.intermediate = 0"));
    BOOST_TEST(says(bad([](M& m) { m.dense_layers = {1, 0}; }), "dense_layers"));
    const auto over = [](const ModelConfig& c, int experts) -> std::string {
        try {
            c.check(1, experts);
            return "";
        } catch (const DeckError& error) {
            return error.what();
        }
    };
    for (const int n : {1, 2, 4, 8}) BOOST_TEST(over(test::deepseek_config(), n) == "");
    BOOST_TEST(says(over(test::deepseek_config(), 3), "grid.expert = 3"));
    BOOST_TEST(says(over(full_config(), 2), "grid.expert = 2"));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
