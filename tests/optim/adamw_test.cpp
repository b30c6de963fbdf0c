// SPDX-License-Identifier: Apache-2.0
#include "gradus/optim/adamw.hpp"

#include <mpi.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "../device/test_device.hpp"
#include "../mpi_fixture.hpp"
#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

using test::Mpi;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);

const Grid& grid() {
    static const Grid one(MPI_COMM_SELF, 1);
    return one;
}

ModelConfig config() {
    return {.vocab_size = 13,
            .hidden = 8,
            .layers = 2,
            .heads = 2,
            .kv_heads = 2,
            .head_dim = 4,
            .intermediate = 10,
            .max_positions = 16,
            .qkv_bias = true,
            .tied = false};
}

struct Setup {
    explicit Setup(AdamWOptions options, const Grid& g = grid(), bool planned = false)
        : arena(planned ? nullptr : device.get()),
          ops(test::make_test_ops({.max_tokens = 8,
                                   .max_length = 8,
                                   .max_head_dim = 4,
                                   .max_heads = 2,
                                   .max_width = 8},
                                  arena)),
          parameters(config(), g, arena, true, "policy"),
          optimizer(parameters, g, *ops, arena, options) {
        if (!planned) parameters.initialize(*ops, 3, 0.1);
    }
    std::unique_ptr<Device> device = test::make_test_device();
    Arena arena;
    std::unique_ptr<Ops> ops;
    ParameterSet parameters;
    AdamW optimizer;
};

/// Gradients of one step: a function of the step and the element.
void set_gradients(ParameterSet& parameters, std::uint64_t step) {
    std::uint64_t tensor = 0;
    for (Parameter& p : parameters.all()) {
        std::uint32_t at = 0;
        for (float& g : p.grad.floats())
            g = static_cast<float>(0.3 * random_normal({.seed = 4,
                                                        .stream = Stream::test,
                                                        .step = step,
                                                        .prompt = tensor,
                                                        .position = at++})[0]);
        ++tensor;
    }
}

using Columns = std::vector<std::vector<double>>;

Columns columns_of(const ParameterSet& parameters, Tensor Parameter::* member) {
    Columns columns;
    for (const Parameter& p : parameters.all()) {
        const auto x = (p.*member).floats();
        columns.emplace_back(x.begin(), x.end());
    }
    return columns;
}

/// Algorithm 2 of Loshchilov and Hutter 2019 (decoupled decay, schedule in lr) in double.
struct Reference {
    explicit Reference(const ParameterSet& parameters)
        : value(columns_of(parameters, &Parameter::value)), m(value), v(value) {
        for (const Parameter& p : parameters.all()) decay.push_back(p.global.rank() > 1);
        for (Columns* x : {&m, &v})
            for (auto& column : *x) std::fill(column.begin(), column.end(), 0.0);
    }

    double step(Columns grad, const AdamWOptions& o, double lr) {
        double squares = 0;
        for (const auto& column : grad)
            for (const double g : column) squares += g * g;
        const double norm = std::sqrt(squares);
        const double scale = o.clip > 0 && norm > o.clip ? o.clip / norm : 1;
        ++t;
        for (std::size_t i = 0; i < value.size(); ++i) {
            for (std::size_t k = 0; k < value[i].size(); ++k) {
                const double g = grad[i][k] * scale;
                m[i][k] = o.beta1 * m[i][k] + (1 - o.beta1) * g;
                v[i][k] = o.beta2 * v[i][k] + (1 - o.beta2) * g * g;
                const double m_hat = m[i][k] / (1 - std::pow(o.beta1, t));
                const double v_hat = v[i][k] / (1 - std::pow(o.beta2, t));
                value[i][k] -= lr * (m_hat / (std::sqrt(v_hat) + o.eps) +
                                     (decay[i] ? o.weight_decay * value[i][k] : 0.0));
            }
        }
        return norm;
    }

    Columns value, m, v;
    std::vector<bool> decay;
    int t = 0;
};

/// Largest difference beside the column's root mean square.
double distance(const Columns& a, const Columns& b) {
    double worst = a.size() == b.size() ? 0 : INFINITY;
    for (std::size_t i = 0; i < a.size(); ++i) {
        double squares = 0, difference = 0;
        for (std::size_t k = 0; k < a[i].size(); ++k) {
            squares += b[i][k] * b[i][k];
            difference = std::max(difference, std::abs(a[i][k] - b[i][k]));
        }
        worst = std::max(worst, difference /
                                    std::sqrt(squares / static_cast<double>(a[i].size()) + 1e-30));
    }
    return worst;
}

Columns slab_columns(const AdamW& optimizer, const std::string& group) {
    Columns columns;
    for (const Slab& slab : optimizer.slabs()) {
        if (slab.tensor.rfind(group + "/", 0) != 0) continue;
        const auto* x = static_cast<const float*>(slab.data);
        columns.emplace_back(x, x + slab.box.elements());
    }
    return columns;
}

/// A run directory with one checkpoint of `slabs`; removed at the end.
struct StoredRun {
    explicit StoredRun(std::vector<Slab> slabs) {
        for (Slab& slab : slabs) slab.on_device = false;  // tests' memory is the host's, too
        std::filesystem::remove_all(dir);
        std::filesystem::create_directories(dir);
        Arena arena(nullptr);
        CheckpointWriter writer(grid().world(), {.run_dir = dir.string(), .background = false}, 0,
                                arena);
        writer.write(1, slabs, Json::object(), "");
        writer.finish();
    }
    ~StoredRun() { std::filesystem::remove_all(dir); }
    CheckpointReader reader() const {
        return CheckpointReader(find_checkpoint(dir.string(), [](const std::string&) {}));
    }
    std::filesystem::path dir =
        std::filesystem::temp_directory_path() / fmt::format("gradus_adamw_{}", ::getpid());
};

}  // namespace

BOOST_AUTO_TEST_SUITE(adamw)

BOOST_AUTO_TEST_CASE(rows_are_cut_evenly_and_completely) {
    for (const std::int64_t rows : {0, 1, 5, 8, 4097}) {
        for (const int size : {1, 2, 3, 8, 64}) {
            std::int64_t at = 0, least = rows, most = 0;
            for (int r = 0; r < size; ++r) {
                const OwnedRows owned = owned_rows(rows, r, size);
                BOOST_TEST(owned.begin == at);
                at = owned.end;
                least = std::min(least, owned.end - owned.begin);
                most = std::max(most, owned.end - owned.begin);
            }
            BOOST_TEST(at == rows);
            BOOST_TEST(most - least <= 1);
        }
    }
}

BOOST_AUTO_TEST_CASE(steps_are_those_of_the_formula) {
    const AdamWOptions clipped{.weight_decay = 0.2, .clip = 1.0};
    const AdamWOptions loose{.weight_decay = 0, .clip = 1e6};
    const AdamWOptions none{.beta1 = 0.8, .beta2 = 0.99, .eps = 1e-3, .clip = 0};
    for (const AdamWOptions& options : {clipped, loose, none}) {
        Setup s(options);
        Reference reference(s.parameters);
        for (std::uint64_t step = 0; step < 6; ++step) {
            set_gradients(s.parameters, step);
            const Columns grad = columns_of(s.parameters, &Parameter::grad);
            const double lr = 0.01 / static_cast<double>(1 + step);
            const double norm = s.optimizer.step(lr);
            BOOST_TEST(norm == reference.step(grad, options, lr),
                       boost::test_tools::tolerance(1e-6));
            BOOST_TEST(distance(columns_of(s.parameters, &Parameter::value), reference.value) <
                       5e-6);
            BOOST_TEST(distance(slab_columns(s.optimizer, "adam_m"), reference.m) < 5e-6);
            BOOST_TEST(distance(slab_columns(s.optimizer, "adam_v"), reference.v) < 2e-5);
            for (const float g : s.parameters.flat_grads().floats()) BOOST_REQUIRE(g == 0);
        }
        BOOST_TEST(s.optimizer.steps() == 6);
    }
}

BOOST_AUTO_TEST_CASE(padding_stays_zero) {
    Setup s({});
    set_gradients(s.parameters, 0);
    s.optimizer.step(0.1);
    double all = 0, own = 0;
    for (const float x : s.parameters.flat_values().floats()) all += x != 0;
    for (const Parameter& p : s.parameters.all())
        for (const float x : p.value.floats()) own += x != 0;
    BOOST_TEST(all == own);
}

BOOST_AUTO_TEST_CASE(a_gradient_that_is_no_number_changes_nothing) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity()}) {
        Setup s({});
        set_gradients(s.parameters, 0);
        s.optimizer.step(0.1);
        const auto all = [&] {
            return std::tuple(columns_of(s.parameters, &Parameter::value),
                              slab_columns(s.optimizer, "adam_m"),
                              slab_columns(s.optimizer, "adam_v"));
        };
        const auto before = all();
        set_gradients(s.parameters, 1);
        s.parameters.at("model.layers.1.mlp.up_proj.weight").grad.floats()[5] = bad;
        s.parameters.at("model.norm.weight").grad.floats()[0] = bad;
        BOOST_CHECK_EXCEPTION(s.optimizer.step(0.1), NumericError, [](const NumericError& e) {
            return std::string(e.what()).find("model.layers.1.mlp.up_proj.weight") !=
                   std::string::npos;
        });
        BOOST_TEST((all() == before));
        BOOST_TEST(s.optimizer.steps() == 1);
    }
}

BOOST_AUTO_TEST_CASE(slabs_name_every_tensor_whole) {
    Setup s({});
    std::map<std::string, Slab> slabs;
    for (const Slab& slab : s.optimizer.slabs())
        BOOST_TEST(slabs.emplace(slab.tensor, slab).second);
    BOOST_TEST(slabs.size() == 3 * s.parameters.all().size());
    for (const Parameter& p : s.parameters.all()) {
        for (const char* group : {"weights/", "adam_m/", "adam_v/"}) {
            const Slab& slab = slabs.at(group + p.name);
            BOOST_TEST((slab.global == p.global));
            BOOST_TEST((slab.box == p.box));
        }
        BOOST_TEST(slabs.at("weights/" + p.name).data == p.value.data());
    }
    const auto reference = parameter_slabs(s.parameters, grid(), "reference", *s.ops);
    BOOST_TEST(reference.size() == s.parameters.all().size());
    BOOST_TEST(reference[0].tensor == "reference/" + s.parameters.all()[0].name);
}

BOOST_AUTO_TEST_CASE(a_rank_s_share_on_paper) {
    // Rank 0 of 4 x 2: a quarter of the rows of its half of a tensor.
    const Grid paper = Grid::planned(4, 2);
    Setup s({}, paper, true);
    BOOST_TEST(s.arena.planned());
    bool seen = false;
    for (const Slab& slab : s.optimizer.slabs()) {
        if (slab.tensor != "adam_v/model.layers.0.self_attn.q_proj.weight") continue;
        seen = true;
        BOOST_TEST((slab.box == Box{{0, 0}, {1, 8}}));
        BOOST_TEST((slab.global == Shape{8, 8}));
    }
    BOOST_TEST(seen);
}

BOOST_AUTO_TEST_CASE(goes_on_from_a_checkpoint_with_the_same_bits) {
    Setup s({});
    for (std::uint64_t step = 0; step < 3; ++step) {
        set_gradients(s.parameters, step);
        s.optimizer.step(0.01);
    }
    const StoredRun stored(s.optimizer.slabs());
    Setup again({});
    const CheckpointReader reader = stored.reader();
    load_parameters(again.parameters, reader, "weights", *again.ops);
    again.optimizer.load(reader, 3);
    for (Setup* each : {&s, &again}) {
        set_gradients(each->parameters, 3);
        each->optimizer.step(0.01);
    }
    BOOST_TEST(again.optimizer.steps() == 4);
    BOOST_TEST((columns_of(s.parameters, &Parameter::value) ==
                columns_of(again.parameters, &Parameter::value)));
    BOOST_TEST((slab_columns(s.optimizer, "adam_m") == slab_columns(again.optimizer, "adam_m")));
    BOOST_TEST((slab_columns(s.optimizer, "adam_v") == slab_columns(again.optimizer, "adam_v")));
}

BOOST_AUTO_TEST_CASE(what_a_checkpoint_lacks_is_named) {
    Setup s({});
    std::vector<Slab> slabs = parameter_slabs(s.parameters, grid(), "weights", *s.ops);
    std::erase_if(slabs,
                  [](const Slab& slab) { return slab.tensor == "weights/model.norm.weight"; });
    for (Slab& slab : slabs) {
        if (slab.tensor != "weights/model.layers.0.mlp.up_proj.weight") continue;
        slab.global = {8, 10};
        slab.box = {{0, 0}, {8, 10}};
    }
    auto names = [](const char* what) {
        return [what](const CheckpointError& e) {
            return std::string(e.what()).find(what) != std::string::npos;
        };
    };
    const StoredRun stored(slabs);
    const CheckpointReader reader = stored.reader();
    BOOST_CHECK_EXCEPTION(load_parameters(s.parameters, reader, "weights", *s.ops), CheckpointError,
                          names("weights/model.layers.0.mlp.up_proj.weight is f32 [8, 10], the "
                                "model needs floats [10, 8]"));
    BOOST_CHECK_EXCEPTION(load_parameters(s.parameters, reader, "reference", *s.ops), CheckpointError,
                          names("no tensor reference/model.embed_tokens.weight"));
    BOOST_CHECK_EXCEPTION(s.optimizer.load(reader, 1), CheckpointError,
                          names("no tensor adam_m/model.embed_tokens.weight"));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
