// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "expression.hpp"

namespace gradus {

/// The matrix that a sum, a difference, a product or a multiple of explicit matrices is, its cells worked out where they
/// are numbers; nothing where there is no matrix, where sizes do not fit, and for what grows beyond some thousand terms.
std::optional<Expression> worked_out_matrix(const Expression& e);

}  // namespace gradus
