// SPDX-License-Identifier: Apache-2.0
// Regular expressions of tokenizer.json, matched by PCRE2 with the meaning that Oniguruma gives
// them.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace gradus {

/// A compiled expression; immutable, shared between threads. Oniguruma (Ruby syntax) is what
/// Hugging Face's tokenizers match with. Where PCRE2 would read a construct in another way, it is
/// rewritten
/// (\s is Unicode's White_Space, \p{Han} a script without extensions, \v one character) or refused
/// by name (anchors, \w, \b, sets in sets, back-references, options other than i).
class Pattern {
  public:
    /// Throws DataError: `where`, and what in the expression is wrong or not supported.
    Pattern(const std::string& expression, const std::string& where);
    /// An expression that stands for itself.
    static Pattern literal(std::string_view text, const std::string& where);
    Pattern(Pattern&&) noexcept;
    ~Pattern();

    /// The matches in one text, from left to right; a match is empty only where none before it
    /// ends.
    class Matches {
      public:
        /// `text` must be well-formed UTF-8 and outlive this.
        Matches(const Pattern& pattern, std::string_view text);
        Matches(const Matches&) = delete;
        Matches& operator=(const Matches&) = delete;
        ~Matches();
        /// Whether there is one more. Throws DataError where the search takes too many steps.
        bool next(std::size_t& begin, std::size_t& end);

      private:
        struct Impl;
        std::unique_ptr<Impl> impl_;
    };

  private:
    struct Impl;
    explicit Pattern(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

/// `expression` of Oniguruma's Ruby syntax in PCRE2's; throws DataError as Pattern does.
std::string translate_pattern(const std::string& expression, const std::string& where);

}  // namespace gradus
