// SPDX-License-Identifier: Apache-2.0
// Types: what is accepted, and what the deck hands out.
#include "../../src/deck/value.hpp"

#include <cmath>

#include "deck_fixture.hpp"

using namespace gradus;

namespace {

/// What the deck keeps of a value of `type`; "refused" where it is refused.
std::string kept(ParameterType type, const std::string& text, const char* range = "") {
    try {
        return canonical_value({.key = "a.b", .type = type, .range = range}, "a.b", text);
    } catch (const DeckError&) {
        return "refused";
    }
}

double seconds(const std::string& text) {
    return rl_deck("run.timeout = " + text).number("run.timeout");
}

}  // namespace

BOOST_AUTO_TEST_SUITE(value)

BOOST_AUTO_TEST_CASE(flags) {
    for (const char* yes : {"true", "yes", "on", "1"})
        BOOST_TEST(rl_deck(std::string("model.tied = ") + yes).flag("model.tied"));
    for (const char* no : {"false", "no", "off", "0"})
        BOOST_TEST(!rl_deck(std::string("model.tied = ") + no).flag("model.tied"));
    for (const char* text : {"", "True", "2", "y", "true false"})
        BOOST_TEST(kept(ParameterType::flag, text) == "refused");
}

BOOST_AUTO_TEST_CASE(whole_numbers) {
    const auto integer = ParameterType::integer;
    BOOST_TEST(kept(integer, "12") == "12");
    BOOST_TEST(kept(integer, "+12") == "12");
    BOOST_TEST(kept(integer, "-0") == "0");
    BOOST_TEST(kept(integer, "007") == "7");
    BOOST_TEST(kept(integer, "-9223372036854775808") == "-9223372036854775808");
    for (const char* text :
         {"", "+", "-", "+-1", "++1", "1e3", "1.0", "0x10", "1,000", "1 ", "inf"})
        BOOST_TEST(kept(integer, text) == "refused");
    BOOST_TEST(rl_deck("run.seed = 9223372036854775807").integer("run.seed") == INT64_MAX);
}

BOOST_AUTO_TEST_CASE(numbers) {
    const auto number = ParameterType::number;
    BOOST_TEST(kept(number, "1e-3") == "0.001");
    BOOST_TEST(kept(number, "+.5") == "0.5");
    BOOST_TEST(kept(number, "5.") == "5");
    BOOST_TEST(kept(number, "-2E2") == "-200");
    // The shortest text that is the same double.
    BOOST_TEST(kept(number, "0.1000000000000000055511") == "0.1");
    BOOST_TEST(kept(number, "0.30000000000000004") == "0.30000000000000004");
    for (const char* text :
         {"", ".", "e5", "nan", "inf", "-inf", "1e400", "0x1p3", "1,5", "1 2", "--1"})
        BOOST_TEST(kept(number, text) == "refused");
    // Below the smallest normal double: read as it is, not an error.
    BOOST_TEST(rl_deck("train.lr = 4e-320").number("train.lr") == 4e-320);
    BOOST_TEST(rl_deck("train.lr = 2.5e-4").number("train.lr") == 2.5e-4);
}

BOOST_AUTO_TEST_CASE(ranges) {
    const auto number = ParameterType::number;
    BOOST_TEST(kept(number, "0", ">0") == "refused");
    BOOST_TEST(kept(number, "1e-300", ">0") == "1e-300");
    BOOST_TEST(kept(number, "0", ">=0") == "0");
    BOOST_TEST(kept(number, "-1e-300", ">=0") == "refused");
    for (const char* range : {"[0,1]", "[0,1)"}) BOOST_TEST(kept(number, "0", range) == "0");
    for (const char* range : {"(0,1]", "(0,1)"}) BOOST_TEST(kept(number, "0", range) == "refused");
    for (const char* range : {"[0,1]", "(0,1]"}) BOOST_TEST(kept(number, "1", range) == "1");
    for (const char* range : {"[0,1)", "(0,1)"}) BOOST_TEST(kept(number, "1", range) == "refused");
    BOOST_TEST(kept(number, "0.999", "(0,1)") == "0.999");
    BOOST_TEST(kept(number, "auto", "auto | >0") == "auto");
    BOOST_TEST(kept(number, "-1", "auto | >0") == "refused");
    BOOST_TEST(kept(number, ">0", "auto | >0") == "refused");
    BOOST_TEST(kept(ParameterType::integer, "20", "[2,20]") == "20");
    BOOST_TEST(kept(ParameterType::integer, "21", "[2,20]") == "refused");
}

BOOST_AUTO_TEST_CASE(durations) {
    BOOST_TEST(seconds("90") == 90);
    BOOST_TEST(seconds("90s") == 90);
    BOOST_TEST(seconds("1.5 h") == 5400);
    BOOST_TEST(seconds("10m") == 600);
    BOOST_TEST(seconds("10min") == 600);
    BOOST_TEST(seconds("2d") == 172800);
    BOOST_TEST(seconds("30:00") == 1800);
    BOOST_TEST(seconds("90:00") == 5400);
    BOOST_TEST(seconds("00:30:05") == 1805);
    BOOST_TEST(seconds("1-12:00:00") == 129600);
    for (const char* text : {"",         "s",        "h2",      "2 hours",        "-5s",
                             "0",        "00:00:00", "1:2:3:4", "1:60",           "1:-2",
                             "1::2",     ":30",      "30:",     "1.5:00",         "1-12:00",
                             "-1:00:00", "1e308d",   "1h30m",   "99999999999:00", "1s s"})
        BOOST_TEST(kept(ParameterType::duration, text, ">0") == "refused", text);
    // Kept in seconds, so that the next reader needs no units.
    BOOST_TEST(rl_deck("run.timeout = 1.5h").text("run.timeout") == "5400");
    BOOST_TEST(rl_deck("run.walltime = auto").text("run.walltime") == "auto");
}

BOOST_AUTO_TEST_CASE(sizes) {
    const auto bytes = ParameterType::bytes;
    BOOST_TEST(kept(bytes, "64MiB", ">0") == "67108864");
    BOOST_TEST(kept(bytes, "1.5 KiB", ">0") == "1536");
    BOOST_TEST(kept(bytes, "3GiB") == "3221225472");
    BOOST_TEST(kept(bytes, "2TiB") == "2199023255552");
    BOOST_TEST(kept(bytes, "12B") == "12");
    BOOST_TEST(kept(bytes, "12") == "12");
    // Thousands and 1024s are not mixed up.
    for (const char* text : {"64MB", "64M", "64mib", "MiB", "-1KiB", "1e30TiB", "1e18TiB"})
        BOOST_TEST(kept(bytes, text, ">=0") == "refused");
}

BOOST_AUTO_TEST_CASE(schedules) {
    const Schedule steps =
        rl_deck("rollout.temperature = 0:0.7 200:1.0 1000:0.5").schedule("rollout.temperature");
    BOOST_TEST(steps.at(0) == 0.7);
    BOOST_TEST(steps.at(199) == 0.7);
    BOOST_TEST(steps.at(200) == 1.0);
    BOOST_TEST(steps.at(999) == 1.0);
    BOOST_TEST(steps.at(1000) == 0.5);
    BOOST_TEST(steps.at(1'000'000'000'000) == 0.5);
    BOOST_TEST(steps.text() == "0:0.7 200:1 1000:0.5");
    BOOST_TEST(steps.levels() == (std::vector<double>{0.7, 1.0, 0.5}),
               boost::test_tools::per_element());

    const Schedule plain = rl_deck("loss.entropy_coef = -1e-3").schedule("loss.entropy_coef");
    BOOST_TEST(plain.at(0) == -1e-3);
    BOOST_TEST(plain.at(77) == -1e-3);
    BOOST_TEST(Schedule::parse("0:2").text() == "2");
    BOOST_TEST(Schedule::parse(" 0:2\t5:3 ").text() == "0:2 5:3");
}

BOOST_AUTO_TEST_CASE(malformed_schedules) {
    for (const char* text :
         {"",      " ",     "1:2",  "0:1 0:2", "0:1 5:2 5:3", "0:1 9:2 5:3", "0:1 5",
          "5 0:1", "1 2",   "0:",   ":1",      "0:1:2",       "a:1",         "0:a",
          "0:nan", "0:inf", "-1:2", "0.5:2",   "0: 1",        "0:1,5:2"}) {
        BOOST_CHECK_THROW(Schedule::parse(text), DeckError);
        BOOST_TEST(kept(ParameterType::schedule, text) == "refused", text);
    }
    BOOST_CHECK_EXCEPTION(Schedule::parse("5:1"), DeckError, [](const DeckError& e) {
        return e.what() ==
               std::string("`5:1` is no schedule: `step:value ...` with growing steps from 0");
    });
    BOOST_TEST(kept(ParameterType::schedule, "0:1 5:0", ">0") == "refused");
    BOOST_TEST(kept(ParameterType::schedule, "0:1 5:0.1", "[0,1]") == "0:1 5:0.1");
    BOOST_CHECK_THROW(Schedule().at(0), InternalError);
}

BOOST_AUTO_TEST_CASE(lists) {
    const auto words = [](const std::string& value) {
        return rl_deck("rollout.stop = " + value).list("rollout.stop");
    };
    check_lines(words(""), {});
    check_lines(words("a"), {"a"});
    check_lines(words("  a \t bc  d # e"), {"a", "bc", "d"});
    check_lines(words("a \\\n  b"), {"a", "b"});
    check_lines(words("my\\ data.jsonl \\nUser: C:\\\\x"), {"my data.jsonl", "\nUser:", "C:\\x"});
    check_lines(words("\"\\\\  \\\\ \""), {" ", " "});
    check_lines(words("\"a b\" \"#1\""), {"a", "b", "#1"});
    check_lines(resolve(required_keys("evaluate") + "eval.k = 1 +2").list("eval.k"), {"1", "+2"});
    // The command line has no quotes of its own; the same words are read in the same way.
    check_lines(rl_deck("", {"data.path=a\\ b.jsonl c.jsonl"}).list("data.path"),
                {"a b.jsonl", "c.jsonl"});
}

BOOST_AUTO_TEST_CASE(readers_check_the_type) {
    const Deck deck = rl_deck("");
    BOOST_TEST(deck.integer("rl.group") == 16);
    BOOST_TEST(deck.number("rl.group") == 16.0);
    BOOST_CHECK_THROW(deck.integer("train.lr"), InternalError);
    BOOST_CHECK_THROW(deck.number("run.walltime"), InternalError);  // none
    BOOST_CHECK_THROW(deck.text("train.stepz"), InternalError);
    BOOST_CHECK_THROW(deck.integer("sample.n"), InternalError);  // of another stage
    BOOST_CHECK_THROW(deck.origin("reward.a.kind"), InternalError);
}

BOOST_AUTO_TEST_CASE(descriptions) {
    const auto described = [](ParameterType type, const char* unit, const char* range) {
        return describe_type({.key = "a.b", .type = type, .unit = unit, .range = range});
    };
    BOOST_TEST(described(ParameterType::integer, "steps", ">0") == "a whole number > 0 (steps)");
    BOOST_TEST(described(ParameterType::number, "", "") == "a number");
    BOOST_TEST(described(ParameterType::number, "", "(0,1]") == "a number in (0,1]");
    BOOST_TEST(described(ParameterType::bytes, "", "auto | >=0") ==
               "auto or a size >= 0 like 64MiB");
    BOOST_TEST(described(ParameterType::choice, "", "a | b") == "one of a | b");
    BOOST_TEST(described(ParameterType::choice, "", "a") == "a");
    BOOST_TEST(described(ParameterType::list, "", "a | b") == "a list of a | b");
    BOOST_TEST(described(ParameterType::list, "", "") == "a list of words");
}

BOOST_AUTO_TEST_SUITE_END()
