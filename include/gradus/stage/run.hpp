// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/exit_code.hpp"
#include "gradus/base/handle.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/base/log.hpp"
#include "gradus/base/profile.hpp"
#include "gradus/deck/deck.hpp"
#include "gradus/ranks/grid.hpp"
#include "gradus/ranks/session.hpp"
#include "gradus/ranks/stop_poll.hpp"
#include "gradus/ranks/watchdog.hpp"
#include "gradus/reward/sandbox.hpp"
#include "gradus/stage/data.hpp"
#include "gradus/stage/policy_text.hpp"
#include "gradus/stage/stack.hpp"

namespace gradus {

/// What every stage needs from start to end of a run: grid, log, profile, watchdog, stop requests,
/// the run directory with its files. Passed by reference; there is no global state.
class Run {
  public:
    /// Makes and locks the run directory, opens run.log, tells `watchdog` what to follow. Throws
    /// DataError where another run works there.
    Run(const Deck& deck, MpiSession& session, const Sandbox& sandbox, Watchdog& watchdog);
    ~Run();
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

    const Deck& deck;
    const Sandbox& sandbox;
    Grid grid;
    Log log;
    Profile profile;
    std::string host;
    std::string dir;
    TokenizerFiles tokenizer_files;
    std::unique_ptr<Tokenizer> tokenizer;
    ChatTemplate chat;
    std::unique_ptr<CudaDevice> gpu;  ///< null on a CPU
    std::unique_ptr<Device> cpu;
    Arena arena;   ///< of the device
    Arena pinned;  ///< of the host, beside a GPU
    StopPoll stop;
    Watchdog& watchdog;

    Device& device() const { return gpu ? *gpu : *cpu; }
    RunMemory memory() { return {arena, gpu ? pinned : arena, gpu.get()}; }
    bool is_root() const { return grid.rank() == 0; }
    std::string path(const std::string& name) const { return dir + "/" + name; }
    /// What `work` returns on rank 0, a default elsewhere; what it throws there every rank throws,
    /// as an `E`, a DeckError and an InternalError as themselves. Work that may take long calls
    /// beat() again and again.
    template <class E = DataError, class Work>
    auto on_root(const Work& work) {
        using Result = std::invoke_result_t<Work>;
        if constexpr (std::is_void_v<Result>) {
            if (const std::string problem = root_works(work); !problem.empty()) throw E(problem);
        } else {
            std::optional<Result> result;
            if (const std::string problem = root_works([&] { result = work(); }); !problem.empty())
                throw E(problem);
            return result ? std::move(*result) : Result();
        }
    }
    /// What `work` returns on rank 0, as JSON, on every rank; else as on_root().
    template <class E = DataError, class Work>
    Json from_root(const Work& work) {
        return Json::parse(
            grid.world().broadcast(on_root<E>([&] { return Json(work()).dump(); })));
    }
    /// A sign of life for the watchdog; of rank 0 within on_root() for those of the ranks that wait
    /// for it, too. Cheap.
    void beat();
    /// Between two pieces of work, all ranks together: whether the run is to stop now.
    bool asked_to_stop() { return stop.ask() != StopRequest::none; }
    /// Work begins: writes deck.resolved.
    void begin();
    /// begin() of a stage that samples in parts: those from before stay, but where restart = none.
    /// Throws DeckError where they were made with other values of keys that `counts`.
    void begin_parts(const std::function<bool(const std::string&)>& counts);
    /// Whether a stage without checkpoints has left its result, the file `name` of the run
    /// directory (or an absolute path), before; says so. Never where restart = none. Throws
    /// DeckError where it was made with other keys.
    bool finished_before(const std::string& name);
    /// Appends to metrics.jsonl (rank 0).
    void metric(const Json& row);
    /// Cuts metrics.jsonl and rollouts back to step `last`; called on start and restart.
    void cut_back(std::int64_t last);
    /// The closing: profile table over all ranks to log and report.txt, summary.json.
    void finish(std::int64_t steps, double tokens, Json extra);

  private:
    /// Returns what `work` threw on rank 0, on every rank; "": nothing.
    std::string root_works(const std::function<void()>& work);
    void require_same_deck(const std::string& what,
                           const std::function<bool(const std::string&)>& counts);

    struct Close {
        void operator()(int descriptor) const;
    };
    UniqueHandle<int, Close, -1> lock_;
    std::unique_ptr<JsonLinesWriter> metrics_;
    bool others_wait_ = false;  ///< in on_root()
    double last_beat_ = 0;
    double started_,
        start_seconds_;  ///< when the run directory was open, and from MPI's start to there
    double seconds_a_beat_;
};

/// The notes of reading files, into the log.
void log_data(Run& run, const DataReport& report);

/// "key: old -> new" for each key in which two decks differ, but for those that only say how a run
/// is watched and ended; "" where there is none. `counts` leaves out keys for which it is false.
std::string changed_keys(const std::string& old_deck, const Deck& deck,
                         const std::function<bool(const std::string&)>& counts = {});

/// Seconds of the run so far by phase, for metrics: {"train": 1.2, ...}; resets.
Json lap_times(Profile& profile);

}  // namespace gradus
