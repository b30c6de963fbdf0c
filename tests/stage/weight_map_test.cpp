// SPDX-License-Identifier: Apache-2.0
// Places of a folder's tensors: all of a model found, everything that does not fit told, and ranks'
// parts that cover it once.
#include "../../src/stage/weight_map.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <functional>

#include "gradus/base/error.hpp"
#include "gradus/model/parameters.hpp"

namespace gradus {
namespace {

ModelConfig experts_model() {
    ModelConfig c;
    c.vocab_size = 16;
    c.hidden = 8;
    c.layers = 2;
    c.heads = c.kv_heads = 2;
    c.head_dim = 4;
    c.intermediate = 12;
    c.max_positions = 64;
    c.tied = true;
    c.moe.experts = 3;
    c.moe.per_token = 1;
    c.moe.intermediate = 4;
    c.moe.dense_layers = {0};
    return c;
}

using Entries = std::vector<SafetensorsEntry>;

/// The model's tensors as a folder has them, expert by expert.
Entries folder_of(const ModelConfig& model) {
    Entries entries;
    for (const ParameterInfo& p : describe_parameters(model)) {
        if (!p.expert) {
            entries.push_back({.name = p.name, .dtype = "BF16", .shape = p.global});
            continue;
        }
        const std::size_t at = p.name.find("experts.") + 8;
        for (std::int64_t e = 0; e < p.global[0]; ++e)
            entries.push_back(
                {.name = p.name.substr(0, at) + std::to_string(e) + "." + p.name.substr(at),
                 .dtype = "BF16",
                 .shape = {p.global[1], p.global[2]}});
    }
    return entries;
}

WeightMap map_of(const ModelConfig& model, const Entries& entries) {
    FolderFile file{.name = "model.safetensors"};
    file.header.entries = entries;
    return map_weights(model, {file}, "folder");
}

std::string problem(const Entries& entries) {
    try {
        map_of(experts_model(), entries);
    } catch (const DataError& error) {
        return error.what();
    }
    return "";
}

/// What is said of the whole folder with one change.
std::string problem_with(const std::string& name,
                         const std::function<void(Entries&, Entries::iterator)>& change) {
    Entries entries = folder_of(experts_model());
    const auto at =
        std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return e.name == name; });
    BOOST_REQUIRE(at != entries.end());
    change(entries, at);
    return problem(entries);
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

constexpr const char* kExpert = "model.layers.1.mlp.experts.1.up_proj.weight";
constexpr const char* kStack = "model.layers.1.mlp.experts.up_proj.weight";

}  // namespace

BOOST_AUTO_TEST_SUITE(weight_map)

BOOST_AUTO_TEST_CASE(every_tensor_has_its_place) {
    const ModelConfig model = experts_model();
    const WeightMap map = map_of(model, folder_of(model));
    BOOST_TEST(map.stored.size() == describe_parameters(model).size());
    std::int64_t elements = 0, placed = 0;
    for (const auto& [name, stored] : map.stored) {
        BOOST_TEST((stored.dtype == DType::bf16));
        elements += stored.global.elements();
    }
    BOOST_TEST(elements == model.parameters());
    for (const FolderWeight& weight : map.weights) {
        BOOST_REQUIRE(weight.pieces.size() == 1u);
        placed += weight.pieces[0].box.elements();
        if (weight.entry.name != kExpert) continue;
        BOOST_TEST(weight.pieces[0].tensor == std::string("weights/") + kStack);
        BOOST_TEST((weight.pieces[0].box == Box{{1, 0, 0}, {1, 4, 8}}));
    }
    BOOST_TEST(placed == elements);
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_told) {
    const std::string norm = "model.norm.weight";
    const auto rename = [](const std::string& to) {
        return [to](Entries&, Entries::iterator e) { e->name = to; };
    };
    const auto dtype = [](const std::string& to) {
        return [to](Entries&, Entries::iterator e) { e->dtype = to; };
    };
    BOOST_TEST(problem(folder_of(experts_model())) == "");
    const std::string gone = problem_with(norm, [](Entries& all, auto e) { all.erase(e); });
    BOOST_TEST(has(gone, "model.norm.weight [8] is missing"), gone);
    BOOST_TEST(has(gone, "folder: "), gone);
    BOOST_TEST(has(problem_with(norm, rename("model.norm.bias")),
                   "model.norm.bias BF16 [8]: the model has no such parameter"));
    BOOST_TEST(has(problem_with(norm, dtype("I64")), "model.norm.weight is I64"));
    BOOST_TEST(has(problem_with(norm,
                                [](Entries&, auto e) {
                                    e->shape = {8, 1};
                                }),
                   "model.norm.weight is [8, 1], the model needs [8]"));
    const std::string expert = problem_with(kExpert, [](Entries& all, auto e) { all.erase(e); });
    BOOST_TEST(has(expert, std::string(kStack) +
                               " [3, 4, 8] of expert 1 (of 3 experts 2 are there) is missing"),
               expert);
    for (const char* wrong : {"01", "3", "-1", "", "1x", "99999999999999999999"}) {
        const std::string name = fmt::format("model.layers.1.mlp.experts.{}.up_proj.weight", wrong);
        BOOST_TEST(has(problem_with(kExpert, rename(name)),
                       name + " BF16 [4, 8]: the model has no such parameter"),
                   wrong);
    }
    BOOST_TEST(has(problem_with(kExpert, dtype("F16")), "other experts of its layer are bf16"));
    BOOST_TEST(has(problem_with("model.layers.1.mlp.gate.weight",
                                rename("model.layers.1.mlp.experts.3.up_proj.weight")),
                   "no such parameter"));
    // As stacks, whole; then with one expert beside them.
    const auto stack = [](Entries& all, auto) {
        std::erase_if(all, [](const auto& e) { return has(e.name, "experts."); });
        all.push_back({.name = "model.layers.1.mlp.experts.gate_up_proj",
                       .dtype = "BF16",
                       .shape = {3, 8, 8}});
        all.push_back(
            {.name = "model.layers.1.mlp.experts.down_proj", .dtype = "BF16", .shape = {3, 8, 4}});
    };
    BOOST_TEST(problem_with(norm, stack) == "");
    BOOST_TEST(
        has(problem_with(norm,
                         [&](Entries& all, auto e) {
                             stack(all, e);
                             all.push_back({.name = kExpert, .dtype = "BF16", .shape = {4, 8}});
                         }),
            std::string(kStack) + " is there twice"));
    // Scales.
    const auto scales = [](const std::string& name, const Shape& shape,
                           const std::string& type = "F32") {
        return SafetensorsEntry{.name = name + "_scale_inv", .dtype = type, .shape = shape};
    };
    const std::string up = "model.layers.0.mlp.up_proj.weight";
    BOOST_TEST(has(problem_with(up, dtype("F8_E4M3")),
                   up + " is F8_E4M3 and lacks its scales, " + up + "_scale_inv [1, 1]"));
    BOOST_TEST(has(problem_with(up,
                                [&](Entries& all, auto) {
                                    all.push_back(scales(up, {1, 1}));
                                }),
                   up + " is bf16, yet there is"));
    const auto with = [&](const SafetensorsEntry& entry) {
        return problem_with(up, [&](Entries& all, auto e) {
            e->dtype = "F8_E4M3";
            all.push_back(entry);
        });
    };
    BOOST_TEST(with(scales(up, {1, 1})) == "");
    BOOST_TEST(has(with(scales(up, {1, 2})), "is [1, 2], the model needs [1, 1]"));
    BOOST_TEST(has(with(scales(up, {1, 1}, "BF16")), "scales are read as F32"));
    BOOST_TEST(
        has(problem_with(
                norm, [&](Entries& all, auto) { all.push_back(scales("model.norm.weight", {1})); }),
            "only matrices have block scales"));
    // Many problems: a message that can be read.
    Entries none;
    for (int i = 0; i < 1000; ++i)
        none.push_back({.name = fmt::format("x{}", i), .dtype = "F32", .shape = {1}});
    BOOST_TEST(has(problem(none), "... and "));
    BOOST_TEST(problem(none).size() < 5000u);
}

BOOST_AUTO_TEST_CASE(heads_that_are_tied) {
    const auto head = [](const std::string& type) {
        return problem_with("model.norm.weight", [&](Entries& all, auto) {
            all.push_back({.name = "lm_head.weight", .dtype = type, .shape = {16, 8}});
        });
    };
    BOOST_TEST(head("BF16") == "");
    BOOST_TEST(has(head("F32"),
                   "lm_head.weight is F32, but model.embed_tokens.weight, which it repeats, BF16"));
}

BOOST_AUTO_TEST_CASE(ranks_parts_cover_each_row_once) {
    const std::vector<std::pair<Box, std::int64_t>> boxes = {
        {{{0, 0}, {13, 5}}, 2},      {{{0}, {7}}, 4},       {{{2, 0, 0}, {1, 9, 4}}, 1},
        {{{0, 0, 0}, {3, 2, 2}}, 4}, {{{4, 0}, {1, 6}}, 2}, {{{0, 0}, {0, 5}}, 2}};
    std::int64_t total = 0;
    for (const auto& [box, element] : boxes) total += box.elements() * element;
    for (int size = 1; size <= 9; ++size) {
        std::vector<std::int64_t> bytes(static_cast<std::size_t>(size));
        std::int64_t before = 0;
        for (const auto& [box, element] : boxes) {
            std::int64_t next = 0;
            for (int rank = 0; rank < size; ++rank) {
                const WeightPiece part = share_of({.tensor = "t", .box = box, .at = 100}, element,
                                                  before, total, rank, size);
                if (part.box.elements() == 0) continue;
                BOOST_TEST(part.at == 100 + next);  // in order, without gaps
                next += part.box.elements();
                bytes[static_cast<std::size_t>(rank)] += part.box.elements() * element;
            }
            BOOST_TEST(next == box.elements());
            before += box.elements() * element;
        }
        // Equal but for rows that cannot be cut: at most two ends of 16 bytes.
        for (const std::int64_t b : bytes)
            BOOST_TEST(std::abs(b - total / size) <= 32, size << " ranks: " << b);
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
