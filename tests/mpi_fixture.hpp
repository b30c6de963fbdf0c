// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <boost/test/unit_test.hpp>

namespace gradus::test {

/// MPI from the first to the last test of an executable: BOOST_TEST_GLOBAL_FIXTURE(Mpi).
struct Mpi {
    Mpi() {
        auto& suite = boost::unit_test::framework::master_test_suite();
        MPI_Init(&suite.argc, &suite.argv);
    }
    ~Mpi() { MPI_Finalize(); }
};

}  // namespace gradus::test
