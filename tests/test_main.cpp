// SPDX-License-Identifier: Apache-2.0
// main() of every unit test executable.
#define BOOST_TEST_MODULE gradus
#include <boost/test/unit_test.hpp>
