// SPDX-License-Identifier: Apache-2.0
// The executable: reads the command line, resolves the deck once for all ranks, runs the stage, and
// sees to it that every way out says what happened and leaves the right exit code.
#include <hdf5.h>

#include <boost/program_options.hpp>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <thread>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/base/signals.hpp"
#include "gradus/deck/deck.hpp"
#include "gradus/deck/parameters.hpp"
#include "gradus/ranks/session.hpp"
#include "gradus/ranks/watchdog.hpp"
#include "gradus/reward/sandbox.hpp"
#include "gradus/stage/run.hpp"
#include "gradus/stage/stage.hpp"
#include "gradus/store/checkpoint.hpp"
#include "gradus/store/show.hpp"

namespace gradus {
namespace {

namespace po = boost::program_options;

constexpr const char* kUsage = R"(gradus DECK [key=value ...]        run the stage that the deck names
gradus --check DECK [--ranks N]    check deck and inputs, print the plan for N ranks
gradus show RUN [--step N] [--pick random|best|worst|all] [--reward NAME] [--count N] [--seed N]
                                   rollouts as text
gradus --help-deck [PREFIX]        the deck's keys, with types, defaults and meaning
gradus --verify-checkpoint DIR     read every byte of a checkpoint
gradus --version
On several ranks: mpirun -np N gradus DECK ...  (or srun)
Exit codes: 0 done, 2 deck or command line, 3 data or checkpoint, 4 numbers (NaN), 70 internal or
hardware, 75 stopped with a checkpoint: run the same line again.
)";

struct Command {
    std::vector<std::string> words;  ///< DECK key=value ... | show RUN
    po::variables_map options;
    bool has(const char* name) const { return options.count(name) > 0; }
};

Command parse_command(int argc, char** argv) {
    po::options_description all("options"), hidden;
    all.add_options()("help,h", "")("version", "")("check", "")(
        "ranks", po::value<int>()->default_value(1), "")(
        "help-deck", po::value<std::string>()->implicit_value("")->zero_tokens(), "")(
        "verify-checkpoint", po::value<std::string>(), "")(
        "step", po::value<std::int64_t>()->default_value(-1), "")(
        "pick", po::value<std::string>()->default_value("random"), "")(
        "reward", po::value<std::string>()->default_value(""), "")(
        "count", po::value<int>()->default_value(5), "")(
        "seed", po::value<std::uint64_t>()->default_value(1), "")(
        "words", po::value<std::vector<std::string>>(), "");
    po::positional_options_description positional;
    positional.add("words", -1);
    Command command;
    try {
        po::store(po::command_line_parser(argc, argv).options(all).positional(positional).run(),
                  command.options);
    } catch (const po::error& e) {
        throw DeckError(fmt::format("{}\n\n{}", e.what(), kUsage));
    }
    if (command.has("words"))
        command.words = command.options["words"].as<std::vector<std::string>>();
    return command;
}

std::string version() {
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(mpi, &length);
    const std::string mpi_text(mpi);
    return fmt::format("gradus {} ({})\ncompiler {}\nMPI {}\nHDF5 {}.{}.{}\n", GRADUS_VERSION,
                       GRADUS_REVISION, GRADUS_COMPILER, mpi_text.substr(0, mpi_text.find(',')), major,
                       minor, release);
}

std::vector<std::string> overrides_of(const Command& command) {
    return {command.words.begin() + 1, command.words.end()};
}

int show(const Command& command) {
    require<DeckError>(command.words.size() == 2, "gradus show wants one run directory\n\n{}", kUsage);
    show_run(command.words[1], {.step = command.options["step"].as<std::int64_t>(),
                                .pick = command.options["pick"].as<std::string>(),
                                .reward = command.options["reward"].as<std::string>(),
                                .count = command.options["count"].as<int>(),
                                .seed = command.options["seed"].as<std::uint64_t>()});
    return 0;
}

int print_deck_help(const Command& command) {
    const std::string prefix = command.words.empty() ? "" : command.words[0];
    const std::string text = help_deck(prefix);
    require<DeckError>(!text.empty(), "no key of the deck begins with `{}`", prefix);
    std::cout << text;
    return 0;
}

int verify(const Command& command) {
    const std::string where = command.options["verify-checkpoint"].as<std::string>();
    const std::string directory =
        find_checkpoint(where, [](const std::string& note) { std::cerr << note << '\n'; });
    require<CheckpointError>(!directory.empty(), "{} holds no checkpoint", where);
    const bool good =
        verify_checkpoint(directory, [](const std::string& line) { std::cout << line << '\n'; });
    std::cout << directory << (good ? ": good\n" : ": damaged\n");
    return static_cast<int>(good ? ExitCode::done : ExitCode::data);
}

/// What needs no ranks, so that it works on a login node. Returns -1 where the command is a run.
int run_without_ranks(const Command& command) {
    if (command.has("help")) {
        std::cout << kUsage;
        return 0;
    }
    if (command.has("version")) {
        std::cout << version();
        return 0;
    }
    if (command.has("help-deck")) return print_deck_help(command);
    if (command.has("verify-checkpoint")) return verify(command);
    require<DeckError>(!command.words.empty(), "no deck is given\n\n{}", kUsage);
    if (command.words[0] == "show") return show(command);
    if (command.has("check")) {
        const Deck deck = resolve_deck(command.words[0], overrides_of(command));
        const Plan plan = plan_stage(deck, command.options["ranks"].as<int>());
        std::cout << plan.text;
        if (plan.complete) return 0;
        std::cout << "inputs are missing or cannot be used: see above\n";
        return static_cast<int>(ExitCode::data);
    }
    return -1;
}

/// Rank 0 reads the deck and checks it; the others get its resolved form, so that no rank depends on files
/// or environment variables that only the first has. That form does not tell which keys the user set:
/// all ranks must decide alike, so one decides.
Deck share_deck(const Command& command, Communicator& world) {
    Deck deck;
    std::string text, problem;
    if (world.rank() == 0) {
        try {
            deck = resolve_deck(command.words[0], overrides_of(command));
            check_keys(deck);
            text = deck.resolved();
        } catch (const DeckError& e) {
            problem = e.what();
        }
    }
    problem = world.broadcast(problem);
    require<DeckError>(problem.empty(), "{}", problem);
    text = world.broadcast(text);
    return world.rank() == 0 ? deck : resolve_deck_text(text, "deck.resolved", {});
}

/// A failure that all ranks see is told once, by rank 0: the others give it a moment to do so.
[[noreturn]] void fail(MpiSession& session, const std::string& run_dir, ExitCode code,
                       const std::string& phase, const std::string& message) {
    if (session.rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(2));
    leave_exit_file(run_dir, code);
    if (std::FILE* log = run_dir.empty() ? nullptr : std::fopen((run_dir + "/run.log").c_str(), "a")) {
        fmt::print(log, "error on rank {} in phase {}: {}\n", session.rank(), phase, message);
        std::fclose(log);
    }
    session.abort(static_cast<int>(code), phase, message);
}

int run_on_ranks(const Command& command, int argc, char** argv) {
    const Sandbox sandbox;  // forks, which must come before MPI, CUDA and any thread
    install_crash_handlers(RankName::launched().text());
    install_signal_handlers(true);  // a signal while MPI starts is a request, too
    // Beginning and ending MPI can stand still too. Until rank 0 has read the deck, the command line's time counts.
    Watchdog watchdog(std::stod(early_value("run.timeout", overrides_of(command))));
    MpiSession session(&argc, &argv);
    watchdog.set_name({session.rank(), session.host()});
    const std::unique_ptr<Communicator> world = make_mpi_communicator(MPI_COMM_WORLD, "start");
    std::string run_dir, phase = "start";
    try {
        Deck deck;
        try {
            deck = share_deck(command, *world);
        } catch (const DeckError& e) {
            // Every rank is here, so all end in order.
            if (session.rank() == 0) std::cerr << "gradus: " << e.what() << '\n';
            return session.rank() == 0 ? static_cast<int>(e.code()) : 0;
        }
        run_dir = deck.text("run.dir");
        watchdog.set_timeout(deck.number("run.timeout"));
        watchdog.set_place(run_dir, world->all_gather(session.host()));
        install_signal_handlers(session.rank() == 0);
        const ExitCode code = run_stage(deck, session, sandbox, watchdog, phase);
        if (session.rank() != 0) return 0;
        leave_exit_file(run_dir, code);
        return static_cast<int>(code);
    } catch (const Error& e) {
        fail(session, run_dir, e.code(), phase, e.what());
    } catch (const std::bad_alloc&) {
        fail(session, run_dir, ExitCode::internal, phase,
             "out of memory on the host; use more ranks or smaller train.micro_tokens, rollout.slots");
    } catch (const std::exception& e) {
        fail(session, run_dir, ExitCode::internal, phase, e.what());
    }
}

int run(int argc, char** argv) {
    try {
        const Command command = parse_command(argc, argv);
        const int code = run_without_ranks(command);
        return code >= 0 ? code : run_on_ranks(command, argc, argv);
    } catch (const Error& e) {
        std::cerr << "gradus: " << e.what() << '\n';
        return static_cast<int>(e.code());
    } catch (const std::exception& e) {
        std::cerr << "gradus: " << e.what() << '\n';
        return static_cast<int>(ExitCode::internal);
    }
}

}  // namespace
}  // namespace gradus

int main(int argc, char** argv) { return gradus::run(argc, argv); }
