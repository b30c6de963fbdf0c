// SPDX-License-Identifier: Apache-2.0
// loss.preset: what it sets, and what wins over it.
#include "../../src/deck/presets.hpp"

#include <set>

#include "deck_fixture.hpp"
#include "gradus/deck/parameters.hpp"

namespace gradus {

BOOST_AUTO_TEST_SUITE(presets_of_the_deck)

BOOST_AUTO_TEST_CASE(every_preset_resolves_and_repeats) {
    for (const Preset& preset : presets()) {
        const std::string line = fmt::format("loss.preset = {}\n", preset.name);
        const Deck deck = rl_deck(line);
        std::map<std::string, std::string> last;
        for (const auto& [key, value] : preset.keys) {
            const DeckKey* row = find_parameter(key);
            BOOST_REQUIRE_MESSAGE(row != nullptr, preset.name << ": " << key);
            last[std::string(key)] = value;
        }
        for (const auto& [key, value] : last)
            BOOST_TEST(deck.origin(key) == fmt::format("loss.preset = {}", preset.name), preset.name << " " << key);
        const Deck again = resolve(deck.resolved());
        BOOST_TEST((again.values() == deck.values()), preset.name);
    }
}

BOOST_AUTO_TEST_CASE(the_deck_wins) {
    const Deck deck = rl_deck("loss.std_eps = 0.5\nloss.preset = verl\n", {"loss.dual_clip=7"});
    BOOST_TEST(deck.number("loss.std_eps") == 0.5);
    BOOST_TEST(deck.number("loss.dual_clip") == 7);
    BOOST_TEST(deck.number("loss.ratio_clamp") == 20);
    BOOST_TEST(rl_deck("loss.preset = verl", {"loss.preset=grpo"}).number("loss.ratio_clamp") == 0);
    BOOST_TEST(rl_deck("").text("loss.preset") == "none");
}

/// From the papers and projects, not from the table.
BOOST_AUTO_TEST_CASE(values) {
    const Deck r1 = rl_deck("loss.preset = deepseek-r1");
    BOOST_TEST(r1.integer("rl.prompts") * r1.integer("rl.group") == 8192);
    BOOST_TEST(r1.integer("rl.updates") == 16);
    BOOST_TEST(r1.integer("rl.reference_every") == 400);
    BOOST_TEST(r1.number("train.lr") == 3e-6);
    BOOST_TEST(r1.schedule("loss.clip_high").at(0) == 10);
    BOOST_TEST(r1.schedule("loss.kl_coef").at(0) == 0.001);
    BOOST_TEST(rl_deck("loss.preset = deepseekmath").schedule("loss.kl_coef").at(0) == 0.04);
    BOOST_TEST(rl_deck("loss.preset = dapo").schedule("loss.clip_high").at(0) == 0.28);
    BOOST_TEST(rl_deck("loss.preset = dapo").flag("rl.dynamic_sampling"));
    BOOST_TEST(rl_deck("loss.preset = dr-grpo").text("loss.std") == "none");
    BOOST_TEST(rl_deck("loss.preset = cispo").schedule("loss.clip_high").at(0) + 1 == 5);
    BOOST_TEST(rl_deck("loss.preset = slime").number("loss.std_eps") == 1e-6);
    BOOST_TEST(rl_deck("loss.preset = openrlhf").text("loss.kl_in") == "reward");
    BOOST_TEST(rl_deck("loss.preset = nemo-rl").text("loss.advantage") == "leave_one_out");
    BOOST_TEST(rl_deck("loss.preset = trl").text("loss.aggregation") == "token_mean");
}

BOOST_AUTO_TEST_CASE(an_unknown_name) {
    try {
        rl_deck("loss.preset = dappo");
        BOOST_ERROR("not refused");
    } catch (const DeckError& e) {
        BOOST_TEST(std::string(e.what()).find("a.in:4: loss.preset = dappo") != std::string::npos);
        BOOST_TEST(std::string(e.what()).find("dapo") != std::string::npos);
    }
}

BOOST_AUTO_TEST_CASE(help_lists_them) {
    const std::string help = help_deck("loss.preset");
    for (const Preset& preset : presets())
        BOOST_TEST(help.find(fmt::format("\n  {}: ", preset.name)) != std::string::npos);
    BOOST_TEST(help_deck("train.").find("Presets") == std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
