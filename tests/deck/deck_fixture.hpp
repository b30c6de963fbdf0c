// SPDX-License-Identifier: Apache-2.0
// Small decks that resolve, the messages of those that do not, and decks in files.
#pragma once

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/deck/deck.hpp"

namespace gradus {

using Words = std::vector<std::string>;

/// The keys that a stage cannot run without, on three lines (two for stage problems and bench).
inline std::string required_keys(const std::string& stage) {
    std::string text = "stage = " + stage + "\nrun.dir = /runs/a\n";
    if (stage == "score") return text + "score.input = a.jsonl\n";
    if (stage == "import") return text + "import.path = a\n";
    if (stage == "export") return text + "export.path = a\n";
    if (stage != "problems" && stage != "bench") text += "data.path = a.jsonl\n";
    return text;
}

inline Deck resolve(const std::string& text, const Words& overrides = {}) {
    return resolve_deck_text(text, "a.in", overrides);
}

/// A deck of stage rl with `lines` from its line 4 on.
inline Deck rl_deck(const std::string& lines, const Words& overrides = {}) {
    return resolve(required_keys("rl") + lines, overrides);
}

inline Words split_lines(const std::string& text) {
    Words lines;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        lines.push_back(text.substr(at, end - at));
        at = end + 1;
    }
    return lines;
}

/// The message of the DeckError that `act` throws, line by line without the indent; the first line
/// says how many there are.
template <class Act>
Words lines_of(Act act) {
    try {
        act();
    } catch (const DeckError& e) {
        BOOST_TEST(static_cast<int>(e.code()) == 2);
        Words lines = split_lines(e.what());
        for (std::size_t i = 1; i < lines.size(); ++i) {
            BOOST_TEST(lines[i].substr(0, 2) == "  ");
            lines[i].erase(0, 2);
        }
        return lines;
    }
    return {"nothing was thrown"};
}

/// The errors of a deck, without the line that counts them.
template <class Act>
Words errors_when(Act act) {
    Words lines = lines_of(act);
    if (lines.size() > 1) {
        const std::size_t count = lines.size() - 1;
        BOOST_TEST(lines[0] == (count == 1 ? "1 error in the deck:"
                                           : std::to_string(count) + " errors in the deck:"));
        lines.erase(lines.begin());
    }
    return lines;
}

inline Words errors_of(const std::string& text, const Words& overrides = {}) {
    return errors_when([&] { resolve(text, overrides); });
}

/// The one error of a deck of stage rl with `lines` from its line 4 on.
inline std::string rl_error(const std::string& lines, const Words& overrides = {}) {
    const Words errors = errors_of(required_keys("rl") + lines, overrides);
    BOOST_TEST(errors.size() == 1u);
    return errors.at(0);
}

inline void check_lines(const Words& seen, const Words& wanted) {
    BOOST_TEST(seen == wanted, boost::test_tools::per_element());
}

/// A folder for decks in files.
class DeckFolder {
  public:
    DeckFolder() {
        std::string name = (std::filesystem::temp_directory_path() / "gradus-deck-XXXXXX").string();
        BOOST_REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~DeckFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    DeckFolder(const DeckFolder&) = delete;
    DeckFolder& operator=(const DeckFolder&) = delete;

    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    /// Writes a file and returns its path.
    std::string write(const std::string& name, const std::string& text) const {
        const std::filesystem::path path = *this / name;
        std::filesystem::create_directories(path.parent_path());
        std::ofstream(path, std::ios::binary) << text;
        return path.string();
    }

  private:
    std::string path_;
};

/// An environment variable for the time of a test.
class Variable {
  public:
    Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
    ~Variable() { unsetenv(name_); }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;

  private:
    const char* name_;
};

}  // namespace gradus
