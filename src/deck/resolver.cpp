// SPDX-License-Identifier: Apache-2.0
// Tokens of the lexer become typed values through Boost.Program_options; everything that is wrong
// is collected, with its place and the nearest known key.
#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <set>
#include <sstream>

#include "gradus/base/error.hpp"
#include "gradus/deck/deck.hpp"
#include "gradus/deck/parameters.hpp"
#include "lexer.hpp"
#include "value.hpp"

namespace gradus {
namespace po = boost::program_options;
namespace {

/// Edits between two words: insertions, deletions, substitutions, swaps of neighbours
/// (Damerau 1964, optimal string alignment).
std::size_t edit_distance(const std::string& a, const std::string& b) {
    std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
    for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
    for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i)
        for (std::size_t j = 1; j <= b.size(); ++j) {
            d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1,
                                d[i - 1][j - 1] + (a[i - 1] != b[j - 1] ? 1 : 0)});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[a.size()][b.size()];
}

/// The known key nearest to an unknown one, with the NAME of a wildcard filled in.
std::string nearest_key(const std::string& key) {
    std::string best;
    std::size_t distance = 1 + key.size() / 2;
    for (const DeckKey& p : parameters()) {
        std::string candidate(p.key);
        if (const std::size_t star = candidate.find('*'); star != std::string::npos) {
            const std::size_t begin = key.find('.'), end = key.find('.', begin + 1);
            const std::string name = begin != std::string::npos && end != std::string::npos
                                         ? key.substr(begin + 1, end - begin - 1)
                                         : "NAME";
            candidate.replace(star, 1, name);
        }
        if (const std::size_t d = edit_distance(key, candidate); d < distance) {
            distance = d;
            best = candidate;
        }
    }
    return best;
}

bool uses(const DeckKey& p, const std::string& stage) {
    if (p.stages == "*") return true;
    std::istringstream in{std::string(p.stages)};
    for (std::string word; in >> word;)
        if (word == stage) return true;
    return false;
}

}  // namespace

/// Collects the errors of one deck.
class DeckResolver {
  public:
    Deck resolve(LexedDeck deck, LexedDeck overrides) {
        errors_ = std::move(deck.errors);
        errors_.insert(errors_.end(), overrides.errors.begin(), overrides.errors.end());
        std::vector<DeckToken> tokens = std::move(deck.tokens);
        tokens.insert(tokens.end(), overrides.tokens.begin(), overrides.tokens.end());
        find_stage(tokens);
        // The last token of a key counts; a wrong one before it is an error all the same.
        std::map<std::string, DeckToken> chosen;
        for (const DeckToken& token : tokens)
            if (known(token)) chosen[token.key] = token;
        check_all(chosen);
        if (!errors_.empty()) fail();
        return std::move(deck_);
    }

  private:
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
            const std::string near = nearest_key(token.key);
            error(token, fmt::format("there is no key {}{}", token.key,
                                     near.empty() ? "" : fmt::format("; did you mean {}?", near)));
            return false;
        }
        if (stage_.empty() || uses(*p, stage_)) return true;
        // What several decks share may hold keys of other stages; the deck itself may not.
        if (!token.included)
            error(token, fmt::format("{} is not used by stage = {}, only by: {}", token.key, stage_,
                                     p->stages));
        return false;
    }

    void check_all(const std::map<std::string, DeckToken>& chosen) {
        if (stage_.empty()) {
            // Without a stage it is not known which keys are wanted: only those given are checked.
            for (const auto& [key, token] : chosen) check(token);
            if (chosen.find("stage") == chosen.end())
                check({"stage", std::string(kRequired), "default", false});
            return;
        }
        const po::options_description description = describe(chosen);
        po::parsed_options parsed(&description);
        for (const auto& [key, token] : chosen) {
            po::option option(key, {token.value});
            option.original_tokens = {token.origin};
            parsed.options.push_back(option);
        }
        po::variables_map values;
        po::store(parsed, values);
        for (const auto& [key, variable] : values) {
            const auto it = chosen.find(key);
            const DeckToken token =
                it != chosen.end() ? it->second
                                   : DeckToken{key, variable.as<std::string>(), "default", false};
            check(token);
        }
    }

    /// Every concrete key of the stage, with its default: wildcards once for each NAME in the deck.
    po::options_description describe(const std::map<std::string, DeckToken>& chosen) const {
        po::options_description description;
        auto add = [&](const std::string& key, const DeckKey& p) {
            description.add_options()(
                key.c_str(), po::value<std::string>()->default_value(std::string(p.default_value)));
        };
        for (const DeckKey& p : parameters()) {
            if (!uses(p, stage_)) continue;
            const std::string key(p.key);
            const std::size_t star = key.find('*');
            if (star == std::string::npos) {
                add(key, p);
                continue;
            }
            std::set<std::string> names;
            for (const auto& [used, token] : chosen)
                if (used.rfind(key.substr(0, star), 0) == 0)
                    names.insert(used.substr(star, used.find('.', star) - star));
            for (const std::string& name : names) add(std::string(key).replace(star, 1, name), p);
        }
        return description;
    }

    void check(const DeckToken& token) {
        const DeckKey& p = *find_parameter(token.key);
        if (token.value == kRequired) {
            errors_.push_back(fmt::format("{} is missing: {} ({})", token.key, describe_type(p), p.help));
            return;
        }
        try {
            // An empty default means "not given" whatever the type.
            const bool empty_default = token.value.empty() && p.default_value.empty();
            DeckKey concrete = p;
            concrete.key = token.key;
            deck_.values_[token.key] = {
                empty_default ? "" : canonical_value(concrete, token.value), token.origin};
        } catch (const DeckError& e) {
            error(token, e.what());
        }
    }

    void error(const DeckToken& token, const std::string& what) {
        errors_.push_back(token.origin + ": " + what);
    }

    [[noreturn]] void fail() const {
        std::string text = errors_.size() == 1
                               ? "1 error in the deck:"
                               : fmt::format("{} errors in the deck:", errors_.size());
        for (const std::string& line : errors_) text += "\n  " + line;
        throw DeckError(text);
    }

    std::string stage_;  ///< empty: not given, or unknown
    std::vector<std::string> errors_;
    Deck deck_;
};

Deck resolve_deck(const std::string& path, const std::vector<std::string>& overrides) {
    return DeckResolver().resolve(lex_deck(path), lex_overrides(overrides));
}

Deck resolve_deck_text(const std::string& text, const std::string& name,
                       const std::vector<std::string>& overrides) {
    return DeckResolver().resolve(lex_deck_text(text, name), lex_overrides(overrides));
}

}  // namespace gradus
