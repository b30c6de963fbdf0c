// SPDX-License-Identifier: Apache-2.0
#include <cctype>

#include "gradus/base/error.hpp"
#include "pattern.hpp"

namespace gradus {
namespace {

// Unicode's White_Space and its complement, as members of a class. PCRE2's own \s has U+180E
// besides.
constexpr std::string_view kSpace =
    "\\t-\\r "
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr std::string_view kNoSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"
    "10ffff}";

/// Reads an expression from left to right and writes it in PCRE2's syntax.
class Translator {
  public:
    Translator(const std::string& source, const std::string& where)
        : source_(source), where_(where) {}

    std::string run() {
        while (at_ < source_.size()) {
            const char c = source_[at_];
            if (c == '\\') {
                escape(false);
            } else if (c == '[') {
                set();
            } else if (c == '(') {
                group();
            } else if (c == '{') {
                repeat();
            } else {
                if (c == '^' || c == '$') refuse("the anchor " + std::string(1, c));
                copy(1);
            }
        }
        return std::move(out_);
    }

  private:
    [[noreturn]] void refuse(const std::string& what) const {
        throw DataError(
            fmt::format("{}: {} in the expression \"{}\" is not supported", where_, what, source_));
    }
    bool ahead(std::string_view text) const {
        return std::string_view(source_).substr(at_).starts_with(text);
    }
    void copy(std::size_t n) {
        out_ += std::string_view(source_).substr(at_, n);
        at_ += n;
    }

    void group() {
        for (const char* opening : {"(?:", "(?i:", "(?-i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"})
            if (ahead(opening)) return copy(std::string_view(opening).size());
        if (ahead("(?") || ahead("(*")) refuse("the group " + source_.substr(at_, 4));
        copy(1);
    }

    /// `{n}`, `{n,}` and `{n,m}` mean the same to both; a sign after them does not.
    void repeat() {
        if (ahead("{,")) refuse("{,n}");
        const std::size_t end = source_.find_first_not_of("0123456789,", at_ + 1);
        const bool counted = end != std::string::npos && end > at_ + 1 && source_[end] == '}';
        copy(counted ? end + 1 - at_ : 1);
        if (counted && ahead("+")) refuse("+ after {}");
        if (counted && ahead("?")) refuse("? after {}");
    }

    void set() {
        copy(1);
        if (ahead("^")) copy(1);
        if (ahead("]")) refuse("an empty set");
        while (!ahead("]")) {
            require<DataError>(at_ < source_.size(),
                               "{}: a set in the expression \"{}\" has no end", where_, source_);
            if (ahead("[")) refuse("a set in a set");
            if (ahead("&&")) refuse("the intersection of sets");
            if (source_[at_] == '\\')
                escape(true);
            else
                copy(1);
        }
        copy(1);
    }

    void escape(bool in_set) {
        require<DataError>(at_ + 1 < source_.size(),
                           "{}: the expression \"{}\" ends with a backslash", where_, source_);
        const char c = source_[at_ + 1];
        const auto byte = static_cast<unsigned char>(c);
        if (c == 's' || c == 'S') {
            at_ += 2;
            if (in_set)
                out_ += c == 's' ? kSpace : kNoSpace;
            else
                out_ += fmt::format("[{}{}]", c == 's' ? "" : "^", kSpace);
        } else if (c == 'p' || c == 'P') {
            property();
        } else if (c == 'x' || c == 'u') {
            number();
        } else if (c == 'v') {
            at_ += 2;
            out_ += "\\x0b";
        } else {
            const bool known = std::string_view("rntfaedD").find(c) != std::string_view::npos;
            if (!known && (byte >= 0x80 || std::isalnum(byte))) refuse("\\" + std::string(1, c));
            copy(2);
        }
    }

    /// General categories have the same names in both; a longer name is a script.
    void property() {
        if (at_ + 2 >= source_.size() || source_[at_ + 2] != '{') refuse("\\p without braces");
        const std::size_t end = source_.find('}', at_);
        if (end == std::string::npos) refuse("\\p without an end");
        std::string name = source_.substr(at_ + 3, end - at_ - 3);
        out_ += source_.substr(at_, 3);
        if (name.starts_with('^')) {
            out_ += '^';
            name.erase(0, 1);
        }
        for (const char c : name)
            if (!std::isalpha(static_cast<unsigned char>(c)) && c != '_')
                refuse("\\p{" + name + "}");
        out_ += (name.size() > 2 ? "sc:" + name : name) + "}";
        at_ = end + 1;
    }

    /// \xHH (ASCII), \x{H...}, \uHHHH, \u{H...}.
    void number() {
        const bool braces = at_ + 2 < source_.size() && source_[at_ + 2] == '{';
        const std::size_t begin = at_ + (braces ? 3 : 2);
        const std::size_t wanted = source_[at_ + 1] == 'x' ? 2 : 4;
        std::size_t end = begin;
        while (end < source_.size() && std::isxdigit(static_cast<unsigned char>(source_[end])) &&
               end - begin < (braces ? 6 : wanted))
            ++end;
        const bool closed = braces ? end > begin && end < source_.size() && source_[end] == '}'
                                   : end - begin == wanted;
        if (!closed) refuse("\\" + std::string(1, source_[at_ + 1]) + " without its digits");
        const std::string digits = source_.substr(begin, end - begin);
        if (!braces && wanted == 2 && digits[0] > '7')
            refuse("\\x" + digits + " (a byte, no character)");
        out_ += "\\x{" + digits + "}";
        at_ = end + (braces ? 1 : 0);
    }

    const std::string& source_;
    const std::string& where_;
    std::size_t at_ = 0;
    std::string out_;
};

}  // namespace

std::string translate_pattern(const std::string& expression, const std::string& where) {
    return Translator(expression, where).run();
}

}  // namespace gradus
