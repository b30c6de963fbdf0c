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

BOOST_AUTO_TEST_CASE(a_description_that_lacks_a_field_is_refused) {
    const Json whole = full_config().to_json();
    for (const auto& [name, value] : whole.items()) {
        const std::string quoted = "`" + name + "`";
        const auto names_it = [&](const CheckpointError& e) { return says(e.what(), quoted); };
        Json json = whole;
        json.erase(name);
        BOOST_CHECK_EXCEPTION(ModelConfig::from_json(json), CheckpointError, names_it);
        json = whole;
        json[name] = "many";
        BOOST_CHECK_EXCEPTION(ModelConfig::from_json(json), CheckpointError, names_it);
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
