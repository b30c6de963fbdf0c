// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/run.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <filesystem>

#include "gradus/base/error.hpp"
#include "gradus/store/checkpoint.hpp"
#include "gradus/store/rollout_table.hpp"

namespace gradus {
namespace {

std::string make_run_directory(const Deck& deck, Communicator& world) {
    const std::string dir = deck.text("run.dir");
    std::string problem;
    if (world.rank() == 0) {
        std::error_code error;
        std::filesystem::create_directories(dir, error);
        if (error) problem = error.message();
        if (problem.empty() && access(dir.c_str(), W_OK) != 0) problem = "not writable";
    }
    problem = world.broadcast(problem, 0);
    require<DataError>(problem.empty(), "run directory {}: {}; choose another run.dir", dir,
                       problem);
    return dir;
}

/// Rank 0 holds the lock as long as it lives. Returns its descriptor, -1 on other ranks.
int lock_run_directory(const std::string& dir, Communicator& world) {
    int descriptor = -1;
    std::string problem;
    if (world.rank() == 0) {
        const std::string file = dir + "/.lock";
        descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (descriptor >= 0 && ::flock(descriptor, LOCK_EX | LOCK_NB) != 0 &&
            errno == EWOULDBLOCK) {
            ::close(descriptor);
            problem = fmt::format(
                "another run works in {}; wait for its end or choose another run.dir", dir);
        }
    }
    problem = world.broadcast(problem);
    require<DataError>(problem.empty(), "{}", problem);
    return descriptor;
}

/// Durations are stored as seconds; "" and "none" mean no limit, "auto" is left to the caller.
double duration_or(const Deck& deck, std::string_view key, double otherwise) {
    const std::string& text = deck.text(key);
    if (text.empty() || text == "none" || text == "auto") return otherwise;
    return deck.number(key);
}

/// Seconds that this run may take, 0: no limit. `auto` asks the batch system, which tells each job
/// its end (Slurm: SLURM_JOB_END_TIME, seconds since 1970).
double time_budget(const Deck& deck) {
    if (deck.text("run.walltime") != "auto") return duration_or(deck, "run.walltime", 0);
    const char* end = std::getenv("SLURM_JOB_END_TIME");
    require<DeckError>(
        end != nullptr,
        "{}: run.walltime = auto, but the batch system has not said when the job ends "
        "(SLURM_JOB_END_TIME is not set); give a time, as in run.walltime = 2h",
        deck.origin("run.walltime"));
    return std::max(1.0, std::atof(end) - static_cast<double>(std::time(nullptr)));
}

/// Other stages keep what is finished anyway.
bool has_checkpoints(const Deck& deck) {
    const std::string& stage = deck.stage();
    return stage == "pretrain" || stage == "sft" || stage == "reward_model" || stage == "rl";
}

/// The most memory that this process has held.
double peak_bytes() {
    struct rusage usage = {};
    ::getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_maxrss) * 1024;  // Linux counts in KiB
}

}  // namespace

Run::Run(const Deck& d, MpiSession& session, const Sandbox& box, Watchdog& w)
    : deck(d),
      sandbox(box),
      grid(MPI_COMM_WORLD, static_cast<int>(d.integer("grid.tensor")),
           static_cast<int>(d.integer("grid.expert"))),
      log(session.rank()),
      host(session.host()),
      dir(make_run_directory(d, grid.world())),
      tokenizer_files(share_tokenizer(d, grid.world())),
      tokenizer(make_tokenizer(tokenizer_files)),
      chat(make_chat_template(d, tokenizer_files, *tokenizer)),
      gpu(d.text("run.device") == "cuda" ? make_cuda_device(grid.world(), d.flag("run.share_gpus"))
                                         : nullptr),
      cpu(make_cpu_device()),
      arena(&device()),
      pinned(gpu ? &gpu->pinned() : cpu.get()),
      stop(MPI_COMM_WORLD, time_budget(d), duration_or(d, "run.stop_margin", 0), dir + "/stop",
           has_checkpoints(d) ? dir + "/checkpoint_now" : ""),
      watchdog(w),
      started_(now_seconds()),
      start_seconds_(started_ - session.began()),
      seconds_a_beat_(std::min(5.0, d.number("run.timeout") / 4)) {
    watchdog.follow(&profile);
    lock_ = UniqueHandle<int, Close, -1>(lock_run_directory(dir, grid.world()));
    if (!is_root()) return;
    std::error_code ignored;
    for (const char* name : {"exit", "stop", "stalled", "checkpoint_now"})
        std::filesystem::remove(path(name), ignored);
    log.open_file(path("run.log"));
    log.info("gradus {} on {} ranks ({} data x {} tensor), host {}, run directory {}", deck.stage(),
             grid.size(), grid.data_size(), grid.tensor_size(), host, dir);
    log.info("device {}; started in {}", device().name(), format_duration(start_seconds_));
    for (const std::string& line : describe_policy_text(deck, tokenizer_files, *tokenizer, chat))
        log.info("{}", line);
}

Run::~Run() {
    watchdog.follow(nullptr);
}

bool Run::finished_before(const std::string& name) {
    const std::filesystem::path file = std::filesystem::path(dir) / name;
    // Rank 0 looks: file systems show new files to different nodes at different times.
    const bool there = is_root() && deck.text("restart") != "none" && std::filesystem::exists(file);
    if (grid.world().broadcast(there ? "yes" : "no") == "no") return false;
    require_same_deck(file.string(), {});
    log.info("{} is there: nothing to do", file.string());
    return true;
}

namespace {

// What rank 0 tells of its work: that it goes on, or what is wrong, behind whose fault it is where
// that is not the data's.
constexpr const char* kGoesOn = "\1";
constexpr char kDeckIsAtFault = '\2', kProgramIsAtFault = '\3';

}  // namespace

std::string Run::root_works(const std::function<void()>& work) {
    std::string problem;
    if (is_root()) {
        others_wait_ = true;
        last_beat_ = now_seconds();
        try {
            work();
        } catch (const DeckError& e) {
            problem = kDeckIsAtFault + std::string(e.what());
        } catch (const InternalError& e) {
            problem = kProgramIsAtFault + std::string(e.what());
        } catch (const std::bad_alloc&) {
            problem = kProgramIsAtFault + std::string("out of memory on the host of rank 0");
        } catch (const std::exception& e) {
            problem = e.what();
            if (problem.empty()) problem = "unknown error";
        }
        others_wait_ = false;
    }
    std::string told;
    while ((told = grid.world().broadcast(problem)) == kGoesOn) watchdog.alive();
    if (!told.empty() && told.front() == kDeckIsAtFault) throw DeckError(told.substr(1));
    if (!told.empty() && told.front() == kProgramIsAtFault) throw InternalError(told.substr(1));
    return told;
}

void Run::beat() {
    watchdog.alive();
    if (!others_wait_ || now_seconds() - last_beat_ < seconds_a_beat_) return;
    grid.world().broadcast(kGoesOn);
    last_beat_ = now_seconds();
}

void Run::require_same_deck(const std::string& what,
                            const std::function<bool(const std::string&)>& counts) {
    std::string changed;
    if (is_root() && std::filesystem::exists(path("deck.resolved")))
        changed = changed_keys(read_file(path("deck.resolved")), deck, counts);
    changed = grid.world().broadcast(changed);
    require<DeckError>(
        changed.empty(),
        "{} was made with other keys:{}\nchoose another run.dir, or restart = none to make "
        "it anew",
        what, changed);
}

void Run::begin_parts(const std::function<bool(const std::string&)>& counts) {
    const bool keep =
        deck.text("restart") != "none" &&
        grid.world().broadcast(std::filesystem::exists(path("parts.json")) ? "yes" : "no") == "yes";
    if (keep) require_same_deck(path("rollouts"), counts);
    on_root([&] {
        if (keep) return;
        std::filesystem::remove(path("parts.json"));
        cut_rollouts(dir, 0);
    });
    begin();
}

void Run::metric(const Json& row) {
    if (!is_root()) return;
    if (!metrics_) metrics_ = std::make_unique<JsonLinesWriter>(path("metrics.jsonl"));
    metrics_->write(row);
}

void Run::Close::operator()(int descriptor) const {
    ::close(descriptor);
}

void Run::begin() {
    if (is_root()) write_file_atomically(path("deck.resolved"), deck.resolved());
}

void Run::cut_back(std::int64_t last) {
    begin();
    if (is_root()) {
        remove_unfinished(dir);
        cut_json_lines(path("metrics.jsonl"), "step", last);
        cut_rollouts(dir, last);
    }
    grid.world().barrier();
}

void Run::finish(std::int64_t steps, double tokens, Json extra) {
    const std::vector<Profile::Row> rows = profile.rows();
    std::vector<Profile::Spread> spread(rows.size());
    // Ranks may have entered different regions: rank 0's list is the table's.
    std::string names;
    for (const Profile::Row& row : rows) names += row.name + "\n";
    names = grid.world().broadcast(names, 0);
    std::vector<std::string> list;
    for (std::size_t at = 0, end; (end = names.find('\n', at)) != std::string::npos; at = end + 1)
        list.push_back(names.substr(at, end - at));
    spread.resize(list.size());
    for (std::size_t i = 0; i < list.size(); ++i) {
        double mine = 0;
        for (const Profile::Row& row : rows)
            if (row.name == list[i]) mine = row.exclusive;
        spread[i].min = grid.world().min(mine);
        spread[i].avg = grid.world().sum(mine) / grid.size();
        spread[i].max = grid.world().max(mine);
    }
    const double seconds = now_seconds() - started_, peak = grid.world().max(peak_bytes());
    if (!is_root()) return;
    const std::string table = Profile::table(rows, spread, profile.total());
    log.info("{}", table);
    log.info("{} steps, {} tokens in {}: {} tokens/s; at most {} of memory a rank", steps,
             format_count(tokens), format_duration(seconds), format_count(tokens / seconds),
             format_bytes(peak));
    write_file_atomically(path("report.txt"), table + "\n");
    Json summary = {{"stage", deck.stage()}, {"steps", steps},
                    {"tokens", tokens},      {"start_seconds", start_seconds_},
                    {"seconds", seconds},    {"tokens_per_s", tokens / seconds},
                    {"peak_bytes", peak},    {"device_bytes", arena.bytes()}};
    if (!extra.is_null()) summary.update(extra);
    write_file_atomically(path("summary.json"), summary.dump(2) + "\n");
}

void log_data(Run& run, const DataReport& report) {
    for (const std::string& note : report.notes) run.log.info("{}", note);
}

std::string changed_keys(const std::string& old_deck, const Deck& deck,
                         const std::function<bool(const std::string&)>& counts) {
    std::map<std::string, std::string> old, now = deck.values();
    try {
        old = resolve_deck_text(old_deck, "deck.resolved", {}).values();
    } catch (const DeckError& e) {
        return fmt::format("\n  the old deck cannot be read: {}", e.what());
    }
    std::string changed;
    for (const auto& [key, value] : now) {
        if (key == "restart" || key == "run.dir" || key == "run.walltime" ||
            key == "run.stop_margin" || key == "run.timeout" || key == "run.self_test" ||
            key == "run.log_every" || key == "run.restart_verify")
            continue;
        if (counts && !counts(key)) continue;
        const auto before = old.find(key);
        if (before == old.end() || before->second != value)
            changed += fmt::format("\n  {}: {} -> {}", key,
                                   before == old.end() ? "" : before->second, value);
    }
    return changed;
}

Json lap_times(Profile& profile) {
    Json times = Json::object();
    for (const auto& [phase, seconds] : profile.lap()) times[phase] = seconds;
    return times;
}

}  // namespace gradus
