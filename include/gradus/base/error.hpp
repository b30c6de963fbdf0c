// SPDX-License-Identifier: Apache-2.0
// The error policy on one page.
//
//   the compiler can know          static_assert
//   an invariant inside the code   assert
//   normal in context              the type says so (std::optional)
//   the outside world              one of the exceptions below
//
// Every exception carries the exit code that the process ends with (exit codes: base/exit_code.hpp).
// Destructors log and never throw; a class whose closing can fail has a close() that throws.
#pragma once

#include <fmt/format.h>

#include <source_location>
#include <stdexcept>
#include <string>

#include "gradus/base/exit_code.hpp"

namespace gradus {

/// Root of all exceptions that Gradus throws on purpose. `what()` says what happened and what to do.
class Error : public std::runtime_error {
  public:
    Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    ExitCode code() const noexcept { return code_; }

  private:
    ExitCode code_;
};

/// Deck or command line: unknown key, bad value, contradiction.
struct DeckError : Error {
    explicit DeckError(const std::string& m) : Error(ExitCode::deck, m) {}
};
/// Input data: unreadable file, malformed line, missing field.
struct DataError : Error {
    explicit DataError(const std::string& m) : Error(ExitCode::data, m) {}
};
/// Checkpoint missing, damaged, of another model, or not writable.
struct CheckpointError : Error {
    explicit CheckpointError(const std::string& m) : Error(ExitCode::data, m) {}
};
/// A loss, gradient norm or logit is not finite.
struct NumericError : Error {
    explicit NumericError(const std::string& m) : Error(ExitCode::numeric, m) {}
};
/// MPI reported a failure.
struct MpiError : Error {
    explicit MpiError(const std::string& m) : Error(ExitCode::internal, m) {}
};
/// A bug, or hardware that failed.
struct InternalError : Error {
    explicit InternalError(const std::string& m) : Error(ExitCode::internal, m) {}
};

/// Throws `E` with a fmt-formatted message unless `condition` holds.
template <class E = InternalError, class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
    if (!condition) throw E(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace gradus
