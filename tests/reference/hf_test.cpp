// SPDX-License-Identifier: Apache-2.0
// Models of Hugging Face's transformers (GRADUS_REFERENCE/hf): logits, loss, all gradients and a
// greedy continuation, on the weights and tokens in each folder; on one rank, and on two with the
// sequences, the tensors or the experts split.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <set>

#include "../model/instance.hpp"
#include "../mpi_fixture.hpp"
#include "gradus/model/hugging_face.hpp"
#include "safetensors.hpp"

namespace gradus {
namespace {

using test::Floats;
using test::Instance;
using test::Mpi;
using test::Packed;
using test::SafeTensors;
using test::Tokens;

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

/// Copies what lies in `box` of a whole tensor into this rank's memory.
void cut(const Floats& whole, const Parameter& p, float* out) {
    const int rank = p.global.rank();
    const auto dim = [&](const Shape& shape, int from_last, std::int64_t missing) {
        return from_last < rank ? shape[rank - 1 - from_last] : missing;
    };
    const std::int64_t columns = dim(p.box.count, 0, 1), width = dim(p.global, 0, 1);
    for (std::int64_t e = 0; e < dim(p.box.count, 2, 1); ++e)
        for (std::int64_t r = 0; r < dim(p.box.count, 1, 1); ++r) {
            const std::int64_t matrix = dim(p.box.offset, 2, 0) + e;
            const std::int64_t row = matrix * dim(p.global, 1, 1) + dim(p.box.offset, 1, 0) + r;
            out = std::copy_n(whole.begin() + row * width + dim(p.box.offset, 0, 0), columns, out);
        }
}

std::vector<std::int64_t> dims_of(const Shape& shape) {
    std::vector<std::int64_t> dims;
    for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
    return dims;
}

/// "...mlp.experts.gate_proj.weight" -> its parts "...mlp.experts." and "gate_proj.weight".
std::pair<std::string, std::string> expert_name(const std::string& name) {
    const auto at = name.find("experts.") + 8;
    return {name.substr(0, at), name.substr(at)};
}

/// The whole of a parameter in the folder: experts are stacked in order of their numbers.
Floats whole_weight(Case& c, const Parameter& p, std::set<std::string>& unused) {
    Floats whole;
    const auto take = [&](const std::string& name, Shape shape) {
        const auto& entry = c.weights.at(name);
        BOOST_REQUIRE_MESSAGE(entry.shape == dims_of(shape),
                              c.name << ": " << name << " is " << shape.text() << " here");
        whole.insert(whole.end(), entry.floats.begin(), entry.floats.end());
        unused.erase(name);
    };
    if (!p.expert) {
        take(p.name, p.global);
        return whole;
    }
    const auto [prefix, suffix] = expert_name(p.name);
    for (std::int64_t e = 0; e < p.global[0]; ++e)
        take(fmt::format("{}{}.{}", prefix, e, suffix), {p.global[1], p.global[2]});
    return whole;
}

void load(Case& c, ParameterSet& parameters) {
    std::set<std::string> unused;
    for (const auto& [name, entry] : c.weights.all()) unused.insert(name);
    for (Parameter& p : parameters.all()) cut(whole_weight(c, p, unused), p, p.value.f32());
    for (const auto& name : unused)
        BOOST_TEST(false, c.name << ": the model has no place for " << name);
}

/// The recorded gradient of a parameter; transformers stacks experts, gate and up in one.
Floats whole_gradient(Case& c, const Parameter& p) {
    const auto recorded = [&](const std::string& name) {
        const auto& floats = c.expected.at("grad." + name).floats;
        return Floats(floats.begin(), floats.end());
    };
    if (!p.expert) return recorded(p.name);
    const auto [prefix, suffix] = expert_name(p.name);
    if (suffix == "down_proj.weight") return recorded(prefix + "down_proj");
    const auto& both = c.expected.at("grad." + prefix + "gate_up_proj").floats;
    const std::int64_t one = p.global[1] * p.global[2];
    Floats out;
    for (std::int64_t e = 0; e < p.global[0]; ++e) {
        const auto first = both.begin() + (2 * e + (suffix == "up_proj.weight" ? 1 : 0)) * one;
        out.insert(out.end(), first, first + one);
    }
    return out;
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
        const auto rows = on.model.logits(on.parameters, hidden.rows(at, n)).floats();
        out.insert(out.end(), rows.begin(), rows.end());
    }
    return out;
}

/// Ranks of a test run; data ranks take the sequences in turn.
struct Layout {
    int tensor = 1, expert = 1;
    std::string text(const Grid& grid) const {
        return fmt::format(" on {} x {} ranks{}", grid.data_size(), tensor, expert > 1 ? ", experts split" : "");
    }
};

/// Mean cross entropy of the tokens that have one before them, and its gradients.
struct Training {
    double loss = 0;
    Floats logits, gradients;
};

Training train(Instance& on, const Grid& grid, Packed& packed) {
    Training result;
    const Tensor hidden = on.model.forward(on.parameters, packed.batch(), false);
    result.logits = all_logits(on, hidden);
    const auto scores = test::score(on, hidden, packed.targets(), 1);
    const std::int64_t rows = packed.rows();
    const auto has_target = [&](std::int64_t t) { return packed.targets().i32()[t] >= 0; };
    std::int64_t count = 0;
    for (std::int64_t t = 0; t < rows; ++t) count += has_target(t);
    count = grid.data().sum(count);
    test::ScoreGradients loss{.d_log_prob = Floats(static_cast<std::size_t>(rows)),
                              .d_entropy = Floats(static_cast<std::size_t>(rows))};
    for (std::int64_t t = 0; t < rows; ++t) {
        if (!has_target(t)) continue;
        const auto i = static_cast<std::size_t>(t);
        result.loss -= scores.log_prob[i] / static_cast<double>(count);
        loss.d_log_prob[i] = -1 / static_cast<float>(count);
    }
    result.loss = grid.data().sum(result.loss);
    on.ops->fill(on.parameters.flat_grads(), 0);
    test::add_gradients(on, packed, loss);
    grid.data().all_reduce(on.parameters.dense_grads().floats(), Reduce::sum);
    grid.expert_data().all_reduce(on.parameters.expert_grads().floats(), Reduce::sum);
    result.gradients = test::copy_of(on.parameters.flat_grads());
    return result;
}

/// Sums of a GPU are longer and in another order; its exponentials and sines others.
const double kDevice = test::on_cuda() ? 10 : 1;
const double kLogits = 1e-5 * kDevice, kLoss = 1e-6 * kDevice, kGradient = 2e-5 * kDevice;

/// The part of something recorded a token that belongs to this rank's sequences.
Floats my_rows(const std::vector<float>& all, std::size_t sequences, const Grid& grid) {
    Floats mine;
    const auto one = static_cast<std::ptrdiff_t>(all.size() / sequences);
    for (std::size_t s = 0; s < sequences; ++s)
        if (static_cast<int>(s) % grid.data_size() == grid.data_rank())
            mine.insert(mine.end(), all.begin() + static_cast<std::ptrdiff_t>(s) * one,
                        all.begin() + static_cast<std::ptrdiff_t>(s + 1) * one);
    return mine;
}

void compare_training(Case& c, const Grid& grid, Instance& on, const Training& got,
                      const std::string& how) {
    const auto sequences = static_cast<std::size_t>(c.expected.at("input_ids").shape.at(0));
    c.compare(test::max_error(got.logits, my_rows(c.expected.at("logits").floats, sequences, grid)),
              kLogits, "logits" + how);
    const double loss = c.expected.at("loss").floats.at(0);
    c.compare(std::abs(got.loss - loss) / loss, kLoss, "loss" + how);
    std::set<std::string> unseen;
    for (const auto& [name, entry] : c.expected.all())
        if (name.starts_with("grad.")) unseen.insert(name);
    for (const Parameter& p : on.parameters.all()) {
        if (!p.trained) continue;
        Floats wanted(static_cast<std::size_t>(p.box.elements()));
        cut(whole_gradient(c, p), p, wanted.data());
        c.compare(test::norm_error(p.grad.floats(), wanted), kGradient, "gradient of " + p.name + how);
        const auto name = p.expert ? expert_name(p.name) : std::pair{p.name, std::string()};
        unseen.erase("grad." + p.name);
        unseen.erase("grad." + name.first + "down_proj");
        unseen.erase("grad." + name.first + "gate_up_proj");
    }
    for (const std::string& name : unseen) BOOST_TEST(false, c.name << ": " << name << " was not compared");
}

bool same_bits(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_training(Case& c, const Layout& layout) {
    const Grid grid(MPI_COMM_WORLD, layout.tensor, layout.expert);
    std::vector<Tokens> sequences;
    const std::vector<Tokens> all = rows_of(c.expected.at("input_ids"));
    for (std::size_t i = 0; i < all.size(); ++i)
        if (static_cast<int>(i) % grid.data_size() == grid.data_rank()) sequences.push_back(all[i]);
    Packed packed(sequences);
    const auto run = [&](Recompute recompute, std::int64_t head_chunk, const std::string& how) {
        Instance on(c.config, grid,
                    {.max_tokens = packed.rows(), .max_length = packed.batch().packing.max_length,
                     .recompute = recompute, .head_chunk = head_chunk});
        load(c, on.parameters);
        Training result = train(on, grid, packed);
        compare_training(c, grid, on, result, how + layout.text(grid));
        return result;
    };
    const Training whole = run(Recompute::none, packed.rows(), "");
    for (const Recompute recompute : {Recompute::attention, Recompute::block}) {
        const std::string what = recompute == Recompute::block ? "blocks" : "attention";
        const Training again = run(recompute, packed.rows(), " with " + what + " computed again");
        BOOST_TEST(same_bits(whole.gradients, again.gradients),
                   c.name << ": computing " << what << " again changes bits");
    }
    BOOST_REQUIRE(packed.rows() % 7 != 0);
    run(Recompute::none, 7, " with the head in chunks of 7");
}

std::int32_t best(std::span<const float> logits) {
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// Greedy continuation: prefill, then a token at a time over a paged cache; each time the last
/// token's hidden state beside that of a pass over all tokens.
void check_greedy(Case& c, const Layout& layout) {
    const Grid grid(MPI_COMM_WORLD, layout.tensor, layout.expert);
    const Tokens prompt = rows_of(c.expected.at("prompt")).at(0);
    const Tokens wanted = rows_of(c.expected.at("greedy")).at(0);
    Packed packed({prompt});
    const auto length = static_cast<std::int64_t>(prompt.size() + wanted.size());
    Instance on(c.config, grid,
                {.max_tokens = length, .max_length = length, .train = false, .max_decode = 1});
    load(c, on.parameters);
    constexpr std::int64_t kPageSize = 4;
    test::Pages pages(c.config, layout.tensor, 1, kPageSize, length / kPageSize + 1);
    test::Numbers slots;
    for (std::int64_t t = 0; t < packed.rows(); ++t) slots.push_back(pages.slot(0, t));
    Tensor hidden = on.model.prefill(on.parameters, packed.batch(), pages.caches(),
                                     test::view(slots)).rows(packed.rows() - 1, 1);
    Tokens got, all = prompt;
    while (got.size() < wanted.size()) {
        got.push_back(best(on.model.logits(on.parameters, hidden).floats()));
        all.push_back(got.back());
        const auto tokens = static_cast<std::int32_t>(all.size());
        const Floats step = test::copy_of(test::decode_step(on, pages, {got.back()}, {tokens}));
        Packed again({all});
        const Floats pass = test::copy_of(
            on.model.forward(on.parameters, again.batch(), false).rows(tokens - 1, 1));
        c.compare(test::max_error(step, pass), kLogits, fmt::format("decoding step {}{}", got.size(), layout.text(grid)));
        hidden = test::decode_step(on, pages, {got.back()}, {tokens});
    }
    ++c.compared;
    BOOST_TEST(got == wanted, boost::test_tools::per_element());
}

/// The layouts that this number of ranks allows.
std::vector<Layout> layouts(const ModelConfig& config) {
    int world = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (world == 1) return {{}};
    std::vector<Layout> all = {{.tensor = 1}, {.tensor = world}};
    if (config.moe.experts > 0) all.push_back({.expert = world});
    return all;
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(Mpi);

BOOST_AUTO_TEST_CASE(models_of_transformers) {
    const char* root = std::getenv("GRADUS_REFERENCE");
    if (root == nullptr) {
        fmt::print("skipped: GRADUS_REFERENCE is not set\n");
        return;
    }
    std::set<std::filesystem::path> folders;
    for (const auto& entry : std::filesystem::directory_iterator(std::string(root) + "/hf"))
        if (std::filesystem::exists(entry.path() / "config.json")) folders.insert(entry.path());
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (const auto& folder : folders) {
        const std::string file = folder / "config.json";
        Case c{.name = "hf/" + folder.filename().string(),
               .config = read_hugging_face_config(Json::parse(read_file(file)), file).model,
               .weights = SafeTensors(folder / "model.safetensors"),
               .expected = SafeTensors(folder / "expected.safetensors")};
        BOOST_TEST_CONTEXT(c.name) {
            for (const Layout& layout : layouts(c.config)) {
                check_training(c, layout);
                check_greedy(c, layout);
            }
        }
        if (rank == 0) fmt::print("reference {}: {} cases\n", c.name, c.compared);
    }
    BOOST_TEST(!folders.empty(), "there is no folder in " << root << "/hf");
}

}  // namespace gradus
