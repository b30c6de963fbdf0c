// SPDX-License-Identifier: Apache-2.0
// What the engine generates: against the model without a cache, against the trainer, and the same
// whatever the limits and the company.
#include <boost/test/unit_test.hpp>
#include <set>

#include "../mpi_fixture.hpp"
#include "../train/tiny.hpp"
#include "gradus/base/error.hpp"
#include "small_engine.hpp"

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

const std::vector<Generated>& usual_results() {
    static const std::vector<Generated> results = SmallEngine().generate(usual_requests(), kUsual);
    return results;
}

SmallEngine::Setup with(Engine::Limits limits, std::int64_t head_chunk = 3) {
    return {.limits = limits, .head_chunk = head_chunk};
}

/// One response without batch and cache: the whole sequence through the model for each token.
Generated generate_naively(SmallEngine& on, const Request& request, std::int32_t sample,
                           const GenerationOptions& options) {
    Generated out{.prompt = request.prompt, .sample = sample, .finish = FinishReason::length};
    std::vector<TokenId> all = request.tokens;
    while (static_cast<std::int64_t>(out.tokens.size()) < options.max_new_tokens) {
        test::Numbers tokens(all.begin(), all.end()), positions,
            starts{0, static_cast<std::int32_t>(all.size())};
        for (std::size_t t = 0; t < all.size(); ++t)
            positions.push_back(static_cast<std::int32_t>(t));
        const auto n = static_cast<std::int64_t>(all.size());
        const PackedTokens batch{.tokens = test::view(tokens),
                                 .packing = {.starts = test::view(starts),
                                             .positions = test::view(positions),
                                             .sequences = 1,
                                             .max_length = n}};
        const Tensor hidden = on.model.forward(on.parameters, batch, false);
        const Tensor logits = on.model.logits(on.parameters, hidden.rows(n - 1, 1));
        on.ops->synchronize();
        const SampledToken drawn =
            sample_token(logits.floats(), options.sampling,
                         {.seed = options.seed,
                          .stream = options.stream,
                          .step = options.step,
                          .prompt = static_cast<std::uint64_t>(request.prompt),
                          .sample = static_cast<std::uint32_t>(sample),
                          .position = static_cast<std::uint32_t>(out.tokens.size())});
        out.tokens.push_back(drawn.token);
        out.log_probs.push_back(drawn.log_prob);
        all.push_back(drawn.token);
        if (drawn.token == on.tokenizer.eos()) {
            out.finish = FinishReason::eos;
            break;
        }
    }
    return out;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(engine)

BOOST_AUTO_TEST_CASE(results_stand_in_order_and_vary) {
    const auto requests = usual_requests();
    const auto& results = usual_results();
    std::size_t at = 0;
    std::set<std::size_t> lengths;
    std::set<FinishReason> reasons;
    std::set<std::vector<TokenId>> different;
    for (const Request& request : requests) {
        for (std::int32_t s = 0; s < request.samples; ++s, ++at) {
            BOOST_REQUIRE(at < results.size());
            BOOST_TEST(results[at].prompt == request.prompt);
            BOOST_TEST(results[at].sample == s);
            BOOST_TEST(results[at].log_probs.size() == results[at].tokens.size());
            lengths.insert(results[at].tokens.size());
            reasons.insert(results[at].finish);
            different.insert(results[at].tokens);
        }
    }
    BOOST_TEST(at == results.size());
    // The other tests would say little of sequences that all end together.
    BOOST_TEST(lengths.size() > 6);
    BOOST_TEST(reasons.size() == 2);
    BOOST_TEST(different.size() * 10 > results.size() * 9);  // some are one token long
}

BOOST_AUTO_TEST_CASE(agrees_with_the_model_without_a_cache) {
    SmallEngine plain(with({.slots = 1, .max_length = 48, .prefill_tokens = 48}));
    for (const double temperature : {0.0, 0.8, 1.0}) {
        GenerationOptions options = kUsual;
        options.sampling.temperature = temperature;
        const auto requests = usual_requests();
        const auto results = SmallEngine().generate(requests, options);
        std::size_t at = 0;
        for (const Request& request : requests)
            for (std::int32_t s = 0; s < request.samples; ++s, ++at)
                BOOST_TEST(distance(results[at], generate_naively(plain, request, s, options)) <
                           1e-5);
        BOOST_TEST(at == results.size());
    }
}

BOOST_AUTO_TEST_CASE(log_probs_are_the_trainers) {
    test::Tiny tiny(one_rank(), 128);
    const auto requests = usual_requests();
    for (const SamplingOptions& sampling :
         {SamplingOptions{.temperature = 1}, SamplingOptions{.temperature = 0.6, .top_p = 0.9},
          SamplingOptions{.temperature = 1.4, .top_k = 12}, SamplingOptions{.temperature = 0}}) {
        GenerationOptions options = kUsual;
        options.sampling = sampling;
        SmallEngine on;
        const auto mine = on.parameters.flat_values().floats();
        const auto theirs = tiny.parameters.flat_values().floats();
        BOOST_REQUIRE(std::equal(mine.begin(), mine.end(), theirs.begin(), theirs.end()));
        const auto results = on.generate(requests, options);

        std::vector<Sequence> batch;
        for (const Request& request : requests) {
            for (std::int32_t s = 0; s < request.samples; ++s) {
                const Generated& g = results[batch.size()];
                Sequence sequence{.tokens = request.tokens};
                sequence.tokens.insert(sequence.tokens.end(), g.tokens.begin(), g.tokens.end());
                sequence.weight.assign(sequence.tokens.size(), 1);
                sequence.address = static_cast<std::int64_t>(batch.size());
                batch.push_back(std::move(sequence));
            }
        }
        const double temperature = sampling.temperature > 0 ? sampling.temperature : 1;
        const auto wanted = tiny.trainer.log_probs(tiny.parameters, batch, temperature);
        double worst = 0;
        for (std::size_t i = 0; i < results.size(); ++i) {
            const std::size_t prompt = batch[i].tokens.size() - results[i].tokens.size();
            for (std::size_t t = 0; t < results[i].tokens.size(); ++t)
                worst = std::max(worst, static_cast<double>(std::abs(results[i].log_probs[t] -
                                                                     wanted[i][prompt + t])));
        }
        BOOST_TEST(worst < 1e-5);
    }
}

BOOST_AUTO_TEST_CASE(limits_do_not_matter) {
    const Engine::Limits usual{.slots = 5, .max_length = 48, .page_size = 4, .prefill_tokens = 48};
    std::vector<SmallEngine::Setup> setups;
    for (const std::int64_t slots : {1, 2, 3, 64}) {
        setups.push_back(with(usual));
        setups.back().limits.slots = slots;
    }
    for (const std::int64_t page_size : {1, 3, 16, 48, 100}) {
        setups.push_back(with(usual));
        setups.back().limits.page_size = page_size;
    }
    for (const std::int64_t prefill : {18, 25, 500}) {
        setups.push_back(with(usual));
        setups.back().limits.prefill_tokens = prefill;
    }
    for (const std::int64_t pages : {13, 17, 30}) {
        setups.push_back(with(usual));
        setups.back().limits.pages = pages;
    }
    for (const std::int64_t chunk : {1, 2, 48}) setups.push_back(with(usual, chunk));
    setups.push_back(with({.slots = 64, .max_length = 64, .page_size = 7, .prefill_tokens = 300}));

    for (const SmallEngine::Setup& setup : setups) {
        const Engine::Limits& l = setup.limits;
        BOOST_TEST_CONTEXT("slots " << l.slots << " page " << l.page_size << " prefill "
                                    << l.prefill_tokens << " pages " << l.pages << " chunk "
                                    << setup.head_chunk) {
            BOOST_TEST(distance(SmallEngine(setup).generate(usual_requests(), kUsual),
                                usual_results()) <= kRounding);
        }
    }
}

BOOST_AUTO_TEST_CASE(order_and_company_do_not_matter) {
    const auto requests = usual_requests();
    auto backwards = requests;
    std::reverse(backwards.begin(), backwards.end());
    SmallEngine on;
    auto results = on.generate(backwards, kUsual);
    std::stable_sort(results.begin(), results.end(),
                     [](const Generated& a, const Generated& b) { return a.prompt < b.prompt; });
    BOOST_TEST(distance(results, usual_results()) <= kRounding);

    std::size_t first = 0;
    for (const Request& request : requests) {
        const auto samples = static_cast<std::size_t>(request.samples);
        const auto begin = usual_results().begin() + static_cast<std::ptrdiff_t>(first);
        const std::vector<Generated> wanted(begin, begin + request.samples);
        BOOST_TEST(distance(on.generate({request}, kUsual), wanted) <= kRounding);
        // A part of the group: samples keep their numbers.
        const std::int32_t from = request.samples / 2;
        Request part = request;
        part.first_sample = from;
        part.samples = request.samples - from;
        const auto rest = on.generate({part}, kUsual);
        BOOST_TEST(distance(rest, {wanted.begin() + from, wanted.end()}) <= kRounding);
        first += samples;
    }
}

BOOST_AUTO_TEST_CASE(repeats_its_bits) {
    SmallEngine on;
    const auto first = on.generate(usual_requests(), kUsual);
    BOOST_TEST(distance(first, usual_results()) == 0);
    // What earlier calls left in the cache is not seen.
    GenerationOptions other = kUsual;
    other.seed = 77;
    auto others = make_requests({9, 9, 18, 2, 7, 13});
    on.generate(others, other);
    BOOST_TEST(distance(on.generate(usual_requests(), kUsual), first) == 0);
}

BOOST_AUTO_TEST_CASE(every_part_of_the_address_counts) {
    SmallEngine on;
    auto requests = make_requests({6});
    requests[0].samples = 4;
    const auto first = on.generate(requests, kUsual);
    std::set<std::vector<TokenId>> seen;
    for (const Generated& g : first) seen.insert(g.tokens);
    for (int field = 0; field < 4; ++field) {
        GenerationOptions options = kUsual;
        auto moved = requests;
        if (field == 0) ++options.seed;
        if (field == 1) options.stream = Stream::eval;
        if (field == 2) ++options.step;
        if (field == 3) ++moved[0].prompt;
        for (const Generated& g : on.generate(moved, options)) seen.insert(g.tokens);
    }
    BOOST_TEST(seen.size() == 20);
    // Greedy: the address does not count.
    GenerationOptions greedy = kUsual;
    greedy.sampling.temperature = 0;
    const auto same = on.generate(requests, greedy);
    for (const Generated& g : same) BOOST_TEST((g.tokens == same[0].tokens));
}

BOOST_AUTO_TEST_CASE(nothing_to_do) {
    BOOST_TEST(SmallEngine().generate({}, kUsual).empty());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
