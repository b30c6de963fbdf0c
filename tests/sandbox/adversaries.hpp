// SPDX-License-Identifier: Apache-2.0
// Programs that want more than to pass their tests.
#pragma once

#include <string>
#include <vector>

#include "gradus/reward/sandbox.hpp"

namespace gradus {

enum class Form { function, script };

/// The task is to add: `add(a, b)` as a function, two numbers on stdin as a script. No program here knows how to; one that
/// does what it wants gives the right answer then, so that a test passes where something was gained.
struct Adversary {
    std::string name;
    Language language;
    Form form;
    std::string source;
    bool full_only = false;  ///< what weak isolation does not promise
    int passes = 0;          ///< tests that pass all the same
};
std::vector<Adversary> adversaries();

}  // namespace gradus
