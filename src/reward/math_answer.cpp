// SPDX-License-Identifier: Apache-2.0
#include "gradus/reward/math_answer.hpp"

#include <algorithm>
#include <array>

#include "characters.hpp"
#include "identity.hpp"
#include "latex.hpp"
#include "matrices.hpp"
#include "measures.hpp"

namespace gradus {
namespace {

using Kind = Expression::Kind;

constexpr std::size_t kMostItems = 60;

bool is_label(const Expression& e) {
    switch (e.kind) {
        case Kind::symbol: return e.text != "pi" && e.text != "e" && e.text != "i" && e.text != "infinity";
        case Kind::function:
            if (e.text == "abs")  // |AB|, not |x|
                return e.children[0].kind == Kind::product && is_label(e.children[0]);
            return e.text.size() == 1 || e.text.ends_with('_') || e.text[1] == '_' || e.text[1] == '\'';
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

/// "x in S" as S, "3 = x" as 3, "2 sqrt 2 ~ 2.83" as what stands before. A chain of equalities is its last side, one place
/// that the text alone names, so that no chain answers twice: the sides before are its working, numbers (x = 2 + 3 = 5) or
/// the same formula. With other formulas it is a system (x = 2y = 4) and stays.
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
    if (e.kind != Kind::relation || !only(e.text, "=~i")) return e;
    const bool labelled = is_label(e.children[0]);
    if (e.text == "=" && !labelled && is_label(e.children[1]) && !has_variables(e.children[0])) return e.children[0];
    if (e.text.find('i') != std::string::npos && !(labelled && e.text == "i")) return e;  // x = 3 in S
    const std::size_t rounded = e.text.find('~');
    const std::size_t exact = rounded == std::string::npos ? e.children.size() : rounded + 1, first = labelled ? 1 : 0;
    if (exact <= first) return e.children.back();  // x ~ 11
    const Expression& last = e.children[exact - 1];
    for (std::size_t i = first; i + 1 < exact; ++i) {
        const bool numbers = !has_variables(e.children[i]) && !has_variables(last);
        if (!numbers && !(labelled && identical(e.children[i], last))) return e;
    }
    return last;
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

/// A list, a set, or one formula for both signs.
bool stands_for_several(const Expression& e) {
    return e.kind == Kind::list || (e.kind == Kind::bracket && e.text == "{}") || has_plus_minus(e);
}

void flatten(const Expression& e, std::vector<Expression>& items) {
    const Expression value = value_of(e);
    if (value.kind == Kind::list || (value.kind == Kind::bracket && value.text == "{}")) {
        for (const Expression& child : value.children) flatten(child, items);
    } else if (has_plus_minus(value)) {
        items.push_back(with_sign(value, true));
        items.push_back(with_sign(value, false));
    } else {
        items.push_back(e);  // with its name: x = 1, y = 2 is not x = 2, y = 1
    }
}

bool same(const Expression& a, const Expression& b);

bool same_in_order(const std::vector<Expression>& a, const std::vector<Expression>& b) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i)
        if (!same(a[i], b[i])) return false;
    return true;
}

bool is_tuple(const Expression& e) { return e.kind == Kind::bracket && e.text == "()"; }
bool are_tuples(const std::vector<Expression>& items) { return std::all_of(items.begin(), items.end(), is_tuple); }

bool each_is_in(const std::vector<Expression>& a, const std::vector<Expression>& b) {
    return std::all_of(a.begin(), a.end(), [&](const Expression& x) {
        return std::any_of(b.begin(), b.end(), [&](const Expression& y) { return same(x, y); });
    });
}

/// Equal as sets with repetitions, of tuples as sets: a solution counts once. Sameness is transitive, so that the first
/// match will do.
bool same_in_any_order(const std::vector<Expression>& a, const std::vector<Expression>& b) {
    if (std::max(a.size(), b.size()) > kMostItems) return false;
    if (!a.empty() && !b.empty() && are_tuples(a) && are_tuples(b)) return each_is_in(a, b) && each_is_in(b, a);
    if (a.size() != b.size()) return false;
    std::vector<bool> used(b.size(), false);
    for (const Expression& x : a) {
        std::size_t i = 0;
        while (i < b.size() && (used[i] || !same(x, b[i]))) ++i;
        if (i == b.size()) return false;
        used[i] = true;
    }
    return true;
}

/// The names of the first round of items that name the same components round by round: p, q of p=5, q=2; p=7, q=2. None
/// for others.
std::vector<std::string> names_of_rounds(const std::vector<Expression>& items) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < items.size(); ++i) {
        const Expression& item = items[i];
        if (item.kind != Kind::relation || item.text != "=" || !is_label(item.children[0])) return {};
        const std::string name = tree_text(item.children[0]);
        if (i == names.size() && std::find(names.begin(), names.end(), name) == names.end())
            names.push_back(name);
        else if (name != names[i % names.size()])
            return {};
    }
    return items.size() % std::max<std::size_t>(names.size(), 1) == 0 ? names : std::vector<std::string>{};
}

/// The order of the alphabet, whatever the case, and of whole numbers: x_9, x_10.
bool comes_before(const std::string& a, const std::string& b) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    std::size_t i = 0, j = 0;
    while (i < a.size() && j < b.size()) {
        if (is_digit(a[i]) && is_digit(b[j])) {
            std::size_t end_i = i, end_j = j;
            while (end_i < a.size() && is_digit(a[end_i])) ++end_i;
            while (end_j < b.size() && is_digit(b[end_j])) ++end_j;
            if (end_i - i != end_j - j) return end_i - i < end_j - j;
            const int sign = a.compare(i, end_i - i, b, j, end_j - j);
            if (sign != 0) return sign < 0;
            i = end_i, j = end_j;
            continue;
        }
        if (lower(a[i]) != lower(b[j])) return lower(a[i]) < lower(b[j]);
        ++i, ++j;
    }
    return a.size() - i != b.size() - j ? a.size() - i < b.size() - j : a < b;
}

/// Whether items may be the components of a tuple in the order of the alphabet, or without names as they stand: all have
/// names, and different ones, or none has. x=0, x=1 are two values of one.
bool are_components(const Expression& list) {
    const auto named = [](const Expression& item) {
        return item.kind == Kind::relation && item.text == "=" && is_label(item.children[0]);
    };
    if (std::none_of(list.children.begin(), list.children.end(), named)) return list.text.empty();
    const std::vector<std::string> names = names_of_rounds(list.children);
    return names.size() == list.children.size() && list.text != "or" && std::is_sorted(names.begin(), names.end(), comes_before);
}

/// Each round as a tuple.
std::vector<Expression> tuples_of_rounds(const std::vector<Expression>& items, std::size_t round) {
    std::vector<Expression> tuples;
    for (std::size_t i = 0; i < items.size(); ++i) {
        if (i % round == 0) tuples.push_back({.kind = Kind::bracket, .text = "()"});
        tuples.back().children.push_back(items[i]);
    }
    return tuples;
}

/// Solutions one after the other, p=5, q=2; p=7, q=2, become tuples where the others are the same names or tuples.
/// A tuple has no names: its places are taken for those of the alphabet, (p, q), and others are not compared.
bool join_components(std::vector<Expression>& a, std::vector<Expression>& b) {
    const std::vector<std::string> names = names_of_rounds(a), others = names_of_rounds(b);
    const bool several = names.size() > 1 && a.size() > names.size(), more = others.size() > 1 && b.size() > others.size();
    if (!several && !more) return true;
    if (several && more && names == others) {
        a = tuples_of_rounds(a, names.size());
        b = tuples_of_rounds(b, names.size());
        return true;
    }
    const std::vector<std::string>& of = several ? names : others;
    std::vector<Expression>&rounds = several ? a : b, &tuples = several ? b : a;
    if (several == more || !are_tuples(tuples)) return false;
    rounds = tuples_of_rounds(rounds, of.size());
    return std::is_sorted(of.begin(), of.end(), comes_before);
}

Expression infinity(bool positive) {
    Expression e{.kind = Kind::symbol, .text = "infinity"};
    if (positive) return e;
    Expression minus_one, product{.kind = Kind::product};
    minus_one.number = -1;
    product.children = {minus_one, e};
    return product;
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
    const bool between = e.text.size() == 2 && is_label(e.children[1]) && (only(e.text, "<l") || only(e.text, ">g"));
    if (between && order(e.children[0], e.children[2]) == (only(e.text, "<l") ? 1 : -1)) return {};  // none is there
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

/// What an inequality bounds, of those that interval_of reads.
const Expression& bounded_of(const Expression& e) {
    return e.text.size() == 2 || !is_label(e.children[0]) ? e.children[1] : e.children[0];
}

bool is_infinite(const Expression& e) {
    return tree_text(e) == tree_text(infinity(true)) || tree_text(e) == tree_text(infinity(false));
}

/// Whether an interval ends before another begins.
bool ends_before(const Expression& a, const Expression& b) {
    if (is_infinite(a.children[1]) || is_infinite(b.children[0])) return false;
    const std::optional<int> sign = order(a.children[1], b.children[0]);
    return sign && (*sign < 0 || (*sign == 0 && !(a.text[1] == ']' && b.text[0] == '[')));
}

/// The inequalities of a list as intervals of one variable, its equations as points; nothing where one is none.
std::optional<std::vector<Expression>> intervals_of(const Expression& list) {
    std::vector<Expression> intervals;
    std::string variable;
    for (const Expression& item : list.children) {
        const bool point = item.kind == Kind::relation && item.text == "=" && is_label(item.children[0]);
        auto interval = interval_of(item);
        if (point) {
            interval = Expression{.kind = Kind::bracket, .text = "[]"};
            interval->children = {item.children[1], item.children[1]};
        }
        if (!interval) return {};
        const std::string name = tree_text(point ? item.children[0] : bounded_of(item));
        if (!variable.empty() && name != variable) return {};
        variable = name;
        intervals.push_back(std::move(*interval));
    }
    return intervals;
}

/// How the inequalities of a list are joined: as its words say; with commas "or" where they are apart, x < 2, x > 3, else
/// "and". "" where there are none.
std::string joined_by(const Expression& list) {
    const auto is_inequality = [](const Expression& e) {
        return e.kind == Kind::relation && e.text.find_first_of("<>lgn") != std::string::npos;
    };
    if (list.kind != Kind::list || std::none_of(list.children.begin(), list.children.end(), is_inequality)) return "";
    if (!list.text.empty() || list.children.size() > kMostItems) return list.text;
    const auto intervals = intervals_of(list);
    if (!intervals) return "and";
    for (std::size_t i = 0; i < intervals->size(); ++i)
        for (std::size_t j = 0; j < i; ++j)
            if (!ends_before((*intervals)[i], (*intervals)[j]) && !ends_before((*intervals)[j], (*intervals)[i])) return "and";
    return "or";
}

/// x > 2 and x < 3 as 2 < x < 3; nothing for others.
std::optional<Expression> intersection_of(const Expression& list) {
    if (list.children.size() != 2 || joined_by(list) != "and") return {};
    const auto intervals = intervals_of(list);
    if (!intervals) return {};
    const std::size_t first = is_infinite((*intervals)[0].children[0]) ? 1 : 0;
    const Expression &from = (*intervals)[first], &to = (*intervals)[1 - first];
    if (is_infinite(from.children[0]) || !is_infinite(from.children[1]) || !is_infinite(to.children[0]) || is_infinite(to.children[1]))
        return {};
    Expression both{.kind = Kind::relation, .text = {from.text[0] == '[' ? 'l' : '<', to.text[1] == ']' ? 'l' : '<'}};
    both.children = {from.children[0], bounded_of(list.children[0]), to.children[1]};
    return both;
}

bool is_interval(const Expression& e) {
    return e.kind == Kind::unite || (e.kind == Kind::bracket && e.text != "{}" && e.children.size() == 2);
}

bool is_size(const Expression& e) {
    return e.kind == Kind::function && e.text == "abs" && e.children[0].kind == Kind::symbol && has_variables(e.children[0]);
}

/// The values of a real variable whose absolute value an inequality bounds: -b < x < b of |x| < b, two intervals of
/// a <= |x| <= b.
struct SetOfSizes {
    std::string variable;
    Expression set;
};
std::optional<SetOfSizes> set_of_sizes(const Expression& e) {
    if (e.kind != Kind::relation || !only(e.text, "<>lg")) return {};
    const auto size = std::find_if(e.children.begin(), e.children.end(), is_size);
    if (size == e.children.end()) return {};
    // The interval of the size as if it had a name.
    Expression named = e;
    named.children[static_cast<std::size_t>(size - e.children.begin())] = size->children[0];
    const auto positive = interval_of(named);
    if (!positive || e.text.size() + 1 != e.children.size()) return {};
    const Expression &low = positive->children[0], &high = positive->children[1];
    const auto bracket = [](Expression from, Expression to, std::string text) {
        Expression out{.kind = Kind::bracket, .text = std::move(text)};
        out.children = {std::move(from), std::move(to)};
        return out;
    };
    const char open = positive->text[0], close = positive->text[1];
    const auto mirrored = [](const Expression& bound) {
        return bound.text == "infinity" ? infinity(false) : difference(Expression(), bound);
    };
    if (tree_text(low) == tree_text(infinity(false)))
        return SetOfSizes{size->children[0].text, bracket(mirrored(high), high, {close == ']' ? '[' : '(', close})};
    Expression both{.kind = Kind::unite};
    both.children = {bracket(mirrored(high), mirrored(low), {close == ']' ? '[' : '(', open == '[' ? ']' : ')'}), *positive};
    return SetOfSizes{size->children[0].text, both};
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

/// Whether intervals are given of this variable; those without a name are of a real one, which z and w may not be.
bool is_of(const Expression& e, const std::string& variable) {
    const auto names = [&](const Expression& side) { return side.kind == Kind::symbol && side.text == variable; };
    if (e.kind == Kind::relation) return std::any_of(e.children.begin(), e.children.end(), names);
    if (e.kind == Kind::list)
        return std::all_of(e.children.begin(), e.children.end(), [&](const Expression& item) { return is_of(item, variable); });
    return variable[0] != 'z' && variable[0] != 'w';
}

/// |x| < 2 beside another inequality, or beside intervals as they were given and as they are.
bool same_sizes(const Expression& inequality, const SetOfSizes& sizes, const Expression& given, const Expression& other) {
    if (other.kind == Kind::relation && same_relation(inequality, other)) return true;
    if (const auto more = set_of_sizes(other)) return more->variable == sizes.variable && same(sizes.set, more->set);
    return is_of(given, sizes.variable) && same(sizes.set, other);
}

bool same(const Expression& given_a, const Expression& given_b) {
    // Assignments to different names are different, unless they say the same as equations.
    if (given_a.kind == Kind::relation && given_b.kind == Kind::relation && only(given_a.text, "=~") &&
        only(given_b.text, "=~") &&
        (!is_label(given_a.children[0]) || !is_label(given_b.children[0]) ||
         tree_text(given_a.children[0]) != tree_text(given_b.children[0])))
        return same_relation(given_a, given_b);
    Expression a = value_of(given_a), b = value_of(given_b);
    for (Expression* e : {&a, &b})
        if (e->kind != Kind::matrix)
            if (auto matrix = worked_out_matrix(*e)) *e = std::move(*matrix);
    for (Expression* e : {&a, &b})
        if (auto both = e->kind == Kind::list ? intersection_of(*e) : std::nullopt) *e = std::move(*both);
    if (const auto sizes = set_of_sizes(a)) return same_sizes(a, *sizes, given_b, b);
    if (const auto sizes = set_of_sizes(b)) return same_sizes(b, *sizes, given_a, a);
    if (a.kind == Kind::relation && is_interval(b)) {
        const auto interval = interval_of(a);
        return interval && same(*interval, b);
    }
    if (b.kind == Kind::relation && is_interval(a)) return same(b, a);
    if (a.kind == Kind::relation || b.kind == Kind::relation)
        return a.kind == b.kind && same_relation(a, b);
    if (a.kind == Kind::matrix || b.kind == Kind::matrix) {
        if (a.kind != b.kind || a.text != b.text || a.children.size() != b.children.size()) return false;
        for (std::size_t r = 0; r < a.children.size(); ++r)
            if (!same_in_order(a.children[r].children, b.children[r].children)) return false;
        return true;
    }
    if (a.kind == Kind::unite || b.kind == Kind::unite) {
        if (a.kind == b.kind) return same_in_any_order(a.children, b.children);
        // x < 2 or x > 3
        const Expression &list = a.kind == Kind::unite ? b : a, &unite = a.kind == Kind::unite ? a : b;
        if (joined_by(list) != "or") return false;
        const auto intervals = intervals_of(list);
        return intervals && same_in_any_order(*intervals, unite.children);
    }
    // A tuple whose brackets were left out; named components stand in the order of the alphabet.
    if ((a.kind == Kind::list && is_tuple(b)) || (b.kind == Kind::list && is_tuple(a)))
        return are_components(a.kind == Kind::list ? a : b) && same_in_order(a.children, b.children);
    const bool list_a = stands_for_several(a), list_b = stands_for_several(b);
    if (list_a || list_b) {
        if (joined_by(a) != joined_by(b)) return false;
        std::vector<Expression> x, y;
        flatten(a, x);
        flatten(b, y);
        if (!join_components(x, y)) return false;
        return (list_a || x.size() == 1) && (list_b || y.size() == 1) && same_in_any_order(x, y);
    }
    if (a.kind == Kind::bracket || b.kind == Kind::bracket)
        return a.kind == b.kind && a.text == b.text && same_in_order(a.children, b.children);
    return identical(a, b);
}

/// Blanks matter between digits only: 1 1/2 is not 11/2.
std::string without_spaces(const std::string& text) {
    const auto blank = [](char c) { return c == ' ' || c == '\n' || c == '\t'; };
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    std::string out;
    bool gap = false;
    for (const char c : text) {
        if (blank(c)) {
            gap = true;
            continue;
        }
        if (gap && !out.empty() && digit(out.back()) && digit(c)) out += ' ';
        gap = false;
        out += c;
    }
    return out;
}

/// The words of an answer that is nothing but words, set as text or typed, in lower case: "Evelyn", "no solution",
/// and choices: "(C)". "" for others: a word of one or two letters may be a formula, and a choice is a capital.
std::string words_of(const std::string& text) {
    if (text.size() > kLongestAnswer) return "";
    std::string inner;
    for (std::size_t at = 0; at < text.size(); ++at) {
        const std::string_view rest = std::string_view(text).substr(at);
        std::size_t drop = text[at] == '$' || text[at] == '{' || text[at] == '}' ? 1 : 0;
        for (const std::string_view command : {"\\textbf", "\\textit", "\\textrm", "\\text", "\\mathrm", "\\mbox", "\\boxed"})
            if (drop == 0 && rest.starts_with(command)) drop = command.size();
        if (drop == 0)
            inner += text[at];
        else
            at += drop - 1;
    }
    std::string words;
    int letters = 0, longest = 0;
    for (const char c : inner) {
        if (is_letter(c))
            words += c;
        else if (c == ' ' || c == '\n' || c == '-')
            words += words.empty() || words.back() == ' ' ? "" : " ";
        else if (c != '.' && c != '(' && c != ')')
            return "";
        letters = is_letter(c) ? letters + 1 : 0;
        longest = std::max(longest, letters);
    }
    while (!words.empty() && words.back() == ' ') words.pop_back();
    if (words.size() == 1) return words[0] >= 'A' && words[0] <= 'J' ? words : "";
    if (longest < 3) return "";
    for (char& c : words)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return words;
}

}  // namespace

bool same_answer(const std::string& reference, const std::string& answer) {
    if (!reference.empty() && reference == answer) return true;
    if (reference.size() > kLongestAnswer || answer.size() > kLongestAnswer) return false;
    if (!of_one_measure(reference, answer)) return false;
    const std::string a = plain_latex(reference), b = plain_latex(answer);
    const std::string words = words_of(reference);
    if (!words.empty()) {
        std::string given = words_of(answer);
        // A choice may be answered in small letters.
        if (words.size() == 1 && answer.size() <= 3 && answer.find_first_of("abcdefghij") != std::string::npos) {
            given.clear();
            for (const char c : answer)
                if (is_letter(c)) given += static_cast<char>(c - 'a' + 'A');
        }
        if (words == given) return true;
    }
    Budget::renew();
    if (a.empty() || b.empty()) return false;
    if (without_spaces(a) == without_spaces(b)) return true;
    const auto x = parse_expression(reference), y = parse_expression(answer);
    if (!x || !y) return false;
    return same(*x, *y);
}

}  // namespace gradus
