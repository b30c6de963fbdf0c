// SPDX-License-Identifier: Apache-2.0
#include "rl_batch.hpp"

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {

std::vector<Sequence> PendingRollout::batch(std::uint64_t seed) const {
    const std::int64_t groups = prompts, updates_per_epoch = parts;
    const std::int64_t epoch = next / updates_per_epoch, part = next % updates_per_epoch;
    const std::int64_t epochs = updates / updates_per_epoch;
    std::vector<std::int64_t> order(static_cast<std::size_t>(groups));
    random_permutation(seed, Stream::updates,
                       static_cast<std::uint64_t>(number * epochs + epoch), groups, order.data());
    std::vector<bool> chosen(static_cast<std::size_t>(groups));
    for (std::int64_t i = groups * part / updates_per_epoch;
         i < groups * (part + 1) / updates_per_epoch; ++i)
        chosen[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = true;
    std::vector<Sequence> batch;
    for (std::size_t s = 0; s < sequences.size(); ++s)
        if (chosen[static_cast<std::size_t>(group[s])]) batch.push_back(sequences[s]);
    return batch;
}

std::vector<Slab> PendingRollout::slabs(const Grid& grid, Storage& storage) const {
    storage = {};
    if (empty()) return {};
    auto append = [](std::vector<float>& to, const std::vector<float>& from, std::size_t n) {
        // An input that the loss does not use is kept as zeros, so that columns stay parallel.
        if (from.empty())
            to.insert(to.end(), n, 0.0f);
        else
            to.insert(to.end(), from.begin(), from.end());
    };
    for (std::size_t i = 0; i < sequences.size(); ++i) {
        const Sequence& s = sequences[i];
        const std::size_t n = s.tokens.size();
        storage.lengths.push_back(static_cast<std::int32_t>(n));
        storage.groups.push_back(group[i]);
        storage.tokens.insert(storage.tokens.end(), s.tokens.begin(), s.tokens.end());
        append(storage.weight, s.weight, n);
        append(storage.advantage, s.advantage, n);
        append(storage.old_log_prob, s.old_log_prob, n);
        append(storage.ref_log_prob, s.ref_log_prob, n);
        append(storage.sampler_log_prob, s.sampler_log_prob, n);
    }
    std::vector<Slab> slabs;
    if (grid.tensor_rank() != 0) return slabs;
    auto add = [&](const char* name, DType dtype, const auto& values) {
        const auto n = static_cast<std::int64_t>(values.size());
        const std::int64_t begin = n * grid.data_rank() / grid.data_size();
        const std::int64_t end = n * (grid.data_rank() + 1) / grid.data_size();
        if (end > begin)
            slabs.push_back({.tensor = std::string("rollout/") + name,
                             .dtype = dtype,
                             .global = {n},
                             .box = {{begin}, {end - begin}},
                             .data = values.data() + begin});
    };
    add("lengths", DType::i32, storage.lengths);
    add("groups", DType::i32, storage.groups);
    add("tokens", DType::i32, storage.tokens);
    add("weight", DType::f32, storage.weight);
    add("advantage", DType::f32, storage.advantage);
    add("old_log_prob", DType::f32, storage.old_log_prob);
    add("ref_log_prob", DType::f32, storage.ref_log_prob);
    add("sampler_log_prob", DType::f32, storage.sampler_log_prob);
    return slabs;
}

Json PendingRollout::state() const {
    bool old_given = false, ref_given = false;
    for (const Sequence& s : sequences) {
        old_given |= !s.old_log_prob.empty();
        ref_given |= !s.ref_log_prob.empty();
    }
    return {{"number", number},
            {"next", next},
            {"updates", updates},
            {"temperature", temperature},
            {"prompts", prompts},
            {"parts", parts},
            {"old", old_given},
            {"reference", ref_given},
            {"statistics", statistics}};
}

PendingRollout PendingRollout::load(const CheckpointReader& reader) {
    PendingRollout rollout;
    const Json& state = reader.state().at("rollout");
    rollout.number = state.at("number");
    rollout.next = state.at("next");
    rollout.updates = state.at("updates");
    rollout.temperature = state.at("temperature");
    rollout.prompts = state.at("prompts");
    rollout.parts = state.at("parts");
    rollout.statistics = state.at("statistics");
    if (rollout.empty()) return rollout;
    auto column = [&](const char* name, auto& values) {
        const std::string tensor = std::string("rollout/") + name;
        const Shape shape = reader.info(tensor).global;
        values.resize(static_cast<std::size_t>(shape[0]));
        reader.read(tensor, {{0}, shape}, values.data());
    };
    Storage s;
    column("lengths", s.lengths);
    column("groups", s.groups);
    column("tokens", s.tokens);
    column("weight", s.weight);
    column("advantage", s.advantage);
    column("old_log_prob", s.old_log_prob);
    column("ref_log_prob", s.ref_log_prob);
    column("sampler_log_prob", s.sampler_log_prob);
    std::ptrdiff_t at = 0;
    for (std::size_t i = 0; i < s.lengths.size(); ++i) {
        const std::ptrdiff_t end = at + s.lengths[i];
        require<CheckpointError>(end <= static_cast<std::ptrdiff_t>(s.tokens.size()),
                                 "{}: lengths of the pending rollout do not fit its tokens",
                                 reader.directory());
        auto part = [&](const std::vector<float>& v) {
            return std::vector<float>(v.begin() + at, v.begin() + end);
        };
        Sequence sequence;
        sequence.tokens.assign(s.tokens.begin() + at, s.tokens.begin() + end);
        sequence.weight = part(s.weight);
        sequence.advantage = part(s.advantage);
        if (state.at("old").get<bool>()) sequence.old_log_prob = part(s.old_log_prob);
        if (state.at("reference").get<bool>()) sequence.ref_log_prob = part(s.ref_log_prob);
        sequence.sampler_log_prob = part(s.sampler_log_prob);
        sequence.address = static_cast<std::int64_t>(i);
        rollout.sequences.push_back(std::move(sequence));
        at = end;
    }
    rollout.group = std::move(s.groups);
    return rollout;
}

}  // namespace gradus
