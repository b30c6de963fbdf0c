// SPDX-License-Identifier: Apache-2.0
// Numbers as people write them, exactly.
#pragma once

#include <boost/multiprecision/cpp_int.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace gradus {

/// numerator / denominator, denominator > 0, not reduced.
struct ExactNumber {
    boost::multiprecision::cpp_int numerator;
    boost::multiprecision::cpp_int denominator = 1;
};

/// Equality by cross multiplication.
bool equal(const ExactNumber& a, const ExactNumber& b);

/// `text` in a plain notation that the functions below read: compatibility forms of Unicode
/// composed (full-width digits), minus signs as '-', LaTeX spaces, dollars, per cent and degree
/// signs dropped, `\frac{a}{b}` of digits as "a/b".
std::string plain_notation(std::string_view text);

/// Plain text that is one number with a decimal comma, "1000,99", with a point; "" for others, and where the comma
/// may stand between thousands.
std::string with_decimal_point(std::string_view text);

/// The last number in plain text: [-+]digits with thousands commas, decimals, e-notation, or a
/// fraction (mixed, too: "3 1/2"); with what stands before a comma that may be a decimal one ("2,74"). "" if there is none. Linear in the text.
std::string_view last_number(std::string_view plain);

/// The number that an answer states: a number alone, after "=", or among words ("18 apples", "The
/// answer is 18."). Nothing where two numbers compete or where it is part of an expression.
/// Texts of more than 1000 bytes state none.
std::optional<ExactNumber> stated_number(std::string_view answer);

}  // namespace gradus
