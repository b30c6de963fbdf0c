// SPDX-License-Identifier: Apache-2.0
#include "identity.hpp"

#include <algorithm>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <boost/multiprecision/cpp_complex.hpp>

#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

namespace mp = boost::multiprecision;
using Kind = Expression::Kind;
constexpr unsigned kDigits = 110;
using Real = mp::number<mp::cpp_bin_float<kDigits>, mp::et_off>;
using Complex = mp::number<mp::complex_adaptor<mp::cpp_bin_float<kDigits>>, mp::et_off>;

constexpr int kPoints = 5, kAttempts = 10;
constexpr int kAttemptsAtReal = 40;  // for points where all values are real, where it depends on the roots
constexpr unsigned kMostBits = 4000;
constexpr int kBudget = 40000;  // about a tenth of a second
thread_local int left = kBudget;

/// A number between 0 and 1 that belongs to a text and a point.
double draw(const std::string& name, int point) {
    std::uint64_t hash = 1469598103934665603u;  // FNV-1a
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
    RandomSequence random({.seed = hash, .stream = Stream::test, .step = static_cast<std::uint64_t>(point)});
    return random.uniform();
}

/// What powers with odd denominators and odd roots of a negative value of a formula with variables are: the real ones
/// (x^{1/3} where x is any real number), or the principal ones (where x^{1/2} x^{1/3} is x^{5/6}). Those of a negative
/// constant: roots are real, powers principal.
enum class Roots { real, principal };

/// Evaluates at one point; `failed` where there is no finite value; `branched` where it depended on the roots.
class Evaluation {
  public:
    Evaluation(int point, Roots roots) : point_(point), roots_(roots) {}
    bool failed = false, branched = false;

    Complex value(const Expression& e) {
        if (failed) return {};
        if (!Budget::take(e.kind == Kind::function || e.kind == Kind::power ? 25 : 1)) return fail();
        switch (e.kind) {
            case Kind::number: return real(Real(mp::numerator(e.number)) / Real(mp::denominator(e.number)));
            case Kind::symbol: return symbol(e.text);
            case Kind::sum: {
                Sum sum;
                for (const Expression& child : e.children)
                    if (!sum.add(value(child))) return fail();
                return sum.loses() ? fail() : finite(sum.total);
            }
            case Kind::product: {
                Complex product(1);
                for (const Expression& factor : e.children) product *= value(factor);
                return finite(product);
            }
            case Kind::quotient: {
                const Complex above = value(e.children[0]), below = value(e.children[1]);
                if (is_zero(below)) return fail();
                return finite(above / below);
            }
            case Kind::power: {
                const Complex base = value(e.children[0]);
                const bool negative = base.imag() == 0 && base.real() < 0 && has_variables(e.children[0]);
                const auto exponent = negative && !failed ? exact_value(e.children[1]) : std::nullopt;
                if (exponent && mp::denominator(*exponent) > 1 && mp::denominator(*exponent) % 2 == 1) {
                    branched = true;
                    if (roots_ == Roots::real) {
                        const Complex size = power(-base, value(e.children[1]));
                        return mp::numerator(*exponent) % 2 == 0 ? size : -size;
                    }
                }
                return power(base, value(e.children[1]));
            }
            case Kind::function: return function(e);
            default: return fail();
        }
    }

  private:
    static Real size(const Complex& z) { return mp::abs(z.real()) + mp::abs(z.imag()); }
    /// A sum that knows when it cannot be trusted: a term that is not 0 is lost beside another, or the terms but for their
    /// last digits cancel.
    struct Sum {
        Complex total = Complex(0);
        Real largest = 0, smallest = 0;

        bool add(const Complex& term) {
            const Real here = size(term);
            if (here > kLargestTerm) return false;
            total += term;
            if (here > largest) largest = here;
            if (here != 0 && (smallest == 0 || here < smallest)) smallest = here;
            return true;
        }
        bool loses() const {
            const Real least = largest * smallest_share();
            return smallest < least || (!is_zero(total) && size(total) < least);
        }
    };
    static const Real& smallest_share() {
        static const Real share("1e-40");
        return share;
    }
    /// Whether a function is so flat or so straight at x that its value would not show what x is.
    static bool is_tiny(const Complex& x) { return !is_zero(x) && size(x) < smallest_share(); }

    static Complex real(const Real& x) { return Complex(x, Real(0)); }
    static bool is_zero(const Complex& z) { return z.real() == 0 && z.imag() == 0; }
    Complex fail() {
        failed = true;
        return {};
    }
    Complex finite(const Complex& z) {
        // Beyond this the digits say nothing of what is added.
        if (!mp::isfinite(z.real()) || !mp::isfinite(z.imag()) || mp::abs(z.real()) > Real("1e1000") ||
            mp::abs(z.imag()) > Real("1e1000"))
            return fail();
        return z;
    }
    Complex symbol(const std::string& name) {
        for (auto index = indices_.rbegin(); index != indices_.rend(); ++index)
            if (index->first == name) return index->second;
        if (name == "pi") return real(mp::default_ops::get_constant_pi<mp::cpp_bin_float<kDigits>>());
        if (name == "e") return real(mp::exp(Real(1)));
        if (name == "i") return Complex(Real(0), Real(1));
        if (name == "infinity") return fail();
        return variable(name);
    }
    Complex variable(const std::string& name) const {
        const double u = draw(name, point_);
        // Away from 0; all positive at the first point, all negative at the second, then of either sign, so that a
        // root or an absolute value shows which branch it is.
        const double size = 0.35 + 6.3 * draw(name + "'", point_);
        const bool positive = point_ == 0 || (point_ > 1 && u < 0.5);
        return real(Real(positive ? size : -size));
    }
    Complex power(const Complex& base, const Complex& exponent) {
        if (failed) return {};
        if (is_zero(base)) return exponent.real() > 0 ? base : fail();
        if (exponent.imag() == 0 && exponent.real() == mp::floor(exponent.real()) && mp::abs(exponent.real()) < 200) {
            // Exact for the signs of real bases.
            Complex result(1), b = base;
            auto n = static_cast<long>(exponent.real());
            const bool below = n < 0;
            for (n = below ? -n : n; n > 0; n /= 2) {
                if (n % 2 == 1) result *= b;
                b *= b;
            }
            return finite(below ? Complex(1) / result : result);
        }
        const Complex log = mp::log(base) * exponent;
        if (mp::abs(log.real()) > 2000 || is_tiny(log)) return fail();
        return finite(mp::exp(log));
    }
    Complex function(const Expression& e) {
        const std::string& f = e.text;
        if (f == "numeral") return fail();
        if (f == "sum") return sum_sign(e);
        const Complex x = value(e.children[0]);
        if (failed) return {};
        const bool is_real = x.imag() == 0;
        if (f == "sqrt") {
            if (e.children.size() == 1) return finite(mp::sqrt(x));
            const Complex n = value(e.children[1]);
            if (failed || is_zero(n)) return fail();
            if (is_real && x.real() < 0 && n.imag() == 0 && mp::fmod(n.real(), Real(2)) == 1) {
                const bool variable = has_variables(e.children[0]);
                branched = branched || variable;
                if (!variable || roots_ == Roots::real) return -power(-x, Complex(1) / n);
            }
            return power(x, Complex(1) / n);
        }
        if (f == "abs") return real(mp::abs(x).real());
        if (f == "exp") return mp::abs(x.real()) > 2000 || is_tiny(x) ? fail() : finite(mp::exp(x));
        if (f == "ln" || f == "log") {
            if (is_zero(x)) return fail();
            const Complex log = mp::log(x);
            if (e.children.size() == 1) return f == "ln" ? log : log / mp::log(Complex(10));
            const Complex base = mp::log(value(e.children[1]));
            return failed || is_zero(base) ? fail() : finite(log / base);
        }
        if (f == "factorial" || f == "floor" || f == "ceil" || f == "binom") return whole(e, x);
        const Complex big(Real(1e4));
        if (mp::abs(x.real()) > big.real() || mp::abs(x.imag()) > kMostHyperbolic || is_tiny(x)) return fail();
        if (f.ends_with('h') && mp::abs(x.real()) > kMostHyperbolic) return fail();
        if (f == "sin") return finite(mp::sin(x));
        if (f == "cos") return finite(mp::cos(x));
        if (f == "tan") return finite(mp::sin(x) / mp::cos(x));
        if (f == "cot") return finite(mp::cos(x) / mp::sin(x));
        if (f == "sec") return finite(Complex(1) / mp::cos(x));
        if (f == "csc") return finite(Complex(1) / mp::sin(x));
        if (f == "sinh") return finite((mp::exp(x) - mp::exp(-x)) / 2);
        if (f == "cosh") return finite((mp::exp(x) + mp::exp(-x)) / 2);
        if (f == "tanh") return finite((mp::exp(x) - mp::exp(-x)) / (mp::exp(x) + mp::exp(-x)));
        if (f == "arctan" && is_real) return real(mp::atan(x.real()));
        if (f == "arcsin" && is_real && mp::abs(x.real()) <= 1) return real(mp::asin(x.real()));
        if (f == "arccos" && is_real && mp::abs(x.real()) <= 1) return real(mp::acos(x.real()));
        if (f.ends_with('_') && is_real && x.real() == mp::floor(x.real()) && x.real() >= 0)
            return symbol(f + x.real().str());  // a_k where k is 3 is a_3
        if (f.size() > 1 && f[1] != '_' && f[1] != '\'' && !f.ends_with('_')) return fail();
        return some_function(f, x);
    }
    /// What is not known: some function of its name.
    Complex some_function(const std::string& name, const Complex& x) {
        return finite(mp::sin(x * Complex(1 + draw(name + "(a", point_)) + Complex(draw(name + "(b", point_))));
    }
    /// Between constants a sum is its terms; else some function of its bounds and of its term at an index drawn as a variable
    /// is, so that equal sums are those of equal terms.
    Complex sum_sign(const Expression& e) {
        const Complex from = value(e.children[1]), to = value(e.children[2]);
        if (failed) return {};
        Sum sum;
        indices_.emplace_back(e.children[0].text, Complex());
        if (has_variables(e.children[1]) || has_variables(e.children[2])) {
            const std::string name = "sum " + std::to_string(indices_.size());
            indices_.back().second = variable(name);
            const Complex all = from * Complex(1 + draw(name + " from", point_)) + to * Complex(1 + draw(name + " to", point_)) +
                                value(e.children[3]);
            const bool large = mp::abs(all.real()) > Real(1e4) || mp::abs(all.imag()) > 100;
            sum.total = failed || large ? fail() : some_function(name, all);
        } else if (from.imag() != 0 || to.imag() != 0 || from.real() != mp::floor(from.real()) ||
                   to.real() != mp::floor(to.real()) || mp::abs(to.real() - from.real()) > kMostTerms) {
            fail();
        } else {
            for (Real k = from.real(); k <= to.real() && !failed; ++k) {
                indices_.back().second = real(k);
                if (!sum.add(value(e.children[3]))) fail();
            }
        }
        indices_.pop_back();
        return failed || sum.loses() ? fail() : finite(sum.total);
    }
    Complex whole(const Expression& e, const Complex& x) {
        if (x.imag() != 0) return fail();
        if (e.text == "floor") return real(mp::floor(x.real()));
        if (e.text == "ceil") return real(mp::ceil(x.real()));
        if (x.real() != mp::floor(x.real()) || x.real() < 0 || x.real() > 170) return fail();
        Real product(1);
        if (e.text == "factorial") {
            for (Real k(2); k <= x.real(); ++k) product *= k;
            return real(product);
        }
        const Complex k = value(e.children[1]);
        if (failed || k.imag() != 0 || k.real() != mp::floor(k.real()) || k.real() < 0 || k.real() > x.real())
            return fail();
        for (Real j(1); j <= k.real(); ++j) product *= (x.real() - k.real() + j) / j;
        return real(product);
    }

    static constexpr double kLargestTerm = 1e18;  ///< beside a larger one the digits of the others would be lost
    static constexpr int kMostTerms = 1000;
    static constexpr int kMostHyperbolic = 100;  ///< e^{-2x} is lost beside 1 beyond
    int point_;
    Roots roots_;
    std::vector<std::pair<std::string, Complex>> indices_;  ///< of the sums around, with their values
};

/// What one pass over the points found. `unlike` is for good: where all values are real, so are the roots of the formulas;
/// `unlike_elsewhere` differed only beside values that are not, and with other roots they may agree.
enum class Found { alike, unlike, unlike_elsewhere };

/// Whether formulas are alike with real roots or, where these led to values that are not real, with principal ones.
template <class Look>
bool of_either_roots(Look look) {
    const Found found = look(Roots::real);
    return found == Found::alike || (found == Found::unlike_elsewhere && look(Roots::principal) == Found::alike);
}

bool is_real(const Complex& z) {
    static const Real tolerance("1e-90");
    return mp::abs(z.imag()) <= mp::abs(z.real()) * tolerance;
}

/// The points that two formulas are evaluated at: until both had values at `wanted` of them and, where real roots made
/// a difference, all values were real at as many.
struct Points {
    Points(int wanted_, Roots roots_) : wanted(wanted_), roots(roots_) {}
    int wanted;
    Roots roots;
    int point = -1, evaluated = 0, at_real = 0;
    bool branched = false;

    bool enough() const { return evaluated >= wanted; }
    bool next() {
        const bool real = branched && roots == Roots::real;
        return ++point < (real ? kAttemptsAtReal : kAttempts) && (real ? at_real : evaluated) < wanted;
    }
    void count(const Evaluation& one, const Complex& u, const Evaluation& other, const Complex& v) {
        branched = branched || one.branched || other.branched;
        if (one.failed || other.failed) return;
        ++evaluated;
        at_real += is_real(u) && is_real(v);
    }
};

bool close(const Complex& a, const Complex& b) {
    static const Real tolerance("1e-100");
    const Real size = mp::abs(a.real()) + mp::abs(a.imag()) + mp::abs(b.real()) + mp::abs(b.imag());
    const Complex d = a - b;
    return mp::abs(d.real()) + mp::abs(d.imag()) <= size * tolerance;
}

}  // namespace

void Budget::renew() { left = kBudget; }
bool Budget::take(int amount) {
    left = std::max(0, left - amount);
    return left > 0;
}

bool has_variables(const Expression& e) {
    if (e.kind == Kind::symbol) return e.text != "pi" && e.text != "e" && e.text != "i" && e.text != "infinity";
    for (const Expression& child : e.children)
        if (has_variables(child)) return true;
    return false;
}

namespace {

unsigned bits(const Rational& x) {
    const auto of = [](const mp::cpp_int& n) { return n == 0 ? 0u : static_cast<unsigned>(mp::msb(mp::abs(n))); };
    return of(mp::numerator(x)) + of(mp::denominator(x));
}

}  // namespace

std::optional<Rational> exact_value(const Expression& e) {
    std::optional<Rational> result;
    if (!Budget::take(1)) return result;
    switch (e.kind) {
        case Kind::number: return e.number;
        case Kind::sum:
        case Kind::product:
            result = e.kind == Kind::sum ? 0 : 1;
            for (const Expression& child : e.children) {
                const auto value = exact_value(child);
                if (!value) return {};
                e.kind == Kind::sum ? *result += *value : *result *= *value;
                if (bits(*result) > kMostBits) return {};
            }
            return result;
        case Kind::quotient: {
            const auto above = exact_value(e.children[0]), below = exact_value(e.children[1]);
            if (!above || !below || *below == 0) return {};
            return *above / *below;
        }
        case Kind::power: {
            const auto base = exact_value(e.children[0]), exponent = exact_value(e.children[1]);
            if (!base || !exponent || mp::denominator(*exponent) != 1) return {};
            const mp::cpp_int n = mp::abs(mp::numerator(*exponent));
            if (n > kMostBits || (bits(*base) + 1) * static_cast<unsigned>(n) > kMostBits) return {};
            if (*base == 0 && *exponent <= 0) return {};
            if (!Budget::take(25)) return {};
            const auto k = static_cast<unsigned>(n);
            const Rational power(mp::cpp_int(mp::pow(mp::numerator(*base), k)), mp::cpp_int(mp::pow(mp::denominator(*base), k)));
            return *exponent < 0 ? Rational(1) / power : power;
        }
        case Kind::function: {
            if (e.text != "factorial") return {};
            const auto n = exact_value(e.children[0]);
            if (!n || mp::denominator(*n) != 1 || *n < 0 || *n > 300 || !Budget::take(25)) return {};
            mp::cpp_int product = 1;
            for (int k = 2; k <= static_cast<int>(mp::numerator(*n)); ++k) product *= k;
            return Rational(product);
        }
        default: return {};
    }
}

bool identical(const Expression& a, const Expression& b) {
    const auto x = exact_value(a), y = exact_value(b);
    if (x && y) return *x == *y;
    if (tree_text(a) == tree_text(b)) return true;
    const int points = has_variables(a) || has_variables(b) ? kPoints : 1;
    return of_either_roots([&](Roots roots) {
        Points looked(points, roots);
        bool unlike = false;
        while (looked.next()) {
            Evaluation left(looked.point, roots), right(looked.point, roots);
            const Complex u = left.value(a), v = right.value(b);
            looked.count(left, u, right, v);
            if (left.failed || right.failed) {
                if (points == 1) return Found::unlike;
            } else if (!close(u, v)) {
                if (!looked.branched || (is_real(u) && is_real(v))) return Found::unlike;
                unlike = true;
            }
        }
        return unlike ? Found::unlike_elsewhere : looked.enough() ? Found::alike : Found::unlike;
    });
}

bool proportional(const Expression& a, const Expression& b, bool positive) {
    if (!has_variables(a) || !has_variables(b)) return false;
    return of_either_roots([&](Roots roots) {
        std::optional<Complex> ratio, real_ratio;
        Points looked(kPoints + 1, roots);
        bool unlike = false;
        while (looked.next()) {
            Evaluation left(looked.point, roots), right(looked.point, roots);
            const Complex u = left.value(a), v = right.value(b);
            looked.count(left, u, right, v);
            if (left.failed || right.failed) continue;
            const bool u_zero = u.real() == 0 && u.imag() == 0, v_zero = v.real() == 0 && v.imag() == 0;
            if (u_zero || v_zero) return Found::unlike;  // at a point drawn at random: always, or nearly never
            const Complex here = u / v;
            if (!ratio) ratio = here;
            if (is_real(u) && is_real(v)) {
                if (!real_ratio) real_ratio = here;
                if (!close(*real_ratio, here)) return Found::unlike;
            }
            unlike = unlike || !close(*ratio, here);
        }
        if (unlike) return looked.branched ? Found::unlike_elsewhere : Found::unlike;
        if (!looked.enough() || (positive && (ratio->real() <= 0 || !is_real(*ratio)))) return Found::unlike;
        return Found::alike;
    });
}

std::optional<int> order(const Expression& a, const Expression& b) {
    const auto x = exact_value(a), y = exact_value(b);
    if (x && y) return *x < *y ? -1 : *x > *y ? 1 : 0;
    if (has_variables(a) || has_variables(b)) return {};
    Evaluation one(0, Roots::real), other(0, Roots::real);
    const Complex u = one.value(a), v = other.value(b);
    if (one.failed || other.failed || !is_real(u) || !is_real(v)) return {};
    return close(u, v) ? 0 : u.real() < v.real() ? -1 : 1;
}

Expression difference(Expression a, Expression b) {
    Expression minus_one;
    minus_one.number = -1;
    Expression negative{.kind = Kind::product};
    negative.children.push_back(minus_one);
    negative.children.push_back(std::move(b));
    Expression sum{.kind = Kind::sum};
    sum.children.push_back(std::move(a));
    sum.children.push_back(std::move(negative));
    return sum;
}

std::string tree_text(const Expression& e) {
    std::string text = e.kind == Kind::number ? e.number.str() : e.text;
    text = std::to_string(static_cast<int>(e.kind)) + ":" + text;
    if (e.children.empty()) return text;
    text += "(";
    for (const Expression& child : e.children) text += tree_text(child) + ",";
    return text + ")";
}

}  // namespace gradus
