// SPDX-License-Identifier: Apache-2.0
// What a number is a number of, where that comes in several sizes.
#pragma once

#include <string>

namespace gradus {

/// Whether two answers, as written, can be of one measure: not am and pm, nor m and km, m and m^2, dollars and cents. Where
/// one of them names no measure it is the other's; nothing is converted. In short ("cm") or in full ("centimeters").
bool of_one_measure(const std::string& a, const std::string& b);

}  // namespace gradus
