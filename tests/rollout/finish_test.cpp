// SPDX-License-Identifier: Apache-2.0
// How a response ends, and what the engine refuses.
#include <boost/test/unit_test.hpp>
#include <map>

#include "gradus/base/error.hpp"
#include "small_engine.hpp"

namespace gradus {
namespace {

using test::distance;
using test::kRounding;
using test::kUsual;
using test::Letters;
using test::make_requests;
using test::SmallEngine;
using test::usual_requests;

/// What is left of an unbounded response if these rules end it.
Generated cut(Generated g, const Letters& tokenizer, const std::vector<std::string>& stops,
              std::size_t max_new_tokens) {
    for (std::size_t n = 1; n <= g.tokens.size(); ++n) {
        const std::string text = tokenizer.decode(std::span(g.tokens).first(n));
        bool stop = false;
        for (const std::string& s : stops) stop = stop || text.find(s) != std::string::npos;
        const bool eos = g.tokens[n - 1] == tokenizer.eos();
        if (!eos && !stop && n < max_new_tokens) continue;
        g.tokens.resize(n);
        g.log_probs.resize(n);
        g.finish = eos ? FinishReason::eos : stop ? FinishReason::stop : FinishReason::length;
        return g;
    }
    BOOST_FAIL("the response to cut is too short");
    return g;
}

std::vector<Generated> cut(std::vector<Generated> all, const Letters& tokenizer,
                           const std::vector<std::string>& stops, std::size_t max_new_tokens) {
    for (Generated& g : all) g = cut(g, tokenizer, stops, max_new_tokens);
    return all;
}

std::int64_t count(const std::vector<Generated>& results, FinishReason reason) {
    return std::count_if(results.begin(), results.end(),
                         [&](const Generated& g) { return g.finish == reason; });
}

bool names(const Error& error, std::initializer_list<const char*> words) {
    const std::string text = error.what();
    return std::all_of(words.begin(), words.end(),
                       [&](const char* word) { return text.find(word) != std::string::npos; });
}

}  // namespace

BOOST_AUTO_TEST_SUITE(finish)

BOOST_AUTO_TEST_CASE(length_is_exact_where_nothing_ends) {
    SmallEngine on({.eos = -1});
    for (const std::int64_t most : {1, 2, 3, 4, 5, 29, 30}) {
        GenerationOptions options = kUsual;
        options.max_new_tokens = most;
        for (const Generated& g : on.generate(usual_requests(), options)) {
            BOOST_TEST(g.tokens.size() == static_cast<std::size_t>(most));
            BOOST_TEST(g.log_probs.size() == static_cast<std::size_t>(most));
            BOOST_TEST((g.finish == FinishReason::length));
        }
    }
}

BOOST_AUTO_TEST_CASE(end_token) {
    const auto endless = SmallEngine({.eos = -1}).generate(usual_requests(), kUsual);
    // Each token in turn as the one that ends: where it came it is the last one, once.
    std::int64_t ended = 0;
    for (TokenId eos = 0; eos < 28; ++eos) {
        SmallEngine on({.eos = eos});
        const auto results = on.generate(usual_requests(), kUsual);
        BOOST_TEST(distance(results, cut(endless, on.tokenizer, {}, 30)) <= kRounding);
        ended += count(results, FinishReason::eos);
    }
    BOOST_TEST(ended > 100);
}

BOOST_AUTO_TEST_CASE(several_end_tokens) {
    SmallEngine on({.eos = -1});
    const auto endless = on.generate(usual_requests(), kUsual);
    GenerationOptions options = kUsual;
    options.end_tokens = {4, 19, 27};
    const auto results = on.generate(usual_requests(), options);
    std::map<TokenId, std::int64_t> ended;
    for (std::size_t i = 0; i < results.size(); ++i) {
        const auto first = std::find_first_of(endless[i].tokens.begin(), endless[i].tokens.end(),
                                              options.end_tokens.begin(), options.end_tokens.end());
        const bool found = first != endless[i].tokens.end();
        BOOST_TEST((results[i].finish == (found ? FinishReason::eos : FinishReason::length)));
        const std::vector<TokenId> wanted(endless[i].tokens.begin(), found ? first + 1 : first);
        BOOST_TEST(results[i].tokens == wanted);
        if (found) ++ended[results[i].tokens.back()];
    }
    BOOST_TEST(ended.size() == 3u);  // each of them ended some
}

BOOST_AUTO_TEST_CASE(end_token_at_the_last_place) {
    SmallEngine on;
    const auto whole = on.generate(usual_requests(), kUsual);
    std::int64_t both = 0;
    for (const std::size_t most : {2u, 5u, 9u, 14u}) {
        GenerationOptions options = kUsual;
        options.max_new_tokens = static_cast<std::int64_t>(most);
        const auto results = on.generate(usual_requests(), options);
        BOOST_TEST(distance(results, cut(whole, on.tokenizer, {}, most)) <= kRounding);
        for (const Generated& g : results)
            both += g.tokens.size() == most && g.finish == FinishReason::eos;
    }
    BOOST_TEST(both > 0);
}

BOOST_AUTO_TEST_CASE(stop_texts) {
    SmallEngine on;
    const auto whole = on.generate(usual_requests(), kUsual);
    std::vector<std::string> pieces;
    for (const Generated& g : whole) {
        const std::string text = on.tokenizer.decode(g.tokens);
        for (const std::size_t at : {3u, 6u, 12u})
            if (text.size() > at + 4) pieces.push_back(text.substr(at, 1 + at / 3));
    }
    BOOST_REQUIRE(pieces.size() > 30);
    std::int64_t stopped = 0;
    GenerationOptions options = kUsual;
    for (std::size_t i = 0; i + 7 < pieces.size(); i += 7) {
        // One text, several of different lengths, and one that never comes.
        for (const std::size_t n : {1u, 4u, 7u}) {
            options.stop.assign(pieces.begin() + static_cast<std::ptrdiff_t>(i),
                                pieces.begin() + static_cast<std::ptrdiff_t>(i + n));
            if (n > 1) options.stop.push_back("a text that never comes");
            const auto results = on.generate(usual_requests(), options);
            BOOST_TEST(distance(results, cut(whole, on.tokenizer, options.stop, 30)) <= kRounding);
            BOOST_TEST(count(results, FinishReason::stop) > 0);
            stopped += count(results, FinishReason::stop);
        }
    }
    BOOST_TEST(stopped > 50);
}

BOOST_AUTO_TEST_CASE(stop_text_that_ends_within_a_token) {
    SmallEngine on({.eos = -1});
    const auto whole = on.generate(usual_requests(), kUsual);
    for (const Generated& g : whole) {
        const auto qu = std::find(g.tokens.begin() + 2, g.tokens.end(), 26);
        if (qu == g.tokens.end()) continue;
        const std::string before =
            on.tokenizer.decode(std::span(g.tokens.begin(), qu).last(2)).substr(1);
        GenerationOptions options = kUsual;
        options.stop = {before + "q"};
        const auto results = on.generate(usual_requests(), options);
        BOOST_TEST(distance(results, cut(whole, on.tokenizer, options.stop, 30)) <= kRounding);
        BOOST_TEST(count(results, FinishReason::stop) > 0);
        return;
    }
    BOOST_FAIL("no response has a token of two letters");
}

BOOST_AUTO_TEST_CASE(end_token_goes_before_a_stop_text_and_that_before_the_length) {
    SmallEngine on;
    on.always_say(27);
    GenerationOptions options = kUsual;
    options.max_new_tokens = 1;
    options.stop = {"<eos>"};
    for (const Generated& g : on.generate(usual_requests(), options))
        BOOST_TEST((g.finish == FinishReason::eos));
    SmallEngine other;
    other.always_say(3);
    options.stop = {"d"};
    for (const Generated& g : other.generate(usual_requests(), options))
        BOOST_TEST((g.finish == FinishReason::stop));
    options.stop = {"dd"};
    for (const Generated& g : other.generate(usual_requests(), options))
        BOOST_TEST((g.finish == FinishReason::length));
}

BOOST_AUTO_TEST_CASE(all_end_at_once) {
    for (const std::int64_t slots : {1, 3, 64}) {
        SmallEngine on(
            {.limits = {.slots = slots, .max_length = 48, .page_size = 4, .prefill_tokens = 48}});
        on.always_say(27);
        const auto results = on.generate(usual_requests(), kUsual);
        BOOST_TEST(results.size() == 30);
        for (const Generated& g : results) {
            BOOST_TEST((g.tokens == std::vector<TokenId>{27}));
            BOOST_TEST((g.finish == FinishReason::eos));
        }
        BOOST_TEST(on.calls("rollout.decode") == 0);
    }
}

BOOST_AUTO_TEST_CASE(requests_that_cannot_be_met) {
    SmallEngine on(
        {.limits = {
             .slots = 2, .max_length = 48, .page_size = 4, .pages = 11, .prefill_tokens = 20}});
    auto refuses = [&](const std::vector<Request>& requests, const GenerationOptions& options,
                       std::initializer_list<const char*> words) {
        BOOST_CHECK_EXCEPTION(on.generate(requests, options), DataError,
                              [&](const DataError& e) { return names(e, words); });
    };
    auto requests = make_requests({5, 7});
    requests[1].tokens.clear();
    refuses(requests, kUsual, {"prompt 103", "empty"});
    refuses(make_requests({5, 19}), kUsual,
            {"prompt 103", "19 tokens", "max_new_tokens = 30", "48 positions"});
    GenerationOptions brief = kUsual;
    brief.max_new_tokens = 4;
    refuses(make_requests({21}), brief, {"prompt 100", "21 tokens", "micro_tokens = 20"});
    requests = make_requests({5, 7});
    requests[1].samples = 0;
    refuses(requests, kUsual, {"prompt 103", "0 samples"});
    for (const TokenId outside : {-1, 28}) {
        requests = make_requests({5, 7});
        requests[0].tokens[2] = outside;
        const std::string token = "token " + std::to_string(outside);
        refuses(requests, kUsual, {"prompt 100", token.c_str(), "28"});
    }
    GenerationOptions options = kUsual;
    options.max_new_tokens = 0;
    refuses(make_requests({5}), options, {"max_new_tokens = 0"});
    options = kUsual;
    options.stop = {"x", ""};
    refuses(make_requests({5}), options, {"rollout.stop", "empty"});
    // 16 + 30 tokens: 4 pages for the prompt and 8 for the response.
    refuses(make_requests({16}), kUsual, {"11 pages", "prompt 100", "12"});

    // At each limit it works, also after all those errors.
    options.stop.clear();
    options.max_new_tokens = 28;
    BOOST_TEST(on.generate(make_requests({16}), options).size() == 1);
    options.max_new_tokens = 4;
    BOOST_TEST(on.generate(make_requests({20}), options).size() == 1);
    SmallEngine whole;
    BOOST_TEST(whole.generate(make_requests({18}), kUsual).size() == 1);
}

BOOST_AUTO_TEST_CASE(damaged_weights) {
    SmallEngine on;
    const auto wanted = on.generate(usual_requests(), kUsual);
    float& weight = on.parameters.at("lm_head.weight").value.f32()[5];
    const float sound = weight;
    weight = NAN;
    BOOST_CHECK_EXCEPTION(on.generate(usual_requests(), kUsual), NumericError,
                          [](const NumericError& e) {
                              return names(e, {"prompt 100", "sample 0", "token 0", "checkpoint"});
                          });
    weight = sound;
    BOOST_TEST(distance(on.generate(usual_requests(), kUsual), wanted) == 0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
