// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace gradus {

/// Exit codes of `gradus`. Scripts read them from the run directory's `exit` file as well.
enum class ExitCode : int {
    done = 0,       ///< the stage's goal is reached
    deck = 2,       ///< bad deck or command line
    data = 3,       ///< bad input data or checkpoint
    numeric = 4,    ///< NaN or infinity in the numbers
    internal = 70,  ///< bug, MPI or hardware failure (EX_SOFTWARE)
    again = 75,     ///< stopped by time or signal, checkpoint complete: run the same line again
};

/// Writes the file `exit` of a run directory, which scripts read: launchers differ in which code they
/// report. Says so on stderr where it cannot; does nothing where the directory is not there.
void leave_exit_file(const std::string& run_dir, ExitCode code) noexcept;

}  // namespace gradus
