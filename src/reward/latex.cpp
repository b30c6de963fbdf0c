// SPDX-License-Identifier: Apache-2.0
#include "latex.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace gradus {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

void replace_all(std::string& text, std::string_view from, std::string_view to) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
        text.replace(at, from.size(), to);
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

/// Words set as text: "and", "or" become commas, one letter stays, units and the like go.
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
            std::string inside = text.substr(open + 1, end - open - 1);
            std::string bare;
            for (const char c : inside)
                if (c != ' ' && c != '.' && c != '(' && c != ')') bare += c;
            std::string to = " ";
            if (bare == "and" || bare == "or" || bare == "And" || bare == "Or")
                to = ",";
            else if (bare.size() == 1 && (is_letter(bare[0]) || is_digit(bare[0])))
                to = bare;
            // What a unit's power is of goes with it.
            std::size_t after = end + 1;
            if (to == " " && after < text.size() && text[after] == '^') {
                ++after;
                after = after < text.size() && text[after] == '{' ? group_end(text, after) : after;
                after = after == text.npos ? text.size() : std::min(after + 1, text.size());
            }
            text.replace(at, after - at, to);
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
        if (next == ' ' || next == ';' || next == ':')
            out += ' ';
        else if (std::string_view("!,()[]$%").find(next) == std::string_view::npos)
            out += {'\\', next};
    }
    text = out;
}

/// "125 miles", "28 percent": a word behind a number says what is counted.
void drop_unit(std::string& text) {
    std::size_t end = text.find_last_not_of(" .\n");
    if (end == std::string::npos || !is_letter(text[end])) return;
    std::size_t begin = end;
    while (begin > 0 && is_letter(text[begin - 1])) --begin;
    if (end - begin < 2 || begin == 0 || text[begin - 1] != ' ') return;
    const std::size_t before = text.find_last_not_of(' ', begin - 1);
    if (before != std::string::npos && (is_digit(text[before]) || text[before] == '}')) text.erase(before + 1);
}

const std::vector<std::pair<std::string_view, std::string_view>>& signs() {
    static const std::vector<std::pair<std::string_view, std::string_view>> all = {
        {"−", "-"}, {"–", "-"}, {"×", "*"}, {"·", "*"}, {"÷", "/"}, {"π", "\\pi "}, {"∞", "\\infty "}, {"√", "\\sqrt "},
        {"≤", "\\le "}, {"≥", "\\ge "}, {"≠", "\\ne "}, {"∪", "\\cup "}, {"±", "\\pm "}, {"∈", "\\in "}, {"°", ""},
        {"²", "^2"}, {"³", "^3"}, {"½", "\\frac{1}{2}"}, {"€", ""}, {"£", ""}, {"，", ","}, {"≈", "\\approx "}};
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
    for (const std::string_view drop : {"$", "%"}) replace_all(text, drop, "");
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
    const std::size_t first = text.find_first_not_of(" \n\t");
    if (first == std::string::npos) return "";
    std::size_t last = text.find_last_not_of(" \n\t.");
    if (last == std::string::npos) last = first;
    return text.substr(first, last - first + 1);
}

}  // namespace gradus
