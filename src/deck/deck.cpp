// SPDX-License-Identifier: Apache-2.0
#include "gradus/deck/deck.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <sstream>

#include "gradus/base/error.hpp"
#include "value.hpp"

namespace gradus {

namespace {

template <class T>
bool parse_whole(std::string_view text, T& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size();
}

/// `value` as it can stand in a deck.
std::string quoted(const std::string& value) {
    auto is_blank = [](char c) { return c == ' ' || c == '\t'; };
    if (value.find_first_of("#$\\\"") == std::string::npos &&
        (value.empty() || (!is_blank(value.front()) && !is_blank(value.back()))))
        return value;
    std::string text = "\"";
    for (char c : value) {
        if (c == '"' || c == '\\') text += '\\';
        text += c;
    }
    return text + '"';
}

}  // namespace

Schedule Schedule::parse(const std::string& text) {
    Schedule schedule;
    std::istringstream in(text);
    for (std::string word; in >> word;) {
        const std::size_t colon = word.find(':');
        std::pair<std::int64_t, double> entry{0, 0};
        // A plain number stands alone.
        bool good = colon != std::string::npos
                        ? parse_whole(std::string_view(word).substr(0, colon), entry.first)
                        : schedule.entries_.empty();
        good = good && parse_whole(std::string_view(word).substr(colon + 1), entry.second) &&
               std::isfinite(entry.second);
        const bool follows = schedule.entries_.empty()
                                 ? entry.first == 0
                                 : entry.first > schedule.entries_.back().first;
        require<DeckError>(good && follows,
                           "`{}` is no schedule: `step:value ...` with growing steps from 0", text);
        schedule.entries_.push_back(entry);
    }
    require<DeckError>(!schedule.entries_.empty(), "an empty schedule");
    return schedule;
}

double Schedule::at(std::int64_t step) const {
    require(!entries_.empty(), "a schedule without values is asked for one");
    double value = entries_.front().second;
    for (const auto& [from, level] : entries_)
        if (step >= from) value = level;
    return value;
}

std::string Schedule::text() const {
    if (entries_.size() == 1) return fmt::format("{}", entries_[0].second);
    std::string text;
    for (const auto& [step, value] : entries_)
        text += fmt::format("{}{}:{}", text.empty() ? "" : " ", step, value);
    return text;
}

std::vector<double> Schedule::levels() const {
    std::vector<double> levels;
    for (const auto& entry : entries_) levels.push_back(entry.second);
    return levels;
}

const Deck::Value& Deck::at(std::string_view key) const {
    const auto it = values_.find(key);
    require(it != values_.end(), "the deck of stage {} has no key {}", stage(), key);
    return it->second;
}

std::int64_t Deck::integer(std::string_view key) const {
    std::int64_t value = 0;
    require(parse_whole(at(key).text, value), "{} = {} is read as a whole number", key, text(key));
    return value;
}

double Deck::number(std::string_view key) const {
    double value = 0;
    require(parse_whole(at(key).text, value), "{} = {} is read as a number", key, text(key));
    return value;
}

const std::string& Deck::stage() const {
    return values_.find("stage")->second.text;
}
bool Deck::flag(std::string_view key) const {
    return at(key).text == "true";
}
const std::string& Deck::text(std::string_view key) const {
    return at(key).text;
}
std::vector<std::string> Deck::list(std::string_view key) const {
    return split_list(text(key));
}
Schedule Deck::schedule(std::string_view key) const {
    return Schedule::parse(text(key));
}
bool Deck::is_set(std::string_view key) const {
    return at(key).origin != "default";
}
const std::string& Deck::origin(std::string_view key) const {
    return at(key).origin;
}

std::vector<std::string> Deck::names(std::string_view section) const {
    std::set<std::string> names;
    const std::string prefix = std::string(section) + ".";
    for (const auto& [key, value] : values_) {
        if (key.rfind(prefix, 0) != 0) continue;
        const std::size_t end = key.find('.', prefix.size());
        if (end != std::string::npos) names.insert(key.substr(prefix.size(), end - prefix.size()));
    }
    return {names.begin(), names.end()};
}

std::string Deck::resolved() const {
    // Defaults that give way to something else are no part of the run: the shape of the model where
    // a checkpoint or a file gives it, eval.k, of which eval.n samples only allow some, what a reward that is
    // no model has no use for, and what a preset or the table says of a critic that there is none of.
    bool given_shape = false;
    for (const char* key : {"model.from", "model.config"}) {
        const auto given = values_.find(key);
        given_shape = given_shape || (given != values_.end() && !given->second.text.empty());
    }
    auto of_reward_model = [&](const std::string& key) {
        if (key.rfind("reward.", 0) != 0) return false;
        const std::size_t end = key.rfind('.');
        const auto kind = values_.find(key.substr(0, end) + ".kind");
        const std::string part = key.substr(end + 1);
        return kind != values_.end() && kind->second.text != "model" &&
               (part == "from" || part == "part" || part == "normalise" || part == "offload");
    };
    auto gives_way = [&](const std::string& key) {
        return (given_shape && key.rfind("model.", 0) == 0) || key == "eval.k" || of_reward_model(key);
    };
    const auto advantage = values_.find("loss.advantage");
    const bool no_critic = advantage != values_.end() && advantage->second.text != "gae";
    std::string text;
    for (const auto& [key, value] : values_) {
        const bool critic = no_critic && key.rfind("critic.", 0) == 0;
        const bool idle = (value.origin == "default" && gives_way(key)) ||
                          (critic && (value.origin == "default" || value.origin.rfind("loss.preset", 0) == 0));
        text += fmt::format("{:<28} = {:<24} # {}\n", (idle ? "# " : "") + key, quoted(value.text),
                            value.origin);
    }
    return text;
}

std::map<std::string, std::string> Deck::values() const {
    std::map<std::string, std::string> values;
    for (const auto& [key, value] : values_) values[key] = value.text;
    return values;
}

std::string early_value(std::string_view key, const std::vector<std::string>& overrides) {
    const DeckKey* parameter = find_parameter(key);
    require(parameter != nullptr, "there is no key {}", key);
    std::string value = canonical_value(*parameter, std::string(key), std::string(parameter->default_value));
    for (const std::string& text : overrides) try {
            const std::size_t equals = std::min(text.find('='), text.size());
            if (text.substr(0, equals) == key)
                value = canonical_value(*parameter, std::string(key), text.substr(std::min(equals + 1, text.size())));
        } catch (const DeckError&) {
        }
    return value;
}

}  // namespace gradus
