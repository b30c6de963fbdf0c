// SPDX-License-Identifier: Apache-2.0
// The parameter table is sound, and --help-deck shows it.
#include <algorithm>
#include <set>
#include <sstream>

#include "../../src/deck/value.hpp"
#include "deck_fixture.hpp"
#include "gradus/deck/parameters.hpp"

using namespace gradus;

namespace {

Words words_of(std::string_view text) {
    std::istringstream in{std::string(text)};
    Words words;
    for (std::string word; in >> word;) words.push_back(word);
    return words;
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(table)

BOOST_AUTO_TEST_CASE(keys_are_unique_and_grouped) {
    std::set<std::string_view> keys;
    std::vector<std::string_view> sections;
    for (const DeckKey& p : parameters()) {
        BOOST_TEST(keys.insert(p.key).second, p.key);
        const std::string_view section = p.key.substr(0, p.key.find('.') + 1);
        if (sections.empty() || sections.back() != section) sections.push_back(section);
    }
    BOOST_TEST(keys.size() > 80u);
    BOOST_TEST(std::set<std::string_view>(sections.begin(), sections.end()).size() ==
               sections.size());
}

BOOST_AUTO_TEST_CASE(rows_are_complete) {
    const auto names = stage_names();
    for (const DeckKey& p : parameters()) BOOST_TEST_CONTEXT(p.key) {
            BOOST_TEST(!p.help.empty());
            BOOST_TEST((p.help.back() == '.'));
            BOOST_TEST(!describe_type(p).empty());
            if (p.type == ParameterType::choice) BOOST_TEST(!p.range.empty());
            BOOST_TEST(!p.stages.empty());
            if (p.stages == "*") continue;
            std::set<std::string> once;
            for (const std::string& stage : words_of(p.stages)) {
                BOOST_TEST((std::find(names.begin(), names.end(), stage) != names.end()), stage);
                BOOST_TEST(once.insert(stage).second);
            }
        }
}

BOOST_AUTO_TEST_CASE(defaults_pass_their_own_check) {
    for (const DeckKey& p : parameters()) BOOST_TEST_CONTEXT(p.key) {
            if (p.default_value == kRequired) continue;
            const std::string text(p.default_value);
            const std::string key(p.key);
            const bool not_given =
                text.empty() && (p.type == ParameterType::text || p.type == ParameterType::path ||
                                 p.type == ParameterType::list);
            BOOST_TEST((not_given || !text.empty()));
            if (!text.empty()) {
                const std::string kept = canonical_value(p, key, text);
                BOOST_TEST(canonical_value(p, key, kept) == kept);
            }
        }
}

BOOST_AUTO_TEST_CASE(stages) {
    const DeckKey* stage = find_parameter("stage");
    BOOST_REQUIRE(stage != nullptr);
    Words choices = words_of(stage->range);
    std::erase(choices, "|");
    const auto names = stage_names();
    BOOST_TEST(choices == Words(names.begin(), names.end()), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(finding_rows) {
    for (const DeckKey& p : parameters())
        if (!contains(std::string(p.key), "*")) BOOST_TEST(find_parameter(p.key) == &p);
    BOOST_REQUIRE(find_parameter("reward.accuracy.weight") != nullptr);
    BOOST_TEST(find_parameter("reward.accuracy.weight")->key == "reward.*.weight");
    for (const char* key :
         {"", "train", "train.", "train.step", "train.stepss", "reward.weight", "reward..weight",
          "reward.a.b.weight", "reward.a.weights", "areward.a.weight"})
        BOOST_TEST(find_parameter(key) == nullptr);
}

BOOST_AUTO_TEST_CASE(help_shows_all_keys) {
    const std::string all = help_deck("");
    for (const DeckKey& p : parameters()) {
        std::string key(p.key);
        if (const auto star = key.find('*'); star != std::string::npos)
            key.replace(star, 1, "NAME");
        BOOST_TEST(contains(all, "\n" + key + " = "), key);
    }
    BOOST_TEST(contains(all, "include = FILE"));
    for (const std::string& line : split_lines(all)) {
        BOOST_TEST(line.size() <= 100u, line);
        BOOST_TEST((line.empty() || line.back() != ' '), line);
    }
}

BOOST_AUTO_TEST_CASE(help_of_a_section) {
    BOOST_TEST(help_deck("train.steps") ==
               "train.steps = 0\n"
               "    Updates in all; 0: from train.epochs (not in stage rl).\n"
               "    [a whole number >= 0 (updates); stages: pretrain sft rl reward_model]\n");
    BOOST_TEST(help_deck("stage").substr(0, 20) == "stage = (required)\n ");
    const std::string rewards = help_deck("reward.");
    BOOST_TEST(contains(rewards, "reward.NAME.kind = (required)\n"));
    BOOST_TEST(contains(rewards, "reward.NAME.weight = 1\n"));
    BOOST_TEST(!contains(rewards, "rollout"));
    // Any name, and the word NAME, are as good as the wildcard.
    BOOST_TEST(help_deck("reward.acc") == rewards);
    BOOST_TEST(help_deck("reward.NAME.") == rewards);
    BOOST_TEST(help_deck("reward.NAME.w").substr(0, 18) == "reward.NAME.weight");
    BOOST_TEST(contains(help_deck("r"), "restart = latest\n"));
    for (const char* prefix : {"nothing", "train.stepss", "reward.a.b", "rewards", "*"})
        BOOST_TEST(help_deck(prefix) == "");
}

BOOST_AUTO_TEST_SUITE_END()
