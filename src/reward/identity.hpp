// SPDX-License-Identifier: Apache-2.0
// Whether two formulas are the same function of their variables.
#pragma once

#include "expression.hpp"

namespace gradus {

/// The value of a formula of whole numbers, fractions and whole powers; nothing for others and where it would have
/// more than some thousand bits.
std::optional<Rational> exact_value(const Expression& e);

/// Exactly where both have an exact value; else both are evaluated with 110 digits at several points, drawn from the
/// names of the variables, and must agree to 100 of them: a formula that is not the same differs there almost surely
/// (Schwartz 1980). Odd roots of what is negative are real: formulas that then differ where both are real differ, also if
/// with principal roots they do not (x and (x^{2/3})^{3/2}); with these x^{1/2} x^{1/3} is x^{5/6} below 0 as well. A point
/// says nothing where a term of a sum is below 10^-40 of another (1 - e^{-100}), nor where a function is as near to what it
/// is at 0 or at infinity; formulas that have no other points must be the same trees. What remains: functions that
/// flatten a difference again and again (cosines of cosines near their maxima) past the 100 digits. Bounded work.
bool identical(const Expression& a, const Expression& b);

/// Whether a = c b for a constant c that is not 0 (`positive`: above 0) at the same points: equations and
/// inequalities that say the same.
bool proportional(const Expression& a, const Expression& b, bool positive);

/// The sign of a - b, of real numbers; nothing for others.
std::optional<int> order(const Expression& a, const Expression& b);

/// Whether a formula has a symbol that is no constant.
bool has_variables(const Expression& e);

/// The work that evaluations on this thread may still take: what a text costs has a bound, however it is made.
/// Formulas that it does not suffice for are not identical.
struct Budget {
    static void renew();
    /// False once nothing is left.
    static bool take(int amount);
};

/// a - b
Expression difference(Expression a, Expression b);
/// One text a tree.
std::string tree_text(const Expression& e);

}  // namespace gradus
