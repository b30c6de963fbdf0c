// SPDX-License-Identifier: Apache-2.0
// Rank 1 throws or hangs while the others wait for it in a collective.
#include <chrono>
#include <string>
#include <thread>

#include "gradus/ranks/grid.hpp"
#include "gradus/ranks/session.hpp"
#include "gradus/ranks/watchdog.hpp"

int main(int argc, char** argv) {
    gradus::Watchdog watchdog(20);
    gradus::MpiSession session(&argc, &argv);
    watchdog.set_name({session.rank(), session.host()});
    // The waiting rank's clock must not strike first.
    if (session.rank() == 1) watchdog.set_timeout(1);
    const gradus::Grid grid(MPI_COMM_WORLD, 1);
    const std::string way = argc > 1 ? argv[1] : "throw";
    try {
        if (session.rank() == 1 && way == "throw") throw std::runtime_error("deliberate");
        if (session.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(25));
        grid.world().barrier();
    } catch (const std::exception& error) {
        session.abort(70, "test", error.what());
    }
    return 0;
}
