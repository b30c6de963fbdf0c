// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cmath>
#include <thread>

#include "gradus/base/error.hpp"
#include "gradus/reward/reward.hpp"

using namespace gradus;

namespace {

std::vector<NamedReward> all_rewards() {
    std::vector<NamedReward> rewards;
    rewards.push_back({"accuracy", make_accuracy_reward()});
    rewards.push_back({"format", make_format_reward()});
    rewards.push_back({"language", make_language_reward("en")});
    rewards.push_back({"repetition", make_repetition_reward()});
    return rewards;
}

/// One for math, one for two kinds, one that a model scores.
std::vector<NamedReward> rewards_of_kinds() {
    std::vector<NamedReward> rewards;
    rewards.push_back({"accuracy", make_accuracy_reward(), {"math"}});
    rewards.push_back({"format", make_format_reward(), {"general", "math"}});
    rewards.push_back({"helpful", nullptr, {}});
    rewards.push_back({"tags", make_tags_reward()});
    return rewards;
}

std::vector<RewardInput> inputs(int count) {
    std::vector<RewardInput> list;
    for (int i = 0; i < count; ++i) {
        const std::string n = std::to_string(i);
        list.push_back({.prompt = n,
                        .response = "<think>then \u4e00 then \u4e00 then " + n +
                                    "</think><answer>" + std::to_string(i % 7) + "</answer>",
                        .reference = i % 5 == 0 ? "" : std::to_string(i % 3),
                        .truncated = i % 2 == 0});
    }
    return list;
}

bool same_bits(const std::vector<std::vector<double>>& a,
               const std::vector<std::vector<double>>& b) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (a[i].size() != b[i].size()) return false;
        for (std::size_t j = 0; j < a[i].size(); ++j) {
            const bool both_nan = std::isnan(a[i][j]) && std::isnan(b[i][j]);
            if (!both_nan && a[i][j] != b[i][j]) return false;
        }
    }
    return true;
}

/// Finishes late inputs first.
class Lagging final : public Reward {
  public:
    double score(const RewardInput& input) const override {
        std::this_thread::sleep_for(std::chrono::milliseconds(20 - input.tokens));
        return input.tokens;
    }
};

class Throwing final : public Reward {
  public:
    double score(const RewardInput&) const override { throw std::runtime_error("broken"); }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(reward_pool)

BOOST_AUTO_TEST_CASE(rewards_are_for_kinds_of_prompts) {
    RewardPool pool(rewards_of_kinds(), 1);
    for (const char* kind : {"math", "general", "reasoning"})
        pool.submit({{.response = "<think>a</think><answer>1</answer>", .reference = "1", .kind = kind}});
    const auto scores = pool.collect();
    const double no = kNotApplicable;
    BOOST_TEST((scores == std::vector<std::vector<double>>{{1, 1, no, 1}, {no, 1, no, 1}, {no, no, no, 1}}));
}

BOOST_AUTO_TEST_CASE(threads_do_not_change_results) {
    RewardPool none(all_rewards(), 0);
    none.submit(inputs(200));
    const auto expected = none.collect();
    BOOST_REQUIRE(expected.size() == 200u);
    BOOST_TEST(expected[0].size() == 4u);
    BOOST_TEST(std::isnan(expected[0][0]));
    BOOST_TEST(expected[1][0] == 1.0);
    BOOST_TEST(expected[4][0] == 0.0);
    BOOST_TEST(expected[1][1] == 1.0);
    BOOST_TEST(expected[2][1] == 0.0);
    BOOST_TEST(expected[1][2] == 0.6);
    for (const int threads : {1, 2, 7}) {
        RewardPool pool(all_rewards(), threads);
        for (int round = 0; round < 3; ++round) {
            pool.submit(inputs(200));
            BOOST_TEST(same_bits(pool.collect(), expected));
        }
    }
}

BOOST_AUTO_TEST_CASE(batches_come_back_in_order_of_submission) {
    std::vector<NamedReward> rewards;
    rewards.push_back({"lagging", std::make_unique<Lagging>()});
    RewardPool pool(std::move(rewards), 4);
    for (std::int32_t i = 0; i < 20; ++i) {
        const auto first = pool.submit({{.tokens = i}});
        BOOST_TEST(first == i);
    }
    const auto rows = pool.collect();
    BOOST_REQUIRE(rows.size() == 20u);
    for (std::size_t i = 0; i < rows.size(); ++i) BOOST_TEST(rows[i][0] == static_cast<double>(i));
    BOOST_TEST(pool.collect().empty());
    BOOST_TEST(pool.submit({}) == 20);
    BOOST_TEST(pool.collect().empty());
}

BOOST_AUTO_TEST_CASE(scoring_begins_before_it_is_collected) {
    struct Counting final : Reward {
        explicit Counting(std::atomic<int>& n) : scored(n) {}
        double score(const RewardInput&) const override { return ++scored; }
        std::atomic<int>& scored;
    };
    std::atomic<int> scored = 0;
    std::vector<NamedReward> rewards;
    rewards.push_back({"counting", std::make_unique<Counting>(scored)});
    RewardPool pool(std::move(rewards), 1);
    pool.submit({{}, {}});
    for (int i = 0; i < 2000 && scored < 2; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    BOOST_TEST(scored == 2);
}

BOOST_AUTO_TEST_CASE(a_reward_that_throws_is_unscorable) {
    for (const int threads : {0, 2}) {
        std::vector<NamedReward> rewards;
        rewards.push_back({"throwing", std::make_unique<Throwing>()});
        RewardPool pool(std::move(rewards), threads);
        pool.submit({{}});
        BOOST_TEST(std::isnan(pool.collect()[0][0]));
        BOOST_TEST(pool.unscorable()[0].reason == "broken");
    }
}

BOOST_AUTO_TEST_CASE(what_cannot_be_judged_is_counted_with_its_first_reason) {
    struct Lazy final : Reward {
        double score(const RewardInput& input) const override { return judge(input).score; }
        Judgement judge(const RewardInput& input) const override {
            return input.tokens % 3 == 2 ? Judgement{kUnscorable, std::to_string(input.tokens)} : Judgement{1, "none"};
        }
    };
    for (const int threads : {0, 1, 5}) {
        std::vector<NamedReward> rewards = rewards_of_kinds();
        rewards.push_back({"lazy", std::make_unique<Lazy>(), {}});
        rewards.push_back({"lazy in math", std::make_unique<Lazy>(), {"math"}});
        RewardPool pool(std::move(rewards), threads);
        for (const int first : {100, 0}) {
            for (int i = first; i < first + 90; ++i)
                pool.submit({{.reference = i % 2 == 0 ? "" : "1", .tokens = i, .kind = i % 3 == 0 ? "math" : "other"}});
            pool.collect();
            const std::vector<Unscorable>& found = pool.unscorable();
            BOOST_REQUIRE(found.size() == 6u);
            BOOST_TEST(found[0].count == 15);
            BOOST_TEST(found[0].of == 30);
            BOOST_TEST(found[0].reason == "there is no reference answer");
            for (const std::size_t fine : {1u, 2u, 3u, 5u}) {
                BOOST_TEST(found[fine].count == 0);
                BOOST_TEST(found[fine].reason == "");
            }
            BOOST_TEST(found[1].of == 30);
            BOOST_TEST(found[2].of == 0);
            BOOST_TEST(found[4].count == 30);
            BOOST_TEST(found[4].of == 90);
            BOOST_TEST(found[4].reason == (first == 0 ? "2" : "101"));
        }
        pool.collect();
        BOOST_TEST(pool.unscorable()[4].count == 0);
        BOOST_TEST(pool.unscorable()[4].reason == "");
    }
}

BOOST_AUTO_TEST_CASE(a_pool_with_unfinished_work_can_be_dropped) {
    std::vector<NamedReward> rewards;
    rewards.push_back({"lagging", std::make_unique<Lagging>()});
    RewardPool pool(std::move(rewards), 2);
    pool.submit(std::vector<RewardInput>(1000));
    BOOST_CHECK_THROW(RewardPool(all_rewards(), -1), DeckError);
}

BOOST_AUTO_TEST_SUITE_END()
