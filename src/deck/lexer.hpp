// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <vector>

namespace gradus {

/// `key = value` with the place it stands at.
struct DeckToken {
    std::string key;
    std::string value;
    std::string origin;     ///< "FILE:LINE" or "command line"
    bool included = false;  ///< from a file that another one includes
    std::size_t place = 0;  ///< number of its line in the order of reading, over all files
};

/// Something that is wrong: "FILE:LINE: what".
struct DeckFault {
    std::size_t place = 0;  ///< as in DeckToken
    std::string text;
};

/// Everything that was found and everything that is wrong.
struct LexedDeck {
    std::vector<DeckToken> tokens;  ///< in order: a later token of the same key wins
    std::vector<DeckFault> faults;
    std::set<std::string> spoiled;  ///< keys that are given, but cannot be read
    bool incomplete = false;        ///< a file is lost: keys may be given that are not here
    std::size_t places = 0;         ///< lines read
};

/// Grammar: `key = value` a line; `#` begins a comment outside quotes; a backslash at the end of a
/// line, but not of a comment, continues it; "..." keeps blanks, # and $ as they are, and in quotes
/// a backslash keeps the character after it; $NAME and ${NAME} outside quotes are taken from the
/// environment; `include = FILE` (relative to the file it stands in) reads FILE at this place.
/// Values are UTF-8 without control characters.
LexedDeck lex_deck(const std::string& path);
LexedDeck lex_deck_text(const std::string& text, const std::string& name);

/// `key=value` words of the command line; the shell has seen to quotes and variables already.
LexedDeck lex_overrides(const std::vector<std::string>& words);

}  // namespace gradus
