// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/prose.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "gradus/text/ngrams.hpp"

namespace gradus {
namespace {

constexpr std::size_t kNone = std::string_view::npos;
constexpr std::string_view kBlank = " \t\r\f\v";

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == '\n' || kBlank.find(c) != kNone; }

std::size_t line_end(std::string_view text, std::size_t at) { return std::min(text.find('\n', at), text.size()); }

/// The next place at or behind a place that only moves on: what was found is kept, so that all questions together
/// read the text once.
class Ahead {
  public:
    explicit Ahead(std::function<std::size_t(std::size_t)> search) : search_(std::move(search)) {}
    /// kNone: there is none.
    std::size_t operator()(std::size_t from) {
        if (!asked_ || (found_ != kNone && found_ < from)) found_ = search_(from);
        asked_ = true;
        return found_;
    }

  private:
    std::function<std::size_t(std::size_t)> search_;
    std::size_t found_ = 0;
    bool asked_ = false;
};

/// A fence at the beginning of the line at `line`: its character and length, 0 where there is none. `rest` is
/// where the fence ends.
struct Fence {
    char mark = 0;
    std::size_t length = 0, rest = 0;
};
Fence fence_at(std::string_view text, std::size_t line) {
    const std::size_t at = text.find_first_not_of(" \t", line);
    if (at == kNone || (text[at] != '`' && text[at] != '~')) return {};
    const std::size_t end = std::min(text.find_first_not_of(text[at], at), text.size());
    return end - at < 3 ? Fence{} : Fence{text[at], end - at, end};
}

/// Where the block of code ends that begins with the line at `line`; `line` itself where none does.
std::size_t code_block_end(std::string_view text, std::size_t line) {
    const Fence open = fence_at(text, line);
    if (open.length == 0) return line;
    std::size_t end = line_end(text, open.rest);
    // What follows backticks on their line must not hold any, else they are code within a line.
    if (open.mark == '`' && text.substr(open.rest, end - open.rest).find('`') != kNone) return line;
    while (end < text.size()) {
        const std::size_t next = end + 1;
        const Fence close = fence_at(text, next);
        end = line_end(text, next);
        if (close.mark == open.mark && close.length >= open.length &&
            text.substr(close.rest, end - close.rest).find_first_not_of(kBlank) == kNone)
            return end;
    }
    return text.size();
}

/// Runs of backticks: the next one of a length.
class Backticks {
  public:
    explicit Backticks(std::string_view text) {
        for (std::size_t at = text.find('`'); at != kNone; at = text.find('`', at)) {
            const std::size_t end = std::min(text.find_first_not_of('`', at), text.size());
            places_[end - at].push_back(at);
            at = end;
        }
    }
    std::size_t next(std::size_t length, std::size_t from) const {
        // What an escaped backtick leaves of its run may have a length that none has.
        const auto all = places_.find(length);
        if (all == places_.end()) return kNone;
        const auto it = std::lower_bound(all->second.begin(), all->second.end(), from);
        return it == all->second.end() ? kNone : *it;
    }

  private:
    std::map<std::size_t, std::vector<std::size_t>> places_;
};

class Cutter {
  public:
    explicit Cutter(std::string_view text) : text_(text), backticks_(text) { out_.reserve(text.size()); }

    std::string cut() {
        while (at_ < text_.size()) {
            const std::size_t end = at_ == 0 || text_[at_ - 1] == '\n' ? code_block_end(text_, at_) : at_;
            if (end > at_)
                drop(end);
            else
                step();
        }
        return std::move(out_);
    }

  private:
    char peek(std::size_t ahead = 1) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
    void drop(std::size_t end) {
        out_ += ' ';
        at_ = end;
    }
    void keep(std::size_t end) {
        out_ += text_.substr(at_, end - at_);
        at_ = end;
    }
    /// Drops up to the end of a part that is closed at `close` by `mark` bytes, or keeps its opening where it is not.
    void drop_closed(std::size_t close, std::size_t mark, std::size_t opening) {
        close == kNone ? keep(at_ + opening) : drop(close + mark);
    }
    std::size_t within_paragraph(std::size_t place) { return place != kNone && place < paragraph_end_(at_) ? place : kNone; }

    void step() {
        switch (text_[at_]) {
            case '`': return code();
            case '$': return dollars();
            case '\\': return backslash();
            case 'h': case 'f': case 'w': return address();
            default: return keep(at_ + 1);
        }
    }
    void code() {
        const std::size_t length = std::min(text_.find_first_not_of('`', at_), text_.size()) - at_;
        drop_closed(within_paragraph(backticks_.next(length, at_ + length)), length, length);
    }
    void dollars() {
        if (peek() == '$') return drop_closed(display_end_(at_ + 2), 2, 2);
        if (peek() == '\0' || is_space(peek())) return keep(at_ + 1);
        drop_closed(within_paragraph(inline_end_(at_ + 2)), 1, 1);
    }
    void backslash() {
        if (peek() == '(') return drop_closed(round_end_(at_ + 2), 2, 2);
        if (peek() == '[') return drop_closed(square_end_(at_ + 2), 2, 2);
        if (!is_letter(peek())) return keep(std::min(at_ + 2, text_.size()));
        std::size_t end = at_ + 1;
        while (end < text_.size() && is_letter(text_[end])) ++end;
        const std::size_t close = text_.substr(at_, 7) == "\\begin{" ? environment_end(end + 1) : kNone;
        drop(close == kNone ? end : close);
    }
    /// End of the environment whose name begins at `name`; kNone where it is not of mathematics or not closed.
    std::size_t environment_end(std::size_t name) {
        static constexpr std::array<std::string_view, 12> kMathematics = {
            "equation", "align", "aligned", "gather", "multline", "eqnarray", "cases", "array", "matrix", "pmatrix", "bmatrix", "split"};
        std::size_t end = name;
        while (end < text_.size() && end - name < 16 && (is_letter(text_[end]) || text_[end] == '*')) ++end;
        std::string_view called = text_.substr(name, end - name);
        const std::string closing = "\\end{" + std::string(called) + "}";
        if (called.ends_with('*')) called.remove_suffix(1);
        if (std::find(kMathematics.begin(), kMathematics.end(), called) == kMathematics.end()) return kNone;
        const auto [it, fresh] = environments_.try_emplace(closing, find(closing));
        const std::size_t close = it->second(end);
        return close == kNone ? kNone : close + closing.size();
    }
    void address() {
        if (at_ > 0 && is_letter(text_[at_ - 1])) return keep(at_ + 1);
        for (const std::string_view scheme : {"http://", "https://", "ftp://", "www."}) {
            if (text_.substr(at_, scheme.size()) != scheme) continue;
            std::size_t end = at_ + scheme.size();
            while (end < text_.size() && text_[end] > ' ' && text_[end] < 0x7F &&
                   std::string_view("<>\"`").find(text_[end]) == kNone)
                ++end;
            return drop(end);
        }
        keep(at_ + 1);
    }

    Ahead find(std::string mark) const {
        return Ahead([text = text_, mark = std::move(mark)](std::size_t from) { return text.find(mark, from); });
    }
    Ahead find_inline_end() const {
        return Ahead([text = text_](std::size_t from) {
            for (std::size_t at = text.find('$', from); at != kNone; at = text.find('$', at + 1)) {
                const bool digit = at + 1 < text.size() && is_digit(text[at + 1]);
                if (at > 0 && !is_space(text[at - 1]) && text[at - 1] != '\\' && !digit) return at;
            }
            return kNone;
        });
    }
    /// The blank line behind a place, or the end of the text.
    Ahead find_paragraph_end() const {
        return Ahead([text = text_](std::size_t from) {
            for (std::size_t line = line_end(text, from); line < text.size();) {
                const std::size_t end = line_end(text, line + 1);
                if (text.substr(line + 1, end - line - 1).find_first_not_of(kBlank) == kNone) return line;
                line = end;
            }
            return text.size();
        });
    }

    std::string_view text_;
    std::string out_;
    std::size_t at_ = 0;
    Backticks backticks_;
    Ahead display_end_ = find("$$"), round_end_ = find("\\)"), square_end_ = find("\\]"), inline_end_ = find_inline_end(),
          paragraph_end_ = find_paragraph_end();
    std::map<std::string, Ahead> environments_;
};

}  // namespace

std::string prose(std::string_view text) { return Cutter(text).cut(); }

bool has_code_block(std::string_view text) {
    for (std::size_t line = 0; line < text.size(); line = line_end(text, line) + 1)
        if (code_block_end(text, line) > line) return true;
    return false;
}

std::int64_t longest_paragraph(std::string_view text) {
    std::size_t longest = 0, begin = 0;
    for (std::size_t line = 0; line <= text.size();) {
        const std::size_t end = line_end(text, line);
        const bool blank = text.substr(line, end - line).find_first_not_of(kBlank) == kNone;
        if (blank || end == text.size()) {
            longest = std::max(longest, word_hashes(text.substr(begin, end - begin)).size());
            begin = end;
        }
        line = end + 1;
    }
    return static_cast<std::int64_t>(longest);
}

}  // namespace gradus
