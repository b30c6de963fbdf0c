// SPDX-License-Identifier: Apache-2.0
// Slots, pages, prefills and the callback.
#include <boost/test/unit_test.hpp>
#include <map>
#include <numeric>
#include <stdexcept>

#include "gradus/rollout/page_pool.hpp"
#include "small_engine.hpp"

namespace gradus {
namespace {

using test::distance;
using test::kRounding;
using test::kUsual;
using test::make_requests;
using test::SmallEngine;
using test::usual_requests;

/// Decode steps if a place is refilled, in order, as soon as it is free. The first token of a
/// response comes from the prefill.
long steps_of(const std::vector<Generated>& results, std::size_t slots) {
    long steps = 0;
    std::vector<std::size_t> running;
    for (std::size_t next = 0;;) {
        while (running.size() < slots && next < results.size()) {
            const std::size_t left = results[next++].tokens.size() - 1;
            if (left > 0) running.push_back(left);
        }
        if (running.empty()) return steps;
        ++steps;
        for (std::size_t& left : running) --left;
        std::erase(running, std::size_t{0});
    }
}

std::int64_t pages_of(std::int64_t tokens, std::int64_t page_size) {
    return (tokens + page_size - 1) / page_size;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(schedule)

BOOST_AUTO_TEST_CASE(pool_of_pages) {
    PagePool pool(5);
    BOOST_TEST(pool.size() == 5);
    BOOST_TEST(pool.free_pages() == 5);
    std::vector<int> users(5, 0);
    std::vector<std::int32_t> taken;
    for (int i = 0; i < 5; ++i) {
        taken.push_back(pool.take());
        BOOST_REQUIRE((taken.back() >= 0 && taken.back() < 5));
        BOOST_TEST(++users[static_cast<std::size_t>(taken.back())] == 1);
    }
    BOOST_TEST(pool.free_pages() == 0);
    // A shared page is free after its last user only.
    pool.share(taken[3]);
    pool.share(taken[3]);
    pool.drop(taken[3]);
    pool.drop(taken[3]);
    BOOST_TEST(pool.free_pages() == 0);
    pool.drop(taken[3]);
    BOOST_TEST(pool.free_pages() == 1);
    pool.drop(taken[1]);
    BOOST_TEST(pool.take() == taken[1]);  // the last freed first
    BOOST_TEST(pool.take() == taken[3]);
    for (const std::int32_t page : taken) pool.drop(page);
    BOOST_TEST(pool.free_pages() == 5);
}

BOOST_AUTO_TEST_CASE(a_free_slot_is_refilled_at_once) {
    for (const std::size_t slots : {1u, 2u, 3u, 7u, 29u, 30u, 64u}) {
        SmallEngine on({.limits = {.slots = static_cast<std::int64_t>(slots),
                                   .max_length = 48,
                                   .page_size = 4,
                                   .prefill_tokens = 48}});
        const auto results = on.generate(usual_requests(), kUsual);
        BOOST_TEST(on.calls("rollout.decode") == steps_of(results, slots));
    }
}

BOOST_AUTO_TEST_CASE(a_prompt_is_computed_once) {
    // The budget holds one prompt: as many prefills as prompts, however many samples and slots.
    for (const std::int64_t slots : {1, 2, 64}) {
        SmallEngine on(
            {.limits = {.slots = slots, .max_length = 48, .page_size = 4, .prefill_tokens = 18}});
        auto requests = make_requests({18, 18, 17, 18});
        for (Request& request : requests) request.samples = 9;
        on.generate(requests, kUsual);
        BOOST_TEST(on.calls("rollout.prefill") == 4);
    }
    // All slots free: as many prompts at once as they and the budget take.
    SmallEngine on(
        {.limits = {.slots = 64, .max_length = 48, .page_size = 4, .prefill_tokens = 48}});
    on.generate(make_requests({16, 16, 16, 16, 16, 17, 16, 15, 16, 16}), kUsual);
    BOOST_TEST(on.calls("rollout.prefill") == 4);  // 3, 2, 3, 2
}

BOOST_AUTO_TEST_CASE(prompts_are_computed_ahead_where_pages_are_left) {
    auto requests = make_requests(std::vector<std::int64_t>(64, 6));
    for (Request& request : requests) request.samples = 1;
    // 16 at once and 2 ahead: a pass for every third free slot at most, but for those that come
    // free together.
    SmallEngine on(
        {.limits = {.slots = 16, .max_length = 48, .page_size = 4, .prefill_tokens = 200}});
    const auto results = on.generate(requests, kUsual);
    BOOST_TEST(on.calls("rollout.prefill") <= 1 + (64 - 18) / 3);
    BOOST_TEST(on.calls("rollout.decode") == steps_of(results, 16));
    // 16 sequences of 36 tokens: none is left for prompts ahead, and no slot waits. With a page less,
    // one does.
    for (const std::int64_t pages : {16 * 9, 16 * 9 - 1}) {
        SmallEngine tight({.limits = {.slots = 16,
                                      .max_length = 48,
                                      .page_size = 4,
                                      .pages = pages,
                                      .prefill_tokens = 200},
                           .eos = -1});
        const auto endless = tight.generate(requests, kUsual);
        const long steps = tight.calls("rollout.decode");
        BOOST_TEST((steps == steps_of(endless, 16)) == (pages == 16 * 9));
        BOOST_TEST((tight.engine.preemptions() == 0) == (pages == 16 * 9));
    }
}

BOOST_AUTO_TEST_CASE(prompts_share_their_full_pages) {
    // One prompt of 16 tokens and 8 samples of up to 8 new ones, in pages of 4: 4 pages together
    // and 2 each, where each on its own would take 6.
    auto requests = make_requests({16});
    requests[0].samples = 8;
    GenerationOptions options = kUsual;
    options.max_new_tokens = 8;
    SmallEngine on({.limits = {.slots = 8,
                               .max_length = 24,
                               .page_size = 4,
                               .pages = 4 + 8 * 2,
                               .prefill_tokens = 24},
                    .eos = -1});
    on.generate(requests, options);
    BOOST_TEST(on.calls("rollout.decode") == 7);
    // A page less: when the samples come to their second page, the last one gives its own back. It waits
    // for the others' ends with 3 steps to go.
    SmallEngine less({.limits = {.slots = 8,
                                 .max_length = 24,
                                 .page_size = 4,
                                 .pages = 4 + 8 * 2 - 1,
                                 .prefill_tokens = 24},
                      .eos = -1});
    less.generate(requests, options);
    BOOST_TEST(less.engine.preemptions() == 1);
    BOOST_TEST(less.calls("rollout.decode") == 7 + 3);
}

// The engine itself throws where at the end of a call a page has not come back.
BOOST_AUTO_TEST_CASE(small_caches) {
    const auto requests = usual_requests();
    for (const std::int64_t page_size : {1, 3, 4, 5, 16, 48}) {
        // The fewest pages that hold the largest request, and a few more.
        std::int64_t fewest = 0;
        for (const Request& request : requests) {
            const auto n = static_cast<std::int64_t>(request.tokens.size());
            fewest = std::max(fewest, pages_of(n, page_size) - n / page_size +
                                          pages_of(n + kUsual.max_new_tokens, page_size));
        }
        const Engine::Limits limits{
            .slots = 6, .max_length = 48, .page_size = page_size, .prefill_tokens = 48};
        SmallEngine roomy({.limits = limits});
        const auto wanted = roomy.generate(requests, kUsual);
        const long steps = roomy.calls("rollout.decode");
        for (const std::int64_t more : {0, 1, 2, 5, 20, 60}) {
            SmallEngine::Setup setup{.limits = limits};
            setup.limits.pages = fewest + more;
            SmallEngine on(setup);
            BOOST_TEST_CONTEXT("page size " << page_size << ", " << setup.limits.pages
                                            << " pages") {
                BOOST_TEST(distance(on.generate(requests, kUsual), wanted) <= kRounding);
                BOOST_TEST(on.calls("rollout.decode") >= steps);
                if (more == 0) BOOST_TEST(on.calls("rollout.decode") > steps);
                BOOST_TEST(distance(on.generate(requests, kUsual), wanted) <= kRounding);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(default_pages_let_no_slot_wait) {
    auto requests = make_requests({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18});
    for (Request& request : requests) request.samples = 1;
    for (const std::int64_t page_size : {1, 4, 7, 16, 64}) {
        for (const std::int64_t slots : {1, 4, 18}) {
            SmallEngine on({.limits = {.slots = slots,
                                       .max_length = 48,
                                       .page_size = page_size,
                                       .prefill_tokens = 48},
                            .eos = -1});
            const auto results = on.generate(requests, kUsual);
            BOOST_TEST(on.calls("rollout.decode") ==
                       steps_of(results, static_cast<std::size_t>(slots)));
        }
    }
}

BOOST_AUTO_TEST_CASE(each_result_is_reported_once_as_it_ends) {
    for (const std::int64_t slots : {1, 5, 64}) {
        SmallEngine on(
            {.limits = {.slots = slots, .max_length = 48, .page_size = 4, .prefill_tokens = 48}});
        std::vector<std::size_t> order;
        std::map<std::size_t, Generated> reported;
        const auto results =
            on.generate(usual_requests(), kUsual, [&](const Generated& g, std::size_t index) {
                order.push_back(index);
                reported[index] = g;
            });
        BOOST_REQUIRE(order.size() == results.size());
        BOOST_REQUIRE(reported.size() == results.size());
        for (std::size_t i = 0; i < results.size(); ++i)
            BOOST_TEST(distance(reported.at(i), results[i]) == 0);
        // With one slot they end in their order; with as many as there are, the short ones first.
        if (slots == 1) BOOST_TEST(std::is_sorted(order.begin(), order.end()));
        if (slots == 64)
            BOOST_TEST(std::is_sorted(order.begin(), order.end(), [&](auto a, auto b) {
                return results[a].tokens.size() < results[b].tokens.size();
            }));
    }
}

BOOST_AUTO_TEST_CASE(an_exception_of_the_callback_comes_through) {
    SmallEngine on;
    const auto wanted = on.generate(usual_requests(), kUsual);
    int calls = 0;
    BOOST_CHECK_THROW(on.generate(usual_requests(), kUsual,
                                  [&](const Generated&, std::size_t) {
                                      if (++calls == 4) throw std::runtime_error("enough");
                                  }),
                      std::runtime_error);
    BOOST_TEST(calls == 4);
    BOOST_TEST(distance(on.generate(usual_requests(), kUsual), wanted) == 0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
