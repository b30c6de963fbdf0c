// SPDX-License-Identifier: Apache-2.0
#include "expression.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "latex.hpp"
#include "scanner.hpp"

namespace gradus {
namespace {

using Kind = Expression::Kind;

constexpr int kDeepest = 40;
constexpr int kMostFactors = 60;

/// Builds the tree.
class Parser : Scanner {
  public:
    using Scanner::Scanner;

    std::optional<Expression> whole() {
        Expression e = list("");
        skip();
        if (wrong_ || at_ != text_.size()) return {};
        return e;
    }

  private:
    struct Deeper {
        explicit Deeper(Parser& p) : parser(p) {
            if (++parser.depth_ > kDeepest) parser.wrong_ = true;
        }
        ~Deeper() { --parser.depth_; }
        Parser& parser;
    };

    Expression fail() {
        wrong_ = true;
        return {};
    }
    static Expression node(Kind kind, std::vector<Expression> children, std::string text = "") {
        Expression e;
        e.kind = kind;
        e.children = std::move(children);
        e.text = std::move(text);
        return e;
    }
    static Expression integer(int value) {
        Expression e;
        e.number = value;
        return e;
    }
    static Expression minus(Expression e) { return node(Kind::product, {integer(-1), std::move(e)}); }

    /// Items between commas, until one of `stop` or the end; one item alone is itself.
    Expression list(std::string_view stop) {
        const Deeper deeper(*this);
        std::vector<Expression> items;
        bool all = false, any = false;
        while (!wrong_) {
            if (ends() || stop.find(peek()) != stop.npos) break;
            items.push_back(relation());
            bool more = false;
            while (!ends()) {
                const bool both = take_word("and"), either = !both && take_word("or");
                if (!both && !either && !take(',') && !take(';')) break;
                all = all || both;
                any = any || either;
                more = true;
            }
            if (!more) break;
        }
        if (items.empty()) return fail();
        if (items.size() == 1) return std::move(items[0]);
        return node(Kind::list, std::move(items), std::string(all ? "and" : "") + (any ? "or" : ""));
    }

    Expression relation() {
        Expression first = united();
        std::string signs;
        std::vector<Expression> sides;
        while (!ends()) {
            const char sign = relation_sign();
            if (sign == '\0') break;
            if (signs.empty()) sides.push_back(std::move(first));
            signs += sign;
            sides.push_back(united());
        }
        return signs.empty() ? std::move(first) : node(Kind::relation, std::move(sides), signs);
    }

    Expression united() {
        std::vector<Expression> parts;
        parts.push_back(sum());
        while (take_command("cup")) parts.push_back(sum());
        return parts.size() == 1 ? std::move(parts[0]) : node(Kind::unite, std::move(parts));
    }

    Expression sum() {
        const Deeper deeper(*this);
        std::vector<Expression> terms;
        bool first = true;
        while (!ends()) {
            const bool pm = take_command("pm"), mp = !pm && take_command("mp");
            const bool minus_sign = !pm && !mp && take('-');
            const bool plus = !pm && !mp && !minus_sign && take('+');
            if (!first && !pm && !mp && !minus_sign && !plus) break;
            Expression term = product();
            if (pm || mp)
                term = node(Kind::plus_minus, {std::move(term)}, pm ? "pm" : "mp");
            else if (minus_sign)
                term = minus(std::move(term));
            terms.push_back(std::move(term));
            first = false;
        }
        if (terms.empty()) return fail();
        return terms.size() == 1 ? std::move(terms[0]) : node(Kind::sum, std::move(terms));
    }

    bool starts_atom() {
        const char c = peek();
        if (c == '|') return bars_ == 0;
        if (at_word("and") || at_word("or")) return false;
        if (is_digit(c) || is_letter(c) || c == '(' || c == '{' || (c == '.' && at_ + 1 < text_.size() && is_digit(text_[at_ + 1])))
            return true;
        if (c != '\\') return false;
        static constexpr std::array<std::string_view, 26> kNot = {
            "le", "leq", "leqslant", "ge", "geq", "geqslant", "lt", "gt", "ne", "neq", "in", "approx", "equiv", "colon",
            "cup", "pm", "mp", "cdot", "times", "div", "}", "%", "\\", "end", "rfloor", "rceil"};
        const std::string_view name = command();
        return std::find(kNot.begin(), kNot.end(), name) == kNot.end();
    }

    Expression product() {
        Expression left = unary();
        for (int rounds = 0; !ends(); ++rounds) {
            // Quotients of quotients nest: 1/x/y.
            if (rounds > kMostFactors) return fail();
            if (take('*') || take_command("cdot") || take_command("times") || take_command("ast")) {
                Expression right = unary();
                left = times(std::move(left), std::move(right));
            } else if (take('/') || take_command("div")) {
                Expression right = unary();
                left = node(Kind::quotient, {std::move(left), std::move(right)});
            } else if (starts_atom()) {
                // "3 1/2" and 3\frac{1}{2} are mixed numbers; "3 4" is none of our business.
                const bool digit = is_digit(peek()) || peek() == '.';
                const std::size_t before = text_.find_last_not_of(" \n\t~", at_ == 0 ? 0 : at_ - 1);
                const bool mixed = literal(left) && before != text_.npos && is_digit(text_[before]) &&
                                   (command() == "frac" || digit);
                if (digit && !mixed) return fail();  // x2
                Expression right = power();
                if (mixed && digit) {
                    if (!literal(right) || !take('/')) return fail();
                    Expression below = power();
                    if (!literal(below)) return fail();
                    right = node(Kind::quotient, {std::move(right), std::move(below)});
                }
                if (mixed && right.kind == Kind::quotient && literal(right.children[0]) && literal(right.children[1]))
                    left = node(Kind::sum, {std::move(left), std::move(right)});
                else
                    left = times(std::move(left), std::move(right));
            } else {
                break;
            }
        }
        return left;
    }
    /// Products are flat, so that the tree of a long one is not deep.
    static Expression times(Expression left, Expression right) {
        if (left.kind != Kind::product) {
            std::vector<Expression> factors;
            factors.push_back(std::move(left));
            left = node(Kind::product, {});
            left.children = std::move(factors);
        }
        left.children.push_back(std::move(right));
        return left;
    }
    static bool literal(const Expression& e) {
        return e.kind == Kind::number && boost::multiprecision::denominator(e.number) == 1;
    }

    Expression unary() {
        const Deeper deeper(*this);
        if (take('-')) return minus(unary());
        if (take('+')) return unary();
        return power();
    }

    Expression power() {
        Expression base = atom();
        for (int rounds = 0; !wrong_; ++rounds) {
            if (rounds > 4) return fail();
            if (take('!')) {
                if (peek() == '!') return fail();  // 3!! is another function
                if (peek() == '=') {
                    --at_;
                    break;
                }
                base = node(Kind::function, {std::move(base)}, "factorial");
            } else if (take('^')) {
                if (take_command("circ")) continue;
                if (text_.substr(at_).starts_with("{\\circ}")) {
                    at_ += 7;
                    continue;
                }
                Expression exponent = argument();
                base = node(Kind::power, {std::move(base), std::move(exponent)});
                if (peek() == '^') return fail();  // 2^3^2 says two things
            } else {
                break;
            }
        }
        return base;
    }

    /// {group}, or one digit, letter, command or bracket.
    Expression argument() {
        const Deeper deeper(*this);
        if (peek() == '{') return group();
        if (take('-')) return minus(argument());
        if (is_digit(peek())) {
            // \frac12 takes one digit each; 2^10 without braces is taken whole by plain writers.
            if (!single_) return number();
            return integer(text_[at_++] - '0');
        }
        return atom();
    }
    Expression group() {
        if (!take('{')) return fail();
        const bool before = std::exchange(single_, false);
        Expression inside = list("}");
        single_ = before;
        if (!take('}')) return fail();
        return inside;
    }
    Expression one_digit_argument() {
        const bool before = std::exchange(single_, true);
        Expression e = argument();
        single_ = before;
        return e;
    }

    Expression number() {
        // In tuples and sets a comma separates.
        std::optional<Rational> value = numeral(brackets_ == 0);
        if (!value) return fail();
        Expression e;
        e.number = std::move(*value);
        // A numeral of another base is not this number.
        if (peek() == '_') {
            ++at_;
            Expression base = argument();
            return node(Kind::function, {std::move(e), std::move(base)}, "numeral");
        }
        return e;
    }
    /// A name with its subscript; where that is computed, or has the index of a sum, a function of it: F_{n-k}.
    Expression symbol(std::string name) {
        if (take('_')) {
            const std::size_t begin = at_;
            std::string below;
            if (take('{')) {
                while (at_ < text_.size() && text_[at_] != '}') below += text_[at_++];
                if (!take('}')) return fail();
            } else if (at_ < text_.size()) {
                below += text_[at_++];
            }
            std::erase(below, ' ');
            const bool plain = std::all_of(below.begin(), below.end(), [](char c) { return is_letter(c) || is_digit(c); });
            if (!plain || below.find_first_of(indices_) != below.npos) {
                const Deeper deeper(*this);
                at_ = begin;
                const bool braces = take('{');
                Expression inside = braces ? sum() : one_digit_argument();
                if (wrong_ || (braces && !take('}'))) return fail();
                return node(Kind::function, {std::move(inside)}, name + "_");
            }
            name += "_" + below;
        }
        while (at_ < text_.size() && text_[at_] == '\'') {
            name += '\'';
            ++at_;
        }
        return node(Kind::symbol, {}, name);
    }

    /// _{k=a}^{b} and what is added.
    Expression sum_sign() {
        if (!take('_') || !take('{') || !is_letter(peek())) return fail();
        const char index = text_[at_++];
        if (!take('=')) return fail();
        Expression from = sum();
        if (!take('}') || !take('^')) return fail();
        Expression to = argument();
        indices_ += index;
        Expression body = product();
        indices_.pop_back();
        return node(Kind::function, {node(Kind::symbol, {}, std::string(1, index)), std::move(from), std::move(to), std::move(body)}, "sum");
    }

    Expression bracketed(char open) {
        ++at_;
        ++brackets_;
        Expression inside = list(")]");
        --brackets_;
        const char close = peek();
        if (close != ')' && close != ']') return fail();
        ++at_;
        // (1 or 2) is no tuple.
        if (inside.kind != Kind::list || !inside.text.empty()) {
            if ((open == '(' && close == ')') || inside.kind == Kind::matrix) return inside;
            return fail();
        }
        return node(Kind::bracket, std::move(inside.children), std::string{open, close});
    }

    Expression matrix() {
        // \begin{...matrix} rows \\ ... \end{...}; \begin{array}{cc} too.
        std::string name;
        if (!take('{')) return fail();
        while (at_ < text_.size() && text_[at_] != '}') name += text_[at_++];
        if (!take('}')) return fail();
        const bool array = name == "array";
        if (!array && name.find("matrix") == name.npos) return fail();
        if (array) {
            if (!take('{')) return fail();
            while (at_ < text_.size() && text_[at_] != '}') ++at_;
            if (!take('}')) return fail();
        }
        std::vector<Expression> rows;
        while (!wrong_) {
            if (command() == "end") break;
            std::vector<Expression> cells;
            do cells.push_back(sum());
            while (take('&'));
            rows.push_back(node(Kind::list, std::move(cells)));
            if (!take_command("\\")) break;
            if (peek() == '[') {  // \\[4pt]
                while (at_ < text_.size() && text_[at_] != ']') ++at_;
                take(']');
            }
            if (command() == "end") break;
        }
        if (!take_command("end") || !take('{')) return fail();
        while (at_ < text_.size() && text_[at_] != '}') ++at_;
        if (!take('}') || rows.empty()) return fail();
        for (const Expression& row : rows)
            if (row.children.size() != rows[0].children.size()) return fail();
        // A determinant is no matrix.
        return node(Kind::matrix, std::move(rows), name.starts_with('v') || name.starts_with('V') ? name : "");
    }

    Expression function(std::string name) {
        std::optional<Expression> exponent, below;
        while (true) {
            if (peek() == '^' && !exponent) {
                ++at_;
                exponent = argument();
            } else if (peek() == '_' && name == "log" && !below) {
                ++at_;
                below = argument();
            } else {
                break;
            }
        }
        // The argument: a bracket, a group, or factors up to the next sign: sin 2x, cos a.
        Expression inside;
        if (peek() == '(' || peek() == '{') {
            inside = atom();  // sin(x)^2 is the square of sin(x)
        } else {
            inside = unary();
            while (!ends() && starts_atom() && !is_function(command()) && peek() != '(') {
                Expression more = power();
                inside = node(Kind::product, {std::move(inside), std::move(more)});
            }
        }
        std::vector<Expression> arguments;
        arguments.push_back(std::move(inside));
        if (below) arguments.push_back(std::move(*below));
        if (exponent && exponent->kind == Kind::product && name != "log" && exponent->children.size() == 2 &&
            exponent->children[0].number == -1 && exponent->children[1].number == 1) {
            name = "arc" + name;
            exponent.reset();
        }
        Expression e = node(Kind::function, std::move(arguments), name);
        return exponent ? node(Kind::power, {std::move(e), std::move(*exponent)}) : e;
    }
    static bool is_function(std::string_view name) {
        static constexpr std::array<std::string_view, 15> kNames = {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin",
                                                                    "arccos", "arctan", "sinh", "cosh", "tanh", "ln",
                                                                    "log", "exp"};
        return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
    }

    Expression atom() {
        const Deeper deeper(*this);
        if (wrong_) return {};
        const char c = peek();
        if (is_digit(c) || c == '.') return number();
        if (c == '{') return group();
        if (c == '(' || c == '[') return bracketed(c);
        if (c == '|') {
            ++at_;
            ++bars_;
            Expression inside = sum();
            --bars_;
            if (!take('|')) return fail();
            return node(Kind::function, {std::move(inside)}, "abs");
        }
        if (is_letter(c)) {
            for (const std::string_view name : {"arcsin", "arccos", "arctan", "sqrt", "sin", "cos", "tan", "log", "ln", "pi"})
                if (text_.substr(at_).starts_with(name)) {
                    at_ += name.size();
                    if (name == "pi") return node(Kind::symbol, {}, "pi");
                    if (name == "sqrt") return root();
                    return function(std::string(name));
                }
            // A word is no product of its letters.
            if (at_ + 2 < text_.size() && is_letter(text_[at_ + 1]) && is_letter(text_[at_ + 2])) return fail();
            ++at_;
            Expression s = symbol(std::string(1, c));
            // f(x) is a function where it stands for one; else a product.
            if ((c == 'f' || c == 'g') && peek() == '(') {
                Expression inside = bracketed('(');
                return node(Kind::function, {std::move(inside)}, s.text);
            }
            return s;
        }
        if (c != '\\') return fail();
        if (take_command("{")) {
            ++brackets_;
            std::vector<Expression> items;
            if (command() != "}") {
                Expression inside = list("\\");
                if (inside.kind == Kind::list)
                    items = std::move(inside.children);
                else
                    items.push_back(std::move(inside));
            }
            --brackets_;
            if (!take_command("}")) return fail();
            return node(Kind::bracket, std::move(items), "{}");
        }
        if (take_command("frac")) {
            Expression above = one_digit_argument(), below = one_digit_argument();
            return node(Kind::quotient, {std::move(above), std::move(below)});
        }
        if (take_command("binom")) {
            Expression above = one_digit_argument(), below = one_digit_argument();
            return node(Kind::function, {std::move(above), std::move(below)}, "binom");
        }
        if (take_command("sqrt")) return root();
        if (take_command("sum")) return sum_sign();
        if (take_command("begin")) return matrix();
        if (take_command("infty")) return node(Kind::symbol, {}, "infinity");
        if (take_command("emptyset") || take_command("varnothing")) return node(Kind::bracket, {}, "{}");
        if (const bool floor = command() == "lfloor"; take_command("lfloor") || take_command("lceil")) {
            Expression inside = sum();
            if (!take_command(floor ? "rfloor" : "rceil")) return fail();
            return node(Kind::function, {std::move(inside)}, floor ? "floor" : "ceil");
        }
        const std::string name(command());
        if (is_function(name)) {
            at_ += name.size() + 1;
            return function(name);
        }
        static constexpr std::array<std::string_view, 24> kGreek = {
            "pi", "alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "nu", "phi", "varphi", "psi",
            "rho", "sigma", "tau", "omega", "chi", "eta", "zeta", "xi", "kappa", "Delta", "Omega"};
        if (std::find(kGreek.begin(), kGreek.end(), name) == kGreek.end()) return fail();
        at_ += name.size() + 1;
        return symbol(name);
    }

    Expression root() {
        std::optional<Expression> degree;
        if (peek() == '[') {
            ++at_;
            degree = sum();
            if (!take(']')) return fail();
        }
        std::vector<Expression> arguments;
        arguments.push_back(one_digit_argument());
        if (degree) arguments.push_back(std::move(*degree));
        return node(Kind::function, std::move(arguments), "sqrt");
    }

    std::string indices_;  ///< of the sums around
    int depth_ = 0, brackets_ = 0, bars_ = 0;
    bool single_ = false;
};

}  // namespace

std::optional<Expression> parse_expression(std::string_view text) {
    if (text.size() > kLongestAnswer) return {};
    const std::string plain = plain_latex(text);
    if (plain.empty()) return {};
    return Parser(plain).whole();
}

}  // namespace gradus
