// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace gradus {

/// NaN stands for unscorable in every column of rewards.
inline constexpr double kUnscorable = std::numeric_limits<double>::quiet_NaN();
/// And this for a reward that is not for prompts of this kind, or not yet: it adds nothing.
inline constexpr double kNotApplicable = -std::numeric_limits<double>::infinity();

struct RewardInput {
    std::string prompt;      ///< user text
    std::string response;    ///< text with tags, end token dropped
    std::string reference;   ///< reference answer, may be empty
    std::int32_t tokens = 0; ///< response length in tokens, end token included
    bool truncated = false;  ///< no end token within the limit
    std::string kind;        ///< of the prompt
};

/// The reward of the part of a response that ends at byte `end`.
struct StepScore {
    std::size_t end = 0;
    double reward = 0;
};

/// A score and, where it is kUnscorable, why: "there is no reference answer".
struct Judgement {
    double score = kUnscorable;
    std::string reason;
};

/// A reward: a pure function of its input that returns a number or kUnscorable, never throws on
/// what a model wrote, and answers in bounded time.
class Reward {
  public:
    virtual ~Reward() = default;
    virtual double score(const RewardInput& input) const = 0;
    virtual Judgement judge(const RewardInput& input) const { return {score(input), ""}; }
    /// Whether it also scores single steps of a response, and these in order (process supervision).
    virtual bool scores_steps() const { return false; }
    virtual std::vector<StepScore> steps(const RewardInput&) const { return {}; }
};

/// Text of the response after the reasoning: after the last `</think>`, else all of it.
std::string final_part(const std::string& response);
/// Text between `<think>` and `</think>` ("" if there is none; up to the end if never closed).
std::string reasoning_part(const std::string& response);
/// The final answer as text, of the final part: the last complete `<answer>..</answer>`; else the last `\boxed{..}`, with
/// those that are joined to it ("\boxed{1} and \boxed{2}" is "1, 2"), or the formula behind them that is called the final
/// answer ("The final answer is $7$."); else what follows the last `####`; else, of what follows the last "answer is" or
/// "Answer:" or of all: a text that is a formula from end to end, or the last formula between $ or \( \[, or the last
/// number, whichever comes later, with the words beside it that make another number of it ("half of 5", "3 million"; "minus 5" is -5). "" if there is none.
std::string extract_answer(const std::string& response);
/// The reference of a data row: what follows `####` where present (GSM8K), else its boxes, else the text itself.
std::string extract_reference(const std::string& reference);

/// Content of the last `\boxed{..}` whose braces close; "" if there is none.
std::string boxed_answer(const std::string& text);

/// 1 if the answer (extract_answer) says what the reference says (extract_reference), else 0; unscorable where there is
/// no reference. Numbers are compared exactly, also among words ("18 apples"; thousands separators, leading +, trailing
/// zeros, "$" and "%" signs disregarded; a decimal comma of the answer is the point of the reference) where no word makes
/// another number of it and the one in front is known not to; formulas, lists, intervals, equations ... by same_answer (math_answer.hpp).
std::unique_ptr<Reward> make_accuracy_reward();
/// 1 if the response is exactly `<think>..</think><answer>..</answer>` (white space between and
/// around allowed, each tag once, not truncated, both parts non-empty), else 0.
std::unique_ptr<Reward> make_format_reward();
/// What is taken for the reasoning where its form is judged: reasoning_part; without `<think>` all before the last
/// `</think>`, without that the whole response.
std::string chain_of_thought(const std::string& response);
/// Num(words of the target language) / Num(words) over the chain of thought (DeepSeek-R1, eq. 7), formulas, code and
/// addresses left out (text/language.hpp says what is a word, and of which language); 1 where there are no words.
/// `language`: one of kLanguages, or "prompt": that of most words of the prompt, which without words leaves the choice
/// to the response. Throws DeckError.
inline constexpr const char* kLanguageOfPrompt = "prompt";
std::unique_ptr<Reward> make_language_reward(const std::string& language);
/// A quarter for each of <think>, </think>, <answer> and </answer> that is there exactly once.
std::unique_ptr<Reward> make_tags_reward();
/// Share of repeated n-grams of words (between white space, ASCII letters in lower case) as a penalty in [-1, 0]:
/// (distinct n-grams) / (n-grams) - 1; 0 where there are fewer than n words.
std::unique_ptr<Reward> make_repetition_reward(int n = 3);

/// The accuracy reward by length (Yeo et al. 2025, arXiv 2502.03373): a right answer has `right_high` at no length at all
/// and falls along half a cosine to `right_low` at `longest` tokens and beyond, a wrong one rises from `wrong_low` to
/// `wrong_high`; unscorable as accuracy.
struct CosineLengths {
    double right_low = 0.5, right_high = 1, wrong_low = -1, wrong_high = -0.5;
    std::int64_t longest = 1000;
};
std::unique_ptr<Reward> make_cosine_reward(const CosineLengths& lengths);

/// Steps are the equations of the reasoning part that compute something from numbers, "3+8=11": 1 where it
/// holds (exactly), else 0. The score is the share of them that hold, 0 where there are none.
std::unique_ptr<Reward> make_steps_reward();

/// The verdict in a judge's reply: 1, 0, or NaN where it has none. The last of the two words in its final part counts, whole
/// words as they are written; one within the other (CORRECT in INCORRECT or in NOT CORRECT) is none.
double verdict_in(const std::string& reply, const std::string& yes, const std::string& no);

/// DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13) of a response of `tokens` tokens: 0 up to
/// longest - buffer, falling linearly to -1 at `longest`, -1 beyond; 0 throughout where buffer = 0.
double overlong_punishment(std::int64_t tokens, std::int64_t longest, std::int64_t buffer);

/// A reward with its name. `weight` is applied by the caller (it may be a schedule).
struct NamedReward {
    std::string name;
    std::unique_ptr<Reward> reward;       ///< null: a model scores it, after the pool
    std::vector<std::string> applies_to;  ///< kinds of prompts; empty: all
    bool applies(const std::string& kind) const;
};

/// What a reward could not judge: how many, of how many it applies to, and why not the first of them.
struct Unscorable {
    std::int64_t count = 0, of = 0;
    std::string reason;
};

/// Scores batches on host threads while the caller goes on. Batches are collected in the order of
/// submission, columns in the order of `rewards`.
class RewardPool {
  public:
    /// threads = 0 scores in `collect` on the caller's thread.
    RewardPool(std::vector<NamedReward> rewards, int threads);
    ~RewardPool();
    const std::vector<NamedReward>& rewards() const { return rewards_; }

    /// Queues inputs; returns the number of the first.
    std::int64_t submit(std::vector<RewardInput> inputs);
    /// Waits for all that was submitted: [input][reward], in order of submission. kNotApplicable where a reward is
    /// not for the prompt's kind, or is a model's. `waiting` is called meanwhile, a few times a second or between inputs.
    std::vector<std::vector<double>> collect(const std::function<void()>& waiting = {});
    /// Of what was collected last, what each reward could not judge.
    const std::vector<Unscorable>& unscorable() const { return unscorable_; }

  private:
    struct Impl;
    std::vector<NamedReward> rewards_;
    std::vector<Unscorable> unscorable_;
    std::unique_ptr<Impl> impl_;
};

}  // namespace gradus
