// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/sampling.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "gradus/base/error.hpp"
#include "gradus/stage/loaded_model.hpp"

namespace gradus {
namespace {

namespace fs = std::filesystem;

/// Prompts of a part so that the last responses of one, which leave places empty, cost little.
constexpr std::int64_t kFillsOfSlots = 8;

/// Two of PartFolder::policy.
bool is_same_policy(const Json& a, const Json& b) {
    return a.is_null() || b.is_null() ? a.is_null() == b.is_null() : a.at("index") == b.at("index");
}
std::string name_of(const Json& policy) {
    if (policy.is_null()) return "an unknown one";
    return fmt::format("{} (index {})", policy.at("directory").get<std::string>(),
                       policy.at("index").get<std::string>());
}

struct Layout {
    std::int64_t prompts = 0, samples = 0, prompts_a_part = 1;

    std::int64_t parts() const { return (prompts + prompts_a_part - 1) / prompts_a_part; }
    std::int64_t begin(std::int64_t part) const { return part * prompts_a_part; }
    std::int64_t end(std::int64_t part) const { return std::min(prompts, begin(part + 1)); }
};

/// The parts of one sampling on disk, as rank 0 sees them.
class PartTable {
  public:
    PartTable(Run& run, const GenerateAndScore& work, const PartFolder& place)
        : run_(run), work_(work), place_(place), file_(place.folder + "/parts.json") {
        layout_ = {.prompts = std::ssize(work.prompts),
                   .samples = work.samples,
                   .prompts_a_part = part_size()};
        if (fs::exists(file_)) try {
                adopt();
                return;
            } catch (const DataError& e) {
                if (!place.disposable) throw;
                run.log.warn("{}: they are sampled again", e.what());
                fs::remove_all(place.folder);
            }
        begin();
    }

    const Layout& layout() const { return layout_; }

    /// Reads what is whole into `rows`, removes what is not, and returns the parts that are
    /// missing.
    std::vector<std::int64_t> read(std::vector<RolloutRow>& rows) {
        std::map<std::int64_t, std::vector<std::string>> files;
        std::map<std::int64_t, std::vector<RolloutRow>> found;
        for (const RolloutName& file : rollout_files(place_.folder)) {
            if (file.step != place_.step) continue;
            if (file.unfinished) {
                fs::remove(file.path);
                continue;
            }
            files[file.part].push_back(file.path);
            std::vector<RolloutRow>& part = found[file.part];
            try {
                for (RolloutRow& row : read_rollouts(file.path).rows) {
                    if (!place_.log_probs) row.log_probs = {};
                    part.push_back(std::move(row));
                }
            } catch (const DataError& e) {
                run_.log.warn("{}; its part is sampled again", e.what());
            }
            run_.beat();
        }
        std::vector<std::int64_t> missing;
        for (std::int64_t part = 0; part < layout_.parts(); ++part) {
            std::vector<RolloutRow>& of_part = found[part];
            if (is_whole(part, of_part)) {
                std::move(of_part.begin(), of_part.end(), std::back_inserter(rows));
                files.erase(part);
                continue;
            }
            missing.push_back(part);
        }
        for (const auto& [part, paths] : files)
            for (const std::string& path : paths) fs::remove(path);
        return missing;
    }

  private:
    void begin() const {
        // Without its weights nothing can be sampled; parts whose policy nobody knows would be of
        // no use.
        require<CheckpointError>(
            !place_.policy.is_null() || place_.disposable,
            "model.from = {} ({}): there is no checkpoint; has that stage finished?",
            run_.deck.text("model.from"), run_.deck.origin("model.from"));
        fs::create_directories(place_.folder);
        write_file_atomically(file_, Json{{"prompts", layout_.prompts},
                                          {"samples", layout_.samples},
                                          {"prompts_a_part", layout_.prompts_a_part},
                                          {"policy", place_.policy}}
                                             .dump() +
                                         "\n");
    }

    /// Throws DataError where what is there is of another sampling.
    void adopt() {
        Json policy;
        try {
            const Json json = Json::parse(read_file(file_));
            layout_.prompts_a_part =
                std::max<std::int64_t>(1, json.at("prompts_a_part").get<std::int64_t>());
            require(json.at("prompts") == layout_.prompts && json.at("samples") == layout_.samples,
                    "{} prompts x {} samples", json.at("prompts").dump(),
                    json.at("samples").dump());
            policy = json.at("policy");
        } catch (const std::exception& e) {
            throw DataError(fmt::format(
                "{} does not fit this run of {} prompts x {} samples ({}); choose another run.dir, "
                "or restart = none to sample anew",
                file_, layout_.prompts, layout_.samples, e.what()));
        }
        // A checkpoint that is gone has left all parts, or it will be missed.
        const bool gone = place_.policy.is_null() && !place_.disposable;
        require<DataError>(gone || is_same_policy(policy, place_.policy),
                           "{}: the parts that are there were sampled by {}, this run's policy is "
                           "{}: name that one, or "
                           "sample anew with restart = none or another run.dir",
                           file_, name_of(policy), name_of(place_.policy));
    }

    std::int64_t part_size() const {
        if (const std::int64_t asked = run_.deck.integer("rollout.part"); asked > 0) return asked;
        const std::int64_t slots = run_.deck.integer("rollout.slots") * run_.grid.data_size();
        return std::max<std::int64_t>(1, (kFillsOfSlots * slots + layout_.samples - 1) /
                                             std::max<std::int64_t>(1, work_.samples));
    }

    bool is_whole(std::int64_t part, const std::vector<RolloutRow>& rows) const {
        const std::int64_t begin = layout_.begin(part), prompts = layout_.end(part) - begin;
        std::vector<bool> there(static_cast<std::size_t>(prompts * layout_.samples));
        for (const RolloutRow& row : rows) {
            const auto at = std::lower_bound(work_.groups.begin() + begin,
                                             work_.groups.begin() + begin + prompts, row.group);
            const auto i = at - work_.groups.begin();
            const bool fits = i < begin + prompts && *at == row.group && row.sample >= 0 &&
                              row.sample < layout_.samples &&
                              row.prompt_tokens == prompt(i).tokens &&
                              row.reference == prompt(i).reference;
            if (!fits && place_.disposable) return false;
            require<DataError>(fits,
                               "{}/rollouts holds responses to other prompts or references than "
                               "{}'s; choose another run.dir, or "
                               "restart = none to sample anew",
                               place_.folder, run_.deck.text("data.path"));
            there[static_cast<std::size_t>((i - begin) * layout_.samples + row.sample)] = true;
        }
        return rows.size() == there.size() &&
               std::all_of(there.begin(), there.end(), [](bool t) { return t; });
    }

    const PromptRow& prompt(std::ptrdiff_t i) const {
        return work_.rows[static_cast<std::size_t>(work_.prompts[static_cast<std::size_t>(i)])];
    }

    Run& run_;
    const GenerateAndScore& work_;
    const PartFolder& place_;
    std::string file_;
    Layout layout_;
};

/// What rank 0 found, told to all.
struct Found {
    Layout layout;
    std::vector<std::int64_t> missing;
    std::vector<RolloutRow> rows;  ///< on rank 0
};

Found find_parts(Run& run, const GenerateAndScore& work, const PartFolder& place) {
    const Profile::Region region(run.profile, "rollout.resume");
    Found found;
    const Json told = run.from_root([&] {
        PartTable table(run, work, place);
        found.missing = table.read(found.rows);
        return Json{{"prompts_a_part", table.layout().prompts_a_part}, {"missing", found.missing}};
    });
    found.layout = {.prompts = std::ssize(work.prompts),
                    .samples = work.samples,
                    .prompts_a_part = told["prompts_a_part"]};
    found.missing = told["missing"].get<std::vector<std::int64_t>>();
    return found;
}

/// The keys that decide what is sampled. The rest decides how samples are judged and counted.
bool is_of_samples(const std::string& key) {
    if (key.starts_with("sample.decontaminate")) return true;  // such prompts are not sampled
    if (key == "sample.n" || key == "sample.repetition_ngram" || key == "eval.n" ||
        key == "eval.benchmark")
        return true;
    return !key.starts_with("sample.") && !key.starts_with("eval.") && !key.starts_with("judge.") &&
           !key.starts_with("rewrite.");
}

/// Of these the ones that shards of one run must have alike.
bool is_of_merged_samples(const std::string& key) {
    return is_of_samples(key) && !key.starts_with("sample.decontaminate") &&
           !key.starts_with("data.shard") && !key.starts_with("data.num_shards") &&
           !key.starts_with("rollout.merge") && !key.starts_with("run.") &&
           !key.starts_with("grid.");
}

/// The policy that sampled what lies in a run directory; null: not known.
Json policy_of(const std::string& dir) {
    const std::string file = dir + "/parts.json";
    try {
        return Json::parse(read_file(file)).at("policy");
    } catch (const Json::exception& e) {
        throw DataError(fmt::format("{}: {}; that run must sample again", file, e.what()));
    }
}

/// `left_out` may have been sampled: then with other test sets.
std::vector<RolloutRow> merged(Run& run, const std::vector<PromptRow>& prompts,
                               const std::vector<LeftOut>& left_out, std::int32_t samples) {
    std::set<std::int64_t> unwanted;
    for (const LeftOut& left : left_out) unwanted.insert(left.prompt.index);
    std::map<std::int64_t, std::size_t> place;
    for (std::size_t i = 0; i < prompts.size(); ++i) place[prompts[i].index] = i;
    std::vector<std::size_t> seen(prompts.size());
    std::vector<RolloutRow> rows;
    std::optional<Json> policy;
    for (const std::string& dir : run.deck.list("rollout.merge")) {
        require<DataError>(fs::exists(dir + "/deck.resolved"),
                           "rollout.merge: {} is no run directory", dir);
        const std::string changed =
            changed_keys(read_file(dir + "/deck.resolved"), run.deck, is_of_merged_samples);
        require<DataError>(changed.empty(), "rollout.merge: {} was sampled with other keys:{}", dir,
                           changed);
        const Json of_dir = policy_of(dir);
        if (!policy) policy = of_dir;
        require<DataError>(
            is_same_policy(*policy, of_dir),
            "rollout.merge: {} was sampled by {}, those before it by {}: sample it again "
            "with model.from = {}",
            dir, name_of(of_dir), name_of(*policy), name_of(*policy));
        for (const RolloutName& file : rollout_files(dir)) {
            if (file.unfinished) continue;
            for (RolloutRow& row : read_rollouts(file.path).rows) {
                if (unwanted.contains(row.group)) continue;
                const auto at = place.find(row.group);
                require<DataError>(
                    at != place.end() && row.prompt_tokens == prompts[at->second].tokens,
                    "{}: a response to a prompt that is not in data.path", file.path);
                ++seen[at->second];
                row.log_probs = {};
                rows.push_back(std::move(row));
            }
            run.beat();
        }
    }
    const auto wrong = std::find_if(seen.begin(), seen.end(), [&](std::size_t n) {
        return n != static_cast<std::size_t>(samples);
    });
    require<DataError>(wrong == seen.end(),
                       "rollout.merge: prompt {} has {} of {} samples; name every shard once, run "
                       "those that are not finished, and "
                       "leave out (sample.decontaminate) what they left out",
                       prompts[static_cast<std::size_t>(wrong - seen.begin()) % prompts.size()].id,
                       wrong == seen.end() ? 0 : *wrong, samples);
    return rows;
}

/// Where model.from names a checkpoint that is not there, nothing: parts from before need none.
std::optional<ModelSource> find_policy(Run& run) {
    const std::string& from = run.deck.text("model.from");
    const bool there = run.from_root<CheckpointError>(
        [&] { return !find_checkpoint(from, [](const std::string&) {}).empty(); });
    if (!there) return std::nullopt;
    return open_model(run, run.deck, *run.tokenizer);
}

}  // namespace

std::optional<std::vector<RolloutRow>> generate_in_parts(Run& run,
                                                         const std::function<Stack&()>& stack,
                                                         RewardPool& pool,
                                                         const GenerateAndScore& work,
                                                         const PartFolder& place) {
    Found found = find_parts(run, work, place);
    const std::int64_t parts = found.layout.parts();
    const std::int64_t before = parts - std::ssize(found.missing);
    if (before > 0) run.log.info("{} of {} parts are there from before", before, parts);
    std::vector<std::string> names;
    for (const NamedReward& reward : pool.rewards()) names.push_back(reward.name);
    std::vector<RolloutRow> mine;
    Stack* engine = nullptr;
    for (std::size_t i = 0; i < found.missing.size(); ++i) {
        if (run.asked_to_stop()) {
            run.log.info("stopping with {} of {} parts sampled: {}",
                         before + static_cast<std::int64_t>(i), parts, run.stop.reason());
            return std::nullopt;
        }
        const double began = now_seconds();
        if (engine == nullptr) engine = &stack();
        const std::int64_t part = found.missing[i], begin = found.layout.begin(part),
                           end = found.layout.end(part);
        const std::vector<std::int64_t> prompts(work.prompts.begin() + begin,
                                                work.prompts.begin() + end);
        const std::vector<std::int64_t> groups(work.groups.begin() + begin,
                                               work.groups.begin() + end);
        std::vector<RolloutRow> rows =
            generate_and_score(run, *engine, pool,
                               {.rows = work.rows,
                                .prompts = prompts,
                                .groups = groups,
                                .samples = work.samples,
                                .options = work.options,
                                .done = static_cast<double>(before + static_cast<std::int64_t>(i)) /
                                        static_cast<double>(parts),
                                .share = 1 / static_cast<double>(parts)});
        for (RolloutRow& row : rows) row.step = place.step;
        if (place.complete) place.complete(rows);
        if (run.grid.tensor_rank() == 0)
            write_rollouts(rollout_path(place.folder, place.step, run.grid.data_rank(),
                                        static_cast<int>(part)),
                           names, rows);
        for (RolloutRow& row : rows) {
            if (!place.log_probs) row.log_probs = {};
            mine.push_back(std::move(row));
        }
        run.stop.observe_step(now_seconds() - began);
        run.watchdog.alive();
    }
    std::vector<RolloutRow> all = gather_rows(run.grid, mine);
    if (before == 0) return all;
    for (RolloutRow& row : broadcast_rows(run.grid, found.rows)) all.push_back(std::move(row));
    sort_by_address(all);
    return all;
}

Samples sample_all(Run& run, const MakeRewards& rewards, std::int32_t samples, Stream stream,
                   const ChoosePrompts& choose) {
    Samples result;
    const bool merging = !run.deck.list("rollout.merge").empty();
    // Before the prompts, which the tokenizer of another model may find too long.
    std::optional<ModelSource> policy;
    if (!merging) policy = find_policy(run);
    DataReport report;
    {
        const Profile::Region region(run.profile, "data.read");
        result.prompts = read_prompts(run.deck, run.chat, report);
    }
    log_data(run, report);
    if (choose) result.left_out = choose(result.prompts);
    run.log.info("{} prompts, {} lines skipped; {} samples each", result.prompts.size(),
                 report.skipped, samples);
    if (merging) {
        run.begin();
        result.rows =
            run.on_root([&] { return merged(run, result.prompts, result.left_out, samples); });
        result.rows = broadcast_rows(run.grid, result.rows);
        sort_by_address(result.rows);
        return result;
    }
    run.begin_parts(is_of_samples);
    std::vector<std::int64_t> all, addresses;
    for (std::size_t i = 0; i < result.prompts.size(); ++i) {
        all.push_back(static_cast<std::int64_t>(i));
        addresses.push_back(result.prompts[i].index);
    }
    RewardPool pool(rewards(result.prompts), reward_threads(run));
    GenerationOptions options = resolve_generation(run.deck, run.chat, 0);
    options.stream = stream;
    std::unique_ptr<LoadedModel> loaded;
    const auto complete = [&](std::vector<RolloutRow>& rows) {
        for (RolloutRow& row : rows) {
            row.reward = row.rewards[0];
            row.prompt = row.group;
            ++result.generated;
            result.generated_tokens += static_cast<double>(row.tokens.size());
        }
    };
    double began = 0;
    auto rows = generate_in_parts(
        run,
        [&]() -> Stack& {
            require<CheckpointError>(
                policy.has_value(),
                "model.from = {} ({}): there is no checkpoint, and not all parts are "
                "there; has that stage finished?",
                run.deck.text("model.from"), run.deck.origin("model.from"));
            loaded =
                std::make_unique<LoadedModel>(run, "policy", run.deck, *run.tokenizer, *policy);
            began = now_seconds();
            return *loaded->stack;
        },
        pool,
        {.rows = result.prompts,
         .prompts = all,
         .groups = addresses,
         .samples = samples,
         .options = options},
        {.folder = run.dir,
         .policy = policy ? policy->identity : Json(),
         .log_probs = false,
         .complete = complete});
    result.stopped = !rows.has_value();
    if (rows) result.rows = std::move(*rows);
    if (began > 0) result.seconds = now_seconds() - began;
    result.generated = run.grid.data().sum(result.generated);
    result.generated_tokens = run.grid.data().sum(result.generated_tokens);
    return result;
}

}  // namespace gradus
