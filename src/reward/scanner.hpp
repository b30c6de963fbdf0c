// SPDX-License-Identifier: Apache-2.0
// Signs, commands and numerals at hand in a text of plain LaTeX (latex.hpp).
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "characters.hpp"
#include "expression.hpp"

namespace gradus {

/// A place in a text, moved over what was read; `wrong_` once the text is no formula.
class Scanner {
  public:
    explicit Scanner(std::string_view text) : text_(text) {}

  protected:
    void skip() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '~'))
            ++at_;
    }
    bool ends() {
        skip();
        return wrong_ || at_ >= text_.size();
    }
    char peek() {
        skip();
        return at_ < text_.size() ? text_[at_] : '\0';
    }
    bool take(char c) {
        if (peek() != c || wrong_) return false;
        ++at_;
        return true;
    }
    /// The command at hand without its backslash, "" if there is none.
    std::string_view command() {
        if (peek() != '\\') return {};
        std::size_t end = at_ + 1;
        while (end < text_.size() && is_letter(text_[end])) ++end;
        if (end == at_ + 1 && end < text_.size()) ++end;  // \{, \\, \%
        return text_.substr(at_ + 1, end - at_ - 1);
    }
    bool take_command(std::string_view name) {
        if (command() != name) return false;
        at_ += name.size() + 1;
        return true;
    }
    /// Whether "word" is next in the text as such, not part of a longer one.
    bool at_word(std::string_view word) {
        skip();
        const std::size_t end = at_ + word.size();
        return text_.substr(at_, word.size()) == word && (end >= text_.size() || !is_letter(text_[end]));
    }
    bool take_word(std::string_view word) {
        if (!at_word(word)) return false;
        at_ += word.size();
        return true;
    }
    /// The letter of a relation (expression.hpp), 0 if there is none.
    char relation_sign();
    /// Digits with a decimal point, a period (0.1\overline{6}) and, with `groups`, separators of thousands. Nothing where
    /// there are no digits or too many.
    std::optional<Rational> numeral(bool groups);

    std::string_view text_;
    std::size_t at_ = 0;
    bool wrong_ = false;
};

}  // namespace gradus
