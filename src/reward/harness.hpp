// SPDX-License-Identifier: Apache-2.0
// Texts of src/reward/harness/, which CMake puts into the program.
#pragma once

namespace gradus::harness {

extern const char* const kCandidatePython;  ///< candidate.py
extern const char* const kScriptPython;     ///< script.py
extern const char* const kTesterPython;     ///< tester.py
extern const char* const kWire;             ///< wire.hpp
extern const char* const kAny;              ///< any.hpp
extern const char* const kTests;            ///< tests.hpp
extern const char* const kAssert;           ///< assert.h

}  // namespace gradus::harness
