// SPDX-License-Identifier: Apache-2.0
// One group or dataset a field. Ragged fields are groups of `offsets` (rows + 1) and `values`;
// texts are groups of `offsets` (bytes) and `text`, all of them one after the other.
#include "gradus/store/rollout_table.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <tuple>

#include "gradus/base/error.hpp"
#include "hdf5.hpp"

namespace gradus {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kFormat = 1;
constexpr const char* kFinish[] = {"eos", "stop", "length"};

using Rows = std::vector<RolloutRow>;

template <class T, class Get>
void write_field(hid_t file, const char* name, const Rows& rows, Get&& get) {
    std::vector<T> values;
    for (const RolloutRow& row : rows) values.push_back(get(row));
    h5::write_column<T>(file, name, values);
}

template <class Get>
std::vector<std::int64_t> offsets_of(const Rows& rows, Get&& size) {
    std::vector<std::int64_t> offsets{0};
    for (const RolloutRow& row : rows)
        offsets.push_back(offsets.back() + static_cast<std::int64_t>(size(row)));
    return offsets;
}

template <class T>
void write_ragged(hid_t file, const char* name, const Rows& rows,
                  std::vector<T> RolloutRow::*field) {
    const h5::Group group = h5::make_group(file, name);
    std::vector<T> values;
    for (const RolloutRow& row : rows)
        values.insert(values.end(), (row.*field).begin(), (row.*field).end());
    h5::write_column<std::int64_t>(
        group.get(), "offsets", offsets_of(rows, [&](auto& row) { return (row.*field).size(); }));
    h5::write_column<T>(group.get(), "values", values);
}

void write_texts(hid_t file, const char* name, const Rows& rows, std::string RolloutRow::*field) {
    const h5::Group group = h5::make_group(file, name);
    std::string text;
    for (const RolloutRow& row : rows) text += row.*field;
    h5::write_column<std::int64_t>(
        group.get(), "offsets", offsets_of(rows, [&](auto& row) { return (row.*field).size(); }));
    h5::write_text(group.get(), "text", text);
}

void write_rewards(hid_t file, const std::vector<std::string>& names, const Rows& rows) {
    std::vector<double> values;
    for (const RolloutRow& row : rows)
        values.insert(values.end(), row.rewards.begin(), row.rewards.end());
    h5::write_strings(file, "reward_names", names);
    h5::write_column<double>(file, "rewards", values, {rows.size(), names.size()});
}

void write_file(hid_t file, const std::vector<std::string>& names, const Rows& rows) {
    const h5::Group root = h5::make_group(file, "");
    const hid_t id = root.get();
    h5::write_attribute(id, "format", kFormat);
    h5::write_attribute(id, "rows", static_cast<std::int64_t>(rows.size()));
    write_field<std::int64_t>(id, "step", rows, [](auto& r) { return r.step; });
    write_field<std::int64_t>(id, "prompt", rows, [](auto& r) { return r.prompt; });
    write_texts(id, "prompt_id", rows, &RolloutRow::prompt_id);
    write_field<std::int64_t>(id, "group", rows, [](auto& r) { return r.group; });
    write_field<std::int32_t>(id, "sample", rows, [](auto& r) { return r.sample; });
    write_ragged(id, "prompt_tokens", rows, &RolloutRow::prompt_tokens);
    write_ragged(id, "tokens", rows, &RolloutRow::tokens);
    write_ragged(id, "log_probs", rows, &RolloutRow::log_probs);
    std::vector<std::string> finish;
    for (const RolloutRow& row : rows)
        finish.push_back(kFinish[static_cast<std::size_t>(row.finish)]);
    h5::write_strings(id, "finish", finish);
    write_rewards(id, names, rows);
    write_field<double>(id, "reward", rows, [](auto& r) { return r.reward; });
    write_field<double>(id, "advantage", rows, [](auto& r) { return r.advantage; });
    write_texts(id, "prompt_text", rows, &RolloutRow::prompt_text);
    write_texts(id, "response_text", rows, &RolloutRow::response_text);
    write_texts(id, "reference", rows, &RolloutRow::reference);
}

/// Sets `rows[i].field` from column `name`, which must have as many rows.
template <class T, class Set>
void read_field(hid_t file, const char* name, Rows& rows, Set&& set) {
    const std::vector<T> values = h5::read_column<T>(file, name);
    require<h5::Hdf5Error>(values.size() == rows.size(), "column {} has {} rows instead of {}",
                           name, values.size(), rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) set(rows[i], values[i]);
}

/// Gives each row its part of `values` (a vector or a string).
template <class Values, class Field>
void split(const char* name, const std::vector<std::int64_t>& offsets, const Values& values,
           Rows& rows, Field RolloutRow::*field) {
    bool good = offsets.size() == rows.size() + 1 && offsets.front() == 0;
    for (std::size_t i = 0; good && i < rows.size(); ++i) good = offsets[i] <= offsets[i + 1];
    require<h5::Hdf5Error>(good && offsets.back() <= static_cast<std::int64_t>(values.size()),
                           "the offsets of column {} do not fit its values", name);
    for (std::size_t i = 0; i < rows.size(); ++i)
        (rows[i].*field).assign(values.begin() + offsets[i], values.begin() + offsets[i + 1]);
}

h5::Group open_group(hid_t file, const char* name) {
    return h5::Group(h5::check(H5Gopen2(file, name, H5P_DEFAULT)));
}

template <class T>
void read_ragged(hid_t file, const char* name, Rows& rows, std::vector<T> RolloutRow::*field) {
    const h5::Group group = open_group(file, name);
    split(name, h5::read_column<std::int64_t>(group.get(), "offsets"),
          h5::read_column<T>(group.get(), "values"), rows, field);
}

void read_texts(hid_t file, const char* name, Rows& rows, std::string RolloutRow::*field) {
    const h5::Group group = open_group(file, name);
    split(name, h5::read_column<std::int64_t>(group.get(), "offsets"),
          h5::read_text(group.get(), "text"), rows, field);
}

void read_rewards(hid_t file, RolloutFile& table) {
    table.reward_names = h5::read_strings(file, "reward_names");
    const std::vector<double> values = h5::read_column<double>(file, "rewards");
    const std::size_t n = table.reward_names.size();
    require<h5::Hdf5Error>(values.size() == n * table.rows.size(),
                           "column rewards has {} values instead of {} x {}", values.size(),
                           table.rows.size(), n);
    for (std::size_t i = 0; i < table.rows.size(); ++i) {
        const auto first = values.begin() + static_cast<std::ptrdiff_t>(i * n);
        table.rows[i].rewards.assign(first, first + static_cast<std::ptrdiff_t>(n));
    }
}

FinishReason finish_named(const std::string& name) {
    for (std::size_t i = 0; i < std::size(kFinish); ++i)
        if (name == kFinish[i]) return static_cast<FinishReason>(i);
    throw h5::Hdf5Error(fmt::format("unknown finish reason \"{}\"", name));
}

void read_file(hid_t file, RolloutFile& table) {
    const h5::Group root = h5::make_group(file, "");
    const hid_t id = root.get();
    const std::int64_t format = h5::read_attribute(id, "format");
    require<h5::Hdf5Error>(format == kFormat, "rollout table of format {}; this program reads {}",
                           format, kFormat);
    Rows& rows = table.rows;
    const h5::Dataset step = h5::open_dataset(id, "step");
    rows.resize(h5::dims_of(step.get()).at(0));
    read_field<std::int64_t>(id, "step", rows, [](auto& r, auto v) { r.step = v; });
    read_field<std::int64_t>(id, "prompt", rows, [](auto& r, auto v) { r.prompt = v; });
    read_texts(id, "prompt_id", rows, &RolloutRow::prompt_id);
    read_field<std::int64_t>(id, "group", rows, [](auto& r, auto v) { r.group = v; });
    read_field<std::int32_t>(id, "sample", rows, [](auto& r, auto v) { r.sample = v; });
    read_ragged(id, "prompt_tokens", rows, &RolloutRow::prompt_tokens);
    read_ragged(id, "tokens", rows, &RolloutRow::tokens);
    read_ragged(id, "log_probs", rows, &RolloutRow::log_probs);
    const std::vector<std::string> finish = h5::read_strings(id, "finish");
    require<h5::Hdf5Error>(finish.size() == rows.size(), "column finish has {} rows instead of {}",
                           finish.size(), rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].finish = finish_named(finish[i]);
    read_rewards(id, table);
    read_field<double>(id, "reward", rows, [](auto& r, auto v) { r.reward = v; });
    read_field<double>(id, "advantage", rows, [](auto& r, auto v) { r.advantage = v; });
    read_texts(id, "prompt_text", rows, &RolloutRow::prompt_text);
    read_texts(id, "response_text", rows, &RolloutRow::response_text);
    read_texts(id, "reference", rows, &RolloutRow::reference);
}

}  // namespace

void write_rollouts(const std::string& path, const std::vector<std::string>& reward_names,
                    const std::vector<RolloutRow>& rows) {
    for (const RolloutRow& row : rows)
        require<DataError>(row.rewards.size() == reward_names.size(),
                           "{}: a response has {} rewards for {} names", path, row.rewards.size(),
                           reward_names.size());
    const std::string temporary = path + ".tmp";
    std::error_code problem;
    if (fs::path(path).has_parent_path())
        fs::create_directories(fs::path(path).parent_path(), problem);
    require<DataError>(!problem, "cannot make the folder of {}: {}", path, problem.message());
    try {
        h5::named<DataError>(temporary, [&] {
            h5::OutputFile file(temporary);
            {
                h5::Lock lock;
                write_file(file.id(), reward_names, rows);
            }
            file.close();
        });
    } catch (...) {
        ::unlink(temporary.c_str());
        throw;
    }
    const bool renamed = ::rename(temporary.c_str(), path.c_str()) == 0;  // before errno is read
    require<DataError>(renamed, "cannot rename {} to {}: {}",
                       temporary, path, std::strerror(errno));
}

RolloutFile read_rollouts(const std::string& path) {
    RolloutFile table;
    h5::named<DataError>(path, [&] {
        h5::Lock lock;
        const h5::File file = h5::open_file(path);
        read_file(file.get(), table);
    });
    return table;
}

std::string rollout_path(const std::string& run_dir, std::int64_t step, int rank, int part) {
    return fmt::format("{}/rollouts/step{:07}.rank{:05}.part{:03}.h5", run_dir, step, rank, part);
}

std::vector<RolloutName> rollout_files(const std::string& run_dir) {
    std::vector<RolloutName> files;
    std::error_code problem;
    for (fs::directory_iterator at(run_dir + "/rollouts", problem), end; !problem && at != end;
         at.increment(problem)) {
        RolloutName name{.path = at->path().string()};
        long long step = 0;
        const std::string file = at->path().filename().string();
        if (std::sscanf(file.c_str(), "step%lld.rank%d.part%d", &step, &name.rank, &name.part) != 3)
            continue;
        name.step = step;
        const std::string whole = rollout_path(run_dir, step, name.rank, name.part);
        const std::string expected = fs::path(whole).filename().string();
        name.unfinished = file == expected + ".tmp";
        if (file == expected || name.unfinished) files.push_back(std::move(name));
    }
    std::sort(files.begin(), files.end(), [](const RolloutName& a, const RolloutName& b) {
        return std::tie(a.step, a.rank, a.part) < std::tie(b.step, b.rank, b.part);
    });
    return files;
}

void cut_rollouts(const std::string& run_dir, std::int64_t from) {
    for (const RolloutName& file : rollout_files(run_dir)) {
        if (file.step < from && !file.unfinished) continue;
        std::error_code problem;
        fs::remove(file.path, problem);
        require<DataError>(!problem, "cannot remove {}: {}", file.path, problem.message());
    }
}

}  // namespace gradus
