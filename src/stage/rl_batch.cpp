// SPDX-License-Identifier: Apache-2.0
#include "rl_batch.hpp"

#include <array>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

/// The per-token inputs of the losses that a checkpoint holds. A column that a run does not use is empty.
struct Column {
    const char* name;
    std::vector<float> Sequence::*values;
};
constexpr std::array kColumns = {Column{"weight", &Sequence::weight},
                                 Column{"advantage", &Sequence::advantage},
                                 Column{"old_log_prob", &Sequence::old_log_prob},
                                 Column{"ref_log_prob", &Sequence::ref_log_prob},
                                 Column{"sampler_log_prob", &Sequence::sampler_log_prob},
                                 Column{"value", &Sequence::value},
                                 Column{"returns", &Sequence::returns}};

std::string slab_name(const char* column) { return std::string("rollout/") + column; }

}  // namespace

std::string RolloutSplit::text() const {
    return fmt::format("rl.prompts = {}, rl.updates = {}, rl.epochs = {}, rl.keep_groups = {}", prompts, parts,
                       epochs, keep_groups);
}

std::vector<std::size_t> PendingRollout::members(std::uint64_t seed, std::int64_t u) const {
    const std::int64_t epoch = u / split.parts, part = u % split.parts;
    const std::int64_t units = split.keep_groups ? split.prompts : std::ssize(sequences);
    std::vector<std::int64_t> order(static_cast<std::size_t>(units));
    random_permutation(seed, Stream::updates, static_cast<std::uint64_t>(number * split.epochs + epoch), units,
                       order.data());
    std::vector<bool> chosen(static_cast<std::size_t>(units));
    for (std::int64_t i = units * part / split.parts; i < units * (part + 1) / split.parts; ++i)
        chosen[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = true;
    std::vector<std::size_t> members;
    for (std::size_t s = 0; s < sequences.size(); ++s)
        if (chosen[split.keep_groups ? static_cast<std::size_t>(group[s]) : s]) members.push_back(s);
    return members;
}

std::vector<Sequence> PendingRollout::batch(std::uint64_t seed, std::int64_t u) const {
    std::vector<Sequence> batch;
    for (const std::size_t s : members(seed, u)) batch.push_back(sequences[s]);
    return batch;
}

std::int64_t PendingRollout::bytes_per_token() {
    return static_cast<std::int64_t>(sizeof(TokenId) + kColumns.size() * sizeof(float));
}

std::vector<Slab> PendingRollout::slabs(const Grid& grid, Storage& storage) const {
    storage = {};
    storage.columns.resize(kColumns.size());
    if (empty()) return {};
    for (std::size_t i = 0; i < sequences.size(); ++i) {
        const Sequence& s = sequences[i];
        storage.lengths.push_back(static_cast<std::int32_t>(s.tokens.size()));
        storage.groups.push_back(group[i]);
        storage.tokens.insert(storage.tokens.end(), s.tokens.begin(), s.tokens.end());
        for (std::size_t c = 0; c < kColumns.size(); ++c) {
            const std::vector<float>& values = s.*kColumns[c].values;
            storage.columns[c].insert(storage.columns[c].end(), values.begin(), values.end());
        }
    }
    std::vector<Slab> slabs;
    if (grid.tensor_rank() != 0) return slabs;
    auto add = [&](const char* name, DType dtype, const auto& values) {
        const auto n = static_cast<std::int64_t>(values.size());
        const std::int64_t begin = n * grid.data_rank() / grid.data_size();
        const std::int64_t end = n * (grid.data_rank() + 1) / grid.data_size();
        if (end > begin)
            slabs.push_back({.tensor = slab_name(name),
                             .dtype = dtype,
                             .global = {n},
                             .box = {{begin}, {end - begin}},
                             .data = values.data() + begin});
    };
    add("lengths", DType::i32, storage.lengths);
    add("groups", DType::i32, storage.groups);
    add("tokens", DType::i32, storage.tokens);
    for (std::size_t c = 0; c < kColumns.size(); ++c) add(kColumns[c].name, DType::f32, storage.columns[c]);
    return slabs;
}

Json PendingRollout::state() const {
    Json columns = Json::array();
    for (const Column& column : kColumns)
        if (!sequences.empty() && !(sequences.front().*column.values).empty()) columns.push_back(column.name);
    return {{"number", number},           {"next", next},
            {"temperature", temperature}, {"prompts", split.prompts},
            {"parts", split.parts},       {"epochs", split.epochs},
            {"keep_groups", split.keep_groups}, {"columns", columns},
            {"statistics", statistics}};
}

PendingRollout PendingRollout::load(const CheckpointReader& reader) {
    PendingRollout rollout;
    const Json& state = reader.state().at("rollout");
    rollout.number = state.at("number");
    rollout.next = state.at("next");
    rollout.temperature = state.at("temperature");
    rollout.split = {.prompts = state.at("prompts"),
                     .parts = state.at("parts"),
                     .epochs = state.at("epochs"),
                     .keep_groups = state.at("keep_groups")};
    rollout.statistics = state.at("statistics");
    if (rollout.empty()) return rollout;
    auto read = [&](const char* name, auto& values) {
        const std::string tensor = slab_name(name);
        const Shape shape = reader.info(tensor).global;
        values.resize(static_cast<std::size_t>(shape[0]));
        reader.read(tensor, {{0}, shape}, values.data());
    };
    Storage s;
    read("lengths", s.lengths);
    read("groups", s.groups);
    read("tokens", s.tokens);
    s.columns.resize(kColumns.size());
    const auto present = state.at("columns").get<std::vector<std::string>>();
    for (const std::string& name : present)
        for (std::size_t c = 0; c < kColumns.size(); ++c)
            if (name == kColumns[c].name) read(kColumns[c].name, s.columns[c]);
    std::ptrdiff_t at = 0;
    for (std::size_t i = 0; i < s.lengths.size(); ++i) {
        const std::ptrdiff_t end = at + s.lengths[i];
        Sequence sequence;
        auto part = [&](const auto& from, auto& to) {
            require<CheckpointError>(end <= std::ssize(from),
                                     "{}: lengths of the pending rollout do not fit its tokens", reader.directory());
            to.assign(from.begin() + at, from.begin() + end);
        };
        part(s.tokens, sequence.tokens);
        for (std::size_t c = 0; c < kColumns.size(); ++c)
            if (!s.columns[c].empty()) part(s.columns[c], sequence.*kColumns[c].values);
        sequence.address = static_cast<std::int64_t>(i);
        rollout.sequences.push_back(std::move(sequence));
        at = end;
    }
    rollout.group = std::move(s.groups);
    return rollout;
}

}  // namespace gradus
