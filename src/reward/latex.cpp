// SPDX-License-Identifier: Apache-2.0
#include "latex.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "characters.hpp"
#include "words.hpp"

namespace gradus {
namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
    std::string replaced;
    std::size_t begin = 0;
    for (std::size_t at = 0; (at = text.find(from, begin)) != std::string::npos; begin = at + from.size())
        replaced.append(text, begin, at - begin).append(to);
    text = replaced.append(text, begin);
}

/// Replaces the command `name` where no letter follows it.
void replace_command(std::string& text, std::string_view name, std::string_view to) {
    for (std::size_t at = 0; (at = text.find(name, at)) != std::string::npos;) {
        const std::size_t end = at + name.size();
        if (end < text.size() && is_letter(text[end])) {
            at = end;
            continue;
        }
        text.replace(at, name.size(), to);
        at += to.size();
    }
}

/// The end of the group that opens at `open` ('{'), npos where it does not close.
std::size_t group_end(std::string_view text, std::size_t open) {
    int depth = 0;
    for (std::size_t at = open; at < text.size(); ++at) {
        if (text[at] == '\\') {
            ++at;
            continue;
        }
        if (text[at] == '{') ++depth;
        if (text[at] == '}' && --depth == 0) return at;
    }
    return text.npos;
}

constexpr std::array<std::string_view, 9> kWords = {"\\text", "\\textbf", "\\textit", "\\textrm", "\\textnormal",
                                                    "\\mbox", "\\operatorname", "\\mathrm", "\\hbox"};

/// Whether a number or a group stands before `at`: what is set as text there is a unit.
bool follows_number(std::string_view text, std::size_t at) {
    const std::size_t last = at == 0 ? text.npos : text.find_last_not_of(' ', at - 1);
    return last != text.npos && (is_digit(text[last]) || text[last] == '}');
}

bool is_unit(std::string_view word) {
    static constexpr std::array<std::string_view, 20> kUnits = {"m",  "cm", "mm", "km", "in", "ft", "yd", "mi", "kg", "g",
                                                                "mg", "lb", "s",  "ms", "h",  "hr", "L",  "ml", "mL", "mph"};
    return std::find(kUnits.begin(), kUnits.end(), word) != kUnits.end();
}

/// Whether a factor begins at `at`, which what stands before would belong to; a sign is one where no number stands before.
bool begins_factor(std::string_view text, std::size_t at, bool after_number) {
    at = std::min(text.find_first_not_of(" \n", at), text.size());
    if (at == text.size()) return false;
    const char c = text[at];
    if (c == '-' || c == '+') return !after_number;
    if (c != '\\') return is_digit(c) || is_letter(c) || std::string_view("({[|.$").find(c) != std::string_view::npos;
    static constexpr std::array<std::string_view, 14> kOperators = {"\\times", "\\cdot", "\\div", "\\pm", "\\mp", "\\le", "\\ge",
                                                                    "\\ne",    "\\approx", "\\cup", "\\in", "\\end", "\\}", "\\\\"};
    const std::string_view rest = text.substr(at);
    if (rest.starts_with("\\infty")) return true;
    return std::none_of(kOperators.begin(), kOperators.end(), [&](std::string_view name) { return rest.starts_with(name); });
}

/// A function or a constant whose name was set as text.
bool is_mathematics(std::string_view name) {
    static constexpr std::array<std::string_view, 12> kNames = {"sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln",
                                                                "exp",  "pi",  "arctan"};
    return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

/// Behind a number these letters are no units.
bool is_variable(char c) { return std::string_view("xyznkabeijpqruvw").find(c) != std::string_view::npos; }

/// What becomes of words set as text at [at, end) by `command`: "and", "or" and one letter stay, functions become
/// functions, units and the like go.
std::string read_words(std::string_view text, std::size_t at, std::size_t end, std::string_view command, const std::string& inside) {
    std::string bare;
    for (const char c : inside)
        if (c != ' ' && c != '.' && c != ',' && c != '(' && c != ')') bare += c;
    const bool behind = follows_number(text, at);
    if (bare == "and" || bare == "And") return " and ";
    if (bare == "or" || bare == "Or") return " or ";
    if (is_mathematics(bare) || (command == "\\operatorname" && !bare.empty())) return "\\" + bare + " ";
    if (inside.find_first_of("0123456789-+*/=<>^_\\") != std::string::npos) return inside;  // \text{24 hours}
    if (has_changing_word(inside)) return "\x01";                                           // which nothing reads
    if (command == "\\mathrm" && bare.size() > 1 && (!behind || (bare.size() < 3 && !is_unit(bare)))) return inside;
    if (bare.size() == 1 && is_letter(bare[0]) && (!behind || is_variable(bare[0]))) return bare;
    if (begins_factor(text, end, behind) && !may_precede_number(inside)) return "\x01";
    return " ";
}

/// Reads the words that are set as text (read_words); what a unit's power is of goes with it.
void drop_words(std::string& text) {
    for (std::string_view command : kWords)
        for (std::size_t at = 0; (at = text.find(command, at)) != std::string::npos;) {
            std::size_t open = at + command.size();
            while (open < text.size() && text[open] == ' ') ++open;
            if (open >= text.size() || text[open] != '{') {
                at = open;
                continue;
            }
            const std::size_t end = group_end(text, open);
            if (end == text.npos) return;
            const std::string inside = text.substr(open + 1, end - open - 1);
            std::size_t after = end + 1;
            if (after < text.size() && text[after] == '^') {
                ++after;
                after = after < text.size() && text[after] == '{' ? group_end(text, after) : after;
                after = after == text.npos ? text.size() : std::min(after + 1, text.size());
            }
            const std::string to = read_words(text, at, after, command, inside);
            const bool with_power = to == " " && inside.find_first_not_of(" .,()") != std::string::npos;
            text.replace(at, (with_power ? after : end + 1) - at, to);
            at += to.size();
        }
}

/// Drops \! \, \( \[ \$ \% and the like; \; \: and a backslash before a blank become blanks. The backslashes
/// that end a row of a matrix stay.
void drop_spaces(std::string& text) {
    std::string out;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] != '\\' || at + 1 == text.size()) {
            out += text[at];
            continue;
        }
        const char next = text[++at];
        if (next == ' ' || next == ';' || next == ':' || next == '$' || next == '%')
            out += ' ';
        else if (std::string_view("!,()[]").find(next) == std::string_view::npos)
            out += {'\\', next};
    }
    text = out;
}

/// "125 miles", "28 percent", "12 cm^2", "6 \pi square units": words behind a number say what is counted. Words that
/// make another number of it, and letters that may be variables, stay.
void drop_unit(std::string& text) {
    for (int words = 0; words < 3; ++words) {
        std::size_t end = text.find_last_not_of(" .\n");
        if (end == std::string::npos) return;
        // cm^2, cm^{2}
        std::string_view core = std::string_view(text).substr(0, end + 1);
        for (const std::string_view power : {"^2", "^3", "^{2}", "^{3}"})
            if (core.ends_with(power) && core.size() > power.size() && is_letter(core[core.size() - power.size() - 1])) {
                core.remove_suffix(power.size());
                break;
            }
        const bool powered = core.size() != end + 1;
        std::size_t begin = core.size();
        while (begin > 0 && is_letter(core[begin - 1])) --begin;
        const std::string_view word = core.substr(begin);
        if (word.empty() || begin == 0 || core[begin - 1] != ' ') return;
        const bool of_unit = words > 0 && word == "square";
        if (!is_unit(word) && (powered || word.size() < 3 || (!of_unit && changes_number(word)))) return;
        const std::size_t before = core.find_last_not_of(' ', begin - 1);
        if (before == std::string::npos) return;
        const char c = core[before];
        const bool pi = core.substr(0, before + 1).ends_with("\\pi");
        if (is_digit(c) || c == '}' || c == ')' || pi) {
            text.erase(before + 1);
        } else if (core.substr(0, before + 1).ends_with(" square") || core.substr(0, before + 1).ends_with(" cubic")) {
            text.erase(before + 1);  // which goes next
        } else {
            return;
        }
    }
}

const std::vector<std::pair<std::string_view, std::string_view>>& signs() {
    static const std::vector<std::pair<std::string_view, std::string_view>> all = {
        {"−", "-"}, {"–", "-"}, {"×", "*"}, {"·", "*"}, {"÷", "/"}, {"π", "\\pi "}, {"∞", "\\infty "}, {"√", "\\sqrt "},
        {"≤", "\\le "}, {"≥", "\\ge "}, {"≠", "\\ne "}, {"∪", "\\cup "}, {"±", "\\pm "}, {"∈", "\\in "}, {"°", ""},
        {"²", "^2"}, {"³", "^3"}, {"½", "\\frac{1}{2}"}, {"€", ""}, {"£", ""}, {"，", ","}, {"≈", "\\approx "}, {"０", "0"}, {"１", "1"},
        {"２", "2"}, {"３", "3"}, {"４", "4"}, {"５", "5"}, {"６", "6"}, {"７", "7"}, {"８", "8"}, {"９", "9"}};
    return all;
}

}  // namespace

std::string plain_latex(std::string_view given) {
    if (given.size() > kLongestAnswer) return "";  // a part of an answer is another answer
    std::string text(given);
    for (const auto& [from, to] : signs()) replace_all(text, from, to);
    for (const std::string_view comma : {"{,}", "{, }", " {, }"}) replace_all(text, comma, ",");
    for (const std::string_view gap : {"\\qquad", "\\quad"}) replace_all(text, gap, " ; ");
    replace_all(text, ",\\! ", ",");
    replace_all(text, ",\\!", ",");
    // Backslashes that were escaped once too often; in a matrix two of them end a row.
    if (text.find("\\begin") == std::string::npos)
        for (std::size_t at = 0; (at = text.find("\\\\", at)) != std::string::npos; ++at)
            if (at + 2 < text.size() && is_letter(text[at + 2])) text.erase(at, 1);
    drop_spaces(text);
    for (const std::string_view drop : {"$", "%", "**"}) replace_all(text, drop, " ");
    replace_all(text, "\\mathbb{R}", "(-\\infty,\\infty)");
    for (const std::string_view bar : {"\\lvert", "\\rvert", "\\vert"}) replace_command(text, bar, "|");
    for (const std::string_view drop : {"\\left", "\\right", "\\displaystyle", "\\textstyle", "\\limits", "\\big", "\\Big",
                                        "\\bigl", "\\bigr", "\\mathbf", "\\mathit", "\\bf", "\\rm"})
        replace_command(text, drop, "");
    for (const std::string_view frac : {"\\dfrac", "\\tfrac", "\\cfrac"}) replace_command(text, frac, "\\frac");
    drop_words(text);
    // A box around all of it or a part.
    for (std::size_t at; (at = text.find("\\boxed{")) != std::string::npos;) {
        const std::size_t open = at + 6, end = group_end(text, open);
        if (end == std::string::npos) break;
        text.erase(end, 1);
        text.erase(at, 7);
    }
    drop_unit(text);
    while (text.starts_with(' ') || text.starts_with('=') || text.starts_with("\\approx"))
        text.erase(0, text[0] == '\\' ? 7 : 1);
    const std::size_t first = text.find_first_not_of(" \n\t");
    if (first == std::string::npos) return "";
    std::size_t last = text.find_last_not_of(" \n\t.");
    if (last == std::string::npos) last = first;
    return text.substr(first, last - first + 1);
}

}  // namespace gradus
