// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/filters.hpp"

#include <boost/test/unit_test.hpp>
#include <limits>
#include <numeric>

using namespace gradus;

namespace {

const std::string kPrompt = "Lena has 7 apples and buys 8. How many are there?";
const std::string kGood = "<think>We add the 7 and the 8, so there are 15.</think><answer>15</answer>";

Candidate sample(std::string_view response, std::int64_t number = 0) {
    return {.id = "p", .prompt = kPrompt, .response = response, .number = number, .tokens = 20};
}
std::string asked(SampleFilters& filters, const Candidate& candidate) {
    const auto refused = filters.refusal(candidate);
    return refused ? std::string(kFilterNames[static_cast<std::size_t>(refused->filter)]) : "kept";
}
std::string asked(const FilterOptions& options, const Candidate& candidate) {
    SampleFilters filters(options, nullptr);
    return asked(filters, candidate);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(filters)

BOOST_AUTO_TEST_CASE(each_filter_refuses_its_own) {
    BOOST_TEST(asked({}, sample(kGood)) == "kept");
    BOOST_TEST(asked({.correct = true, .format = true, .code_blocks = false, .min_language = 1, .max_repetition = 0, .max_length = 20, .max_paragraph = 11},
                     sample(kGood)) == "kept");
    Candidate cut = sample(kGood);
    cut.truncated = true;
    BOOST_TEST(asked({}, cut) == "truncated");
    Candidate wrong = sample(kGood);
    wrong.accuracy = 0;
    BOOST_TEST(asked({}, wrong) == "kept");
    BOOST_TEST(asked({.correct = true}, wrong) == "incorrect");
    wrong.accuracy = std::numeric_limits<double>::quiet_NaN();
    BOOST_TEST(asked({.correct = true}, wrong) == "incorrect");
    Candidate loose = sample("15");
    loose.well_formed = false;
    BOOST_TEST(asked({.format = true}, loose) == "format");
    const std::string mixed = "<think>We add the 7 and 8, 所以一共是十五。</think><answer>15</answer>";
    BOOST_TEST(asked({.min_language = 0.9}, sample(mixed)) == "language");
    BOOST_TEST(asked({.min_language = 0.3}, sample(mixed)) == "kept");
    BOOST_TEST(asked({.min_language = 0.9, .language = "zh"}, sample(kGood)) == "language");
    BOOST_TEST(asked({.min_language = 0.9, .language = "prompt"}, sample(kGood)) == "kept");
    BOOST_TEST(asked({.max_length = 19}, sample(kGood)) == "length");
    BOOST_TEST(asked({.max_paragraph = 10}, sample(kGood)) == "paragraph");
    const std::string code = "<think>so\n```py\nprint(7+8)\n```\n</think><answer>15</answer>";
    BOOST_TEST(asked({.code_blocks = false}, sample(code)) == "code_block");
    BOOST_TEST(asked({}, sample(code)) == "kept");
    // The answer may hold code.
    BOOST_TEST(asked({.code_blocks = false}, sample("<think>so</think>\n```py\nprint(7+8)\n```")) == "kept");
    BOOST_TEST(asked({.max_repetition = 0.5}, sample("so so so so so so so so")) == "repetition");
}

BOOST_AUTO_TEST_CASE(the_first_that_refuses_counts) {
    Candidate all = sample("so so so so so so");
    all.truncated = true;
    all.accuracy = 0;
    FilterOptions options{.correct = true, .max_repetition = 0, .max_length = 1, .max_paragraph = 1};
    BOOST_TEST(asked(options, all) == "truncated");
    all.truncated = false;
    BOOST_TEST(asked(options, all) == "incorrect");
    all.accuracy = 1;
    BOOST_TEST(asked(options, all) == "length");
    options.max_length = 0;
    BOOST_TEST(asked(options, all) == "paragraph");
    options.max_paragraph = 0;
    BOOST_TEST(asked(options, all) == "repetition");
}

BOOST_AUTO_TEST_CASE(duplicates_and_enough) {
    const std::string one = "we take the seven apples and then we add the eight others so there are fifteen of them in all";
    const std::string near = one + " now", other = "eight and seven make fifteen because five and ten do";
    SampleFilters filters({.near_duplicate = 0.8, .max_per_prompt = 2}, nullptr);
    BOOST_TEST(asked(filters, sample(one)) == "kept");
    BOOST_TEST(asked(filters, sample(one)) == "duplicate");
    BOOST_TEST(asked(filters, sample(near)) == "near_duplicate");
    BOOST_TEST(asked(filters, sample(other)) == "kept");
    BOOST_TEST(asked(filters, sample("fifteen")) == "enough");
    // Another prompt may have like responses.
    Candidate elsewhere = sample(near, 1);
    elsewhere.prompt = "What is seven and eight?";
    BOOST_TEST(asked(filters, elsewhere) == "kept");
    // The same prompt as another row of the data.
    BOOST_TEST(asked(filters, sample(one, 2)) == "duplicate");
    const FilterCounts& counts = filters.counts(Source::reasoning);
    BOOST_TEST(counts.seen == 7);
    BOOST_TEST(counts.kept == 3);
    BOOST_TEST(counts.prompts == 3);
    BOOST_TEST(std::accumulate(counts.refused.begin(), counts.refused.end(), counts.kept) == counts.seen);
}

BOOST_AUTO_TEST_CASE(near_duplicates_over_both_sources) {
    const std::string one = "we take the seven apples and then we add the eight others so there are fifteen of them in all";
    const std::string near = one + " now";
    SampleFilters filters({.near_duplicate_elsewhere = 0.8}, nullptr);
    BOOST_TEST(asked(filters, sample(one)) == "kept");
    Candidate general = sample(near);
    general.source = Source::general;
    BOOST_TEST(asked(filters, general) == "near_duplicate_elsewhere");
    general.response = one;
    BOOST_TEST(asked(filters, general) == "duplicate");
    general.truncated = true;  // not asked of general rows
    general.response = "hello";
    BOOST_TEST(asked(filters, general) == "kept");
    BOOST_TEST(filters.counts(Source::general).seen == 3);
}

BOOST_AUTO_TEST_CASE(contamination_is_of_prompts) {
    Passages tests(6);
    tests.add("Has Lena 7 apples, and buys 8?", "test.jsonl:1");
    tests.add("lena has 7 apples and buys nothing", "test.jsonl:2");
    SampleFilters filters({}, &tests);
    BOOST_TEST(asked(filters, sample(kGood)) == "contaminated");
    BOOST_TEST(asked(filters, sample("15")) == "contaminated");
    Candidate clean = sample(kGood, 1);
    clean.prompt = "Lena has apples and buys 8.";
    BOOST_TEST(asked(filters, clean) == "kept");
    BOOST_TEST(filters.counts(Source::reasoning).contaminated_prompts == 1);
    BOOST_TEST(filters.counts(Source::reasoning).prompts == 2);
    BOOST_TEST(filters.table().find("contaminated") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(odd_texts_are_judged_too) {
    std::vector<std::string> texts = {"", "a", "\xff\xfe\xe7", "<think>", "</think>", "<think></think>", std::string(1'000'000, 'a'),
                                      std::string(1'000'000, '\n'), std::string(1'000'000, '`'), std::string("a\0b", 3)};
    const FilterOptions options{.code_blocks = false, .min_language = 0.5, .max_repetition = 0.5, .near_duplicate = 0.8, .near_duplicate_elsewhere = 0.8,
                                .max_paragraph = 100};
    SampleFilters filters(options, nullptr);
    for (const std::string& text : texts) asked(filters, sample(text));
    const FilterCounts& counts = filters.counts(Source::reasoning);
    BOOST_TEST(std::accumulate(counts.refused.begin(), counts.refused.end(), counts.kept) == static_cast<std::int64_t>(texts.size()));
}

BOOST_AUTO_TEST_SUITE_END()
