// SPDX-License-Identifier: Apache-2.0
// Generation by tensor ranks against generation by one rank.
#include <mpi.h>

#include <boost/test/unit_test.hpp>

#include "../mpi_fixture.hpp"
#include "../rollout/small_engine.hpp"
#include "gradus/base/error.hpp"

namespace gradus {
namespace {

using test::distance;
using test::kRounding;
using test::kUsual;
using test::make_requests;
using test::one_rank;
using test::SmallEngine;
using test::usual_requests;

using test::Mpi;
BOOST_TEST_GLOBAL_FIXTURE(Mpi);

/// The largest tensor size that divides the world and the model's two key/value heads.
int tensor_size() {
    int world = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    return world > 1 ? 2 : 1;
}

/// All that a call hands out, as numbers: results, then the indices in the order of the callback.
std::vector<float> generate(SmallEngine& on, const std::vector<Request>& requests,
                            const GenerationOptions& options, std::vector<Generated>& results) {
    std::vector<float> order;
    results = on.generate(requests, options, [&](const Generated&, std::size_t index) {
        order.push_back(static_cast<float>(index));
    });
    std::vector<float> numbers;
    for (const Generated& g : results) {
        numbers.push_back(static_cast<float>(g.finish));
        numbers.push_back(static_cast<float>(g.tokens.size()));
        numbers.insert(numbers.end(), g.tokens.begin(), g.tokens.end());
        numbers.insert(numbers.end(), g.log_probs.begin(), g.log_probs.end());
    }
    numbers.insert(numbers.end(), order.begin(), order.end());
    return numbers;
}

SmallEngine::Setup experts_setup() {
    SmallEngine::Setup setup;
    setup.config = test::tiny_experts();
    return setup;
}

bool same_on_all(Communicator& group, const std::vector<float>& values) {
    std::vector<float> sizes{static_cast<float>(values.size()), -static_cast<float>(values.size())};
    group.all_reduce(std::span(sizes), Reduce::max);
    if (sizes[0] != -sizes[1]) return false;
    std::vector<float> low = values, high = values;
    group.all_reduce(std::span(low), Reduce::min);
    group.all_reduce(std::span(high), Reduce::max);
    return low == high;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(ranks_rollout)

BOOST_AUTO_TEST_CASE(tensor_ranks_generate_what_one_rank_does) {
    const Grid grid(MPI_COMM_WORLD, tensor_size());
    for (const SamplingOptions& sampling :
         {SamplingOptions{.temperature = 0}, SamplingOptions{.temperature = 1},
          SamplingOptions{.temperature = 1.3, .top_p = 0.9, .top_k = 15}}) {
        GenerationOptions options = kUsual;
        options.sampling = sampling;
        for (const std::int64_t pages : {0, 17}) {
            const SmallEngine::Setup setup{.limits = {.slots = 5,
                                                      .max_length = 48,
                                                      .page_size = 4,
                                                      .pages = pages,
                                                      .prefill_tokens = 48}};
            SmallEngine whole(setup, one_rank()), split(setup, grid);
            std::vector<Generated> wanted, results;
            generate(whole, usual_requests(), options, wanted);
            const auto numbers = generate(split, usual_requests(), options, results);
            BOOST_TEST(distance(results, wanted) < 1e-4);
            BOOST_TEST(same_on_all(grid.tensor(), numbers));
            BOOST_TEST(split.calls("rollout.decode") == whole.calls("rollout.decode"));
            BOOST_TEST(split.engine.preemptions() == whole.engine.preemptions());
            BOOST_TEST((split.engine.preemptions() > 0) == (pages > 0));
        }
    }
}

// Data ranks have requests of their own; one may have none.
BOOST_AUTO_TEST_CASE(data_ranks_are_independent) {
    const Grid grid(MPI_COMM_WORLD, 1);
    std::vector<Request> mine;
    std::vector<Generated> wanted;
    const auto all = usual_requests();
    const auto whole = SmallEngine().generate(all, kUsual);
    for (std::size_t i = 0, first = 0; i < all.size(); ++i) {
        // The last of several ranks has nothing to do.
        const int ranks = std::max(1, grid.size() - 1);
        if (static_cast<int>(i) % ranks == grid.rank()) {
            mine.push_back(all[i]);
            for (std::int32_t s = 0; s < all[i].samples; ++s)
                wanted.push_back(whole[first + static_cast<std::size_t>(s)]);
        }
        first += static_cast<std::size_t>(all[i].samples);
    }
    BOOST_TEST(mine.empty() == (grid.size() > 1 && grid.rank() == grid.size() - 1));
    BOOST_TEST(distance(SmallEngine({}, grid).generate(mine, kUsual), wanted) <= kRounding);
}

/// The requests of one data rank and what one rank alone makes of them. The first of several ranks has
/// most, the last none.
struct Share {
    std::vector<Request> requests;
    std::vector<Generated> wanted;
};
Share share_of(int rank, int ranks, const std::vector<Request>& all, const std::vector<Generated>& whole) {
    Share share;
    std::size_t first = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        const int owner = ranks == 1 || i % 3 != 2 ? 0 : static_cast<int>(i) % (ranks - 1);
        if (owner == rank) {
            share.requests.push_back(all[i]);
            for (std::int32_t s = 0; s < all[i].samples; ++s)
                share.wanted.push_back(whole[first + static_cast<std::size_t>(s)]);
        }
        first += static_cast<std::size_t>(all[i].samples);
    }
    return share;
}

// Passes are made together, but requests and their results are each rank's own.
BOOST_AUTO_TEST_CASE(expert_ranks_generate_what_one_rank_does) {
    int world = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    ModelConfig plain = test::tiny_config();
    plain.kv_heads = 4;
    plain.moe = {.experts = 4, .per_token = 2, .intermediate = 8, .normalize = true};
    for (const ModelConfig& config : {test::tiny_experts(), plain}) {
        SmallEngine::Setup setup;
        setup.config = config;
        const auto all = usual_requests();
        const auto whole = SmallEngine(setup).generate(all, kUsual);
        for (const int tensor : {1, 2})
            for (const int expert : {1, 2, 4}) {
                if (world % (tensor * expert) != 0) continue;
                const Grid grid(MPI_COMM_WORLD, tensor, expert);
                SmallEngine::Setup tight = setup;  // passes that compute preempted sequences again
                tight.limits.pages = 17;
                SmallEngine split(tight, grid);
                const Share mine = share_of(grid.data_rank(), grid.data_size(), all, whole);
                for (int time = 0; time < 2; ++time) {  // the second finds nothing left over
                    const auto got = split.generate(mine.requests, kUsual);
                    BOOST_TEST(distance(got, mine.wanted) < 1e-4,
                               "tensor " << tensor << ", expert " << expert);
                }
                // All ranks idle.
                BOOST_TEST(split.generate({}, kUsual).empty());
            }
    }
}

// A refusal is a function of the requests: no tensor rank is left waiting.
BOOST_AUTO_TEST_CASE(all_tensor_ranks_refuse) {
    const Grid grid(MPI_COMM_WORLD, tensor_size());
    SmallEngine on({}, grid);
    auto requests = usual_requests();
    requests[4].tokens.clear();
    BOOST_CHECK_THROW(on.generate(requests, kUsual), DataError);
    std::vector<Generated> results;
    BOOST_TEST(same_on_all(grid.tensor(), generate(on, usual_requests(), kUsual, results)));
}

// One expert rank's refusal is everyone's, with the first one's reason.
BOOST_AUTO_TEST_CASE(expert_ranks_refuse_together) {
    int world = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    const Grid grid(MPI_COMM_WORLD, 1, world);
    SmallEngine on(experts_setup(), grid);
    const auto refuse = [&](const std::vector<Request>& requests, const std::string& reason) {
        BOOST_CHECK_EXCEPTION(on.generate(requests, kUsual), DataError, [&](const DataError& e) {
            return std::string(e.what()).find(reason) != std::string::npos;
        });
    };
    const auto good = make_requests({5, 8});
    auto empty = good, none = good;
    empty[1].tokens.clear();
    none[0].samples = 0;
    for (int culprit = 0; culprit < world; ++culprit) {
        refuse(grid.rank() == culprit ? empty : good, "prompt 103 is empty");
        // The ranks behind it refuse for another reason.
        refuse(grid.rank() < culprit ? good : grid.rank() == culprit ? none : empty,
               "prompt 100: 0 samples");
    }
    BOOST_TEST(distance(on.generate(good, kUsual),
                        SmallEngine(experts_setup()).generate(good, kUsual)) < 1e-4);
}

// on_pass, which tells the watchdog, comes before each pass: prefills, decode steps, and those that a
// rank makes for the sake of others.
BOOST_AUTO_TEST_CASE(expert_ranks_report_each_pass) {
    int world = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    const Grid grid(MPI_COMM_WORLD, 1, world);
    SmallEngine::Setup setup = experts_setup();
    setup.limits.pages = 17;
    SmallEngine on(setup, grid);
    const bool works = grid.rank() == world - 1;  // the others idle
    std::int64_t passes = 0;
    GenerationOptions options = kUsual;
    options.on_pass = [&] { ++passes; };
    on.generate(works ? usual_requests() : std::vector<Request>{}, options);
    const std::int64_t prefills = on.calls("rollout.prefill"), steps = on.calls("rollout.decode");
    BOOST_TEST((prefills > 1) == works);
    BOOST_TEST((steps > 1) == works);
    BOOST_TEST((on.engine.preemptions() > 0) == works);
    // And once more, to find that none is left.
    BOOST_TEST(passes == grid.expert().sum(prefills + steps) + 1);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
