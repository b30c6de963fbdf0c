// SPDX-License-Identifier: Apache-2.0
// Mathematical notation, LaTeX or plain, as trees.
#pragma once

#include <boost/multiprecision/cpp_int.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gradus {

using Rational = boost::multiprecision::cpp_rational;

/// A formula. What its children are depends on the kind.
struct Expression {
    enum class Kind {
        number,     ///< exact
        symbol,     ///< a variable with its subscript, or a constant: pi, e, i, infinity
        sum,        ///< of all children
        product,    ///< of all children
        power,      ///< base, exponent
        quotient,   ///< numerator, denominator
        function,   ///< name and arguments: sin, sqrt, log (with base), abs, f ..., a_ (subscript), sum (index, from, to, term)
        plus_minus, ///< child with both signs; `text` is "pm" or "mp"
        list,       ///< without brackets: 1, 2 and 3; `text` has the words between them, "and", "or", "andor" or ""
        bracket,    ///< `text` holds the two brackets: "()" a tuple or an open interval, "[)", "{}" a set
        unite,      ///< of sets or intervals
        matrix,     ///< children are rows, which are lists
        relation    ///< children in order; `text` holds a letter a sign between them: = < l(<=) > g(>=) n(!=) i(in)
    };
    Kind kind = Kind::number;
    Rational number;
    std::string text;
    std::vector<Expression> children;
};

/// Reads a whole answer, its disguises removed (dollars, boxes, \left, units, thousands separators, degree and per
/// cent signs). Nothing where the text is no formula, is longer than 1500 bytes or nested deeper than 40.
std::optional<Expression> parse_expression(std::string_view text);

}  // namespace gradus
