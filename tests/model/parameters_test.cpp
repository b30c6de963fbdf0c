// SPDX-License-Identifier: Apache-2.0
#include "gradus/model/parameters.hpp"

#include <boost/test/unit_test.hpp>
#include <numeric>
#include <set>

#include "gradus/base/error.hpp"
#include "../box.hpp"
#include "small_models.hpp"

namespace gradus {
namespace {

using test::Floats;
using test::full_config;

/// Large enough for statistics.
ModelConfig wide_config() {
    ModelConfig c = full_config();
    c.vocab_size = 512;
    c.hidden = 64;
    c.layers = 4;
    c.kv_heads = 4;
    c.head_dim = 16;
    c.intermediate = 96;
    return c;
}

struct Set {
    Set(const ModelConfig& c, int tensor_size, bool trained = true)
        : device(test::make_test_device()),
          arena(device.get()),
          ops(test::make_test_ops({}, arena)),
          grid(Grid::planned(1, tensor_size)),
          parameters(c, grid, arena, trained, "policy") {}
    std::unique_ptr<Device> device;
    Arena arena;
    std::unique_ptr<Ops> ops;
    Grid grid;
    ParameterSet parameters;

    void initialize(std::uint64_t seed, double std) { parameters.initialize(*ops, seed, std); }
};

/// Every element of a box, from the whole tensor.
Floats cut(const Parameter& whole, const Box& box) {
    const auto part = test::cut(whole.value.f32(), whole.global, box);
    return {part.begin(), part.end()};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(parameters)

BOOST_AUTO_TEST_CASE(initial_values_have_the_asked_spread) {
    Set set(wide_config(), 1);
    const double std = 0.02;
    set.initialize(11, std);
    for (const Parameter& p : set.parameters.all()) {
        const auto values = p.value.floats();
        if (p.global.rank() == 1) {
            const float wanted = p.name.ends_with(".bias") ? 0 : 1;
            BOOST_TEST(std::all_of(values.begin(), values.end(),
                                   [&](float x) { return x == wanted; }), p.name);
            continue;
        }
        const auto n = static_cast<double>(values.size());
        const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
        double squares = 0, fourths = 0;
        for (const double x : values) {
            squares += x * x / n;
            fourths += x * x * x * x / n;
        }
        // Residual projections of 4 layers: by sqrt(8) less.
        const bool residual = p.name.ends_with("o_proj.weight") || p.name.ends_with("down_proj.weight");
        const double wanted = residual ? std / std::sqrt(8.0) : std;
        // Four standard errors of a sample of normal numbers: mean, variance and kurtosis.
        BOOST_TEST(std::abs(mean) < 4 * wanted / std::sqrt(n), p.name);
        BOOST_TEST(std::abs(squares / (wanted * wanted) - 1) < 4 * std::sqrt(2 / n), p.name);
        BOOST_TEST(std::abs(fourths / (squares * squares) - 3) < 4 * std::sqrt(24 / n), p.name);
    }
}

BOOST_AUTO_TEST_CASE(initial_values_depend_on_seed_and_tensor) {
    Set a(full_config(), 1), b(full_config(), 1), c(full_config(), 1);
    a.initialize(1, 0.1);
    b.initialize(1, 0.1);
    c.initialize(2, 0.1);
    BOOST_CHECK(test::copy_of(a.parameters.flat_values()) == test::copy_of(b.parameters.flat_values()));
    std::set<float> first;
    std::size_t matrices = 0;
    for (const Parameter& p : a.parameters.all()) {
        if (p.global.rank() != 2) continue;
        ++matrices;
        first.insert(p.value.f32()[0]);
        BOOST_TEST(p.value.f32()[0] != c.parameters.at(p.name).value.f32()[0], p.name);
    }
    BOOST_TEST(first.size() == matrices);
}

BOOST_AUTO_TEST_CASE(a_tensor_rank_initialises_its_part_of_the_whole) {
    ModelConfig odd = full_config();
    odd.kv_heads = 4;
    odd.hidden = 11;  // rows begin in the middle of a pair of draws
    odd.head_dim = 2;
    odd.intermediate = 12;
    for (const ModelConfig& c : {wide_config(), odd}) {
        Set whole(c, 1);
        whole.initialize(5, 0.1);
        for (const int tensor_size : {2, 4}) {
            Set part(c, tensor_size);
            part.initialize(5, 0.1);
            for (const Parameter& p : part.parameters.all()) {
                const Parameter& all = whole.parameters.at(p.name);
                BOOST_CHECK(p.global == all.global);
                const std::int64_t parts = p.split_dim < 0 ? 1 : tensor_size;
                BOOST_TEST(p.box.elements() * parts == p.global.elements(), p.name);
                BOOST_CHECK(test::copy_of(p.value) == cut(all, p.box));
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(columns_then_rows_are_split) {
    Set set(full_config(), 2);
    const auto box_of = [&](const char* name) { return set.parameters.at(name).box.count.text(); };
    BOOST_TEST(box_of("model.embed_tokens.weight") == "[14, 12]");
    BOOST_TEST(box_of("lm_head.weight") == "[14, 12]");
    BOOST_TEST(box_of("model.norm.weight") == "[12]");
    BOOST_TEST(box_of("model.layers.1.input_layernorm.weight") == "[12]");
    BOOST_TEST(box_of("model.layers.1.self_attn.q_proj.weight") == "[12, 12]");
    BOOST_TEST(box_of("model.layers.1.self_attn.k_proj.weight") == "[6, 12]");
    BOOST_TEST(box_of("model.layers.1.self_attn.v_proj.bias") == "[6]");
    BOOST_TEST(box_of("model.layers.1.self_attn.q_norm.weight") == "[6]");
    BOOST_TEST(box_of("model.layers.1.self_attn.o_proj.weight") == "[12, 12]");
    BOOST_TEST(set.parameters.at("model.layers.1.self_attn.o_proj.weight").split_dim == 1);
    BOOST_TEST(box_of("model.layers.1.mlp.gate_proj.weight") == "[10, 12]");
    BOOST_TEST(box_of("model.layers.1.mlp.down_proj.weight") == "[12, 10]");
}

BOOST_AUTO_TEST_CASE(values_and_gradients_are_one_piece_each_with_zero_padding) {
    Set set(full_config(), 1);
    set.initialize(1, 0.5);
    for (const bool gradients : {false, true}) {
        const Tensor flat = gradients ? set.parameters.flat_grads() : set.parameters.flat_values();
        BOOST_CHECK(flat.shape() == set.parameters.flat_values().shape());
        Floats outside = test::copy_of(flat);
        for (const Parameter& p : set.parameters.all()) {
            const Tensor& piece = gradients ? p.grad : p.value;
            BOOST_CHECK(piece.shape() == p.box.count);
            if (!p.joined)
                BOOST_TEST(reinterpret_cast<std::uintptr_t>(piece.data()) % 64 == 0u, p.name);
            const auto at = piece.f32() - flat.f32();
            BOOST_REQUIRE(at >= 0 && at + piece.elements() <= flat.elements());
            for (std::int64_t i = 0; i < piece.elements(); ++i) {
                float& mark = outside[static_cast<std::size_t>(at + i)];
                BOOST_REQUIRE(!std::isnan(mark));  // no two share an element
                mark = NAN;
            }
        }
        for (const float x : outside) BOOST_TEST((std::isnan(x) || x == 0));
    }
    BOOST_TEST(set.arena.table().find("policy.weights") != std::string::npos);
    BOOST_TEST(set.arena.table().find("policy.gradients") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(weight_decay_is_for_matrices) {
    Set set(full_config(), 1);
    for (const Parameter& p : set.parameters.all())
        BOOST_TEST(p.decay == (p.global.rank() == 2), p.name);
}

BOOST_AUTO_TEST_CASE(a_model_that_is_not_trained_has_no_gradients) {
    Set set(full_config(), 1, false);
    BOOST_TEST(!set.parameters.flat_grads());
    for (const Parameter& p : set.parameters.all()) BOOST_TEST(!p.grad, p.name);
    BOOST_CHECK_EXCEPTION(set.parameters.at("model.nothing"), InternalError, [](const auto& e) {
        return std::string(e.what()).find("model.nothing") != std::string::npos;
    });
}

// First what all data ranks hold alike, then experts, last what is not trained.
BOOST_AUTO_TEST_CASE(gradients_lie_by_who_sums_them) {
    for (const bool mtp : {false, true})
        for (const int expert_size : {1, 2}) {
            const ModelConfig c = test::deepseek_config();
            const auto device = test::make_test_device();
            Arena arena(device.get());
            const Grid grid = Grid::planned(2, 1, expert_size);
            const ParameterSet set(c, grid, arena, true, "policy", mtp);
            const auto inside = [](const Tensor& part, const Tensor& whole) {
                return part.f32() >= whole.f32() &&
                       part.f32() + part.elements() <= whole.f32() + whole.elements();
            };
            std::int64_t covered = 0;
            const auto align = [&] { covered = (covered + 31) / 32 * 32; };  // 64 bytes of bfloat16
            for (const Parameter& p : set.all()) {
                const bool bias = p.name.ends_with("e_score_correction_bias");
                BOOST_TEST(inside(p.value, bias ? set.flat_untrained() : set.flat_values()), p.name);
                BOOST_TEST(p.mtp == p.name.starts_with("model.layers.2."), p.name);
                BOOST_TEST(p.trained == (!bias && (mtp || !p.mtp)), p.name);
                BOOST_TEST(p.expert == (p.name.find("mlp.experts.") != std::string::npos), p.name);
                BOOST_TEST(static_cast<bool>(p.grad) == p.trained, p.name);
                if (p.expert) BOOST_TEST(p.box.count[0] == c.moe.experts / expert_size);
                if (!p.grad) continue;
                BOOST_TEST(inside(p.grad, p.expert ? set.expert_grads() : set.dense_grads()), p.name);
                // A gradient lies as its value does.
                BOOST_TEST(p.grad.f32() - set.flat_grads().f32() == p.value.f32() - set.flat_values().f32());
                if (!p.joined) align();
                covered += p.grad.elements();
            }
            align();
            BOOST_TEST(covered == set.flat_grads().elements());
            BOOST_TEST(set.dense_grads().elements() + set.expert_grads().elements() == covered);
        }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
