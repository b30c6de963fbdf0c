// SPDX-License-Identifier: Apache-2.0
// Stands in for <assert.h> where tests are compiled: every assert is a test of its own that is counted, and the rest goes on.
#undef assert
#define assert(...) (gradus_wire::judge(__COUNTER__ - gradus_first - 1, static_cast<bool>(__VA_ARGS__), #__VA_ARGS__))
