// SPDX-License-Identifier: Apache-2.0
// Tokens one at a time over a paged cache against whole sequences.
#include <boost/test/unit_test.hpp>

#include "gradus/base/error.hpp"
#include "small_models.hpp"

namespace gradus {
namespace {

using test::Floats;
using test::Instance;
using test::Packed;
using test::Tokens;

constexpr std::int64_t kPageSize = 3, kMaxPages = 5, kMaxTokens = 40, kLongest = 14;
const std::vector<std::int64_t> kLengths{9, 1, 14, 6};

struct Ready : Instance {
    Ready(const ModelConfig& config, const Grid& grid)
        : Instance(config, grid,
                   {.max_tokens = kMaxTokens, .max_length = kLongest, .max_decode = 4,
                    .head_chunk = 8}) {
        test::randomize(parameters, *ops);
    }
};

Floats row(const Tensor& hidden, std::int64_t i) { return test::copy_of(hidden.rows(i, 1)); }

/// Hidden states of whole sequences, a row a token.
std::vector<std::vector<Floats>> whole(Instance& on, const std::vector<Tokens>& sequences) {
    Packed packed(sequences);
    const Tensor hidden = on.model.forward(on.parameters, packed.batch(), false);
    std::vector<std::vector<Floats>> out(sequences.size());
    for (std::size_t i = 0; i < sequences.size(); ++i)
        for (std::int64_t t = packed.start(i); t < packed.start(i + 1); ++t)
            out[i].push_back(row(hidden, t));
    return out;
}

/// The first `prompts[i]` tokens of each sequence into the cache; hidden states of all of them.
Tensor prefill(Instance& on, test::Pages& pages, std::vector<Tokens> sequences,
               const std::vector<std::size_t>& prompts) {
    test::Numbers slots;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
        sequences[i].resize(prompts[i]);
        for (std::size_t t = 0; t < prompts[i]; ++t)
            slots.push_back(
                pages.slot(static_cast<std::int64_t>(i), static_cast<std::int64_t>(t)));
    }
    Packed packed(sequences);
    return on.model.prefill(on.parameters, packed.batch(), pages.caches(), test::view(slots));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(decode)

BOOST_AUTO_TEST_CASE(step_by_step_is_the_forward_pass) {
    const Grid grid = Grid::planned(1, 1);
    for (const ModelConfig& c : test::small_configs()) {
        Ready on(c, grid);
        const auto sequences = test::random_sequences(c, kLengths);
        const auto wanted = whole(on, sequences);
        const std::vector<std::size_t> prompts{3, 1, 4, 2};  // on, before and behind a page's end
        test::Pages pages(c, 1, 4, kPageSize, kMaxPages);
        const Tensor prefilled = prefill(on, pages, sequences, prompts);
        std::int64_t at = 0;
        for (std::size_t i = 0; i < sequences.size(); ++i)
            for (std::size_t t = 0; t < prompts[i]; ++t)
                BOOST_TEST(test::max_error(row(prefilled, at++), wanted[i][t]) < 1e-5);
        for (std::size_t step = 0; step < 10; ++step) {
            Tokens tokens;
            test::Numbers lengths;
            std::vector<std::size_t> t;
            for (std::size_t i = 0; i < sequences.size(); ++i) {
                // A sequence that has ended repeats its last token.
                t.push_back(std::min(prompts[i] + step, sequences[i].size() - 1));
                tokens.push_back(sequences[i][t[i]]);
                lengths.push_back(static_cast<std::int32_t>(t[i]) + 1);
            }
            const Tensor hidden = test::decode_step(on, pages, tokens, lengths);
            for (std::size_t i = 0; i < sequences.size(); ++i) {
                const double error =
                    test::max_error(row(hidden, static_cast<std::int64_t>(i)), wanted[i][t[i]]);
                BOOST_TEST(error < 1e-5, test::describe(c) << ": sequence " << i << ", token "
                                                           << t[i] << " off by " << error);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(a_row_does_not_depend_on_its_company) {
    const Grid grid = Grid::planned(1, 1);
    for (const ModelConfig& c :
         {test::full_config(), test::latent_config(), test::deepseek_config(), test::qwen_moe_config()}) {
        Ready on(c, grid);
        const auto sequences = test::random_sequences(c, {7, 7, 7, 7});
        // Sequence 0 is decoded among four, then alone, from its first token on.
        test::Pages together(c, 1, 4, kPageSize, kMaxPages), alone(c, 1, 4, kPageSize, kMaxPages);
        for (std::size_t t = 0; t < 7; ++t) {
            const auto length = static_cast<std::int32_t>(t) + 1;
            Tokens tokens;
            for (const Tokens& sequence : sequences) tokens.push_back(sequence[t]);
            const Floats among =
                row(test::decode_step(on, together, tokens, {length, length, length, length}), 0);
            const Floats single = row(test::decode_step(on, alone, {tokens[0]}, {length}), 0);
            BOOST_TEST(test::max_error(among, single) < 2e-6);
        }
    }
}

BOOST_AUTO_TEST_CASE(logits_are_those_of_the_log_probs) {
    const Grid grid = Grid::planned(1, 1);
    for (const ModelConfig& c : test::small_configs()) {
        Ready on(c, grid);
        Packed packed({test::random_tokens(c, 1, 8)});
        const Tensor hidden = on.model.forward(on.parameters, packed.batch(), false);
        const auto scores = test::score(on, hidden, packed.targets(), 0.8f);
        const auto logits = on.model.logits(on.parameters, hidden).floats();
        BOOST_REQUIRE(logits.size() == static_cast<std::size_t>(8 * c.vocab_size));
        for (std::int64_t t = 0; t < 7; ++t) {
            const auto z = logits.subspan(static_cast<std::size_t>(t * c.vocab_size),
                                          static_cast<std::size_t>(c.vocab_size));
            double sum = 0;
            for (const float x : z) sum += std::exp(0.8 * x);
            const auto target = static_cast<std::size_t>(packed.targets().i32()[t]);
            BOOST_TEST(scores.log_prob[static_cast<std::size_t>(t)] == 0.8 * z[target] - std::log(sum),
                       boost::test_tools::tolerance(1e-5));
        }
    }
}

BOOST_AUTO_TEST_CASE(more_rows_than_planned_are_refused) {
    const Grid grid = Grid::planned(1, 1);
    const ModelConfig c = test::full_config();
    Ready on(c, grid);
    test::Pages pages(c, 1, 5, kPageSize, kMaxPages);
    BOOST_CHECK_THROW(test::decode_step(on, pages, {1, 2, 3, 4, 5}, {1, 1, 1, 1, 1}), InternalError);
    Packed packed({test::random_tokens(c, 1, 9)});
    const Tensor hidden = on.model.forward(on.parameters, packed.batch(), true);
    BOOST_CHECK_THROW(on.model.logits(on.parameters, hidden), InternalError);
    // Decoding uses the memory of what a forward pass kept.
    test::decode_step(on, pages, {1}, {1});
    Floats d_hidden(static_cast<std::size_t>(9 * c.hidden));
    BOOST_CHECK_THROW(on.model.backward(on.parameters, packed.batch(),
                                        test::view(d_hidden, {9, c.hidden})),
                      InternalError);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
