// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gradus/text/tokenizer.hpp"

namespace gradus {

/// One of a tokenizer.json's `added_tokens`.
struct AddedToken {
    TokenId id;
    std::string content;
    bool special = false;      ///< a control token
    bool normalized = false;   ///< looked for after the normaliser, itself normalised
    bool single_word = false;  ///< only where no word character touches it
    bool lstrip = false;       ///< takes the white space before it
    bool rstrip = false;       ///< and after it
};

/// Finds added tokens in a text, the leftmost first and of those the longest, as Hugging Face's
/// tokenizers do: a special token that is not asked for hides others in its characters.
class AddedTokenFinder {
  public:
    /// `patterns[i]` is the text of `tokens[i]` to look for, not empty. Of two with the same text
    /// the first one counts. Keeps no reference to the arguments.
    AddedTokenFinder(const std::vector<AddedToken>& tokens,
                     const std::vector<std::string>& patterns);

    /// A part of a text: a token, or what is between tokens (id -1).
    struct Part {
        TokenId id;
        std::string_view text;
    };
    /// The parts of `text` in order, none empty but a token's.
    std::vector<Part> split(std::string_view text, bool parse_special) const;

  private:
    struct Node {
        std::vector<std::pair<unsigned char, std::int32_t>> next;
        std::int32_t token = -1;
    };
    /// Index of the longest token at the start of `text`, and its bytes; -1 if none.
    std::pair<std::int32_t, std::size_t> longest(std::string_view text) const;

    std::vector<AddedToken> tokens_;
    std::vector<Node> nodes_;
    std::array<std::int32_t, 256> first_;  // node by first byte, -1
};

}  // namespace gradus
