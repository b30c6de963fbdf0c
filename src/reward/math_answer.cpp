// SPDX-License-Identifier: Apache-2.0
#include "gradus/reward/math_answer.hpp"

#include <algorithm>

#include "identity.hpp"
#include "latex.hpp"

namespace gradus {
namespace {

using Kind = Expression::Kind;

constexpr std::size_t kMostItems = 60;

bool is_label(const Expression& e) {
    switch (e.kind) {
        case Kind::symbol: return e.text != "pi" && e.text != "e" && e.text != "i" && e.text != "infinity";
        case Kind::function:
            if (e.text == "abs") return is_label(e.children[0]);
            return e.text.size() == 1 || (e.text.size() > 1 && (e.text[1] == '_' || e.text[1] == '\''));
        case Kind::product:  // AB
            return std::all_of(e.children.begin(), e.children.end(), is_label);
        case Kind::quotient: return is_label(e.children[0]) && is_label(e.children[1]);
        case Kind::bracket: return e.text == "()" && std::all_of(e.children.begin(), e.children.end(), is_label);
        default: return false;
    }
}

bool only(const std::string& signs, std::string_view allowed) {
    return signs.find_first_not_of(allowed) == std::string::npos;
}

/// "x = 3 = 4" and "x in S" as what stands last; a chain of equalities without a label stays.
Expression value_of(const Expression& e) {
    // A : B = 7 : 32 is 7 : 32.
    const std::size_t sign = e.kind == Kind::relation ? e.text.rfind('=') : std::string::npos;
    if (sign != std::string::npos && e.text.find(':') < sign && only(e.text, ":=") &&
        std::all_of(e.children.begin(), e.children.begin() + static_cast<std::ptrdiff_t>(sign) + 1, is_label)) {
        if (sign + 1 == e.text.size()) return e.children.back();
        Expression ratio{.kind = Kind::relation, .text = e.text.substr(sign + 1)};
        ratio.children.assign(e.children.begin() + static_cast<std::ptrdiff_t>(sign) + 1, e.children.end());
        return ratio;
    }
    if (e.kind == Kind::relation && only(e.text, "=") && !is_label(e.children[0])) {
        // 7 + 8 = 15 is 15, where it is true.
        const auto last = exact_value(e.children.back());
        const bool holds = last && std::all_of(e.children.begin(), e.children.end(),
                                               [&](const Expression& side) { return exact_value(side) == last; });
        return holds ? e.children.back() : e;
    }
    if (e.kind != Kind::relation || !only(e.text, "=~i") || !is_label(e.children[0])) return e;
    const std::size_t rounded = e.text.find('~');
    // x = 1/3 ~ 0.33 is 1/3; x ~ 11 is 11.
    return rounded != std::string::npos && rounded > 0 ? e.children[rounded] : e.children.back();
}

Expression with_sign(const Expression& e, bool plus) {
    if (e.kind == Kind::plus_minus) {
        Expression inner = with_sign(e.children[0], plus);
        if ((e.text == "pm") == plus) return inner;
        Expression zero;
        return difference(zero, std::move(inner));
    }
    Expression out = e;
    for (Expression& child : out.children) child = with_sign(child, plus);
    return out;
}
bool has_plus_minus(const Expression& e) {
    return e.kind == Kind::plus_minus || std::any_of(e.children.begin(), e.children.end(), has_plus_minus);
}

void flatten(const Expression& e, std::vector<Expression>& items) {
    const Expression value = value_of(e);
    if (value.kind == Kind::list || (value.kind == Kind::bracket && value.text == "{}")) {
        for (const Expression& child : value.children) flatten(child, items);
    } else if (has_plus_minus(value)) {
        items.push_back(with_sign(value, true));
        items.push_back(with_sign(value, false));
    } else {
        items.push_back(value);
    }
}

bool same(const Expression& a, const Expression& b);

bool same_in_order(const std::vector<Expression>& a, const std::vector<Expression>& b) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i)
        if (!same(a[i], b[i])) return false;
    return true;
}

/// Equal as sets with repetitions; sameness is transitive, so that the first match will do.
bool same_in_any_order(const std::vector<Expression>& a, const std::vector<Expression>& b) {
    if (a.size() != b.size() || a.size() > kMostItems) return false;
    std::vector<bool> used(b.size(), false);
    for (const Expression& x : a) {
        std::size_t i = 0;
        while (i < b.size() && (used[i] || !same(x, b[i]))) ++i;
        if (i == b.size()) return false;
        used[i] = true;
    }
    return true;
}

Expression infinity(bool positive) {
    Expression e{.kind = Kind::symbol, .text = "infinity"};
    if (positive) return e;
    Expression zero;
    return difference(zero, e);
}

/// lhs < rhs as the sign of a difference: `strict`, and difference < 0.
bool below_zero(const Expression& relation, Expression& d, bool& strict) {
    if (relation.kind != Kind::relation || relation.text.size() != 1 || !only(relation.text, "<>lg")) return false;
    const bool less = relation.text == "<" || relation.text == "l";
    strict = relation.text == "<" || relation.text == ">";
    d = less ? difference(relation.children[0], relation.children[1])
             : difference(relation.children[1], relation.children[0]);
    return true;
}

/// a < x <= b, x > a and the like as an interval; nothing for others.
std::optional<Expression> interval_of(const Expression& e) {
    if (e.kind != Kind::relation) return {};
    const auto bracket = [](Expression low, Expression high, bool open_low, bool open_high) {
        Expression out{.kind = Kind::bracket, .text = std::string{open_low ? '(' : '[', open_high ? ')' : ']'}};
        out.children.push_back(std::move(low));
        out.children.push_back(std::move(high));
        return out;
    };
    if (e.text.size() == 2 && only(e.text, "<l") && is_label(e.children[1]))
        return bracket(e.children[0], e.children[2], e.text[0] == '<', e.text[1] == '<');
    if (e.text.size() == 2 && only(e.text, ">g") && is_label(e.children[1]))
        return bracket(e.children[2], e.children[0], e.text[1] == '>', e.text[0] == '>');
    if (e.text.size() != 1 || !only(e.text, "<>lg")) return {};
    const bool left = is_label(e.children[0]);
    if (!left && !is_label(e.children[1])) return {};
    const bool less = e.text == "<" || e.text == "l", strict = e.text == "<" || e.text == ">";
    const Expression& bound = left ? e.children[1] : e.children[0];
    return less == left ? bracket(infinity(false), bound, true, strict) : bracket(bound, infinity(true), strict, true);
}

bool is_interval(const Expression& e) {
    return e.kind == Kind::unite || (e.kind == Kind::bracket && e.text != "{}" && e.children.size() == 2);
}

bool same_relation(const Expression& a, const Expression& b) {
    if (a.text == b.text && same_in_order(a.children, b.children)) return true;
    Expression x, y;
    bool strict_x = false, strict_y = false;
    if (below_zero(a, x, strict_x) && below_zero(b, y, strict_y))
        return strict_x == strict_y && proportional(x, y, true);
    const auto i = interval_of(a), j = interval_of(b);
    if (i && j && a.text.size() == 2 && b.text.size() == 2)
        return tree_text(a.children[1]) == tree_text(b.children[1]) && same(*i, *j);
    // Ratios and times are what they are: 12:00 is not 1:00.
    if (a.text.find(':') != std::string::npos || b.text.find(':') != std::string::npos) return false;
    const bool equations = (a.text == "=" && b.text == "=") || (a.text == "n" && b.text == "n");
    return equations && proportional(difference(a.children[0], a.children[1]), difference(b.children[0], b.children[1]),
                                     false);
}

bool same(const Expression& given_a, const Expression& given_b) {
    // Assignments to different names are different, unless they say the same as equations.
    if (given_a.kind == Kind::relation && given_b.kind == Kind::relation && only(given_a.text, "=~") &&
        only(given_b.text, "=~") &&
        (!is_label(given_a.children[0]) || !is_label(given_b.children[0]) ||
         tree_text(given_a.children[0]) != tree_text(given_b.children[0])))
        return same_relation(given_a, given_b);
    const Expression a = value_of(given_a), b = value_of(given_b);
    if (a.kind == Kind::relation && is_interval(b)) {
        const auto interval = interval_of(a);
        return interval && same(*interval, b);
    }
    if (b.kind == Kind::relation && is_interval(a)) return same(b, a);
    if (a.kind == Kind::relation || b.kind == Kind::relation)
        return a.kind == b.kind && same_relation(a, b);
    if (a.kind == Kind::matrix || b.kind == Kind::matrix) {
        if (a.kind != b.kind || a.children.size() != b.children.size()) return false;
        for (std::size_t r = 0; r < a.children.size(); ++r)
            if (!same_in_order(a.children[r].children, b.children[r].children)) return false;
        return true;
    }
    if (a.kind == Kind::unite || b.kind == Kind::unite)
        return a.kind == b.kind && same_in_any_order(a.children, b.children);
    // A tuple whose brackets were left out.
    if ((a.kind == Kind::list && b.kind == Kind::bracket && b.text == "()") ||
        (b.kind == Kind::list && a.kind == Kind::bracket && a.text == "()"))
        return same_in_order(a.children, b.children);
    const bool list_a = a.kind == Kind::list || (a.kind == Kind::bracket && a.text == "{}");
    const bool list_b = b.kind == Kind::list || (b.kind == Kind::bracket && b.text == "{}");
    if (list_a || list_b) {
        std::vector<Expression> x, y;
        flatten(a, x);
        flatten(b, y);
        return (list_a || x.size() == 1) && (list_b || y.size() == 1) && same_in_any_order(x, y);
    }
    if (a.kind == Kind::bracket || b.kind == Kind::bracket)
        return a.kind == b.kind && a.text == b.text && same_in_order(a.children, b.children);
    return identical(a, b);
}

std::string without_spaces(std::string text) {
    std::erase_if(text, [](char c) { return c == ' ' || c == '\n' || c == '\t'; });
    return text;
}

/// Words: letters and digits in lower case, for "(C)", "Evelyn", "no solution".
std::string bare_words(const std::string& text) {
    std::string bare;
    bool word = false;
    for (const char c : text) {
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        word |= letter;
        if (letter || (c >= '0' && c <= '9'))
            bare += letter && c < 'a' ? static_cast<char>(c - 'A' + 'a') : c;
        else if (c != ' ' && c != '(' && c != ')' && c != '.' && c != '\n' && c != '\'' && c != ',')
            return "";
    }
    return word ? bare : "";
}

/// The text of an answer that is words set as text, or typed.
std::string words_of(const std::string& text) {
    std::string inner = text;
    for (const char* command : {"\\text", "\\mathrm", "\\mbox", "\\textbf", "\\boxed", "$", "{", "}"})
        for (std::size_t at; (at = inner.find(command)) != std::string::npos;)
            inner.erase(at, std::string_view(command).size());
    return bare_words(inner);
}

}  // namespace

bool same_answer(const std::string& reference, const std::string& answer) {
    if (!reference.empty() && reference == answer) return true;
    const std::string a = plain_latex(reference), b = plain_latex(answer);
    const std::string words = words_of(reference);
    if (!words.empty() && words == words_of(answer)) return true;
    if (a.empty() || b.empty()) return false;
    if (without_spaces(a) == without_spaces(b)) return true;
    const auto x = parse_expression(reference), y = parse_expression(answer);
    if (!x || !y) return false;
    if (same(*x, *y)) return true;
    // Lists of assignments: x = 1, x = 2 beside 1, 2.
    std::vector<Expression> items_x, items_y;
    flatten(*x, items_x);
    flatten(*y, items_y);
    return items_x.size() > 1 && same_in_any_order(items_x, items_y);
}

}  // namespace gradus
