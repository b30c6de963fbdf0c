// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gradus/base/json_lines.hpp"

namespace gradus {

/// A row that asks for a program, in the one form that is read on: {id, prompt | messages ..., reference}, the reference a
/// text that tells how the program is tested (reward/code.hpp). Other rows come back as they are. Throws DataError where a
/// row asks for a program but not how.
///
///   prompt, entry_point, test                    HumanEval
///   declaration, test                            HumanEval-X of C++
///   text, test_list, test_setup_code, code       MBPP
///   prompt | messages ..., language, tests | cases ...   our own; the fields of a CodeTask
Json as_code_row(const Json& row);

}  // namespace gradus
