// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace gradus {

/// What the outside asks of the run. Ordered: a later value is more urgent.
enum class StopRequest : int { none = 0, soon = 1, urgent = 2 };

/// Installs handlers: SIGUSR1 and SIGINT ask for `soon`, SIGTERM for `urgent`, also after `soon`, as
/// a batch system sends them before and at its time limit. The same request again ends the process at
/// once with exit code 75, unless it comes within a second: launchers pass on what their ranks have got
/// already. Handlers only set lock-free flags. On ranks other than 0 the signals are ignored: rank 0
/// decides and tells the others. SIGXFSZ is ignored everywhere. To be called as soon as the process
/// starts, for any rank, and again when it knows its rank: what came in between is kept.
void install_signal_handlers(bool is_rank0);

/// A crash (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT) says on stderr who crashed, `who` as in "rank 3 host n017", and
/// where, before it ends the process as it would have ended. To be called before MPI starts, which would install
/// handlers of its own. Handlers that are there, a sanitizer's, stay.
void install_crash_handlers(const std::string& who);

/// The most urgent request since start.
StopRequest stop_requested();

}  // namespace gradus
