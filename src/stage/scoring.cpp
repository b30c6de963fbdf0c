// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/scoring.hpp"

#include <algorithm>
#include <numeric>

#include "gradus/base/bytes.hpp"
#include "gradus/base/error.hpp"
#include "gradus/reward/code.hpp"
#include "gradus/reward/puzzles.hpp"
#include "gradus/text/script.hpp"
#include "rl_batch.hpp"
#include "rl_options.hpp"

namespace gradus {
namespace {

/// The cosine's length where the deck leaves it out: that of the samples.
std::int64_t longest_response(const Deck& deck, const std::string& key) {
    if (const std::int64_t given = deck.integer(key); given > 0) return given;
    require<DeckError>(deck.stage() == "rl", "{}: kind = cosine needs {} in stage = {}",
                       deck.origin(key), key, deck.stage());
    return deck.integer("rollout.max_new_tokens");
}

/// Null for a model's score.
std::unique_ptr<Reward> make_reward(Run& run, const std::string& name,
                                    const std::vector<std::string>& references) {
    const Deck& deck = run.deck;
    const auto key = [&](const char* part) { return fmt::format("reward.{}.{}", name, part); };
    const std::string &kind = deck.text(key("kind")), &language = deck.text(key("language"));
    if (kind == "accuracy") return make_accuracy_reward();
    if (kind == "format") return make_format_reward();
    if (kind == "language") return make_language_reward(language);
    if (kind == "tags") return make_tags_reward();
    if (kind == "repetition")
        return make_repetition_reward(static_cast<int>(deck.integer(key("ngram"))));
    if (kind == "cosine")
        return make_cosine_reward({.right_low = deck.number(key("right_low")),
                                   .right_high = deck.number(key("right_high")),
                                   .wrong_low = deck.number(key("wrong_low")),
                                   .wrong_high = deck.number(key("wrong_high")),
                                   .longest = longest_response(deck, key("length"))});
    if (kind == "steps") return make_steps_reward();
    if (kind == "puzzle") return make_puzzle_reward();
    if (kind == "model") return nullptr;
    if (kind == "code") return make_deck_code_reward(run, name, references);
    throw DeckError(fmt::format("reward kind `{}` is unknown", kind));
}

/// Judges a response by what its row asks for.
class AnswerReward final : public Reward {
  public:
    explicit AnswerReward(std::unique_ptr<Reward> code) : code_(std::move(code)) {}
    double score(const RewardInput& input) const override { return judge(input).score; }
    Judgement judge(const RewardInput& input) const override {
        if (puzzle_of(input.reference)) return puzzle_->judge(input);
        return code_ && code_task(input.reference) ? code_->judge(input) : accuracy_->judge(input);
    }

  private:
    std::unique_ptr<Reward> code_, puzzle_ = make_puzzle_reward(),
                                   accuracy_ = make_accuracy_reward();
};

/// One list of fields for both directions.
template <class Archive, class Row>
void exchange(Archive& a, Row& row) {
    a.value(row.step);
    a.value(row.prompt);
    a.text(row.prompt_id);
    a.value(row.group);
    a.value(row.sample);
    a.array(row.prompt_tokens);
    a.array(row.tokens);
    a.array(row.log_probs);
    a.value(row.finish);
    a.array(row.rewards);
    a.value(row.reward);
    a.value(row.advantage);
    a.text(row.prompt_text);
    a.text(row.response_text);
    a.text(row.reference);
}

std::string packed(const std::vector<RolloutRow>& rows) {
    ByteWriter packer;
    for (const RolloutRow& row : rows) exchange(packer, row);
    return packer.take();
}

void unpack(const std::string& bytes, std::vector<RolloutRow>& rows) {
    ByteReader unpacker(bytes);
    while (!unpacker.empty()) exchange(unpacker, rows.emplace_back());
}

}  // namespace

StackNeeds stack_needs(const Deck& deck) {
    const std::string& stage = deck.stage();
    if (stage == "pretrain" || stage == "sft" || stage == "reward_model" || stage == "bench")
        return {.train = stage != "bench" || bench_wants(deck, "train") ||
                         bench_wants(deck, "checkpoint"),
                .generate = stage == "bench" && bench_wants(deck, "generate")};
    if (stage == "sample" || stage == "evaluate") return {.generate = true};
    if (stage != "rl") return {};
    const std::int64_t tokens =
        deck.integer("rl.prompts") * deck.integer("rl.group") * deck.integer("train.max_length");
    return {.train = true,
            .reference = wants_reference(deck),
            .generate = true,
            .critic = wants_critic(deck),
            .extra_checkpoint_bytes = tokens * PendingRollout::bytes_per_token()};
}

bool bench_wants(const Deck& deck, const std::string& what) {
    const std::vector<std::string> asked = deck.list("bench.what");
    return asked.empty() || std::find(asked.begin(), asked.end(), what) != asked.end();
}

std::vector<NamedReward> deck_rewards(Run& run, const std::vector<std::string>& references) {
    std::vector<NamedReward> rewards;
    const Deck& deck = run.deck;
    for (const std::string& name : deck.names("reward"))
        rewards.push_back({name, make_reward(run, name, references),
                           deck.stage() == "rl" ? deck.list("reward." + name + ".applies_to")
                                                : std::vector<std::string>{}});
    return rewards;
}

std::vector<NamedReward> standard_rewards(Run& run, const std::vector<PromptRow>& prompts) {
    std::vector<std::string> references, of_code;
    for (const PromptRow& prompt : prompts)
        if (code_task(prompt.reference)) references.push_back(prompt.reference);
    for (const std::string& name : run.deck.names("reward"))
        if (run.deck.text("reward." + name + ".kind") == "code") of_code.push_back(name);
    require<DeckError>(references.empty() || !of_code.empty(),
                       "rows ask for programs; say how they are run: reward.code.kind = code runs "
                       "them in full isolation "
                       "(gradus --help-deck reward.)");
    std::vector<NamedReward> rewards;
    rewards.push_back(
        {"accuracy",
         std::make_unique<AnswerReward>(
             references.empty() ? nullptr
                                : make_deck_code_reward(run, of_code.front(), references, true))});
    rewards.push_back({"format", make_format_reward()});
    rewards.push_back({"language", make_language_reward("en")});
    return rewards;
}

std::vector<RolloutRow> generate_and_score(Run& run, Stack& stack, RewardPool& pool,
                                           const GenerateAndScore& work) {
    const int data_size = run.grid.data_size(), data_rank = run.grid.data_rank();
    std::vector<Request> requests;
    std::vector<std::size_t> mine;
    for (std::size_t i = 0; i < work.prompts.size(); ++i) {
        if (static_cast<int>(i % static_cast<std::size_t>(data_size)) != data_rank) continue;
        mine.push_back(i);
        requests.push_back({.prompt = work.groups[i],
                            .tokens = work.rows[static_cast<std::size_t>(work.prompts[i])].tokens,
                            .samples = work.samples});
    }
    std::vector<RolloutRow> rows(mine.size() * static_cast<std::size_t>(work.samples));
    std::vector<std::size_t> submitted;
    std::int64_t padding = 0;
    const double began = now_seconds();
    auto finished = [&](const Generated& result, std::size_t index) {
        const std::size_t i = mine[index / static_cast<std::size_t>(work.samples)];
        const PromptRow& prompt = work.rows[static_cast<std::size_t>(work.prompts[i])];
        RolloutRow& row = rows[index];
        row.prompt = work.prompts[i];
        row.prompt_id = prompt.id;
        row.group = work.groups[i];
        row.sample = result.sample;
        row.prompt_tokens = prompt.tokens;
        row.tokens = result.tokens;
        row.log_probs = result.log_probs;
        padding += std::count_if(row.tokens.begin(), row.tokens.end(),
                                 [&](TokenId t) { return t >= run.tokenizer->vocab_size(); });
        row.finish = result.finish;
        row.prompt_text = prompt.text;
        row.response_text = run.chat.response_text(result.tokens);
        row.reference = prompt.reference;
        pool.submit({{.prompt = prompt.text,
                      .response = row.response_text,
                      .reference = prompt.reference,
                      .tokens = static_cast<std::int32_t>(row.tokens.size()),
                      .truncated = row.finish == FinishReason::length,
                      .kind = prompt.kind}});
        submitted.push_back(index);
        if (submitted.size() % 32 == 0) {
            const double part = work.share * static_cast<double>(submitted.size()) /
                                static_cast<double>(rows.size());
            run.log.progress(fmt::format(
                "sampled {:.1f} %, {} left", 100 * (work.done + part),
                format_duration((now_seconds() - began) * (1 - work.done - part) / part)));
        }
    };
    GenerationOptions options = work.options;
    options.on_pass = [&] { run.watchdog.alive(); };
    stack.engine->generate(*stack.policy, requests, options, finished);
    if (const std::int64_t all = run.grid.data().sum(stack.engine->preemptions()); all > 0)
        run.log.info(
            "{} sequences waited for room in the key/value cache and were computed again: "
            "rollout.cache_tokens "
            "is less than rollout.slots can use",
            all);
    if (const std::int64_t all = run.grid.data().sum(padding); all > 0)
        run.log.warn(
            "{} sampled tokens are padding of the model's vocabulary (the tokenizer has {} tokens) "
            "and stand for no text",
            all, run.tokenizer->vocab_size());
    Profile::Region region(run.profile, "reward.collect");
    const auto scores = pool.collect([&] { run.watchdog.alive(); });
    for (std::size_t s = 0; s < submitted.size(); ++s) rows[submitted[s]].rewards = scores[s];
    warn_unscorable(run, pool.rewards(), unscorable_of_all(run.grid, pool.unscorable()));
    return rows;
}

void score_rows(Run& run, RewardPool& pool, std::vector<RolloutRow>& rows) {
    const Profile::Region region(run.profile, "reward.collect");
    const auto ranks = static_cast<std::size_t>(run.grid.data_size());
    for (auto i = static_cast<std::size_t>(run.grid.data_rank()); i < rows.size(); i += ranks)
        pool.submit({{.prompt = rows[i].prompt_text,
                      .response = rows[i].response_text,
                      .reference = rows[i].reference,
                      .tokens = static_cast<std::int32_t>(rows[i].tokens.size()),
                      .truncated = rows[i].finish == FinishReason::length}});
    ByteWriter mine;
    for (const std::vector<double>& scores : pool.collect([&] { run.watchdog.alive(); }))
        mine.array(scores);
    const std::vector<std::string> all = run.grid.data().all_gather(mine.take());
    for (std::size_t rank = 0; rank < ranks; ++rank) {
        ByteReader of_rank(all[rank]);
        for (std::size_t i = rank; i < rows.size(); i += ranks) of_rank.array(rows[i].rewards);
    }
    warn_unscorable(run, pool.rewards(), unscorable_of_all(run.grid, pool.unscorable()));
}

std::vector<Unscorable> unscorable_of_all(const Grid& grid, const std::vector<Unscorable>& mine) {
    std::int64_t count = 0;
    for (const Unscorable& reward : mine) count += reward.count;
    if (grid.data().sum(count) == 0) return {};
    ByteWriter packer;
    for (const Unscorable& reward : mine) {
        packer.value(reward.count);
        packer.value(reward.of);
        packer.text(reward.reason);
    }
    std::vector<Unscorable> all(mine.size());
    for (const std::string& bytes : grid.data().all_gather(packer.take())) {
        ByteReader unpacker(bytes);
        for (Unscorable& reward : all) {
            Unscorable of_rank;
            unpacker.value(of_rank.count);
            unpacker.value(of_rank.of);
            unpacker.text(of_rank.reason);
            if (reward.count == 0) reward.reason = of_rank.reason;
            reward.count += of_rank.count;
            reward.of += of_rank.of;
        }
    }
    return all;
}

void warn_unscorable(Run& run, const std::vector<NamedReward>& rewards,
                     const std::vector<Unscorable>& unscorable) {
    constexpr std::size_t kLongestReason = 300;
    std::string line;
    for (std::size_t r = 0; r < unscorable.size(); ++r) {
        const Unscorable& of = unscorable[r];
        if (of.count == 0) continue;
        std::string reason = to_valid_utf8(std::string_view(of.reason).substr(0, kLongestReason));
        std::replace(reason.begin(), reason.end(), '\n', ' ');
        line += fmt::format("{}reward {} cannot judge {} of {} responses ({})",
                            line.empty() ? "" : "; ", rewards[r].name, of.count, of.of,
                            reason.empty() ? "it gives no reason" : "the first: " + reason);
    }
    if (!line.empty()) run.log.warn("{}", line);
}

void sort_by_address(std::vector<RolloutRow>& rows) {
    std::sort(rows.begin(), rows.end(), [](const RolloutRow& a, const RolloutRow& b) {
        return a.group != b.group ? a.group < b.group : a.sample < b.sample;
    });
}

std::vector<RolloutRow> gather_rows(const Grid& grid, const std::vector<RolloutRow>& mine) {
    std::vector<RolloutRow> all;
    for (const std::string& bytes : grid.data().all_gather(packed(mine))) unpack(bytes, all);
    sort_by_address(all);
    return all;
}

std::vector<RolloutRow> broadcast_rows(const Grid& grid, const std::vector<RolloutRow>& rows) {
    std::vector<RolloutRow> all;
    unpack(grid.world().broadcast(packed(rows)), all);
    return all;
}

}  // namespace gradus
