// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace gradus {

/// What the outside asks of the run. Ordered: a later value is more urgent.
enum class StopRequest : int { none = 0, soon = 1, urgent = 2 };

/// Installs handlers: SIGUSR1 and SIGINT ask for `soon`, SIGTERM for `urgent`; a second signal of
/// any of these ends the process at once with exit code 75. Handlers only set a lock-free flag.
/// On ranks other than 0 the signals are ignored: rank 0 decides and tells the others. SIGXFSZ is
/// ignored everywhere.
void install_signal_handlers(bool is_rank0);

/// The most urgent request since start.
StopRequest stop_requested();

}  // namespace gradus
