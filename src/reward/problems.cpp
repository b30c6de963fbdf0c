// SPDX-License-Identifier: Apache-2.0
// A problem is a chain: a start value, then operations on the running value, which stays within
// 0..99. Symbols show it as a formula, words as a little story; the reasoning is the same for both.
#include "gradus/reward/problems.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <string_view>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

constexpr int kLargestValue = 99;
constexpr double kShareWithDoubling = 0.15;
constexpr double kShareOfPlus = 0.6;

enum Purpose : std::uint64_t { make_chain, make_document };

struct Operation {
    char symbol;  ///< '+', '-', '*'
    int operand;
};

struct Chain {
    int start = 0;
    std::vector<Operation> operations;
};

int apply(int value, Operation operation) {
    switch (operation.symbol) {
        case '+':
            return value + operation.operand;
        case '-':
            return value - operation.operand;
        default:
            return value * operation.operand;
    }
}

bool in_range(int value) {
    return value >= 0 && value <= kLargestValue;
}

Chain draw_chain(RandomSequence& random, int terms) {
    Chain chain;
    chain.start = static_cast<int>(random.integer(1, 9));
    int value = chain.start;
    const bool doubling = random.uniform() < kShareWithDoubling;
    const auto doubled = doubling ? random.integer(0, terms - 2) : -1;
    for (int i = 0; i + 1 < terms; ++i) {
        const int operand = static_cast<int>(random.integer(1, 9));
        const bool plus = random.uniform() < kShareOfPlus;
        Operation operation{plus ? '+' : '-', operand};
        if (i == doubled) operation = {'*', 2};
        // One of the two signs always fits: the value is at most 99 and an operand at most 9.
        if (!in_range(apply(value, operation))) {
            operation = {value >= operand ? '-' : '+', operand};
        }
        value = apply(value, operation);
        chain.operations.push_back(operation);
    }
    return chain;
}

/// "(7+8)*2-3=?": brackets, so that the formula means what the chain does.
std::string formula(const Chain& chain) {
    std::string text = std::to_string(chain.start);
    for (std::size_t i = 0; i < chain.operations.size(); ++i) {
        const Operation operation = chain.operations[i];
        if (operation.symbol == '*' && i > 0) text = "(" + text + ")";
        text += fmt::format("{}{}", operation.symbol, operation.operand);
    }
    return text + "=?";
}

/// "Tom has 7 coins, gets 8, doubles, pays 3. How many?"
std::string story(const Chain& chain, RandomSequence& random) {
    static constexpr std::array<std::string_view, 8> kNames = {"Tom", "Ann", "Ben", "Mia",
                                                               "Sam", "Eva", "Max", "Kim"};
    static constexpr std::array<std::string_view, 4> kThings = {"coins", "nuts", "cards", "pens"};
    static constexpr std::array<std::string_view, 2> kMore = {"gets", "wins"};
    static constexpr std::array<std::string_view, 2> kLess = {"pays", "uses"};
    const auto pick = [&](const auto& list) {
        return list[static_cast<std::size_t>(
            random.integer(0, static_cast<std::int64_t>(list.size()) - 1))];
    };
    const std::string_view name = pick(kNames);
    std::string text = fmt::format("{} has {} {}", name, chain.start, pick(kThings));
    for (const Operation operation : chain.operations) {
        if (operation.symbol == '*') {
            text += ", doubles";
        } else {
            text += fmt::format(", {} {}", operation.symbol == '+' ? pick(kMore) : pick(kLess),
                                operation.operand);
        }
    }
    return text + ". How many?";
}

/// The words that join the steps, one before each step but the first and one before the result.
struct Connectives {
    std::vector<std::string_view> then;
    std::string_view so;
};

constexpr std::string_view kThen = "then ", kSo = "so ";
constexpr std::string_view kThenChinese = "\u7136\u540e ", kSoChinese = "\u6240\u4ee5 ";

Connectives english(std::size_t operations) {
    return {std::vector<std::string_view>(operations - 1, kThen), kSo};
}

/// Chinese in all places, or in some of them and at least one.
Connectives mixed(std::size_t operations, RandomSequence& random) {
    Connectives words = english(operations);
    const bool all = random.uniform() < 0.5;
    const auto sure = random.integer(0, static_cast<std::int64_t>(operations) - 1);
    for (std::size_t i = 0; i < operations; ++i) {
        const bool chinese = random.uniform() < 0.5 || all || i == static_cast<std::size_t>(sure);
        if (!chinese) continue;
        if (i + 1 < operations) {
            words.then[i] = kThenChinese;
        } else {
            words.so = kSoChinese;
        }
    }
    return words;
}

/// "7+8=15, then 15-3=12, so 12". At operation `slip_at` the result is off by `slip`, and what
/// follows goes on from there; -1 for none.
std::string work_out(const Chain& chain, const Connectives& words, int slip_at = -1, int slip = 0) {
    std::string text;
    int value = chain.start;
    for (std::size_t i = 0; i < chain.operations.size(); ++i) {
        const Operation operation = chain.operations[i];
        const int result = apply(value, operation) + (static_cast<int>(i) == slip_at ? slip : 0);
        if (i > 0) text += words.then[i - 1];
        text += fmt::format("{}{}{}={}, ", value, operation.symbol, operation.operand, result);
        value = result;
    }
    return text + fmt::format("{}{}", words.so, value);
}

int result_of(const Chain& chain) {
    int value = chain.start;
    for (const Operation operation : chain.operations) value = apply(value, operation);
    return value;
}

/// The chain that English reasoning works out. Throws DataError where it is none.
Chain chain_of(const std::string& reasoning) {
    Chain chain;
    const char* at = reasoning.data();
    const char* const end = at + reasoning.size();
    const auto number = [&] {
        int value = 0;
        const auto read = std::from_chars(at, end, value);
        require<DataError>(read.ec == std::errc(), "not the reasoning of a generated problem: '{}'",
                           reasoning);
        at = read.ptr;
        return value;
    };
    while (at < end && !std::string_view(at, end).starts_with(kSo)) {
        if (std::string_view(at, end).starts_with(kThen)) at += kThen.size();
        const int value = number();
        if (chain.operations.empty()) chain.start = value;
        const char symbol = at < end ? *at++ : ' ';
        chain.operations.push_back({symbol, number()});
        const std::size_t comma = std::string_view(at, end).find(", ");
        at = comma == std::string_view::npos ? end : at + comma + 2;
    }
    require<DataError>(!chain.operations.empty(), "not the reasoning of a generated problem: '{}'",
                       reasoning);
    return chain;
}

struct Slip {
    int at = -1;
    int amount = 0;
};

/// A slip after which all values stay in range; none if no draw finds one.
Slip draw_slip(const Chain& chain, RandomSequence& random) {
    static constexpr std::array<int, 6> kAmounts = {-10, -2, -1, 1, 2, 10};
    for (int trial = 0; trial < 16; ++trial) {
        const Slip slip{static_cast<int>(random.integer(
                            0, static_cast<std::int64_t>(chain.operations.size()) - 1)),
                        kAmounts[static_cast<std::size_t>(random.integer(0, 5))]};
        int value = chain.start;
        bool fits = true;
        for (std::size_t i = 0; i < chain.operations.size() && fits; ++i) {
            value = apply(value, chain.operations[i]);
            if (static_cast<int>(i) == slip.at) value += slip.amount;
            fits = in_range(value);
        }
        if (fits) return slip;
    }
    return {};
}

}  // namespace

Problem make_problem(const ProblemOptions& options, std::int64_t index) {
    require<DeckError>(
        options.min_terms >= 2 && options.min_terms <= options.max_terms && options.max_terms <= 20,
        "problems of {} to {} terms cannot be made; choose 2 <= min <= max <= 20",
        options.min_terms, options.max_terms);
    RandomSequence random({.seed = options.seed,
                           .stream = Stream::problems,
                           .step = make_chain,
                           .prompt = static_cast<std::uint64_t>(index)});
    const int terms = static_cast<int>(random.integer(options.min_terms, options.max_terms));
    const bool in_words = random.uniform() < options.words;
    const Chain chain = draw_chain(random, terms);
    Problem problem;
    problem.prompt = in_words ? story(chain, random) : formula(chain);
    problem.answer = std::to_string(result_of(chain));
    problem.reasoning = work_out(chain, english(chain.operations.size()));
    problem.level = static_cast<int>(chain.operations.size());
    return problem;
}

std::string make_document_response(const Problem& problem, const DocumentOptions& options,
                                   std::uint64_t seed, std::int64_t index) {
    RandomSequence random({.seed = seed,
                           .stream = Stream::problems,
                           .step = make_document,
                           .prompt = static_cast<std::uint64_t>(index)});
    if (random.uniform() >= options.worked) {
        return fmt::format("<answer>{}</answer>", problem.answer);
    }
    const bool imperfect = random.uniform() < options.imperfect;
    const bool mixes = random.uniform() < options.mixed;
    enum Flaw { slipped, unclosed, untagged };
    const auto flaw = random.integer(slipped, untagged);

    const Chain chain = chain_of(problem.reasoning);
    const std::size_t operations = chain.operations.size();
    const Connectives words = mixes ? mixed(operations, random) : english(operations);
    const Slip slip = imperfect && flaw == slipped ? draw_slip(chain, random) : Slip{};
    const std::string reasoning = work_out(chain, words, slip.at, slip.amount);
    const std::string_view answer = std::string_view(reasoning).substr(reasoning.rfind(' ') + 1);
    const bool closed = !(imperfect && flaw == unclosed);
    const bool tagged = !(imperfect && flaw == untagged);
    return fmt::format("<think>{}{}{}{}{}", reasoning, closed ? "</think>" : "",
                       tagged ? "<answer>" : "", answer, tagged ? "</answer>" : "");
}

}  // namespace gradus
