// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/language.hpp"

#include <algorithm>
#include <numeric>
#include <span>
#include <unordered_map>

#include "gradus/base/error.hpp"
#include "gradus/text/prose.hpp"
#include "gradus/text/script.hpp"

namespace gradus {
namespace {

constexpr std::size_t kLatinLanguages = 4;  ///< the first of kLanguages

std::size_t place_of(std::string_view language) {
    const auto it = std::find(kLanguages.begin(), kLanguages.end(), language);
    require(it != kLanguages.end(), "language '{}' is unknown", language);
    return static_cast<std::size_t>(it - kLanguages.begin());
}

/// Function words of the Latin-script languages that are no words of the others: not "die", "was", "so", "es", "le".
const std::unordered_map<std::string_view, std::size_t>& function_words() {
    static const std::unordered_map<std::string_view, std::size_t> places = [] {
        const std::array<std::string_view, kLatinLanguages> lists = {
            "the and that this is are were be been have had of to for with from by it its we you they she his our their "
            "which what when where then than there these those if but not can could would should must let because since "
            "therefore thus now how only after before into between does did do each let's it's don't that's",
            "der das und ist nicht ein eine einen einem einer eines wir sie dass auch auf mit für von zu zum zur dem wird "
            "werden sind haben dann wenn aber oder als noch nur durch aus bei nach wie weil ich sich kann können müssen "
            "muss daher somit jetzt ergibt gilt jeder jede jedes dieser diese dieses zuerst",
            "les une et est dans qui pas nous vous ils elle elles sont avec cette ces donc alors du aux mais comme être "
            "puis aussi chaque combien leur où peut faut ainsi maintenant c'est qu'il qu'elle d'abord il au",
            "el los las una por para con como pero más entonces porque cuando cada cuántos cuántas cuánto tiene "
            "tenemos esto esta este ese también lo luego sobre muy donde desde hasta está están del",
        };
        std::unordered_map<std::string_view, std::size_t> all;
        for (std::size_t l = 0; l < lists.size(); ++l)
            for (std::string_view rest = lists[l]; !rest.empty();) {
                const std::size_t end = std::min(rest.find(' '), rest.size());
                all.emplace(rest.substr(0, end), l);
                rest.remove_prefix(std::min(end + 1, rest.size()));
            }
        return all;
    }();
    return places;
}

/// Where the sentence at the start of `text` ends: behind a line, or behind . ! ? before a blank, or a full-width one.
std::size_t sentence_end(std::string_view text) {
    for (std::size_t at = 0; at < text.size(); ++at) {
        const char c = text[at];
        if (c == '\n') return at + 1;
        if (c == '.' || c == '!' || c == '?') {
            if (at + 1 < text.size() && (text[at + 1] == ' ' || text[at + 1] == '\t')) return at + 1;
        } else if (c == '\xE3' || c == '\xEF') {
            for (const std::string_view mark : {"\u3002", "\uff01", "\uff1f", "\uff0e"})
                if (text.substr(at, mark.size()) == mark) return at + mark.size();
        }
    }
    return text.size();
}

/// Which Latin-script language the words of a sentence are in; kLatinLanguages: none in particular.
std::size_t latin_language(std::span<const Word> sentence) {
    std::array<std::int64_t, kLatinLanguages> hits{};
    for (const Word& word : sentence) {
        if (word.script != Script::latin) continue;
        const auto it = function_words().find(word.text);
        if (it != function_words().end()) ++hits[it->second];
    }
    const auto most = std::max_element(hits.begin(), hits.end());
    const bool tie = std::count(hits.begin(), hits.end(), *most) > 1;
    return tie ? kLatinLanguages : static_cast<std::size_t>(most - hits.begin());
}

bool is_symbol(const Word& word) {
    const bool alphabet = word.script == Script::latin || word.script == Script::greek;
    const auto begins = std::count_if(word.text.begin(), word.text.end(),
                                      [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
    return alphabet && begins == 1;
}

void count_sentence(std::span<const Word> sentence, LanguageWords& counts) {
    const bool japanese = std::any_of(sentence.begin(), sentence.end(), [](const Word& w) { return w.script == Script::kana; });
    const std::size_t latin = latin_language(sentence);
    const auto count = [&](std::string_view language) { ++counts.of[place_of(language)]; };
    for (const Word& word : sentence) {
        if (is_symbol(word)) continue;
        switch (word.script) {
            case Script::latin: ++(latin == kLatinLanguages ? counts.latin : counts.of[latin]); break;
            case Script::han: count(japanese ? "ja" : "zh"); break;
            case Script::kana: count("ja"); break;
            case Script::hangul: count("ko"); break;
            case Script::cyrillic: count("ru"); break;
            case Script::arabic: count("ar"); break;
            case Script::devanagari: count("hi"); break;
            case Script::greek: count("el"); break;
            case Script::hebrew: count("he"); break;
            case Script::thai: count("th"); break;
            case Script::other: ++counts.other; break;
        }
    }
}

}  // namespace

std::int64_t LanguageWords::all() const { return std::accumulate(of.begin(), of.end(), latin + other); }

double LanguageWords::share(std::string_view language) const {
    const std::size_t place = place_of(language);
    const std::int64_t in = of[place] + (place < kLatinLanguages ? latin : 0), total = all();
    return total == 0 ? 1 : static_cast<double>(in) / static_cast<double>(total);
}

std::string_view LanguageWords::main() const {
    std::array<std::int64_t, kLanguages.size()> counts = of;
    *std::max_element(counts.begin(), counts.begin() + kLatinLanguages) += latin;
    const auto most = std::max_element(counts.begin(), counts.end());
    return *most == 0 ? std::string_view() : kLanguages[static_cast<std::size_t>(most - counts.begin())];
}

LanguageWords count_languages(std::string_view text) {
    const std::string plain = prose(to_valid_utf8(text));
    LanguageWords counts;
    for (std::string_view rest = plain; !rest.empty();) {
        const std::size_t end = sentence_end(rest);
        count_sentence(words(rest.substr(0, end)), counts);
        rest.remove_prefix(end);
    }
    return counts;
}

}  // namespace gradus
