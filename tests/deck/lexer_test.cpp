// SPDX-License-Identifier: Apache-2.0
// The grammar of decks, includes, and where values come from.
#include "deck_fixture.hpp"

using namespace gradus;

namespace {

/// What `policy.system = VALUE` gives.
std::string system_of(const std::string& value) {
    return rl_deck("policy.system = " + value).text("policy.system");
}

}  // namespace

BOOST_AUTO_TEST_SUITE(lexer)

BOOST_AUTO_TEST_CASE(blanks_and_comments) {
    BOOST_TEST(system_of("a") == "a");
    BOOST_TEST(system_of("  a \t b\t ") == "a \t b");
    BOOST_TEST(system_of("a # b") == "a");
    BOOST_TEST(system_of("a#b") == "a");
    BOOST_TEST(system_of("# b") == "");
    BOOST_TEST(system_of("a = b == c") == "a = b == c");
    BOOST_TEST(rl_deck("\t policy.system=a\n#policy.system = b\n  # policy.system = c")
                   .text("policy.system") == "a");
    BOOST_TEST(rl_deck("policy.system = a\r\ntrain.steps = 7\r\n").integer("train.steps") == 7);
    BOOST_TEST(resolve("\xEF\xBB\xBFstage = problems\nrun.dir = a").stage() == "problems");
}

BOOST_AUTO_TEST_CASE(quotes) {
    BOOST_TEST(system_of("\"a # b\" # c") == "a # b");
    BOOST_TEST(system_of("\"  a  \"  ") == "  a  ");
    BOOST_TEST(system_of("\"$HOME\"") == "$HOME");
    BOOST_TEST(system_of("\"say \\\"a\\\\b\\\"\"") == "say \"a\\b\"");
    BOOST_TEST(system_of("x\"a b\"y\" \"") == "xa by ");
    BOOST_TEST(system_of("\"\"") == "");
    BOOST_TEST(system_of("a\\b \\\\c") == "a\\b \\\\c");  // outside quotes it stands for itself
    BOOST_TEST(system_of("it's \xE4\xBD\xA0\xE5\xA5\xBD") == "it's \xE4\xBD\xA0\xE5\xA5\xBD");
}

BOOST_AUTO_TEST_CASE(continued_lines) {
    BOOST_TEST(system_of("a \\\n   b\\\nc") == "a     b c");
    BOOST_TEST(system_of("a \\  \n b") == "a   b");  // blanks after the backslash do not show
    BOOST_TEST(system_of("a \\\r\n b") == "a   b");
    BOOST_TEST(system_of("\"a\\\nb\"") == "a b");
    BOOST_TEST(system_of("a \\") == "a");  // nothing follows
    BOOST_TEST(system_of("a \\\n\ntrain.steps = 3") == "a");
    BOOST_TEST(system_of("a \\\n # b") == "a");
    // An escaped backslash in quotes continues nothing.
    BOOST_TEST(errors_of(required_keys("rl") + "policy.system = \"a\\\\\n\"").size() == 2u);
}

BOOST_AUTO_TEST_CASE(comments_do_not_continue) {
    BOOST_TEST(rl_deck("# see C:\\data\\\ntrain.steps = 3").integer("train.steps") == 3);
    const Deck deck = rl_deck("policy.system = a # b \\\ntrain.steps = 3");
    BOOST_TEST(deck.text("policy.system") == "a");
    BOOST_TEST(deck.integer("train.steps") == 3);
    BOOST_TEST(system_of("\"#\" \\\n b") == "#   b");
}

BOOST_AUTO_TEST_CASE(lines_of_continued_values) {
    const Deck deck = rl_deck("policy.system = a \\\n b \\\n c\ntrain.steps = 3");
    BOOST_TEST(deck.origin("policy.system") == "a.in:4");
    BOOST_TEST(deck.origin("train.steps") == "a.in:7");
}

BOOST_AUTO_TEST_CASE(variables) {
    const Variable root("GRADUS_TEST_ROOT", "/a b/#\"$x\\");
    BOOST_TEST(system_of("$GRADUS_TEST_ROOT/c") == "/a b/#\"$x\\/c");
    BOOST_TEST(system_of("x${GRADUS_TEST_ROOT}y # z") == "x/a b/#\"$x\\y");
    BOOST_TEST(system_of("$GRADUS_TEST_ROOT\"/my dir\"") == "/a b/#\"$x\\/my dir");
    const Variable blank("GRADUS_TEST_BLANK", " a ");
    BOOST_TEST(system_of("$GRADUS_TEST_BLANK") == " a ");
    const Variable empty("GRADUS_TEST_EMPTY", "");
    BOOST_TEST(system_of("a${GRADUS_TEST_EMPTY}b") == "ab");
    // The command line has been through a shell.
    BOOST_TEST(rl_deck("", {"policy.system=$GRADUS_TEST_ROOT \"a\" # b"}).text("policy.system") ==
               "$GRADUS_TEST_ROOT \"a\" # b");
}

BOOST_AUTO_TEST_CASE(later_values_win) {
    const Deck deck = rl_deck("train.steps = 3\ntrain.steps = 4\nrl.group = 2",
                              {"rl.group=8", " rl.group = 9 ", "run.dir=b"});
    BOOST_TEST(deck.integer("train.steps") == 4);
    BOOST_TEST(deck.origin("train.steps") == "a.in:5");
    BOOST_TEST(deck.integer("rl.group") == 9);
    BOOST_TEST(deck.origin("rl.group") == "command line");
    BOOST_TEST(deck.text("run.dir") == "b");
    BOOST_TEST(deck.origin("rl.prompts") == "default");
    // What is overridden is not read as a value.
    BOOST_TEST(rl_deck("train.steps = x", {"train.steps=1"}).integer("train.steps") == 1);
    BOOST_TEST(resolve(required_keys("rl"), {"stage=sft"}).stage() == "sft");
}

BOOST_AUTO_TEST_CASE(set_or_not) {
    const Deck deck = rl_deck("train.steps = 0", {"rl.group=16"});
    BOOST_TEST(deck.is_set("train.steps"));  // to its default, but set
    BOOST_TEST(deck.is_set("rl.group"));
    BOOST_TEST(!deck.is_set("rl.prompts"));
    BOOST_CHECK_THROW(deck.is_set("sample.n"), InternalError);
}

BOOST_AUTO_TEST_CASE(wildcards) {
    const Deck deck = rl_deck(
        "reward.style.kind = format\nreward.accuracy.kind = accuracy\nreward.accuracy.weight = 0:1 "
        "9:0.5\nreward.a-1_B.kind = language\nreward.a-1_B.language = zh");
    check_lines(deck.names("reward"), {"a-1_B", "accuracy", "style"});
    BOOST_TEST(deck.text("reward.style.kind") == "format");
    BOOST_TEST(deck.schedule("reward.accuracy.weight").at(9) == 0.5);
    BOOST_TEST(deck.text("reward.a-1_B.language") == "zh");
    // Each name has all keys.
    BOOST_TEST(deck.schedule("reward.style.weight").at(0) == 1);
    BOOST_TEST(deck.origin("reward.style.weight") == "default");
    BOOST_TEST(deck.origin("reward.a-1_B.kind") == "a.in:7");
    check_lines(rl_deck("").names("reward"), {});
    check_lines(rl_deck("", {"reward.r.kind=format"}).names("reward"), {"r"});
}

BOOST_AUTO_TEST_CASE(includes) {
    const DeckFolder folder;
    folder.write("shared/model.in", "model.layers = 2\nmodel.heads = 8\n");
    folder.write("shared/common.in", "include = model.in\nmodel.hidden = 64\ntrain.steps = 5\n");
    const std::string deck =
        folder.write("a.in",
                     "stage = rl\nmodel.hidden = 32\ninclude = shared/common.in\n"
                     "model.heads = 2\nrun.dir = a\ndata.path = b\n");
    const Deck d = resolve_deck(deck, {"train.steps=6"});
    BOOST_TEST(d.integer("model.layers") == 2);
    BOOST_TEST(d.origin("model.layers") == (folder / "shared/model.in") + ":1");
    BOOST_TEST(d.integer("model.hidden") == 64);  // the include stands below
    BOOST_TEST(d.origin("model.hidden") == (folder / "shared/common.in") + ":2");
    BOOST_TEST(d.integer("model.heads") == 2);  // and above
    BOOST_TEST(d.origin("model.heads") == deck + ":4");
    BOOST_TEST(d.integer("train.steps") == 6);

    const Variable variable("GRADUS_TEST_FOLDER", (folder / "shared").c_str());
    BOOST_TEST(
        rl_deck("include = $GRADUS_TEST_FOLDER/\"model.in\" # two keys").integer("model.layers") ==
        2);
    // The same file twice is no cycle.
    BOOST_TEST(rl_deck("include = $GRADUS_TEST_FOLDER/model.in\nmodel.heads = 1\n"
                       "include = $GRADUS_TEST_FOLDER/model.in")
                   .integer("model.heads") == 8);
}

BOOST_AUTO_TEST_CASE(included_keys_of_other_stages_are_left_out) {
    const DeckFolder folder;
    const std::string common = folder.write(
        "common.in", "rl.group = 8\neval.n = many\ntrain.epochs = 3\nreward.a.kind = format\n");
    const std::string deck = folder.write("a.in", "include = common.in\n" + required_keys("sft"));
    const Deck d = resolve_deck(deck, {});
    BOOST_TEST(d.number("train.epochs") == 3);
    BOOST_TEST(d.values().count("rl.group") == 0u);
    check_lines(d.names("reward"), {});
    // Also where the deck is a text; and only what the include brings.
    check_lines(errors_of(required_keys("sft") + "include = " + common + "\nrl.group = 4"),
                {"a.in:5: rl.group is not used by stage = sft, only by: rl"});
    // A wrong name is wrong everywhere.
    folder.write("common.in", "rl.gruop = 8\n");
    check_lines(errors_when([&] { resolve_deck(deck, {}); }),
                {common + ":1: there is no key rl.gruop; did you mean rl.group?"});
    // A stage may be included, and then it is the deck's.
    folder.write("common.in", "stage = rl\nrl.group = 8\n");
    folder.write("a.in", "include = common.in\nrun.dir = a\ndata.path = b\n");
    BOOST_TEST(resolve_deck(deck, {}).integer("rl.group") == 8);
}

BOOST_AUTO_TEST_CASE(files_that_cannot_be_included) {
    const DeckFolder folder;
    const std::string deck = folder.write("a.in", "stage = rl\ninclude = b.in\n");
    // What is missing may stand in the file that cannot be read.
    check_lines(errors_when([&] { resolve_deck(deck, {}); }),
                {deck + ":2: cannot read " + (folder / "b.in") + ": No such file or directory"});
    const std::string none = folder / "none.in";
    check_lines(errors_when([&] { resolve_deck(none, {}); }),
                {"cannot read " + none + ": No such file or directory"});
    folder.write("b.in", "include = c.in\n");
    folder.write("c.in", "\ninclude = ../" +
                             std::filesystem::path(folder / "").parent_path().filename().string() +
                             "/b.in\n");
    const Words cycle = errors_when([&] { resolve_deck(deck, {}); });
    BOOST_REQUIRE(cycle.size() == 1u);
    BOOST_TEST(cycle[0].substr(0, (folder / "c.in:2: ").size()) == folder / "c.in:2: ");
    BOOST_TEST(cycle[0].ends_with("/b.in includes itself"));

    std::filesystem::create_directory(folder / "d");
    folder.write("b.in", "include = d\n");
    check_lines(errors_when([&] { resolve_deck(deck, {}); }),
                {(folder / "b.in") + ":1: " + (folder / "d") + " is a folder, not a deck"});
    // A name that no file can have.
    folder.write("b.in", "include = " + std::string(5000, 'x') + "\n");
    const Words endless = errors_when([&] { resolve_deck(deck, {}); });
    BOOST_REQUIRE(endless.size() == 1u);
    BOOST_TEST(endless[0].ends_with(": File name too long"));
}

BOOST_AUTO_TEST_CASE(includes_that_double) {
    // Thirty files, each of which reads the next one twice: a thousand million lines.
    const DeckFolder folder;
    for (int i = 0; i < 30; ++i) {
        const std::string next = "include = " + std::to_string(i + 1) + ".in\n";
        folder.write(std::to_string(i) + ".in", next + next);
    }
    folder.write("30.in", "train.steps = 1\n");
    const Words lines = lines_of([&] { resolve_deck(folder / "0.in", {}); });
    BOOST_REQUIRE(lines.size() > 1u);
    BOOST_TEST(lines.at(1).ends_with("more than 1000 files are included"));
}

BOOST_AUTO_TEST_SUITE_END()
