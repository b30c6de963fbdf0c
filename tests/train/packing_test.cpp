// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/packing.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <numeric>

#include "../device/test_device.hpp"
#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

using Lengths = std::vector<std::int64_t>;

Lengths random_lengths(std::uint64_t which, std::int64_t count, std::int64_t longest) {
    RandomSequence random({.seed = 5, .stream = Stream::test, .prompt = which});
    Lengths lengths;
    for (std::int64_t i = 0; i < count; ++i) lengths.push_back(random.integer(1, longest));
    return lengths;
}

std::int64_t sum_of(const Lengths& lengths, const std::vector<std::int64_t>& members) {
    std::int64_t sum = 0;
    for (const std::int64_t i : members) sum += lengths[static_cast<std::size_t>(i)];
    return sum;
}

/// What holds of every plan; returns the number of micro-batches a rank.
std::size_t check_plan(const Lengths& lengths, std::int64_t micro_tokens, int data_size) {
    const BatchPlan plan = plan_batch(lengths, micro_tokens, data_size);
    BOOST_REQUIRE(plan.micro.size() == static_cast<std::size_t>(data_size));
    const std::size_t count = plan.micro[0].size();
    std::vector<int> seen(lengths.size(), 0);
    Lengths loads;
    std::size_t empty_ranks = 0;
    for (const auto& rank : plan.micro) {
        BOOST_TEST(rank.size() == count);
        std::int64_t load = 0;
        for (const auto& members : rank) {
            const std::int64_t tokens = sum_of(lengths, members);
            BOOST_TEST(tokens <= micro_tokens);
            load += tokens;
            for (const std::int64_t i : members) ++seen[static_cast<std::size_t>(i)];
        }
        loads.push_back(load);
        empty_ranks += load == 0 ? 1 : 0;
    }
    BOOST_TEST(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    if (lengths.size() >= static_cast<std::size_t>(data_size)) BOOST_TEST(empty_ranks == 0);
    // The last sequence that made a rank the busiest went to the then least busy one.
    const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
    const std::int64_t longest =
        lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
    BOOST_TEST(*most - *least <= longest);
    return count;
}

Sequence make_sequence(std::vector<TokenId> tokens, std::vector<float> weight) {
    Sequence s;
    s.tokens = std::move(tokens);
    s.weight = std::move(weight);
    return s;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(packing)

BOOST_AUTO_TEST_CASE(plans_of_random_lengths) {
    for (std::uint64_t which = 0; which < 200; ++which) {
        RandomSequence random({.seed = 6, .stream = Stream::test, .prompt = which});
        const std::int64_t longest = random.integer(1, 500);
        const std::int64_t budget = longest + random.integer(0, 2000);
        const auto ranks = static_cast<int>(random.integer(1, 9));
        const Lengths lengths = random_lengths(which, random.integer(0, 120), longest);
        const std::size_t count = check_plan(lengths, budget, ranks);
        const std::int64_t total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
        // Best fit leaves all bins but one more than half full on the busiest rank.
        const std::int64_t busiest = total / ranks + longest;
        BOOST_TEST(static_cast<std::int64_t>(count) <= 2 * busiest / budget + 1);
    }
}

BOOST_AUTO_TEST_CASE(many_short_sequences_are_shared_evenly) {
    const Lengths lengths = random_lengths(1, 4096, 64);
    const BatchPlan plan = plan_batch(lengths, 1024, 4);
    Lengths loads;
    std::int64_t squares_low = INT64_MAX, squares_high = 0;
    for (const auto& rank : plan.micro) {
        std::int64_t load = 0, squares = 0;
        for (const auto& members : rank) {
            load += sum_of(lengths, members);
            for (const std::int64_t i : members) {
                const std::int64_t n = lengths[static_cast<std::size_t>(i)];
                squares += n * n;
            }
        }
        loads.push_back(load);
        squares_low = std::min(squares_low, squares);
        squares_high = std::max(squares_high, squares);
    }
    const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
    BOOST_TEST(*most - *least <= 1);
    BOOST_TEST(static_cast<double>(squares_high) < 1.01 * static_cast<double>(squares_low));
    // Full bins: 4096 sequences of 32.5 tokens on average.
    const double fill = static_cast<double>(*most) /
                        static_cast<double>(1024 * static_cast<std::int64_t>(plan.micro[0].size()));
    BOOST_TEST(fill > 0.97);
}

BOOST_AUTO_TEST_CASE(equal_tokens_are_shared_by_attention_cost) {
    // 8, then 4 + 4 on the other rank; of two ranks with 8 tokens the second has less attention.
    const BatchPlan plan = plan_batch(Lengths{4, 4, 8, 2}, 8, 2);
    BOOST_TEST(sum_of({16, 16, 64, 4}, plan.micro[0][0]) == 64);
    BOOST_TEST(plan.micro[1].size() == plan.micro[0].size());
    std::int64_t second = 0;
    for (const auto& members : plan.micro[1]) second += sum_of({16, 16, 64, 4}, members);
    BOOST_TEST(second == 36);
}

BOOST_AUTO_TEST_CASE(few_sequences_and_none) {
    BOOST_TEST(check_plan({}, 10, 3) == 0u);
    BOOST_TEST(check_plan({4}, 10, 3) == 1u);
    BOOST_TEST(check_plan({10, 10, 10}, 10, 2) == 2u);
    BOOST_TEST(check_plan({3, 3, 3}, 10, 1) == 1u);
    // 7 and 4 need two bins; 6 and 4 would fit one and are spread over two as well.
    const BatchPlan plan = plan_batch(Lengths{7, 6, 4, 4}, 10, 2);
    BOOST_TEST(plan.micro[0].size() == 2);
    for (const auto& rank : plan.micro)
        for (const auto& members : rank) BOOST_TEST(!members.empty());
}

BOOST_AUTO_TEST_CASE(best_fit_fills_the_fullest_bin_first) {
    // Into the emptiest bin, 3 would join 6 and the last 2 need a third one.
    BOOST_TEST(plan_batch(Lengths{2, 6, 3, 7, 2}, 10, 1).micro[0].size() == 2);
}

BOOST_AUTO_TEST_CASE(same_lengths_same_plan) {
    const Lengths lengths = random_lengths(7, 300, 90);
    BOOST_TEST((plan_batch(lengths, 400, 3).micro == plan_batch(lengths, 400, 3).micro));
}

BOOST_AUTO_TEST_CASE(sequences_that_do_not_fit_are_named) {
    auto names = [](const char* what) {
        return [what](const DataError& e) {
            return std::string(e.what()).find(what) != std::string::npos;
        };
    };
    BOOST_CHECK_EXCEPTION(plan_batch(Lengths{3, 11}, 10, 1), DataError,
                          names("sequence 1 of the batch has 11 tokens, a micro-batch takes 10"));
    BOOST_CHECK_EXCEPTION(plan_batch(Lengths{0, 1}, 10, 1), DataError, names("sequence 0"));
}

BOOST_AUTO_TEST_CASE(targets_are_the_next_tokens_of_the_same_sequence) {
    const auto device = test::make_test_device();
    Arena arena(device.get());
    const auto ops = test::make_test_ops({}, arena);
    MicroBatch micro(16, *ops, arena);
    const Sequence a = make_sequence({5, 6, 7, 8}, {1, 0, 1, 0.5f});
    const Sequence b = make_sequence({9}, {1});
    const Sequence c = make_sequence({3, 4}, {0, 1});
    const std::vector<const Sequence*> members = {&a, &b, &c};
    auto values = [](const Tensor& t) {
        return std::vector<std::int32_t>(t.i32(), t.i32() + t.elements());
    };
    using Ints = std::vector<std::int32_t>;
    micro.fill(members, false);
    BOOST_TEST(micro.tokens() == 7);
    BOOST_TEST(values(micro.packed().tokens) == (Ints{5, 6, 7, 8, 9, 3, 4}),
               boost::test_tools::per_element());
    BOOST_TEST(values(micro.packed().packing.positions) == (Ints{0, 1, 2, 3, 0, 0, 1}),
               boost::test_tools::per_element());
    BOOST_TEST(values(micro.packed().packing.starts) == (Ints{0, 4, 5, 7}),
               boost::test_tools::per_element());
    BOOST_TEST(values(micro.targets()) == (Ints{-1, 7, 8, -1, -1, 4, -1}),
               boost::test_tools::per_element());
    BOOST_TEST(micro.packed().packing.sequences == 3);
    BOOST_TEST(micro.packed().packing.max_length == 4);
    BOOST_TEST(micro.row(0, 1) == 0);
    BOOST_TEST(micro.row(0, 3) == 2);
    BOOST_TEST(micro.row(2, 1) == 5);
    micro.fill(members, true);
    BOOST_TEST(values(micro.targets()) == (Ints{6, 7, 8, -1, -1, 4, -1}),
               boost::test_tools::per_element());
    // A smaller batch after a larger one: views shrink.
    micro.fill(std::vector<const Sequence*>{&c}, false);
    BOOST_TEST(micro.tokens() == 2);
    BOOST_TEST(values(micro.targets()) == (Ints{4, -1}), boost::test_tools::per_element());
    BOOST_TEST(micro.packed().packing.max_length == 2);
}

BOOST_AUTO_TEST_CASE(a_micro_batch_refuses_more_than_its_memory) {
    const auto device = test::make_test_device();
    Arena arena(device.get());
    const auto ops = test::make_test_ops({}, arena);
    MicroBatch micro(3, *ops, arena);
    const Sequence a = make_sequence({1, 2, 3, 4}, {1, 1, 1, 1});
    BOOST_CHECK_THROW(micro.fill(std::vector<const Sequence*>{&a}, false), InternalError);
    const Sequence b = make_sequence({1, 2}, {1});
    BOOST_CHECK_THROW(micro.fill(std::vector<const Sequence*>{&b}, false), InternalError);
    Arena planned(nullptr);
    MicroBatch on_paper(1000, *ops, planned);
    BOOST_TEST(planned.bytes() >= 4 * 4 * 1000);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
