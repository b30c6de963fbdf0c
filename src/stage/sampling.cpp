// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/sampling.hpp"

#include <algorithm>
#include <filesystem>
#include <map>

#include "gradus/base/error.hpp"
#include "gradus/stage/lifecycle.hpp"

namespace gradus {
namespace {

namespace fs = std::filesystem;

/// Prompts of a part so that the last responses of one, which leave places empty, cost little.
constexpr std::int64_t kFillsOfSlots = 8;

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
        layout_ = {.prompts = std::ssize(work.prompts), .samples = work.samples, .prompts_a_part = part_size()};
        if (!fs::exists(file_)) {
            fs::create_directories(place.folder);
            write_file_atomically(file_, Json{{"prompts", layout_.prompts},
                                              {"samples", layout_.samples},
                                              {"prompts_a_part", layout_.prompts_a_part}}
                                             .dump() + "\n");
            return;
        }
        try {
            const Json json = Json::parse(read_file(file_));
            layout_.prompts_a_part = std::max<std::int64_t>(1, json.at("prompts_a_part").get<std::int64_t>());
            require(json.at("prompts") == layout_.prompts && json.at("samples") == layout_.samples,
                    "{} prompts x {} samples", json.at("prompts").dump(), json.at("samples").dump());
        } catch (const std::exception& e) {
            throw DataError(fmt::format("{} does not fit this run of {} prompts x {} samples ({}); choose another run.dir, "
                                        "or restart = none to sample anew",
                                        file_, layout_.prompts, layout_.samples, e.what()));
        }
    }

    const Layout& layout() const { return layout_; }

    /// Reads what is whole into `rows`, removes what is not, and returns the parts that are missing.
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
                for (RolloutRow& row : read_rollouts(file.path).rows) part.push_back(std::move(row));
            } catch (const DataError& e) {
                run_.log.warn("{}; its part is sampled again", e.what());
            }
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
    std::int64_t part_size() const {
        if (const std::int64_t asked = run_.deck.integer("rollout.part"); asked > 0) return asked;
        const std::int64_t slots = run_.deck.integer("rollout.slots") * run_.grid.data_size();
        return std::max<std::int64_t>(1, (kFillsOfSlots * slots + layout_.samples - 1) / std::max<std::int64_t>(1, work_.samples));
    }

    bool is_whole(std::int64_t part, const std::vector<RolloutRow>& rows) const {
        const std::int64_t begin = layout_.begin(part), prompts = layout_.end(part) - begin;
        std::vector<bool> there(static_cast<std::size_t>(prompts * layout_.samples));
        for (const RolloutRow& row : rows) {
            const auto at = std::lower_bound(work_.groups.begin() + begin, work_.groups.begin() + begin + prompts, row.group);
            const auto i = at - work_.groups.begin();
            require<DataError>(i < begin + prompts && *at == row.group && row.sample >= 0 && row.sample < layout_.samples &&
                                   row.prompt_tokens == prompt(i).tokens && row.reference == prompt(i).reference,
                               "{}/rollouts holds responses to other prompts or references than {}'s; choose another run.dir, or "
                               "restart = none to sample anew",
                               place_.folder, run_.deck.text("data.path"));
            there[static_cast<std::size_t>((i - begin) * layout_.samples + row.sample)] = true;
        }
        return std::all_of(there.begin(), there.end(), [](bool t) { return t; });
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
    Json told = run.on_root([&] {
        PartTable table(run, work, place);
        found.missing = table.read(found.rows);
        return Json{{"prompts_a_part", table.layout().prompts_a_part}, {"missing", found.missing}};
    });
    told = Json::parse(run.grid.world().broadcast(told.dump()));
    found.layout = {.prompts = std::ssize(work.prompts), .samples = work.samples, .prompts_a_part = told["prompts_a_part"]};
    found.missing = told["missing"].get<std::vector<std::int64_t>>();
    return found;
}

/// The keys that decide how samples are judged and counted, not what is sampled.
bool is_of_samples(const std::string& key) {
    if (key == "sample.n" || key == "sample.repetition_ngram" || key == "eval.n" || key == "eval.benchmark") return true;
    return !key.starts_with("sample.") && !key.starts_with("eval.") && !key.starts_with("judge.") &&
           !key.starts_with("rewrite.");
}

/// And those that shards of one run may differ in.
bool is_of_merged_samples(const std::string& key) {
    return is_of_samples(key) && !key.starts_with("data.shard") && !key.starts_with("data.num_shards") &&
           !key.starts_with("rollout.merge") && !key.starts_with("run.") && !key.starts_with("grid.");
}

std::vector<RolloutRow> merged(Run& run, const std::vector<PromptRow>& prompts, std::int32_t samples) {
    std::map<std::int64_t, std::size_t> place;
    for (std::size_t i = 0; i < prompts.size(); ++i) place[prompts[i].index] = i;
    std::vector<std::size_t> seen(prompts.size());
    std::vector<RolloutRow> rows;
    for (const std::string& dir : run.deck.list("rollout.merge")) {
        require<DataError>(fs::exists(dir + "/deck.resolved"), "rollout.merge: {} is no run directory", dir);
        const std::string changed = changed_keys(read_file(dir + "/deck.resolved"), run.deck, is_of_merged_samples);
        require<DataError>(changed.empty(), "rollout.merge: {} was sampled with other keys:{}", dir, changed);
        for (const RolloutName& file : rollout_files(dir)) {
            if (file.unfinished) continue;
            for (RolloutRow& row : read_rollouts(file.path).rows) {
                const auto at = place.find(row.group);
                require<DataError>(at != place.end() && row.prompt_tokens == prompts[at->second].tokens,
                                   "{}: a response to a prompt that is not in data.path", file.path);
                ++seen[at->second];
                rows.push_back(std::move(row));
            }
        }
        run.watchdog.alive();
    }
    const auto wrong = std::find_if(seen.begin(), seen.end(), [&](std::size_t n) { return n != static_cast<std::size_t>(samples); });
    require<DataError>(wrong == seen.end(),
                       "rollout.merge: prompt {} has {} of {} samples; name every shard once, and run those that are not finished",
                       prompts[static_cast<std::size_t>(wrong - seen.begin()) % prompts.size()].id,
                       wrong == seen.end() ? 0 : *wrong, samples);
    return rows;
}

/// The policy of `model.from`, with memory that goes with it. Throws DeckError where the key names none.
struct Policy {
    explicit Policy(Run& run)
        : arena(&run.device()), pinned(run.gpu ? &run.gpu->pinned() : run.cpu.get()), memory{arena, run.gpu ? pinned : arena, run.gpu.get()} {
        std::unique_ptr<CheckpointReader> from;
        const ModelConfig config = resolve_model(run.deck, *run.tokenizer, from,
                                                 [&](const std::string& text) { run.log.warn("{}", text); });
        require<DeckError>(from != nullptr, "stage = {} needs model.from: a run directory or a checkpoint", run.deck.stage());
        stack = std::make_unique<Stack>(run.deck, config, run.grid, *run.tokenizer, memory, run.profile, stack_needs(run.deck));
        load_parameters(*stack->policy, *from, "weights", *stack->ops);
        run.log.info("weights from {}\n{}", from->directory(), memory_table(memory));
    }
    Arena arena, pinned;
    RunMemory memory;
    std::unique_ptr<Stack> stack;
};

/// The model's tokenizer and shape are looked at before the prompts, which another tokenizer may find too long. One that
/// is not there is told where it is needed: parts from before need none.
void check_policy(const Run& run) {
    const auto silent = [](const std::string&) {};
    const std::string& from = run.deck.text("model.from");
    if (from.empty() || find_checkpoint(from, silent).empty()) return;
    std::unique_ptr<CheckpointReader> reader;
    resolve_model(run.deck, *run.tokenizer, reader, silent);
}

void sort_by_address(std::vector<RolloutRow>& rows) {
    std::sort(rows.begin(), rows.end(), [](const RolloutRow& a, const RolloutRow& b) {
        return a.group != b.group ? a.group < b.group : a.sample < b.sample;
    });
}

}  // namespace

std::optional<std::vector<RolloutRow>> generate_in_parts(Run& run, const std::function<Stack&()>& stack, RewardPool& pool,
                                                         const GenerateAndScore& work, const PartFolder& place) {
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
            run.log.info("stopping with {} of {} parts sampled: {}", before + static_cast<std::int64_t>(i), parts,
                         run.stop.reason());
            return std::nullopt;
        }
        const double began = now_seconds();
        if (engine == nullptr) engine = &stack();
        const std::int64_t part = found.missing[i], begin = found.layout.begin(part), end = found.layout.end(part);
        const std::vector<std::int64_t> prompts(work.prompts.begin() + begin, work.prompts.begin() + end);
        const std::vector<std::int64_t> groups(work.groups.begin() + begin, work.groups.begin() + end);
        std::vector<RolloutRow> rows = generate_and_score(
            run, *engine, pool,
            {.rows = work.rows,
             .prompts = prompts,
             .groups = groups,
             .samples = work.samples,
             .options = work.options,
             .done = static_cast<double>(before + static_cast<std::int64_t>(i)) / static_cast<double>(parts),
             .share = 1 / static_cast<double>(parts)});
        for (RolloutRow& row : rows) row.step = place.step;
        if (place.complete) place.complete(rows);
        if (run.grid.tensor_rank() == 0)
            write_rollouts(rollout_path(place.folder, place.step, run.grid.data_rank(), static_cast<int>(part)), names, rows);
        std::move(rows.begin(), rows.end(), std::back_inserter(mine));
        run.stop.observe_step(now_seconds() - began);
        run.watchdog.alive();
    }
    std::vector<RolloutRow> all = gather_rows(run.grid, mine);
    for (RolloutRow& row : broadcast_rows(run.grid, found.rows)) all.push_back(std::move(row));
    sort_by_address(all);
    return all;
}

Samples sample_all(Run& run, const MakeRewards& rewards, std::int32_t samples, Stream stream) {
    Samples result;
    if (run.deck.list("rollout.merge").empty()) check_policy(run);
    DataReport report;
    {
        const Profile::Region region(run.profile, "data.read");
        result.prompts = read_prompts(run.deck, run.chat, report);
    }
    log_data(run, report);
    run.log.info("{} prompts, {} lines skipped; {} samples each", result.prompts.size(), report.skipped, samples);
    if (!run.deck.list("rollout.merge").empty()) {
        run.begin();
        result.rows = run.on_root([&] { return merged(run, result.prompts, samples); });
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
    std::unique_ptr<Policy> policy;
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
            policy = std::make_unique<Policy>(run);
            began = now_seconds();
            return *policy->stack;
        },
        pool, {.rows = result.prompts, .prompts = all, .groups = addresses, .samples = samples, .options = options},
        {.folder = run.dir, .complete = complete});
    result.stopped = !rows.has_value();
    if (rows) result.rows = std::move(*rows);
    if (began > 0) result.seconds = now_seconds() - began;
    result.generated = run.grid.data().sum(result.generated);
    result.generated_tokens = run.grid.data().sum(result.generated_tokens);
    return result;
}

}  // namespace gradus
