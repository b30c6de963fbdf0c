// SPDX-License-Identifier: Apache-2.0
#include "gradus/train/scores.hpp"

namespace gradus {

std::vector<float> sequence_scores(const ScorePasses& passes, const ParameterSet& parameters,
                                   const std::vector<Sequence>& batch) {
    std::vector<std::int64_t> lengths;
    for (const Sequence& s : batch) lengths.push_back(std::ssize(s.tokens));
    const Grid& grid = passes.grid;
    const BatchPlan plan = plan_batch(lengths, passes.micro_tokens, grid.data_size());
    std::vector<float> scores(batch.size(), 0.0f), rows;
    for (const auto& indices : plan.micro[static_cast<std::size_t>(grid.data_rank())]) {
        if (indices.empty() && !passes.model.passes_are_collective()) continue;
        std::vector<const Sequence*> members;
        for (const std::int64_t i : indices) members.push_back(&batch[static_cast<std::size_t>(i)]);
        passes.micro.fill(members, true);
        const Tensor hidden = passes.model.forward(parameters, passes.micro.packed(), false);
        const Tensor value = passes.value.as({hidden.dim(0)});
        passes.model.values(parameters, hidden, value);
        rows.resize(static_cast<std::size_t>(hidden.dim(0)));
        passes.ops.download(rows.data(), value);
        for (std::size_t i = 0; i < members.size(); ++i)
            scores[static_cast<std::size_t>(indices[i])] =
                rows[static_cast<std::size_t>(passes.micro.row(i, std::ssize(members[i]->tokens)))];
    }
    // Each entry is non-zero on one rank only: the sum is that rank's value, exactly.
    grid.data().all_reduce(std::span<float>(scores), Reduce::sum);
    return scores;
}

}  // namespace gradus
