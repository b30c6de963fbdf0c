// SPDX-License-Identifier: Apache-2.0
// Rewards by form, repetition and length against the assertions of TRL's and open-r1's tests
// (GRADUS_REFERENCE/rewards). Not covered: open-r1's repetition in Chinese, which splits words.
#include <fmt/format.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>

#include "gradus/base/json_lines.hpp"
#include "gradus/reward/reward.hpp"

namespace gradus {
namespace {

/// The text of the i-th completion: a chat of one message, or token ids, each a word.
std::string completion(const Json& one) {
    if (one.is_array() && !one.empty() && one[0].is_object()) return one[0]["content"];
    std::string text;
    for (const Json& token : one) text += fmt::format("{} ", token.get<int>());
    return text;
}

bool agrees(const Json& row, double value, const Json& wanted) {
    if (wanted.is_null()) return std::isnan(value);
    const std::string op = row["op"];
    const double d = std::abs(value - wanted.get<double>());
    if (op == "==") return d < 1e-5;
    if (op == "~= places=2") return d < 5e-3;
    if (op == "~= places=4") return d < 5e-5;
    if (op == "~= places=7") return d < 5e-8;
    throw std::runtime_error("unknown comparison " + op);
}

/// -1 where the row is of another kind.
double scored(const Json& row, std::size_t i, bool& of_these) {
    const std::string function = row["func"];
    const Json options = row.contains("ctor") ? row["ctor"]["kwargs"] : Json::object();
    const Json& completions = row["args"][0];
    RewardInput input{.response = completion(completions[i])};
    of_these = true;
    if (function == "tag_count_reward") return make_tags_reward()->score(input);
    if (function == "format_reward") return make_format_reward()->score(input);
    if (function == "get_repetition_penalty_reward()" && options.value("language", "en") == "en")
        return -options["max_penalty"].get<double>() * make_repetition_reward(options["ngram_size"])->score(input);
    if (function == "get_cosine_scaled_reward()") {
        input.reference = row["args"][1][i];
        input.tokens = static_cast<std::int32_t>(row["args"].size() > 2 ? row["args"][2][i].size() : input.response.size());
        return make_cosine_reward({.right_low = options.value("min_value_correct", 0.5),
                                   .right_high = options.value("max_value_correct", 1.0),
                                   .wrong_low = options.value("min_value_wrong", -1.0),
                                   .wrong_high = options.value("max_value_wrong", -0.5),
                                   .longest = options["max_len"]})
            ->score(input);
    }
    of_these = false;
    return 0;
}

}  // namespace

BOOST_AUTO_TEST_CASE(rewards_of_other_projects) {
    const char* root = std::getenv("GRADUS_REFERENCE");
    if (root == nullptr) {
        fmt::print("skipped: GRADUS_REFERENCE is not set\n");
        return;
    }
    int ran = 0;
    for_each_json_line(std::string(root) + "/rewards/rewards_and_formats.jsonl", [&](const Json& row, std::int64_t line) {
        const std::string source = row["source"];
        if (source.find("open-r1") == std::string::npos && source.find("/trl@") == std::string::npos) return;
        if (!row.contains("args") || row["args"].empty() || !row["args"][0].is_array()) return;
        // A reference in words is one that we compare; for TRL it is none.
        if (row["expected"].is_null() || (row["expected"].is_array() && row["expected"][0].is_null())) return;
        for (std::size_t i = 0; i < row["args"][0].size(); ++i) {
            const bool one = row["path"].size() == 1;
            if (one && row["path"][0] != i) continue;
            bool of_these = false;
            const double value = scored(row, i, of_these);
            if (!of_these) return;
            ++ran;
            const Json wanted = one ? row["expected"] : row["expected"][i];
            BOOST_TEST(agrees(row, value, wanted), line << " " << row["func"] << ": " << value << ", reference " << wanted.dump());
        }
    });
    fmt::print("reference rewards: {} values\n", ran);
    BOOST_TEST(ran > 40);
}

}  // namespace gradus
