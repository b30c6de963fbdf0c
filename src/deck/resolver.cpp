// SPDX-License-Identifier: Apache-2.0
// Tokens of the lexer become typed values through Boost.Program_options; everything that is wrong
// is collected, with its place and the nearest known key.
#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <map>
#include <set>
#include <sstream>

#include "gradus/base/error.hpp"
#include "gradus/deck/deck.hpp"
#include "gradus/deck/parameters.hpp"
#include "lexer.hpp"
#include "presets.hpp"
#include "value.hpp"
#include "words.hpp"

namespace gradus {
namespace po = boost::program_options;
namespace {

/// A file that is no deck has a wrong line for each of its own; so many are printed.
constexpr std::size_t kMostFaults = 100;

bool uses(const DeckKey& p, const std::string& stage) {
    if (p.stages == "*") return true;
    std::istringstream in{std::string(p.stages)};
    for (std::string word; in >> word;)
        if (word == stage) return true;
    return false;
}

/// The row's key with `name` in the place of its `*`.
std::string with_name(const DeckKey& p, const std::string& name) {
    std::string key(p.key);
    if (const std::size_t star = key.find('*'); star != std::string::npos)
        key.replace(star, 1, name);
    return key;
}

/// NAME of "reward.NAME.weight", or "NAME".
std::string name_in(const std::string& key) {
    const std::size_t begin = key.find('.'), end = key.find('.', begin + 1);
    return begin != std::string::npos && end != std::string::npos
               ? key.substr(begin + 1, end - begin - 1)
               : "NAME";
}

/// The known key nearest to an unknown one; among equals one that the stage uses. Where none is
/// near, one that ends in the same word: train.lr for lr or optim.lr.
std::string nearest_key(const std::string& key, const std::string& stage) {
    std::string best, same_end;
    // Two for each edit, and one for a key of another stage.
    std::size_t distance = 2 * tolerance(key) + 2;
    bool end_is_used = false;
    const std::string end = fmt::format(".{}", key.substr(key.rfind('.') + 1));
    for (const DeckKey& p : parameters()) {
        const bool used = uses(p, stage);
        const std::string candidate = with_name(p, name_in(key));
        const std::size_t d = 2 * edit_distance(key, candidate) + (used ? 0 : 1);
        if (d < distance) {
            distance = d;
            best = candidate;
        }
        if (candidate.size() > end.size() && candidate.ends_with(end) &&
            (same_end.empty() || (used && !end_is_used))) {
            same_end = candidate;
            end_is_used = used;
        }
    }
    return best.empty() ? same_end : best;
}

/// What to look at where no key is near: those of the same section.
std::string advice(const std::string& key) {
    const std::string section = key.substr(0, key.find('.') + 1);
    for (const DeckKey& p : parameters())
        if (!section.empty() && p.key.substr(0, section.size()) == section)
            return fmt::format("gradus --help-deck {} lists what begins so", section);
    return "gradus --help-deck lists all";
}

}  // namespace

/// Collects the errors of one deck.
class DeckResolver {
  public:
    explicit DeckResolver(std::string name) : name_(std::move(name)) {}

    Deck resolve(LexedDeck deck, LexedDeck overrides) {
        const std::vector<DeckToken> tokens = take(std::move(deck), std::move(overrides));
        find_stage(tokens);
        // The last token of a key counts; the type of one before it is not looked at.
        std::map<std::string, DeckToken> chosen;
        for (const DeckToken& token : tokens)
            if (known(token)) chosen[token.key] = token;
        add_presets(chosen);
        check_all(chosen);
        if (!faults_.empty()) fail();
        return std::move(deck_);
    }

  private:
    /// The tokens of both, numbered in one order.
    std::vector<DeckToken> take(LexedDeck deck, LexedDeck overrides) {
        for (DeckToken& token : overrides.tokens) {
            token.place += deck.places;
            deck.tokens.push_back(std::move(token));
        }
        faults_ = std::move(deck.faults);
        for (const DeckFault& fault : overrides.faults)
            faults_.push_back({fault.place + deck.places, fault.text});
        spoiled_ = std::move(deck.spoiled);
        spoiled_.merge(overrides.spoiled);
        incomplete_ = deck.incomplete;
        end_ = deck.places + overrides.places + 1;
        return std::move(deck.tokens);
    }

    void find_stage(const std::vector<DeckToken>& tokens) {
        std::string asked;
        for (const DeckToken& token : tokens)
            if (token.key == "stage") asked = token.value;
        const auto names = stage_names();
        if (std::find(names.begin(), names.end(), asked) != names.end()) stage_ = asked;
    }

    bool known(const DeckToken& token) {
        const DeckKey* p = find_parameter(token.key);
        if (p == nullptr) {
            if (faults_.size() >= kMostFaults) {
                fault(token, "");  // only counted: looking for near keys takes its time
                return false;
            }
            const std::string near =
                token.key.size() < 100 ? nearest_key(token.key, stage_) : std::string();
            fault(token, fmt::format("there is no key {}; {}", shown(token.key),
                                     near.empty() ? advice(token.key)
                                                  : fmt::format("did you mean {}?", near)));
            return false;
        }
        if (stage_.empty() || uses(*p, stage_)) return true;
        // What several decks share may hold keys of other stages; the deck itself may not.
        if (!token.included)
            fault(token, fmt::format("{} is not used by stage = {}, only by: {}", token.key, stage_,
                                     p->stages));
        return false;
    }

    /// What presets set and the deck does not.
    void add_presets(std::map<std::string, DeckToken>& chosen) const {
        for (const PresetKey& which : preset_keys()) {
            const auto named = chosen.find(std::string(which.key));
            const Preset* preset = named == chosen.end() ? nullptr : which.find(trim(named->second.value));
            if (preset == nullptr) continue;
            const std::string origin = fmt::format("{} = {}", which.key, preset->name);
            for (const auto& [key, value] : preset->keys)
                chosen.emplace(key, DeckToken{std::string(key), std::string(value), origin});
        }
    }

    void check_all(const std::map<std::string, DeckToken>& chosen) {
        const po::options_description description = describe(chosen);
        po::parsed_options parsed(&description);
        for (const auto& [key, token] : chosen)
            parsed.options.emplace_back(key, Words{token.value});
        po::variables_map values;
        po::store(parsed, values);
        for (const auto& [key, variable] : values) {
            const auto it = chosen.find(key);
            check(it != chosen.end() ? it->second
                                     : DeckToken{key, variable.as<std::string>(), "default"});
        }
    }

    /// Every concrete key of the stage, with its default: wildcards once for each NAME in the deck.
    /// Without a stage it is not known which keys are wanted: those given, and those of all stages.
    po::options_description describe(const std::map<std::string, DeckToken>& chosen) const {
        po::options_description description;
        std::set<std::string> described;
        auto add = [&](const std::string& key, const DeckKey& p) {
            if (described.insert(key).second)
                description.add_options()(key.c_str(), po::value<std::string>()->default_value(
                                                           std::string(p.default_value)));
        };
        for (const auto& [key, token] : chosen) add(key, *find_parameter(key));
        for (const DeckKey& p : parameters()) {
            if (!uses(p, stage_)) continue;
            const std::size_t star = p.key.find('*');
            if (star == std::string_view::npos) {
                add(std::string(p.key), p);
                continue;
            }
            for (const auto& [used, token] : chosen)
                if (used.rfind(p.key.substr(0, star), 0) == 0) add(with_name(p, name_in(used)), p);
        }
        return description;
    }

    void check(const DeckToken& token) {
        const DeckKey& p = *find_parameter(token.key);
        if (p.default_value == kRequired && (token.value == kRequired || trim(token.value).empty()))
            return missing(token, p);
        try {
            // An empty default means "not given" whatever the type.
            const bool not_given = token.value.empty() && p.default_value.empty();
            deck_.values_[token.key] = {not_given ? "" : canonical_value(p, token.key, token.value),
                                        token.origin};
        } catch (const DeckError& e) {
            fault(token, e.what());
        }
    }

    void missing(DeckToken token, const DeckKey& p) {
        const bool given = token.origin != "default";
        if (!given && (incomplete_ || spoiled_.count(token.key) > 0)) return;
        if (!given) {
            token.origin = name_;
            token.place = end_;
        }
        fault(token, fmt::format("{} is {}: {} is expected. {}", token.key,
                                 given && trim(token.value).empty() ? "empty" : "missing",
                                 describe_type(p), p.help));
    }

    void fault(const DeckToken& token, const std::string& what) {
        faults_.push_back({token.place, token.origin + ": " + what});
    }

    [[noreturn]] void fail() {
        std::stable_sort(faults_.begin(), faults_.end(),
                         [](const auto& a, const auto& b) { return a.place < b.place; });
        std::string text = faults_.size() == 1
                               ? "1 error in the deck:"
                               : fmt::format("{} errors in the deck:", faults_.size());
        for (std::size_t i = 0; i < std::min(faults_.size(), kMostFaults); ++i)
            text += "\n  " + faults_[i].text;
        if (faults_.size() > kMostFaults)
            text += fmt::format("\n  ... and {} more", faults_.size() - kMostFaults);
        throw DeckError(text);
    }

    using Words = std::vector<std::string>;

    std::string name_;   ///< of the deck, for keys that stand nowhere
    std::string stage_;  ///< empty: not given, or unknown
    std::vector<DeckFault> faults_;
    std::set<std::string> spoiled_;
    bool incomplete_ = false;
    std::size_t end_ = 0;  ///< place after all others
    Deck deck_;
};

Deck resolve_deck(const std::string& path, const std::vector<std::string>& overrides) {
    return DeckResolver(shown(path)).resolve(lex_deck(path), lex_overrides(overrides));
}

Deck resolve_deck_text(const std::string& text, const std::string& name,
                       const std::vector<std::string>& overrides) {
    return DeckResolver(shown(name)).resolve(lex_deck_text(text, name), lex_overrides(overrides));
}

}  // namespace gradus
