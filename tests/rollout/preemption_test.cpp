// SPDX-License-Identifier: Apache-2.0
// Caches that do not hold all that runs: sequences are preempted, and nothing else changes.
#include <boost/test/unit_test.hpp>

#include "small_engine.hpp"

namespace gradus {
namespace {

using test::distance;
using test::kRounding;
using test::kUsual;
using test::make_requests;
using test::SmallEngine;
using test::usual_requests;

std::int64_t pages_of(std::int64_t tokens, std::int64_t page_size) {
    return (tokens + page_size - 1) / page_size;
}

/// The fewest pages that the engine takes these requests with: a prompt and one sequence of it.
std::int64_t fewest_pages(const std::vector<Request>& requests, std::int64_t page_size,
                          std::int64_t new_tokens) {
    std::int64_t fewest = 0;
    for (const Request& request : requests) {
        const auto n = static_cast<std::int64_t>(request.tokens.size());
        fewest = std::max(fewest, pages_of(n, page_size) - n / page_size + pages_of(n + new_tokens, page_size));
    }
    return fewest;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(preemption)

BOOST_AUTO_TEST_CASE(the_last_started_waits_and_resumes) {
    // A prompt of a page, two samples of 8 tokens: 2 pages each beside the prompt's. One page short, the
    // second sample makes room after 4 steps and has 3 left when the first one ends.
    auto requests = make_requests({4});
    requests[0].samples = 2;
    GenerationOptions options = kUsual;
    options.max_new_tokens = 8;
    for (const std::int64_t pages : {5, 4}) {
        SmallEngine on({.limits = {.slots = 4,
                                   .max_length = 12,
                                   .page_size = 4,
                                   .pages = pages,
                                   .prefill_tokens = 12},
                        .eos = -1});
        std::vector<std::size_t> order;
        on.generate(requests, options, [&](const Generated&, std::size_t i) { order.push_back(i); });
        BOOST_TEST(on.engine.preemptions() == (pages == 5 ? 0 : 1));
        BOOST_TEST(on.calls("rollout.prefill") == (pages == 5 ? 1 : 2));
        BOOST_TEST(on.calls("rollout.decode") == (pages == 5 ? 7 : 10));
        BOOST_TEST((order == std::vector<std::size_t>{0, 1}));
    }
}

BOOST_AUTO_TEST_CASE(nothing_is_held_back_for_lengths_that_do_not_come) {
    // Eight responses that may take 8 pages each take one, and run at once in a cache of 18.
    auto requests = make_requests({4});
    requests[0].samples = 8;
    SmallEngine on({.limits = {.slots = 8,
                               .max_length = 36,
                               .page_size = 4,
                               .pages = 18,
                               .prefill_tokens = 36},
                    .eos = -1});
    GenerationOptions options = kUsual;
    options.max_new_tokens = 32;
    const auto endless = on.generate(requests, options);
    BOOST_TEST(on.engine.preemptions() > 0);
    const long before = on.calls("rollout.decode");
    // Every token of each sample but its first ends it.
    options.end_tokens.clear();
    for (const Generated& g : endless) {
        std::vector<TokenId> rest(g.tokens.begin() + 1, g.tokens.begin() + 4);
        options.end_tokens.insert(options.end_tokens.end(), rest.begin(), rest.end());
    }
    on.generate(requests, options);
    BOOST_TEST(on.engine.preemptions() == 0);
    BOOST_TEST(on.calls("rollout.decode") - before <= 3);
}

// Groups of samples, prompts that wait in the cache, texts that end a response.
BOOST_AUTO_TEST_CASE(results_do_not_depend_on_the_cache) {
    const auto requests = usual_requests();
    GenerationOptions stopping = kUsual;
    stopping.stop = {"qu", "a", "zz"};
    for (const std::int64_t page_size : {1, 4}) {
        for (const TokenId eos : {27, -1}) {
            for (const GenerationOptions& options : {kUsual, stopping}) {
                SmallEngine::Setup setup{
                    .limits = {.slots = 12, .max_length = 48, .page_size = page_size, .prefill_tokens = 48},
                    .eos = eos};
                SmallEngine roomy(setup);
                const auto wanted = roomy.generate(requests, options);
                BOOST_TEST(roomy.engine.preemptions() == 0);
                const std::int64_t fewest = fewest_pages(requests, page_size, kUsual.max_new_tokens);
                std::int64_t preemptions = 0;
                for (const std::int64_t pages : {fewest, fewest + 5, 2 * fewest, 3 * fewest}) {
                    setup.limits.pages = pages;
                    SmallEngine on(setup);
                    BOOST_TEST_CONTEXT("page size " << page_size << ", eos " << eos << ", " << pages
                                                    << " pages, stops " << options.stop.size()) {
                        const auto first = on.generate(requests, options);
                        const std::int64_t count = on.engine.preemptions();
                        preemptions += count;
                        BOOST_TEST(distance(first, wanted) <= kRounding);
                        BOOST_TEST(distance(on.generate(requests, options), first) == 0);
                        BOOST_TEST(on.engine.preemptions() == count);
                    }
                }
                BOOST_TEST(preemptions > 0);
            }
        }
    }
}

// Their prompt and response may be too long for a pass: all of their pages are reserved, as those of
// the others are not.
BOOST_AUTO_TEST_CASE(what_could_not_be_computed_again_is_not_preempted) {
    const auto requests = usual_requests();
    SmallEngine::Setup setup{
        .limits = {.slots = 12, .max_length = 48, .page_size = 4, .prefill_tokens = 48}, .eos = -1};
    const auto wanted = SmallEngine(setup).generate(requests, kUsual);
    for (const std::int64_t prefill : {18, 34, 38, 44, 48}) {
        for (const std::int64_t pages : {13, 14, 20, 40}) {
            setup.limits.prefill_tokens = prefill;
            setup.limits.pages = pages;
            SmallEngine on(setup);
            BOOST_TEST_CONTEXT("prefill " << prefill << ", " << pages << " pages") {
                BOOST_TEST(distance(on.generate(requests, kUsual), wanted) <= kRounding);
                if (prefill == 18) BOOST_TEST(on.engine.preemptions() == 0);
                if (prefill == 48 && pages > 13) BOOST_TEST(on.engine.preemptions() > 0);
            }
        }
    }
}

// Any requests and limits come to an end, and the pages come back (the engine throws otherwise).
BOOST_AUTO_TEST_CASE(nothing_gets_stuck) {
    RandomSequence random({.seed = 3, .stream = Stream::test});
    std::int64_t preemptions = 0;
    for (int time = 0; time < 150; ++time) {
        std::vector<std::int64_t> lengths;
        for (std::int64_t n = random.integer(1, 12); n > 0; --n) lengths.push_back(random.integer(1, 18));
        auto requests = make_requests(lengths);
        for (Request& request : requests) request.samples = static_cast<std::int32_t>(random.integer(1, 9));
        GenerationOptions options = kUsual;
        options.max_new_tokens = random.integer(1, 30);
        const std::int64_t page_size = random.integer(1, 7);
        SmallEngine::Setup setup{.limits = {.slots = random.integer(1, 20),
                                            .max_length = 48,
                                            .page_size = page_size,
                                            .prefill_tokens = random.integer(18, 60)},
                                 .eos = time % 2 == 0 ? 27 : -1};
        SmallEngine roomy(setup);
        const auto wanted = roomy.generate(requests, options);
        BOOST_TEST(roomy.engine.preemptions() == 0);
        setup.limits.pages = fewest_pages(requests, page_size, options.max_new_tokens) + random.integer(0, 12);
        SmallEngine on(setup);
        BOOST_TEST_CONTEXT("time " << time) {
            BOOST_TEST(distance(on.generate(requests, options), wanted) <= kRounding);
            preemptions += on.engine.preemptions();
        }
    }
    BOOST_TEST(preemptions > 100);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
