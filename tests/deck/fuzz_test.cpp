// SPDX-License-Identifier: Apache-2.0
// Decks made of pieces of the grammar and of random bytes: none crashes or hangs, what is refused
// is refused with a DeckError, and what resolves is repeated by deck.resolved. Two seconds;
// GRADUS_LONG=1 in the environment makes it a minute.
#include <chrono>

#include "deck_fixture.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/deck/parameters.hpp"

using namespace gradus;

namespace {

using Clock = std::chrono::steady_clock;

/// One deck after the other, each a function of its number.
class Generator {
  public:
    explicit Generator(std::uint64_t number)
        : random_({.seed = 20, .stream = Stream::test, .prompt = number}) {}

    std::string deck() {
        // Most begin as decks that resolve, so that what is odd stands alone.
        const auto stages = stage_names();
        const auto stage = std::string(stages[below(stages.size())]);
        std::string text = below(8) == 0 ? "" : required_keys(stage);
        for (std::size_t i = below(6); i > 0; --i) text += line(stage);
        for (std::size_t i = below(3) == 0 ? below(4) : 0; i > 0; --i) mutate(text);
        return text;
    }

    Words overrides() {
        Words words;
        for (std::size_t i = below(4) == 0 ? below(3) : 0; i > 0; --i) words.push_back(line("rl"));
        for (std::string& word : words)
            if (!word.empty() && word.back() == '\n') word.pop_back();
        return words;
    }

  private:
    std::size_t below(std::size_t n) {
        return static_cast<std::size_t>(random_.integer(0, static_cast<std::int64_t>(n) - 1));
    }
    const char* any(const std::vector<const char*>& pieces) { return pieces[below(pieces.size())]; }

    /// A key of the stage more often than not.
    std::string key(const std::string& stage) {
        // Where every text is allowed, what is odd gets as far as deck.resolved.
        last_ = nullptr;
        if (below(3) == 0) return any({"policy.system", "restart", "run.dir"});
        const auto table = parameters();
        for (int tries = 0; tries < 20; ++tries) {
            const DeckKey& p = table[below(table.size())];
            if (p.stages != "*" && p.stages.find(stage) == std::string_view::npos && below(16) > 0)
                continue;
            std::string name(p.key);
            if (const auto star = name.find('*'); star != std::string::npos)
                name.replace(star, 1, any({"a", "accuracy", "b-1", "_"}));
            last_ = &p;
            return name;
        }
        return "policy.system";
    }

    std::string value() {
        if (last_ != nullptr && below(2) == 0) {
            if (last_->range.find('|') != std::string_view::npos) {
                const std::string range(last_->range);
                const std::size_t bar = range.find('|');
                return below(2) == 0 ? range.substr(0, bar) : range.substr(bar + 2);
            }
            return std::string(last_->default_value);
        }
        std::string text;
        for (std::size_t i = below(4) + 1; i > 0; --i) text += piece();
        return text;
    }

    std::string piece() {
        switch (below(4)) {
            case 0:
                return any({"0", "1", "7", "-1", "0.5", "1e-3", "1e308", "4e-320", "1e999", "nan",
                            "inf", "+", "0x1p3", "9223372036854775807", "-0", "true", "off", "auto",
                            "none"});
            case 1:
                return any({"2h", "1.5d", "30:00", "1-12:00:00", ":", "64MiB", "0:1", " 5:0.5",
                            "0:1 5:2", "1e300:1", "5:", "1 4 16", "a b", "\\ ", "\\n", "\\\\"});
            case 2:
                return any({"\"",      "\"a b\"", "\"#\"",      "\\\"",
                            "\\",      "#",       "$",          "$GRADUS_TEST_ODD",
                            "${HOME}", "${",      "}",          "\\\n",
                            "\\ \n",   "\n",      "\r",         "\t",
                            " ",       "=",       "<required>", "\"\""});
            default:
                return any({"\xE4\xBD\xA0", "\xF0\x9F\x98\x80", "\xC2\xA0", "\xFF", "\xE2\x82",
                            "\x7F", "\xEF\xBB\xBF", "'", "`", "/runs/a", "../b.in", "x",
                            "include"});
        }
    }

    std::string line(const std::string& stage) {
        switch (below(12)) {
            case 0:
                return "# " + value() + "\n";
            case 1:
                return piece() + piece() + "\n";
            case 2:
                return std::string("include = ") +
                       any({"none.in", ".", "", "/dev/null", "\"", "a.in"}) + "\n";
            case 3:
                return "stage = " + value() + "\n";
            default: {
                const std::string name = key(stage);
                const char* equals = any({" = ", "=", "\t=", " =", " = ", " = "});
                return name + equals + value() +
                       any({"\n", "\n", " # note\n", "\r\n", " \\\n", ""});
            }
        }
    }

    void mutate(std::string& text) {
        const std::size_t at = below(text.size() + 1);
        switch (below(5)) {
            case 0:
                text.insert(at, 1, static_cast<char>(below(256)));
                break;
            case 1:
                text.insert(at, piece());
                break;
            case 2:
                text.erase(at, below(9));
                break;
            case 3:
                if (at < text.size()) text[at] = static_cast<char>(below(256));
                break;
            default: {
                const std::string part = text.substr(below(text.size() + 1), below(40));
                text.insert(at, part);
            }
        }
    }

    RandomSequence random_;
    const DeckKey* last_ = nullptr;
};

/// Whether it resolved; what is wrong with the deck or with the resolver is in `wrong`.
bool try_deck(const std::string& text, const Words& overrides, std::string& wrong) {
    Deck deck;
    try {
        deck = resolve_deck_text(text, "a.in", overrides);
    } catch (const DeckError& e) {
        const std::string message = e.what();
        if (message.find(" in the deck:\n  ") == std::string::npos) wrong = "message: " + message;
        return false;
    } catch (const std::exception& e) {
        wrong = std::string("not a DeckError: ") + e.what();
        return false;
    }
    try {
        const Deck again = resolve_deck_text(deck.resolved(), "deck.resolved", {});
        if (again.values() != deck.values()) wrong = "not repeated:\n" + deck.resolved();
        for (const auto& [key, value] : deck.values()) {
            const ParameterType type = find_parameter(key)->type;
            if (type == ParameterType::integer && value != "auto") deck.integer(key);
            if (type == ParameterType::number && value != "auto") deck.number(key);
            if (type == ParameterType::schedule) deck.schedule(key);
            if (type == ParameterType::list) deck.list(key);
        }
    } catch (const std::exception& e) {
        wrong = std::string("deck.resolved: ") + e.what() + "\n" + deck.resolved();
    }
    return true;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(fuzz)

BOOST_AUTO_TEST_CASE(decks_of_pieces) {
    const Variable odd("GRADUS_TEST_ODD", " \"a\" #$\\ ");
    const bool is_long = std::getenv("GRADUS_LONG") != nullptr;
    const auto end = Clock::now() + std::chrono::seconds(is_long ? 60 : 2);
    std::int64_t count = 0, resolved = 0;
    double slowest = 0;
    for (; Clock::now() < end; ++count) {
        Generator generator(static_cast<std::uint64_t>(count));
        const std::string text = generator.deck();
        const Words overrides = generator.overrides();
        const auto begin = Clock::now();
        std::string wrong;
        resolved += try_deck(text, overrides, wrong) ? 1 : 0;
        slowest = std::max(slowest, std::chrono::duration<double>(Clock::now() - begin).count());
        if (!wrong.empty()) {
            std::string given;
            for (const std::string& word : overrides) given += "\n---\n" + word;
            BOOST_ERROR("deck " << count << ": " << wrong << "\n---\n" << text << given);
            break;
        }
    }
    BOOST_TEST_MESSAGE(count << " decks, " << resolved << " resolved, slowest " << slowest << " s");
    // Both ways must have been gone often for this to say anything.
    BOOST_TEST(count > 200);
    BOOST_TEST(resolved > count / 20);
    BOOST_TEST(resolved < count * 19 / 20);
    BOOST_TEST(slowest < 1.0);
}

BOOST_AUTO_TEST_CASE(long_decks) {
    // Linear in their length: none of these takes a second.
    const auto begin = Clock::now();
    std::string wrong;
    const std::string many = required_keys("rl");
    std::string continued = many + "rollout.stop = a", keys = many, variables = many + "restart = ";
    for (int i = 0; i < 200000; ++i) {
        continued += " \\\n b";
        if (i < 100000) keys += "train.steps = 5\n";
        if (i < 100000) variables += "$HOME";
    }
    BOOST_TEST(try_deck(continued, {}, wrong));
    BOOST_TEST(try_deck(keys, {}, wrong));
    BOOST_TEST(try_deck(variables, {}, wrong));
    BOOST_TEST(!try_deck(many + std::string(1000000, 'k') + "= 1", {}, wrong));
    BOOST_TEST(!try_deck(many + "train.lr_schedule = " + std::string(1000000, 'v'), {}, wrong));
    BOOST_TEST(!try_deck(std::string(1000000, '\n') + std::string(1000000, '\\'), {}, wrong));
    BOOST_TEST(wrong == "");
    BOOST_TEST(std::chrono::duration<double>(Clock::now() - begin).count() < 10.0);
}

BOOST_AUTO_TEST_SUITE_END()
