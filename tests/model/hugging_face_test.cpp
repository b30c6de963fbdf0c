// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/hugging_face.hpp"

#include <boost/test/unit_test.hpp>
#include <limits>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"
#include "released_configs.hpp"

namespace gradus {
namespace {

HuggingFaceConfig read(const Json& json, std::vector<std::string> ignored = {}) {
    return read_hugging_face_config(json, "folder/config.json", ignored);
}

/// The message that a bad config.json gets; it names the file.
std::string complaint(const Json& json) {
    try {
        read(json);
    } catch (const DataError& error) {
        const std::string text = error.what();
        BOOST_TEST(text.find("folder/config.json") != std::string::npos, text);
        return text;
    }
    return "none";
}

void refuses(const Json& json, const std::string& words) {
    const std::string text = complaint(json);
    BOOST_TEST(text.find(words) != std::string::npos,
               "\"" << words << "\" is not in the message: " << text);
}

Json with(Json json, const char* pointer, const Json& value) {
    json[Json::json_pointer(pointer)] = value;
    return json;
}
Json without(Json json, const char* key) {
    json.erase(key);
    return json;
}

std::vector<Json> all_released() {
    return {test::llama_3_1_8b(),  test::qwen2_5_1_5b(),     test::qwen3_0_6b(),
            test::qwen3_30b_a3b(), test::deepseek_v2_lite(), test::deepseek_v3()};
}

/// As transformers 5 writes it: rope_parameters holds theta and scaling, dtype the type.
Json new_form(Json json) {
    Json rope = json.contains("rope_scaling") && json["rope_scaling"].is_object() ? json["rope_scaling"]
                                                                                  : Json::object();
    if (rope.contains("type")) {
        rope["rope_type"] = rope["type"];
        rope.erase("type");
    }
    if (rope.empty()) rope["rope_type"] = "default";
    rope["rope_theta"] = json["rope_theta"];
    json["rope_parameters"] = rope;
    json["dtype"] = json["torch_dtype"];
    for (const char* old : {"rope_scaling", "rope_theta", "torch_dtype"}) json.erase(old);
    return json;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(hugging_face)

// Sums of the shapes in the models' own code, by hand; each rounds to the number that its makers publish.
BOOST_AUTO_TEST_CASE(released_models_have_the_published_sizes) {
    struct Model {
        Json json;
        std::int64_t parameters;
    };
    const auto grouped = [](std::int64_t h, std::int64_t q, std::int64_t kv) {
        return 2 * h * q + 2 * h * kv + 2 * h;  // q, o; k, v; both norms of a block
    };
    const auto latent = [](std::int64_t h, std::int64_t heads) {
        return h * (512 + 64) + 512 + 512 * heads * 256 + heads * 128 * h + 2 * h;  // without queries
    };
    const std::int64_t v3 = latent(7168, 128) + 7168 * 1536 + 1536 + 1536 * 128 * 192;
    const Model models[] = {
        // 8.03e9
        {test::llama_3_1_8b(),
         2 * 128256 * 4096LL + 32 * (grouped(4096, 4096, 1024) + 3 * 4096 * 14336LL) + 4096},
        // 1.54e9; biases of q, k, v
        {test::qwen2_5_1_5b(), 151936 * 1536LL + 28 * (grouped(1536, 1536, 256) + 1536 + 2 * 256 +
                                                       3 * 1536 * 8960LL) + 1536},
        // 0.6e9; q/k norms
        {test::qwen3_0_6b(),
         151936 * 1024LL + 28 * (grouped(1024, 2048, 1024) + 2 * 128 + 3 * 1024 * 3072LL) + 1024},
        // 30.5e9
        {test::qwen3_30b_a3b(), 2 * 151936 * 2048LL + 48 * (grouped(2048, 4096, 512) + 2 * 128 +
                                                            128 * (2048 + 3 * 2048 * 768LL)) + 2048},
        // 15.7e9
        {test::deepseek_v2_lite(),
         2 * 102400 * 2048LL + 27 * (latent(2048, 16) + 2048 * 16 * 192) + 3 * 2048 * 10944LL +
             26 * (64 * 2048 + (64 + 2) * 3 * 2048 * 1408LL) + 2048},
        // 671e9 without the module of multi-token prediction
        {test::deepseek_v3(), 2 * 129280 * 7168LL + 61 * v3 + 3 * 3 * 7168 * 18432LL +
                                  58 * (256 * 7168 + 256 + 257 * 3 * 7168 * 2048LL) + 7168},
    };
    const std::int64_t published[] = {8030261248, 1543714304, 596049920, 30532122624, 15706484224,
                                      671026419200};
    for (std::size_t i = 0; i < std::size(models); ++i) {
        BOOST_TEST(models[i].parameters == published[i]);
        BOOST_TEST(read(models[i].json).model.parameters() == published[i]);
    }
}

BOOST_AUTO_TEST_CASE(fields_of_plain_models) {
    const auto llama = read(test::llama_3_1_8b());
    BOOST_TEST(llama.family == "llama");
    BOOST_TEST(!llama.fp8);
    const ModelConfig wanted{.vocab_size = 128256, .hidden = 4096, .layers = 32, .heads = 32,
                             .kv_heads = 8, .head_dim = 128, .intermediate = 14336,
                             .max_positions = 131072, .rope_theta = 5e5, .norm_eps = 1e-5,
                             .qkv_bias = false, .qk_norm = false, .tied = false,
                             .rope = {.scaling = RopeScaling::llama3, .factor = 8,
                                      .original_positions = 8192, .low_freq_factor = 1,
                                      .high_freq_factor = 4}};
    BOOST_CHECK(llama.model == wanted);
    const ModelConfig qwen2 = read(test::qwen2_5_1_5b()).model;
    BOOST_TEST((qwen2.qkv_bias && !qwen2.qk_norm && qwen2.tied));
    BOOST_TEST((qwen2.head_dim == 128 && qwen2.kv_heads == 2 && qwen2.rope_theta == 1e6));
    BOOST_CHECK(qwen2.rope == RopeOptions{});
    const ModelConfig qwen3 = read(test::qwen3_0_6b()).model;
    BOOST_TEST((!qwen3.qkv_bias && qwen3.qk_norm && qwen3.tied && qwen3.head_dim == 128));
    BOOST_TEST(qwen3.norm_eps == 1e-6);
}

BOOST_AUTO_TEST_CASE(fields_of_models_with_experts) {
    const ModelConfig qwen = read(test::qwen3_30b_a3b()).model;
    BOOST_CHECK((qwen.moe == MixtureOfExperts{.experts = 128, .per_token = 8, .intermediate = 768,
                                              .normalize = true}));
    BOOST_TEST((qwen.qk_norm && !qwen.is_latent() && !qwen.tied));
    const auto v2 = read(test::deepseek_v2_lite());
    BOOST_CHECK((v2.model.moe == MixtureOfExperts{.experts = 64, .per_token = 6, .intermediate = 1408,
                                                  .shared = 2, .dense_layers = {0}}));
    BOOST_CHECK((v2.model.latent == LatentAttention{.kv_rank = 512, .nope_dim = 128, .rope_dim = 64,
                                                    .value_dim = 128}));
    BOOST_TEST((!v2.fp8 && v2.announced_mtp_layers == 0 && v2.model.rope_interleaved));
    const auto v3 = read(test::deepseek_v3());
    BOOST_CHECK((v3.model.moe == MixtureOfExperts{.experts = 256, .per_token = 8, .intermediate = 2048,
                                                  .shared = 1, .dense_layers = {0, 1, 2},
                                                  .score = RouterScore::sigmoid, .bias = true,
                                                  .normalize = true, .scale = 2.5, .groups = 8,
                                                  .top_groups = 4, .group_best = 2}));
    BOOST_TEST((v3.fp8 && v3.announced_mtp_layers == 1 && v3.model.mtp_layers == 0));
    BOOST_TEST((v3.model.latent.q_rank == 1536 && v3.model.head_dim == 192 && v3.model.kv_heads == 128));
    BOOST_CHECK((v3.model.rope == RopeOptions{.scaling = RopeScaling::yarn, .factor = 40,
                                              .original_positions = 4096, .mscale = 1,
                                              .mscale_all_dim = 1}));
    // The module has a router and experts of its own, and the norms and product that join both halves.
    ModelConfig with_mtp = v3.model;
    with_mtp.mtp_layers = 1;
    const std::int64_t block = 187107328LL + 2 * 7168;  // attention with its latent norms; both norms
    BOOST_TEST(with_mtp.parameters() - v3.model.parameters() ==
               block + 256 * 7168 + 256 + 257 * 3 * 7168 * 2048LL + 3 * 7168 + 2 * 7168 * 7168LL);
    // DeepSeek-V2 (236B): the best group by its best expert.
    Json v2_large = test::deepseek_v2_lite();
    v2_large["topk_method"] = "group_limited_greedy";
    v2_large["n_group"] = 8;
    v2_large["topk_group"] = 3;
    v2_large["routed_scaling_factor"] = 16.0;
    const MixtureOfExperts m = read(v2_large).model.moe;
    BOOST_TEST((m.groups == 8 && m.top_groups == 3 && m.group_best == 1 && m.scale == 16 && !m.bias));
}

BOOST_AUTO_TEST_CASE(old_and_new_forms_are_the_same_model) {
    for (const Json& json : all_released()) {
        const auto old = read(json), fresh = read(new_form(json));
        BOOST_CHECK(old.model == fresh.model);
        BOOST_TEST(old.family == fresh.family);
        BOOST_TEST(old.fp8 == fresh.fp8);
    }
    // What transformers writes beside.
    Json json = new_form(test::deepseek_v3());
    json["head_dim"] = 64;
    json["qk_head_dim"] = 192;
    json["rope_interleave"] = true;
    BOOST_CHECK(read(json).model == read(test::deepseek_v3()).model);
    json = new_form(test::qwen3_0_6b());
    json["layer_types"] = std::vector<std::string>(28, "full_attention");
    BOOST_CHECK(read(json).model == read(test::qwen3_0_6b()).model);
    json = new_form(test::qwen3_30b_a3b());
    json["num_local_experts"] = 128;
    BOOST_CHECK(read(json).model == read(test::qwen3_30b_a3b()).model);
}

BOOST_AUTO_TEST_CASE(layers_that_stay_dense) {
    Json json = test::qwen3_30b_a3b();
    json["num_hidden_layers"] = 6;
    json["decoder_sparse_step"] = 2;  // layer i has experts where i + 1 divides by it
    json["mlp_only_layers"] = {3};
    BOOST_TEST(read(json).model.moe.dense_layers == (std::vector<std::int64_t>{0, 2, 3, 4}),
               boost::test_tools::per_element());
    json = test::deepseek_v3();
    json["num_hidden_layers"] = 6;
    json["moe_layer_freq"] = 2;  // from layer 3 on, where i divides by it
    BOOST_TEST(read(json).model.moe.dense_layers == (std::vector<std::int64_t>{0, 1, 2, 3, 5}),
               boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(what_is_not_supported_is_named) {
    const Json qwen = test::qwen3_0_6b(), moe = test::qwen3_30b_a3b(), v3 = test::deepseek_v3();
    refuses(with(qwen, "/model_type", "mamba"), "mamba");
    refuses(with(qwen, "/model_type", 5), "model_type");
    refuses(without(qwen, "model_type"), "model_type");
    refuses(with(qwen, "/attention_sink", 4), "attention_sink");
    refuses(with(qwen, "/hidden_act", "gelu"), "hidden_act");
    refuses(with(qwen, "/attention_bias", true), "attention_bias");
    refuses(with(test::llama_3_1_8b(), "/mlp_bias", true), "mlp_bias");
    refuses(with(qwen, "/use_sliding_window", true), "use_sliding_window");
    refuses(with(qwen, "/use_mrope", true), "use_mrope");
    refuses(with(qwen, "/layer_types", {"full_attention", "sliding_attention"}), "layer_types");
    refuses(with(qwen, "/rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2}}), "dynamic");
    refuses(with(qwen, "/rope_scaling", {{"rope_type", "longrope"}}), "longrope");
    refuses(with(qwen, "/rope_scaling", {{"rope_type", "yarn"}}), "rope_scaling.factor");
    refuses(with(qwen, "/rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}, {"bend", 1}}),
            "rope_scaling.bend");
    refuses(with(qwen, "/rope_scaling", {{"rope_type", "llama3"}, {"factor", 2}}), "low_freq_factor");
    refuses(with(qwen, "/rope_scaling", 4), "rope_scaling");
    refuses(with(v3, "/scoring_func", "tanh"), "scoring_func");
    refuses(with(v3, "/topk_method", "random"), "topk_method");
    refuses(with(v3, "/num_nextn_predict_layers", 2), "num_nextn_predict_layers");
    refuses(with(v3, "/num_key_value_heads", 8), "num_key_value_heads");
    refuses(with(v3, "/quantization_config/quant_method", "gptq"), "quant_method");
    refuses(with(v3, "/quantization_config/weight_block_size", {64, 64}), "weight_block_size");
    refuses(with(v3, "/quantization_config/bits", 4), "quantization_config.bits");
    refuses(with(v3, "/quantization_config/fmt", "e5m2"), "quantization_config.fmt");
    refuses(with(moe, "/shared_expert_intermediate_size", 12), "shared_expert_intermediate_size");
    refuses(Json::array({1}), "not a JSON object");
    // A key may be ignored by name, and its value then counts for nothing.
    BOOST_CHECK(read(with(qwen, "/attention_sink", 4), {"attention_sink"}).model == read(qwen).model);
}

BOOST_AUTO_TEST_CASE(missing_keys_are_named) {
    const auto check = [](const Json& json, std::initializer_list<const char*> keys) {
        for (const char* key : keys) {
            refuses(without(json, key), std::string(key) + " is missing");
            refuses(with(json, (std::string("/") + key).c_str(), nullptr), key);
        }
    };
    const auto common = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                         "intermediate_size", "max_position_embeddings", "rms_norm_eps"};
    for (const Json& json : all_released()) check(json, common);
    check(test::qwen3_30b_a3b(), {"num_experts_per_tok", "moe_intermediate_size"});
    check(test::deepseek_v3(), {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                                "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"});
    // Everything that is wrong is told at once.
    const std::string text =
        complaint(with(without(test::qwen3_0_6b(), "hidden_size"), "/attention_sink", 1));
    BOOST_TEST(text.find("hidden_size") != std::string::npos, text);
    BOOST_TEST(text.find("attention_sink") != std::string::npos, text);
}

BOOST_AUTO_TEST_CASE(values_of_the_wrong_type_are_named) {
    const std::vector<Json> not_numbers{"12", true, Json::array({12}), Json::object()};
    const std::vector<Json> not_sizes{12.5, 1e30, -1e300, 4.0e18};
    const auto check = [](const Json& json, const char* key, const std::vector<Json>& values) {
        for (const Json& value : values)
            refuses(with(json, (std::string("/") + key).c_str(), value), key);
    };
    for (const char* key : {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                            "num_key_value_heads", "intermediate_size", "max_position_embeddings",
                            "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
                            "v_head_dim", "n_routed_experts", "n_shared_experts", "n_group",
                            "topk_group", "num_experts_per_tok", "moe_intermediate_size",
                            "first_k_dense_replace", "moe_layer_freq", "num_nextn_predict_layers"}) {
        check(test::deepseek_v3(), key, not_numbers);
        check(test::deepseek_v3(), key, not_sizes);
    }
    check(test::qwen3_30b_a3b(), "num_experts", not_sizes);
    check(test::qwen3_30b_a3b(), "decoder_sparse_step", not_numbers);
    check(test::qwen3_30b_a3b(), "head_dim", not_numbers);
    for (const char* key : {"rms_norm_eps", "rope_theta", "routed_scaling_factor"})
        check(test::deepseek_v3(), key, not_numbers);
    for (const char* key : {"tie_word_embeddings", "norm_topk_prob", "attention_bias"})
        check(test::deepseek_v3(), key, {1, 0, "true", Json::array()});
    for (const char* key : {"hidden_act", "scoring_func", "topk_method"})
        check(test::deepseek_v3(), key, {1, true, Json::array({"silu"})});
    check(test::qwen3_30b_a3b(), "mlp_only_layers", {3, "3", {"a"}, {1.5}, {true}});
    check(test::qwen3_0_6b(), "layer_types", {3, "full_attention", {1}});
    for (const char* key : {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
                            "original_max_position_embeddings"})
        for (const Json& value : not_numbers)
            refuses(with(test::deepseek_v3(), (std::string("/rope_scaling/") + key).c_str(), value), key);
    refuses(with(test::deepseek_v3(), "/quantization_config", 8), "quantization_config");
    refuses(with(test::deepseek_v3(), "/quantization_config/quant_method", 8), "quant_method");
    // Whole numbers may stand for numbers.
    BOOST_TEST(read(with(test::deepseek_v3(), "/routed_scaling_factor", 2)).model.moe.scale == 2);
}

BOOST_AUTO_TEST_CASE(sizes_out_of_range_are_named) {
    const auto check = [](const Json& json, const char* key, const std::vector<Json>& values) {
        for (const Json& value : values)
            refuses(with(json, (std::string("/") + key).c_str(), value), key);
    };
    const std::vector<Json> bad{0, -4, std::int64_t{1} << 40, std::numeric_limits<std::int64_t>::min(),
                                std::numeric_limits<std::uint64_t>::max()};
    for (const char* key : {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                            "num_key_value_heads", "intermediate_size", "max_position_embeddings",
                            "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                            "n_routed_experts", "n_group", "topk_group", "num_experts_per_tok",
                            "moe_intermediate_size", "moe_layer_freq"})
        check(test::deepseek_v3(), key, bad);
    for (const char* key : {"q_lora_rank", "n_shared_experts", "first_k_dense_replace",
                            "num_nextn_predict_layers"})
        check(test::deepseek_v3(), key, {-1, std::int64_t{1} << 40});
    check(test::qwen3_0_6b(), "head_dim", bad);
    check(test::qwen3_0_6b(), "num_hidden_layers", {100001, 2000000000});
    check(test::qwen3_0_6b(), "rope_theta", {0, -1, 1});
    check(test::qwen3_0_6b(), "rms_norm_eps", {0, -1e-6});
    for (const Json& factor : std::vector<Json>{0, -2}) {
        refuses(with(test::qwen3_0_6b(), "/rope_scaling", {{"type", "linear"}, {"factor", factor}}), "factor");
        refuses(with(test::deepseek_v3(), "/rope_scaling/factor", factor), "factor");
        refuses(with(test::deepseek_v3(), "/rope_scaling/beta_fast", factor), "beta_fast");
        refuses(with(test::deepseek_v3(), "/rope_scaling/beta_slow", factor), "beta_slow");
    }
    refuses(with(test::llama_3_1_8b(), "/rope_scaling/high_freq_factor", 1.0), "factor");
}

BOOST_AUTO_TEST_CASE(sizes_that_do_not_fit_together_are_named) {
    const Json v3 = test::deepseek_v3(), qwen = test::qwen3_0_6b();
    refuses(with(qwen, "/num_key_value_heads", 3), "kv_heads");
    refuses(with(qwen, "/head_dim", 7), "head_dim");
    refuses(with(v3, "/n_group", 7), "group");
    refuses(with(v3, "/topk_group", 9), "group");
    refuses(with(v3, "/num_experts_per_tok", 257), "per_token");
    refuses(with(v3, "/num_experts_per_tok", 129), "129 experts a token");  // 4 groups of 32 hold 128
    refuses(with(v3, "/qk_head_dim", 100), "qk_head_dim");
    refuses(with(v3, "/qk_rope_head_dim", 63), "head_dim");
    refuses(with(without(qwen, "head_dim"), "/num_attention_heads", 4096), "head_dim");
    refuses(with(with(v3, "/n_group", 256), "/topk_group", 128), "group");  // one a group, two count
    // Each size for itself is in range; the model is not one that any machine holds.
    Json huge = test::qwen3_30b_a3b();
    for (const char* key : {"hidden_size", "num_experts", "moe_intermediate_size"}) huge[key] = 2000000000;
    refuses(huge, "parameters");
}

// Values of any kind in any place: a model that fits, or a DataError.
BOOST_AUTO_TEST_CASE(anything_else_is_a_data_error) {
    const std::vector<Json> values{nullptr, true, 0, 1, -1, 3, 64, 2147483647, std::int64_t{1} << 62,
                                   std::numeric_limits<std::uint64_t>::max(), 0.5, 1e308, -1e308, 1e-320,
                                   "", "yarn", "\xff\xfe", Json::array(), Json::array({1, "a", nullptr}),
                                   Json::object(), {{"rope_type", "yarn"}, {"factor", 1e-300}},
                                   {{"rope_type", "linear"}, {"factor", 1e300}}};
    RandomSequence random({.seed = 3, .stream = Stream::test});
    const auto below = [&](std::size_t n) {
        return static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(n) - 1));
    };
    int read_well = 0, refused = 0;
    for (const Json& released : all_released())
        for (int trial = 0; trial < 400; ++trial) {
            Json flat = (trial % 2 == 0 ? released : new_form(released)).flatten();
            for (std::size_t changes = 1 + below(3); changes > 0; --changes) {
                auto at = flat.begin();
                std::advance(at, below(flat.size()));
                *at = values[below(values.size())];
            }
            Json json = Json::object();
            for (const auto& [pointer, value] : flat.items()) {
                try {
                    json[Json::json_pointer(pointer)] = value;
                } catch (const Json::exception&) {  // a part of what was replaced
                }
            }
            try {
                const ModelConfig c = read(json).model;
                ++read_well;
                BOOST_CHECK_NO_THROW(c.check(1));
                BOOST_TEST((c.parameters() > 0 && c.parameters() <= 1000000000000000),
                           json.dump(-1, ' ', true, Json::error_handler_t::replace));
                BOOST_CHECK(ModelConfig::from_json(c.to_json()) == c);
            } catch (const DataError&) {
                ++refused;
            }
        }
    BOOST_TEST(read_well > 100);
    BOOST_TEST(refused > 500);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
