// SPDX-License-Identifier: Apache-2.0
#include "gradus/store/show.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/store/rollout_table.hpp"

namespace gradus {
namespace {

/// "1, 2, 3": at most twenty, the newest ones.
std::string list_steps(const std::set<std::int64_t>& steps) {
    std::string text = steps.size() > 20 ? "... " : "";
    auto at = steps.begin();
    if (steps.size() > 20) std::advance(at, static_cast<std::ptrdiff_t>(steps.size()) - 20);
    for (bool first = true; at != steps.end(); ++at, first = false)
        text += fmt::format("{}{}", first ? "" : ", ", *at);
    return text;
}

RolloutFile read_step(const std::string& run, std::int64_t wanted) {
    std::vector<RolloutName> files = rollout_files(run);
    std::erase_if(files, [](const RolloutName& file) { return file.unfinished; });
    require<DataError>(
        !files.empty(),
        "{} has no rollouts: {}/rollouts holds none (stages rl and sample write them)", run, run);
    std::set<std::int64_t> steps;
    for (const RolloutName& file : files) steps.insert(file.step);
    const std::int64_t step = wanted < 0 ? *steps.rbegin() : wanted;
    require<DataError>(steps.contains(step), "{} has no rollouts of step {}; it has those of {}",
                       run, step, list_steps(steps));
    RolloutFile all;
    for (const RolloutName& file : files) {
        if (file.step != step) continue;
        RolloutFile part = read_rollouts(file.path);
        if (all.rows.empty()) all.reward_names = part.reward_names;
        require<DataError>(part.reward_names == all.reward_names,
                           "{} has other rewards than the files beside it", file.path);
        std::move(part.rows.begin(), part.rows.end(), std::back_inserter(all.rows));
    }
    std::stable_sort(all.rows.begin(), all.rows.end(),
                     [](const RolloutRow& a, const RolloutRow& b) {
                         return std::tie(a.group, a.sample) < std::tie(b.group, b.sample);
                     });
    return all;
}

/// What to sort by: NaN (unscorable, or not for this prompt) comes last both ways.
std::vector<double> keys_of(const RolloutFile& table, const std::string& reward) {
    std::size_t column = 0;
    if (!reward.empty()) {
        const auto& names = table.reward_names;
        const auto found = std::find(names.begin(), names.end(), reward);
        require<DataError>(found != names.end(), "there is no reward {}; there are: {}", reward,
                           fmt::join(names, ", "));
        column = static_cast<std::size_t>(found - names.begin());
    }
    std::vector<double> keys;
    for (const RolloutRow& row : table.rows)
        keys.push_back(reward.empty() ? row.reward : row.rewards[column]);
    for (double& key : keys)
        if (std::isinf(key)) key = NAN;
    return keys;
}

std::vector<std::size_t> choose(const RolloutFile& table, const ShowOptions& options) {
    const std::vector<double> keys = keys_of(table, options.reward);
    const auto n = static_cast<std::int64_t>(keys.size());
    std::vector<std::size_t> order(keys.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    if (options.pick == "all") return order;
    if (options.pick == "random") {
        std::vector<std::int64_t> shuffled(keys.size());
        random_permutation(options.seed, Stream::shuffle, 0, n, shuffled.data());
        std::copy(shuffled.begin(), shuffled.end(), order.begin());
    } else {
        require<DataError>(options.pick == "best" || options.pick == "worst",
                           "pick = {}: known are random, best, worst, all", options.pick);
        const double sign = options.pick == "best" ? 1 : -1;
        std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
            if (std::isnan(keys[a]) || std::isnan(keys[b]))
                return !std::isnan(keys[a]) && std::isnan(keys[b]);
            return sign * keys[a] > sign * keys[b];
        });
    }
    order.resize(static_cast<std::size_t>(std::clamp<std::int64_t>(options.count, 0, n)));
    return order;
}

const char* word(FinishReason reason) {
    return reason == FinishReason::eos ? "eos" : reason == FinishReason::stop ? "stop" : "length";
}

void print(const RolloutRow& row, const std::vector<std::string>& names) {
    std::string rewards;
    for (std::size_t i = 0; i < names.size(); ++i)
        rewards += std::isinf(row.rewards[i]) ? fmt::format(" {} -", names[i])
                                              : fmt::format(" {} {:.4g}", names[i], row.rewards[i]);
    const std::string text = fmt::format(
        "==== step {} prompt {} group {} sample {} finish {} length {}{} reward {:.4g} advantage "
        "{:.4g}\n---- prompt\n{}\n---- response\n{}\n---- reference\n{}\n\n",
        row.step, row.prompt_id, row.group, row.sample, word(row.finish), row.tokens.size(),
        rewards, row.reward, row.advantage, row.prompt_text, row.response_text, row.reference);
    std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace

void show_run(const std::string& run, const ShowOptions& options) {
    require<DeckError>(options.count > 0, "--count {}: at least one rollout is shown", options.count);
    const RolloutFile table = read_step(run, options.step);
    for (const std::size_t i : choose(table, options)) print(table.rows[i], table.reward_names);
    std::fflush(stdout);
}

}  // namespace gradus
