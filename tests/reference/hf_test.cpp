// SPDX-License-Identifier: Apache-2.0
// Models of Hugging Face's transformers (GRADUS_REFERENCE/hf): logits, loss, all gradients and a
// greedy continuation, on the weights and tokens in each folder.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <set>

#include "../model/instance.hpp"
#include "safetensors.hpp"

namespace gradus {
namespace {

using test::Floats;
using test::Instance;
using test::Packed;
using test::SafeTensors;
using test::Tokens;

/// A config.json as ModelConfig, or what it would need that is not built yet.
struct Family {
    ModelConfig config;
    std::string missing;
};

/// The rotary settings: `rope_parameters`, or in older files `rope_theta` and `rope_scaling`.
void read_rope(const Json& json, Family& family) {
    const Json rope = json.value("rope_parameters", Json::object());
    const Json scaling = json.value("rope_scaling", Json());
    family.config.rope_theta = rope.value("rope_theta", json.value("rope_theta", 10000.0));
    const std::string type = scaling.is_object() ? scaling.value("rope_type", "unnamed")
                                                 : rope.value("rope_type", "default");
    if (type != "default") family.missing = "rope scaling of type " + type;
}

Family family_of(const Json& file) {
    Family family;
    Json json;  // a setting of null is as good as none
    for (const auto& [key, value] : file.items())
        if (!value.is_null()) json[key] = value;
    const std::string type = json.at("model_type");
    if (type != "llama" && type != "qwen2" && type != "qwen3") {
        family.missing = "the family " + type;
        return family;
    }
    ModelConfig& c = family.config;
    c.vocab_size = json.at("vocab_size");
    c.hidden = json.at("hidden_size");
    c.layers = json.at("num_hidden_layers");
    c.heads = json.at("num_attention_heads");
    c.kv_heads = json.at("num_key_value_heads");
    c.head_dim = json.value("head_dim", c.hidden / c.heads);
    c.intermediate = json.at("intermediate_size");
    c.max_positions = json.at("max_position_embeddings");
    c.norm_eps = json.at("rms_norm_eps");
    c.qkv_bias = type == "qwen2";
    c.qk_norm = type == "qwen3";
    c.tied = json.at("tie_word_embeddings");
    read_rope(json, family);
    for (const char* flag : {"attention_bias", "mlp_bias", "use_sliding_window"})
        if (json.value(flag, false)) family.missing = flag;
    if (json.at("hidden_act") != "silu") family.missing = "activation other than silu";
    return family;
}

/// A folder's files and what has been compared so far.
struct Case {
    std::string name;
    ModelConfig config;
    SafeTensors weights, expected;
    int compared = 0;

    void compare(double error, double tolerance, const std::string& what) {
        ++compared;
        BOOST_TEST(error <= tolerance, name << ": " << what << " is off by " << error);
    }
};

void load(const Case& c, ParameterSet& parameters) {
    std::set<std::string> unused;
    for (const auto& [name, entry] : c.weights.all()) unused.insert(name);
    for (Parameter& p : parameters.all()) {
        const auto& entry = c.weights.at(p.name);
        std::vector<std::int64_t> shape;
        for (int i = 0; i < p.global.rank(); ++i) shape.push_back(p.global[i]);
        BOOST_REQUIRE_MESSAGE(entry.shape == shape,
                              c.name << ": " << p.name << " is " << p.global.text() << " here");
        std::copy(entry.floats.begin(), entry.floats.end(), p.value.f32());
        unused.erase(p.name);
    }
    for (const auto& name : unused)
        BOOST_TEST(false, c.name << ": the model has no place for " << name);
}

std::vector<Tokens> rows_of(const SafeTensors::Entry& entry) {
    const auto columns = static_cast<std::size_t>(entry.shape.at(1));
    std::vector<Tokens> rows;
    for (std::size_t at = 0; at < entry.integers.size(); at += columns) {
        const auto first = entry.integers.begin() + static_cast<std::ptrdiff_t>(at);
        rows.emplace_back(first, first + static_cast<std::ptrdiff_t>(columns));
    }
    return rows;
}

Floats all_logits(Instance& on, Tensor hidden) {
    Floats out;
    for (std::int64_t at = 0; at < hidden.dim(0); at += on.model.logit_rows()) {
        const std::int64_t n = std::min(on.model.logit_rows(), hidden.dim(0) - at);
        const auto rows = on.model.logits(on.parameters, hidden.rows(at, n));
        out.insert(out.end(), rows.begin(), rows.end());
    }
    return out;
}

/// Mean cross entropy of the tokens that have one before them, and its gradients.
struct Training {
    double loss = 0;
    Floats logits, gradients;
};

Training train(const Case& c, Instance& on, Packed& packed) {
    Training result;
    const Tensor hidden = on.model.forward(on.parameters, packed.batch(), false);
    result.logits = all_logits(on, hidden);
    const auto scores = test::score(on, hidden, packed.targets(), 1);
    const std::int64_t rows = packed.rows();
    const auto has_target = [&](std::int64_t t) { return packed.targets().i32()[t] >= 0; };
    std::int64_t count = 0;
    for (std::int64_t t = 0; t < rows; ++t) count += has_target(t);
    test::ScoreGradients loss{.d_log_prob = Floats(static_cast<std::size_t>(rows)),
                              .d_entropy = Floats(static_cast<std::size_t>(rows))};
    for (std::int64_t t = 0; t < rows; ++t) {
        if (!has_target(t)) continue;
        const auto i = static_cast<std::size_t>(t);
        result.loss -= scores.log_prob[i] / static_cast<double>(count);
        loss.d_log_prob[i] = -1 / static_cast<float>(count);
    }
    on.ops->fill(on.parameters.flat_grads(), 0);
    test::add_gradients(on, packed, loss);
    result.gradients = test::copy_of(on.parameters.flat_grads());
    return result;
}

constexpr double kLogits = 1e-5, kLoss = 1e-6, kGradient = 2e-5;

void compare_training(Case& c, Instance& on, const Training& got, const std::string& how) {
    c.compare(test::max_error(got.logits, c.expected.at("logits").floats), kLogits, "logits" + how);
    const double loss = c.expected.at("loss").floats.at(0);
    c.compare(std::abs(got.loss - loss) / loss, kLoss, "loss" + how);
    for (const Parameter& p : on.parameters.all())
        c.compare(test::norm_error(p.grad.floats(), c.expected.at("grad." + p.name).floats),
                  kGradient, "gradient of " + p.name + how);
}

bool same_bits(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_training(Case& c, const Grid& grid) {
    Packed packed(rows_of(c.expected.at("input_ids")));
    const auto run = [&](Recompute recompute, std::int64_t head_chunk, const std::string& how) {
        Instance on(c.config, grid,
                    {.max_tokens = packed.rows(), .max_length = packed.batch().packing.max_length,
                     .recompute = recompute, .head_chunk = head_chunk});
        load(c, on.parameters);
        Training result = train(c, on, packed);
        compare_training(c, on, result, how);
        return result;
    };
    const Training whole = run(Recompute::none, packed.rows(), "");
    const Training again = run(Recompute::block, packed.rows(), " with blocks computed again");
    BOOST_TEST(same_bits(whole.gradients, again.gradients), c.name << ": recomputing changes bits");
    BOOST_REQUIRE(packed.rows() % 7 != 0);
    run(Recompute::none, 7, " with the head in chunks of 7");
}

std::int32_t best(std::span<const float> logits) {
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// Greedy continuation: prefill, then a token at a time over a paged cache.
void check_greedy(Case& c, const Grid& grid) {
    const Tokens prompt = rows_of(c.expected.at("prompt")).at(0);
    const Tokens wanted = rows_of(c.expected.at("greedy")).at(0);
    Packed packed({prompt});
    Instance on(c.config, grid,
                {.max_tokens = packed.rows(), .max_length = packed.rows(), .train = false,
                 .max_decode = 1});
    load(c, on.parameters);
    constexpr std::int64_t kPageSize = 4;
    const auto length = static_cast<std::int64_t>(prompt.size() + wanted.size());
    test::Pages pages(c.config, 1, 1, kPageSize, length / kPageSize + 1);
    std::vector<std::int32_t> slots;
    for (std::int64_t t = 0; t < packed.rows(); ++t) slots.push_back(pages.slot(0, t));
    Tensor hidden = on.model.prefill(on.parameters, packed.batch(), pages.caches(),
                                     test::view(slots)).rows(packed.rows() - 1, 1);
    Tokens got;
    while (got.size() < wanted.size()) {
        got.push_back(best(on.model.logits(on.parameters, hidden)));
        const auto tokens = static_cast<std::int32_t>(prompt.size() + got.size());
        hidden = test::decode_step(on, pages, {got.back()}, {tokens});
    }
    ++c.compared;
    BOOST_TEST(got == wanted, boost::test_tools::per_element());
}

}  // namespace

BOOST_AUTO_TEST_CASE(models_of_transformers) {
    const char* root = std::getenv("GRADUS_REFERENCE");
    if (root == nullptr) {
        fmt::print("skipped: GRADUS_REFERENCE is not set\n");
        return;
    }
    std::set<std::filesystem::path> folders;
    for (const auto& entry : std::filesystem::directory_iterator(std::string(root) + "/hf"))
        if (std::filesystem::exists(entry.path() / "config.json")) folders.insert(entry.path());
    const Grid grid = Grid::planned(1, 1);
    int ran = 0;
    for (const auto& folder : folders) {
        const std::string name = "hf/" + folder.filename().string();
        const Family family = family_of(Json::parse(read_file(folder / "config.json")));
        if (!family.missing.empty()) {
            fmt::print("reference {}: skipped: {} is not built yet\n", name, family.missing);
            continue;
        }
        Case c{.name = name,
               .config = family.config,
               .weights = SafeTensors(folder / "model.safetensors"),
               .expected = SafeTensors(folder / "expected.safetensors")};
        BOOST_TEST_CONTEXT(name) {
            check_training(c, grid);
            check_greedy(c, grid);
        }
        fmt::print("reference {}: {} cases\n", name, c.compared);
        ++ran;
    }
    BOOST_TEST(ran > 0, "no folder of " << root << "/hf ran");
}

}  // namespace gradus
