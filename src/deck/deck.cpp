// SPDX-License-Identifier: Apache-2.0
#include "gradus/deck/deck.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <sstream>

#include "gradus/base/error.hpp"
#include "gradus/deck/parameters.hpp"

namespace gradus {

Schedule Schedule::parse(const std::string& text) {
    Schedule schedule;
    std::istringstream in(text);
    for (std::string word; in >> word;) {
        const std::size_t colon = word.find(':');
        std::pair<std::int64_t, double> entry{0, 0};
        const char* end = word.data() + word.size();
        bool good = true;
        if (colon != std::string::npos) {
            const auto step = std::from_chars(word.data(), word.data() + colon, entry.first);
            good = step.ec == std::errc{} && step.ptr == word.data() + colon;
        } else {
            good = schedule.entries_.empty();  // a plain number stands alone
        }
        const auto value =
            std::from_chars(word.data() + (colon == std::string::npos ? 0 : colon + 1), end, entry.second);
        good = good && value.ec == std::errc{} && value.ptr == end && std::isfinite(entry.second);
        const bool follows = schedule.entries_.empty() ? entry.first == 0
                                                       : entry.first > schedule.entries_.back().first;
        require<DeckError>(good && follows,
                           "`{}` is no schedule: `step:value ...` with growing steps from 0", text);
        schedule.entries_.push_back(entry);
    }
    require<DeckError>(!schedule.entries_.empty(), "an empty schedule");
    return schedule;
}

double Schedule::at(std::int64_t step) const {
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

const std::string& Deck::stage() const { return values_.find("stage")->second.text; }
bool Deck::flag(std::string_view key) const { return at(key).text == "true"; }
std::int64_t Deck::integer(std::string_view key) const { return std::stoll(at(key).text); }
double Deck::number(std::string_view key) const { return std::stod(at(key).text); }
const std::string& Deck::text(std::string_view key) const { return at(key).text; }
Schedule Deck::schedule(std::string_view key) const { return Schedule::parse(at(key).text); }
bool Deck::is_set(std::string_view key) const { return at(key).origin != "default"; }
const std::string& Deck::origin(std::string_view key) const { return at(key).origin; }

std::vector<std::string> Deck::list(std::string_view key) const {
    std::vector<std::string> words;
    std::istringstream in(at(key).text);
    for (std::string word; in >> word;) words.push_back(word);
    return words;
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
    auto quoted = [](const std::string& value) {
        const bool plain = value.find_first_of("#$\\\"") == std::string::npos &&
                           (value.empty() || (value.front() > ' ' && value.back() > ' '));
        if (plain) return value;
        std::string text = "\"";
        for (char c : value) {
            if (c == '"' || c == '\\') text += '\\';
            text += c;
        }
        return text + '"';
    };
    // Where a checkpoint gives the shape of the model, defaults of the shape are not part of the run.
    const auto from = values_.find("model.from");
    const bool given_shape = from != values_.end() && !from->second.text.empty();
    std::string text;
    for (const auto& [key, value] : values_) {
        const bool idle = given_shape && key.rfind("model.", 0) == 0 && value.origin == "default";
        text += fmt::format("{}{:<28} = {:<24} # {}\n", idle ? "# " : "", key, quoted(value.text),
                            value.origin);
    }
    return text;
}

std::map<std::string, std::string> Deck::values() const {
    std::map<std::string, std::string> values;
    for (const auto& [key, value] : values_) values[key] = value.text;
    return values;
}

}  // namespace gradus
