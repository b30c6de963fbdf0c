// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "gradus/base/error.hpp"
#include "gradus/reward/reward.hpp"

namespace gradus {

struct RewardPool::Impl {
    explicit Impl(const std::vector<NamedReward>& all) : rewards(all), first_unscorable(all.size()) {}

    const std::vector<NamedReward>& rewards;
    std::mutex mutex, noting;
    std::condition_variable work_to_do;
    std::condition_variable all_done;
    // A deque keeps references to its elements valid while others are appended. A worker writes
    // only the row that it took, so rows need no lock.
    std::deque<RewardInput> inputs;
    std::deque<std::vector<double>> rows;
    struct First {
        std::size_t input = std::numeric_limits<std::size_t>::max();
        std::string reason;
    };
    std::vector<First> first_unscorable;  ///< of each reward
    std::size_t taken = 0;
    std::size_t finished = 0;
    std::int64_t submitted = 0;
    bool stopping = false;
    std::vector<std::thread> threads;

    /// Scores input number `at`, and notes the first reason of each reward; takes the lock for that.
    std::vector<double> score(const RewardInput& input, std::size_t at) {
        std::vector<double> row;
        row.reserve(rewards.size());
        for (const NamedReward& named : rewards) {
            if (!named.reward || !named.applies(input.kind)) {
                row.push_back(kNotApplicable);
                continue;
            }
            // Rewards do not throw on what a model wrote; should memory run out in one, the sample
            // is unscorable rather than the job lost.
            Judgement judgement;
            try {
                judgement = named.reward->judge(input);
            } catch (const std::exception& e) {
                judgement = {kUnscorable, e.what()};
            }
            if (std::isnan(judgement.score)) note(row.size(), at, std::move(judgement.reason));
            row.push_back(judgement.score);
        }
        return row;
    }
    void note(std::size_t reward, std::size_t at, std::string reason) {
        const std::lock_guard lock(noting);
        First& first = first_unscorable[reward];
        if (at < first.input) first = {at, std::move(reason)};
    }

    void work() {
        std::unique_lock lock(mutex);
        while (true) {
            work_to_do.wait(lock, [&] { return stopping || taken < inputs.size(); });
            if (stopping) return;
            const std::size_t at = taken++;
            const RewardInput& input = inputs[at];
            std::vector<double>& row = rows[at];
            lock.unlock();
            row = score(input, at);
            lock.lock();
            if (++finished == inputs.size()) all_done.notify_all();
        }
    }
};

bool NamedReward::applies(const std::string& kind) const {
    return applies_to.empty() || std::find(applies_to.begin(), applies_to.end(), kind) != applies_to.end();
}

RewardPool::RewardPool(std::vector<NamedReward> rewards, int threads)
    : rewards_(std::move(rewards)), impl_(std::make_unique<Impl>(rewards_)) {
    require<DeckError>(threads >= 0, "the number of reward threads is {}; it must be 0 or more",
                       threads);
    for (int i = 0; i < threads; ++i) impl_->threads.emplace_back([this] { impl_->work(); });
}

RewardPool::~RewardPool() {
    {
        const std::lock_guard lock(impl_->mutex);
        impl_->stopping = true;
    }
    impl_->work_to_do.notify_all();
    for (std::thread& thread : impl_->threads) thread.join();
}

std::int64_t RewardPool::submit(std::vector<RewardInput> inputs) {
    const std::lock_guard lock(impl_->mutex);
    const std::int64_t first = impl_->submitted;
    for (RewardInput& input : inputs) {
        impl_->inputs.push_back(std::move(input));
        impl_->rows.emplace_back();
    }
    impl_->submitted += static_cast<std::int64_t>(inputs.size());
    impl_->work_to_do.notify_all();
    return first;
}

std::vector<std::vector<double>> RewardPool::collect(const std::function<void()>& waiting) {
    std::unique_lock lock(impl_->mutex);
    if (impl_->threads.empty()) {
        for (; impl_->taken < impl_->inputs.size(); ++impl_->taken, ++impl_->finished) {
            impl_->rows[impl_->taken] = impl_->score(impl_->inputs[impl_->taken], impl_->taken);
            if (waiting) waiting();
        }
    }
    while (!impl_->all_done.wait_for(lock, std::chrono::milliseconds(300),
                                     [&] { return impl_->finished == impl_->inputs.size(); }))
        if (waiting) waiting();
    std::vector<std::vector<double>> rows(std::make_move_iterator(impl_->rows.begin()),
                                          std::make_move_iterator(impl_->rows.end()));
    unscorable_.assign(rewards_.size(), {});
    for (std::size_t r = 0; r < rewards_.size(); ++r) {
        for (const std::vector<double>& row : rows) {
            unscorable_[r].of += row[r] != kNotApplicable;
            unscorable_[r].count += std::isnan(row[r]);
        }
        unscorable_[r].reason = std::exchange(impl_->first_unscorable[r], {}).reason;
    }
    impl_->inputs.clear();
    impl_->rows.clear();
    impl_->taken = impl_->finished = 0;
    return rows;
}

}  // namespace gradus
