// SPDX-License-Identifier: Apache-2.0
#include "gradus/ranks/session.hpp"

#include <unistd.h>

#include <cstdlib>
#include <exception>

#include "gradus/base/error.hpp"
#include "gradus/base/profile.hpp"

namespace gradus {

void check(int status, std::source_location where) {
    if (status == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length = 0;
    MPI_Error_string(status, text, &length);
    throw MpiError(fmt::format("MPI: {} ({}:{} in {})", text, where.file_name(), where.line(),
                               where.function_name()));
}

MpiSession::MpiSession(int* argc, char*** argv) : began_(now_seconds()) {
    int provided = 0;
    check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
    check(MPI_Comm_size(MPI_COMM_WORLD, &size_));
    char host[256] = "?";
    gethostname(host, sizeof host - 1);
    host_ = host;
}

MpiSession::~MpiSession() {
    // Finalizing would wait for ranks that may never come while an exception unwinds this one.
    if (std::uncaught_exceptions() == 0) MPI_Finalize();
}

void MpiSession::abort(int code, const std::string& phase, const std::string& message) {
    const std::string line =
        fmt::format("gradus: rank {} host {} phase {}: {}\n", rank_, host_, phase, message);
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
    MPI_Abort(MPI_COMM_WORLD, code);
    std::_Exit(code);
}

}  // namespace gradus
