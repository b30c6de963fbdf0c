// SPDX-License-Identifier: Apache-2.0
// The input deck: flat `prefix.name = value` lines, typed by one table (deck/parameters.hpp).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace gradus {

/// A piecewise-constant schedule over training steps: `0:0.7 200:1.0`. A plain number is a
/// schedule with one entry at step 0.
class Schedule {
  public:
    Schedule() = default;
    /// Throws DeckError on malformed text or non-increasing steps.
    static Schedule parse(const std::string& text);
    double at(std::int64_t step) const;
    std::string text() const;
    /// The values it takes, in order.
    std::vector<double> levels() const;

  private:
    std::vector<std::pair<std::int64_t, double>> entries_;
};

/// A deck whose every key has been found in the parameter table, typed and range-checked.
/// Missing keys have their defaults. Reading a key that the table lacks, or a text as a number, is an
/// InternalError.
/// Keys with a wildcard part (`reward.NAME.weight`) exist once for each NAME in the deck.
class Deck {
  public:
    const std::string& stage() const;

    bool flag(std::string_view key) const;
    std::int64_t integer(std::string_view key) const;
    double number(std::string_view key) const;
    const std::string& text(std::string_view key) const;
    /// Words between blanks; in a word `\ ` is a blank, `\n` a line break, `\\` a backslash.
    std::vector<std::string> list(std::string_view key) const;
    Schedule schedule(std::string_view key) const;
    /// Whether the deck or the command line set the key (as against its default).
    bool is_set(std::string_view key) const;
    /// NAMEs of wildcard sections: names("reward") of `reward.accuracy.weight = 1` is {"accuracy"}.
    std::vector<std::string> names(std::string_view section) const;
    const std::string& origin(std::string_view key) const;

    /// The whole deck, each key with its value and, as a comment, where it came from; itself a deck
    /// that repeats the run. Defaults that give way to something else (model. keys where model.from or model.config
    /// is given, eval.k, keys of kind = model of other rewards) are written as comments.
    std::string resolved() const;
    /// Only keys and values (no origins), sorted: what checkpoints keep and restarts compare.
    std::map<std::string, std::string> values() const;

  private:
    friend class DeckResolver;
    struct Value {
        std::string text;
        std::string origin;
    };
    const Value& at(std::string_view key) const;
    std::map<std::string, Value, std::less<>> values_;
};

/// Reads `path` (with its includes), applies `overrides` (`key=value`), types and checks all against
/// the parameter table. All errors are collected and thrown as one DeckError: one line each, in order
/// of place, with `file:line: `, what is wrong, what is allowed, and the nearest known key; required
/// keys that are missing come last, with the name of the deck. Keys of other stages are errors in the
/// deck and in overrides, and left out where they come from an included file.
Deck resolve_deck(const std::string& path, const std::vector<std::string>& overrides);

/// The value of `key` as the last of `overrides` gives it, else its default: for what counts before a deck is read.
/// One that is wrong is passed over; resolve_deck tells it.
std::string early_value(std::string_view key, const std::vector<std::string>& overrides);

/// As resolve_deck, from a string (tests, fuzzing); `name` stands for the file in messages.
Deck resolve_deck_text(const std::string& text, const std::string& name,
                       const std::vector<std::string>& overrides);

}  // namespace gradus
