// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace gradus {

/// `key = value` with the place it stands at.
struct DeckToken {
    std::string key;
    std::string value;
    std::string origin;     ///< "FILE:LINE" or "command line"
    bool included = false;  ///< from a file that another one includes
};

/// Everything that was found, and one line for each thing that is wrong.
struct LexedDeck {
    std::vector<DeckToken> tokens;  ///< in order: a later token of the same key wins
    std::vector<std::string> errors;
};

/// Grammar: `key = value` a line; `#` begins a comment outside quotes; a backslash at the end of a
/// line continues it; "..." keeps blanks, # and $ as they are, and \" and \\ stand for " and \; $NAME and ${NAME} are taken from the
/// environment; `include = FILE` (relative to the file it stands in) reads FILE at this place.
LexedDeck lex_deck(const std::string& path);
LexedDeck lex_deck_text(const std::string& text, const std::string& name);

/// `key=value` words of the command line.
LexedDeck lex_overrides(const std::vector<std::string>& words);

}  // namespace gradus
