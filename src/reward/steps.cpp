// SPDX-License-Identifier: Apache-2.0
// Equations in a chain of thought, each checked by exact arithmetic.
#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "gradus/reward/reward.hpp"
#include "number.hpp"

namespace gradus {
namespace {

// Longer or deeper expressions are none: the work is bounded whatever a model writes.
constexpr std::size_t kLongest = 200;
constexpr int kDeepest = 20;

/// Value of digits, + - * / and parentheses; nothing where the text is not such an expression or divides by
/// zero.
class Expression {
  public:
    explicit Expression(std::string_view text) : text_(text) {}

    std::optional<ExactNumber> value() {
        if (text_.size() > kLongest) return {};
        const ExactNumber result = sum(0);
        skip();
        if (wrong_ || at_ != text_.size()) return {};
        return result;
    }
    /// Whether it computes anything, after value().
    bool computes() const { return operations_ > 0; }

  private:
    void skip() {
        while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    }
    bool take(char c) {
        skip();
        if (at_ == text_.size() || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    ExactNumber sum(int depth) {
        const bool negative = take('-');
        ExactNumber left = product(depth);
        if (negative) left.numerator = -left.numerator;
        while (!wrong_) {
            const bool plus = take('+');
            if (!plus && !take('-')) break;
            const ExactNumber right = product(depth);
            ++operations_;
            left.numerator = left.numerator * right.denominator +
                             (plus ? right.numerator : -right.numerator) * left.denominator;
            left.denominator *= right.denominator;
        }
        return left;
    }
    ExactNumber product(int depth) {
        ExactNumber left = factor(depth);
        while (!wrong_) {
            const bool times = take('*');
            if (!times && !take('/')) break;
            ExactNumber right = factor(depth);
            ++operations_;
            if (!times) {
                std::swap(right.numerator, right.denominator);
                if (right.denominator == 0) wrong_ = true;
                if (right.denominator < 0) {
                    right.denominator = -right.denominator;
                    right.numerator = -right.numerator;
                }
            }
            left.numerator *= right.numerator;
            left.denominator *= right.denominator;
        }
        return left;
    }
    ExactNumber factor(int depth) {
        if (take('(')) {
            if (depth == kDeepest) wrong_ = true;
            const ExactNumber inner = wrong_ ? ExactNumber{} : sum(depth + 1);
            if (!take(')')) wrong_ = true;
            return inner;
        }
        return number();
    }
    ExactNumber number() {
        ExactNumber value;
        bool digits = false, fraction = false;
        skip();
        for (; at_ < text_.size(); ++at_) {
            const char c = text_[at_];
            if (c == '.' && !fraction && digits) {
                fraction = true;
            } else if (c >= '0' && c <= '9') {
                digits = true;
                value.numerator = value.numerator * 10 + (c - '0');
                if (fraction) value.denominator *= 10;
            } else {
                break;
            }
        }
        if (!digits) wrong_ = true;
        return value;
    }

    std::string_view text_;
    std::size_t at_ = 0;
    int operations_ = 0;
    bool wrong_ = false;
};

constexpr std::string_view kAlphabet = "0123456789.+-*/()= ";
/// What goes on with a number or a formula that stands right beside it, and at any distance.
constexpr std::string_view kBeside = "_^,%!\\)]}({[&|'";
constexpr std::string_view kApart = "^%!&|";
constexpr std::array<std::string_view, 14> kSigns = {"×", "÷", "·", "√", "²", "³", "−", "≠", "≈", "≤", "≥", "±",
                                                     "∗", "⋅"};

bool is_word(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

/// Whether the text before an expression is a part of it.
bool continues_before(std::string_view before) {
    const std::size_t last = before.find_last_not_of(' ');
    if (last == before.npos) return false;
    const bool beside = last + 1 == before.size();
    before = before.substr(0, last + 1);
    const char c = before.back();
    if (beside ? is_word(c) || kBeside.find(c) != kBeside.npos : kApart.find(c) != kApart.npos) return true;
    return std::any_of(kSigns.begin(), kSigns.end(), [&](std::string_view s) { return before.ends_with(s); });
}

/// Whether the text behind an equation is a part of it. A comma is, before a digit.
bool continues_behind(std::string_view behind) {
    const std::size_t first = behind.find_first_not_of(' ');
    if (first == behind.npos) return false;
    const bool beside = first == 0;
    behind.remove_prefix(first);
    const char c = behind.front();
    if (c == ',') return beside && behind.size() > 1 && behind[1] >= '0' && behind[1] <= '9';
    if (c == '%' || c == '!') return beside;
    if (beside ? is_word(c) || c == '_' || c == '^' || c == '\\' : c == '^') return true;
    return std::any_of(kSigns.begin(), kSigns.end(), [&](std::string_view s) { return behind.starts_with(s); });
}

/// Drops "- ", "* ", "3. " and "3) " of a list at the beginning of a line.
std::string_view without_bullet(std::string_view left, bool line_start) {
    if (!line_start) return left;
    const std::size_t begin = std::min(left.find_first_not_of(' '), left.size());
    std::size_t end = begin;
    while (end < left.size() && left[end] >= '0' && left[end] <= '9') ++end;
    const bool number = end > begin && end + 1 < left.size() && (left[end] == '.' || left[end] == ')');
    const bool dash = end == begin && end + 1 < left.size() && (left[end] == '-' || left[end] == '*');
    return (number || dash) && left[end + 1] == ' ' ? left.substr(end + 2) : left;
}

/// Adds the steps of the run of the alphabet text[begin, end).
void add_steps(std::string_view text, std::size_t offset, std::size_t stop, std::vector<StepScore>& steps) {
    const std::string_view run = text.substr(offset, stop - offset);
    const bool line_start = offset == 0 || text[offset - 1] == '\n' || text[offset - 1] == '>';
    std::size_t begin = 0;
    for (std::size_t sign = run.find('='); sign != run.npos;) {
        const std::size_t next = run.find('=', sign + 1);
        std::string_view right = run.substr(sign + 1, next == run.npos ? next : next - sign - 1);
        // A full stop ends the sentence, not the number.
        while (!right.empty() && (right.back() == ' ' || right.back() == '.')) right.remove_suffix(1);
        std::string_view left = run.substr(begin, sign - begin);
        if (begin == 0) left = without_bullet(left, line_start);
        left.remove_prefix(std::min(left.find_first_not_of(" ."), left.size()));
        const bool part = (begin == 0 && continues_before(text.substr(0, offset + sign - left.size()))) ||
                          (next == run.npos && continues_behind(text.substr(offset + sign + 1 + right.size())));
        Expression computed(left), stated(right);
        const auto a = computed.value(), b = stated.value();
        if (a && b && computed.computes() && !part)
            steps.push_back({offset + sign + 1 + right.size(), equal(*a, *b) ? 1.0 : 0.0});
        begin = sign + 1;
        sign = next;
    }
}

class StepsReward final : public Reward {
  public:
    double score(const RewardInput& input) const override {
        const std::vector<StepScore> all = steps(input);
        const auto right = std::count_if(all.begin(), all.end(), [](const StepScore& s) { return s.reward == 1; });
        return all.empty() ? 0.0 : static_cast<double>(right) / static_cast<double>(all.size());
    }
    bool scores_steps() const override { return true; }

    std::vector<StepScore> steps(const RewardInput& input) const override {
        const std::string_view text = input.response;
        const std::size_t open = text.find("<think>"), close = text.rfind("</think>");
        const std::size_t first = open == text.npos ? 0 : open + 7;
        const std::size_t last = close == text.npos || close < first ? text.size() : close;
        std::vector<StepScore> all;
        for (std::size_t at = first; at < last;) {
            const std::size_t begin = text.find_first_of(kAlphabet, at);
            if (begin >= last) break;
            const std::size_t end = std::min(text.find_first_not_of(kAlphabet, begin), last);
            add_steps(text.substr(0, last), begin, end, all);
            at = end;
        }
        return all;
    }
};

}  // namespace

std::unique_ptr<Reward> make_steps_reward() { return std::make_unique<StepsReward>(); }

}  // namespace gradus
