// SPDX-License-Identifier: Apache-2.0
// deck.resolved is a deck that repeats the run; the decks of the demo resolve.
#include <algorithm>
#include <map>
#include <set>

#include "deck_fixture.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/deck/parameters.hpp"

using namespace gradus;

namespace {

/// Values that the lexer could misread.
const std::vector<std::string>& odd_values() {
    static const std::vector<std::string> values = {
        "\"",       "\\",          "$",       "#",           "${HOME}",
        "a\\",      "\\\"",        "\"a\"",   " a",          "a ",
        "\t",       "a\tb",        "a = b",   "include = x", "# a",
        "a # b",    "\\n",         "\\\\",    "a\\ b",       "\xE4\xBD\xA0 \xF0\x9F\x98\x80",
        "\xC2\xA0", "<required>",  "default", "'",           "`",
        "",         "\xEF\xBB\xBF"};
    return values;
}

void check_fixpoint(const Deck& deck) {
    const std::string text = deck.resolved();
    const Deck again = resolve_deck_text(text, "deck.resolved", {});
    BOOST_TEST((again.values() == deck.values()), text);
    // Once more: what is written of it is the same but for the origins.
    BOOST_TEST(
        (resolve_deck_text(again.resolved(), "deck.resolved", {}).values() == deck.values()));
    for (const char* section : {"reward", "train"})
        BOOST_TEST(again.names(section) == deck.names(section), boost::test_tools::per_element());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(resolved)

BOOST_AUTO_TEST_CASE(repeats_every_stage) {
    for (const std::string_view stage : stage_names())
        check_fixpoint(resolve(required_keys(std::string(stage))));
}

BOOST_AUTO_TEST_CASE(repeats_odd_values) {
    for (const std::string_view stage : stage_names())
        for (const std::string& value : odd_values()) {
            // As they come from the command line: no quotes, blanks at the ends do not count.
            const Deck deck = resolve(required_keys(std::string(stage)),
                                      {"policy.system=" + value, "restart=" + value});
            const std::size_t begin = std::min(value.find_first_not_of(" \t"), value.size());
            const std::string trimmed =
                value.substr(begin, value.find_last_not_of(" \t") + 1 - begin);
            BOOST_TEST(deck.text("policy.system") == trimmed);
            check_fixpoint(deck);
            // As they come from the environment: as they are.
            const Variable variable("GRADUS_TEST_ODD", value.c_str());
            const Deck other =
                resolve(required_keys(std::string(stage)) + "policy.system = $GRADUS_TEST_ODD");
            BOOST_TEST(other.text("policy.system") == value);
            check_fixpoint(other);
        }
}

BOOST_AUTO_TEST_CASE(repeats_all_types) {
    check_fixpoint(
        rl_deck("run.walltime = 1-00:00:00\ntrain.lr = 1.234567890123456789e-5\n"
                "loss.kl_coef = 0:1e-3 7:0.25\nmodel.tied = no\ndata.shuffle = on\n"
                "rollout.stop = \\nUser: a\\ b \"#\" $HOME\nreward.a.kind = format\n"
                "reward.b.kind = language\nreward.b.weight = 0:0 5:1\n"
                "model.from = \"/runs/my base\"\nrun.seed = 9223372036854775807\n"
                "optim.eps = 4e-320\nrun.stop_margin = 1e300\nloss.entropy_coef = -0"));
}

BOOST_AUTO_TEST_CASE(says_where_values_come_from) {
    const std::string text = rl_deck("policy.system = \"a # b\"", {"train.steps=5"}).resolved();
    const Words lines = split_lines(text);
    const auto has = [&](const std::string& line) {
        return std::find(lines.begin(), lines.end(), line) != lines.end();
    };
    BOOST_TEST(has("policy.system                = \"a # b\"                  # a.in:4"));
    BOOST_TEST(has("train.steps                  = 5                        # command line"));
    BOOST_TEST(has("rl.group                     = 16                       # default"));
    BOOST_TEST(has("model.hidden                 = 256                      # default"));
    // The name of a file cannot end its comment.
    const Deck odd = resolve_deck_text(required_keys("rl"), "a\nstage = bench\\", {});
    BOOST_TEST(odd.origin("stage") == "a?stage = bench\\:1");
    check_fixpoint(odd);
}

BOOST_AUTO_TEST_CASE(leaves_the_shape_to_the_checkpoint) {
    const Deck deck = rl_deck("model.from = /runs/base\nmodel.layers = 4");
    const Words lines = split_lines(deck.resolved());
    const auto has = [&](const std::string& line) {
        return std::find(lines.begin(), lines.end(), line) != lines.end();
    };
    BOOST_TEST(has("# model.hidden               = 256                      # default"));
    BOOST_TEST(has("model.layers                 = 4                        # a.in:5"));
    BOOST_TEST(has("model.from                   = /runs/base               # a.in:4"));
    check_fixpoint(deck);
    const Deck again = resolve_deck_text(deck.resolved(), "deck.resolved", {});
    BOOST_TEST(!again.is_set("model.hidden"));
    BOOST_TEST(again.is_set("model.layers"));
}

BOOST_AUTO_TEST_CASE(leaves_k_to_the_number_of_samples) {
    // With four samples the default's 16 does not count; set by hand it is an error of the stage.
    const Deck deck = resolve(required_keys("evaluate") + "eval.n = 4");
    check_fixpoint(deck);
    BOOST_TEST(!resolve_deck_text(deck.resolved(), "deck.resolved", {}).is_set("eval.k"));
    const Deck set = resolve(required_keys("evaluate") + "eval.k = 1 2");
    BOOST_TEST(resolve_deck_text(set.resolved(), "deck.resolved", {}).is_set("eval.k"));
}

BOOST_AUTO_TEST_CASE(leaves_out_what_is_of_reward_models) {
    // A reward of another kind may not have these keys; set by hand they stay, and the stage says so.
    const Deck deck = rl_deck("reward.b.kind = model\nreward.b.from = /runs/helpful\nreward.a.kind = format\nreward.a.part = answer");
    check_fixpoint(deck);
    const Deck again = resolve_deck_text(deck.resolved(), "deck.resolved", {});
    for (const char* key : {"reward.a.from", "reward.a.normalise", "reward.a.offload"}) BOOST_TEST(!again.is_set(key), key);
    for (const char* key : {"reward.a.part", "reward.b.from", "reward.b.part", "reward.b.normalise"}) BOOST_TEST(again.is_set(key), key);
}

BOOST_AUTO_TEST_CASE(decks_of_the_demo) {
    const Variable root("ROOT", "/runs/demo");
    // Those that others include need not stand alone.
    std::map<std::string, std::string> decks;
    for (const auto& entry : std::filesystem::directory_iterator(GRADUS_SOURCE_DIR "/inputs/demo"))
        if (entry.path().extension() == ".in")
            decks[entry.path().filename().string()] = entry.path().string();
    std::set<std::string> included;
    for (const auto& [name, path] : decks)
        for (const std::string& line : split_lines(read_file(path)))
            if (line.rfind("include = ", 0) == 0) included.insert(line.substr(10));
    int count = 0;
    for (const auto& [name, path] : decks) {
        if (included.count(name) > 0) continue;
        BOOST_TEST_CONTEXT(name) {
            const Deck deck = resolve_deck(path, {"run.dir=/runs/demo/" + name});
            check_fixpoint(deck);
            BOOST_TEST(deck.text("run.dir") == "/runs/demo/" + name);
            BOOST_TEST(deck.text("policy.template") == "demo");
            if (deck.stage() == "rl") BOOST_TEST(!deck.names("reward").empty());
        }
        ++count;
    }
    BOOST_TEST(count >= 8);
}

BOOST_AUTO_TEST_SUITE_END()
