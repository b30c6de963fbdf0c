// SPDX-License-Identifier: Apache-2.0
#include "gradus/reward/puzzles.hpp"

#include <algorithm>
#include <boost/multiprecision/cpp_int.hpp>
#include <cmath>
#include <cstdint>

#include "characters.hpp"
#include "gradus/base/json_lines.hpp"
#include "number.hpp"

namespace gradus {
namespace {

using Rational = boost::multiprecision::cpp_rational;

/// A model's arithmetic is short; what is longer is no answer.
constexpr std::size_t kLongestAnswer = 500;
constexpr int kDeepest = 50;

/// Whole numbers, + - * /, parentheses, a sign at the head of a sum (-5 + 7*(-2 + 3)); reads all of the text or nothing.
class Arithmetic {
  public:
    explicit Arithmetic(std::string_view text) : text_(text) {}

    std::optional<Rational> value() {
        auto sum = read_sum(0);
        skip();
        return at_ == text_.size() ? sum : std::nullopt;
    }
    /// In the order in which they stand in the text.
    const std::vector<std::int64_t>& numbers() const { return numbers_; }

  private:
    void skip() {
        while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    }
    bool take(char c) {
        skip();
        const bool there = at_ < text_.size() && text_[at_] == c;
        at_ += there;
        return there;
    }
    std::optional<Rational> read_sum(int depth) {
        const bool minus = take('-');
        auto sum = read_product(depth);
        if (sum && minus) *sum = -*sum;
        while (sum) {
            const bool plus = take('+');
            if (!plus && !take('-')) return sum;
            const auto next = read_product(depth);
            if (!next) return next;
            if (plus)
                *sum += *next;
            else
                *sum -= *next;
        }
        return sum;
    }
    std::optional<Rational> read_product(int depth) {
        auto product = read_factor(depth);
        while (product) {
            const bool times = take('*');
            if (!times && !take('/')) return product;
            const auto next = read_factor(depth);
            if (!next || (!times && *next == 0)) return std::nullopt;
            if (times)
                *product *= *next;
            else
                *product /= *next;
        }
        return product;
    }
    std::optional<Rational> read_factor(int depth) {
        if (depth > kDeepest) return std::nullopt;
        if (take('(')) {
            const auto inner = read_sum(depth + 1);
            return inner && take(')') ? inner : std::nullopt;
        }
        skip();
        const std::size_t begin = at_;
        while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
        if (at_ == begin || at_ - begin > 15) return std::nullopt;
        numbers_.push_back(std::stoll(std::string(text_.substr(begin, at_ - begin))));
        return Rational(numbers_.back());
    }

    std::string_view text_;
    std::size_t at_ = 0;
    std::vector<std::int64_t> numbers_;
};

std::string replaced(std::string text, std::string_view from, std::string_view to) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
    return text;
}

double countdown(const Puzzle& puzzle, const std::string& response) {
    std::string answer = extract_answer(response);
    if (answer.size() > kLongestAnswer) return 0;
    for (const auto& [from, to] : {std::pair{"\u00d7", "*"}, {"\u00f7", "/"}, {"\u2212", "-"}, {"\\times", "*"}, {"\\cdot", "*"}, {"\\div", "/"},
                                   {"\\left", ""}, {"\\right", ""}, {"\\(", ""}, {"\\)", ""}, {"$", ""}, {"\n", " "}})
        answer = replaced(std::move(answer), from, to);
    const std::size_t sign = answer.find('=');
    if (sign != std::string::npos) {
        Arithmetic stated(std::string_view(answer).substr(sign + 1));
        if (stated.value() != Rational(puzzle.target)) return 0;
    }
    Arithmetic expression(std::string_view(answer).substr(0, sign));
    if (expression.value() != Rational(puzzle.target)) return 0;
    std::vector<std::int64_t> used = expression.numbers(), given = puzzle.numbers;
    std::sort(used.begin(), used.end());
    std::sort(given.begin(), given.end());
    return used == given ? 1 : 0;
}

/// ASCII letters in lower case, runs of everything but letters and digits as one blank; blanks around it.
std::string words_of(std::string_view text) {
    std::string words = " ";
    for (const char c : text) {
        const bool part = is_letter(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80;
        if (part)
            words += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        else if (words.back() != ' ')
            words += ' ';
    }
    return words.back() == ' ' ? words : words + ' ';
}

double knights(const Puzzle& puzzle, const std::string& response) {
    const std::string text = words_of(final_part(response));
    const auto says = [&](const std::string& name, const std::string& word) {
        for (const char* article : {"is a", "is an", "is the", "is"})
            if (text.find(words_of(name + " " + article + " " + word)) != std::string::npos) return true;
        return false;
    };
    for (std::size_t i = 0; i < puzzle.names.size(); ++i)
        if (says(puzzle.names[i], puzzle.knight) != puzzle.knights[i] || says(puzzle.names[i], puzzle.knave) == puzzle.knights[i])
            return 0;
    return 1;
}

class PuzzleReward final : public Reward {
  public:
    Judgement judge(const RewardInput& input) const override {
        const double solved = score(input);
        return {solved, std::isnan(solved) ? "the reference is no puzzle" : ""};
    }
    double score(const RewardInput& input) const override {
        const std::optional<Puzzle> puzzle = puzzle_of(input.reference);
        if (!puzzle) return kUnscorable;
        return puzzle->names.empty() ? countdown(*puzzle, input.response) : knights(*puzzle, input.response);
    }
};

}  // namespace

std::string to_reference(const Puzzle& puzzle) {
    if (puzzle.names.empty()) return Json{{"puzzle", "countdown"}, {"numbers", puzzle.numbers}, {"target", puzzle.target}}.dump();
    return Json{{"puzzle", "knights"},
                {"names", puzzle.names},
                {"knights", puzzle.knights},
                {"words", {puzzle.knight, puzzle.knave}}}
        .dump();
}

std::optional<Puzzle> puzzle_of(const std::string& reference) {
    if (!reference.starts_with("{") || nests_too_deep(reference)) return std::nullopt;
    const Json json = Json::parse(reference, nullptr, false);
    if (!json.is_object() || !json.contains("puzzle")) return std::nullopt;
    try {
        if (json["puzzle"] == "countdown") {
            const Json &numbers = json.at("numbers"), &target = json.at("target");
            // 1e300 is no int64, nor is 2^63.
            const auto fits = [](const Json& n) {
                return n.is_number_integer() && (!n.is_number_unsigned() || n.get<std::uint64_t>() <= INT64_MAX);
            };
            if (!std::all_of(numbers.begin(), numbers.end(), fits) || !fits(target)) return std::nullopt;
            return Puzzle{.numbers = numbers.get<std::vector<std::int64_t>>(), .target = target.get<std::int64_t>()};
        }
        Puzzle puzzle{.names = json.at("names"), .knights = json.at("knights").get<std::vector<bool>>()};
        puzzle.knight = json.at("words").at(0);
        puzzle.knave = json.at("words").at(1);
        if (puzzle.names.empty() || puzzle.names.size() != puzzle.knights.size()) return std::nullopt;
        return puzzle;
    } catch (const Json::exception&) {
        return std::nullopt;
    }
}

std::unique_ptr<Reward> make_puzzle_reward() { return std::make_unique<PuzzleReward>(); }

}  // namespace gradus
