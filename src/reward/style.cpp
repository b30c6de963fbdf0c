// SPDX-License-Identifier: Apache-2.0
// Rewards on the form of a response: format, language, repetition, length.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/reward/reward.hpp"
#include "gradus/text/language.hpp"

namespace gradus {
namespace {

constexpr std::string_view kWhiteSpace = " \t\r\n\f\v";

bool is_blank(std::string_view text) {
    return text.find_first_not_of(kWhiteSpace) == std::string_view::npos;
}

class FormatReward final : public Reward {
  public:
    double score(const RewardInput& input) const override {
        return !input.truncated && well_formed(input.response) ? 1.0 : 0.0;
    }

  private:
    static bool well_formed(std::string_view text) {
        static constexpr std::array<std::string_view, 4> kTags = {"<think>", "</think>", "<answer>",
                                                                  "</answer>"};
        // The text before each tag, in this order; white space alone outside the elements.
        static constexpr std::array<bool, 4> kBlankBefore = {true, false, true, false};
        std::size_t begin = 0;
        for (std::size_t i = 0; i < kTags.size(); ++i) {
            const std::size_t at = text.find(kTags[i]);
            if (at == text.npos || at < begin || text.rfind(kTags[i]) != at) return false;
            if (is_blank(text.substr(begin, at - begin)) != kBlankBefore[i]) return false;
            begin = at + kTags[i].size();
        }
        return is_blank(text.substr(begin));
    }
};

class LanguageReward final : public Reward {
  public:
    explicit LanguageReward(std::string language) : language_(std::move(language)) {}

    double score(const RewardInput& input) const override {
        const LanguageWords found = count_languages(chain_of_thought(input.response));
        if (language_ != kLanguageOfPrompt) return found.share(language_);
        std::string_view wanted = count_languages(input.prompt).main();
        if (wanted.empty()) wanted = found.main();
        return wanted.empty() ? 1.0 : found.share(wanted);
    }

  private:
    std::string language_;
};

class TagsReward final : public Reward {
  public:
    double score(const RewardInput& input) const override {
        double sum = 0;
        for (const std::string_view tag : {"<think>", "</think>", "<answer>", "</answer>"}) {
            const std::size_t at = input.response.find(tag);
            if (at != std::string::npos && input.response.rfind(tag) == at) sum += 0.25;
        }
        return sum;
    }
};

class CosineReward final : public Reward {
  public:
    explicit CosineReward(const CosineLengths& lengths) : l_(lengths), accuracy_(make_accuracy_reward()) {}

    double score(const RewardInput& input) const override { return judge(input).score; }
    Judgement judge(const RewardInput& input) const override {
        const Judgement accuracy = accuracy_->judge(input);
        return std::isnan(accuracy.score) ? accuracy : Judgement{by_length(accuracy.score, input), ""};
    }

  private:
    double by_length(double right, const RewardInput& input) const {
        const double progress = std::min(1.0, static_cast<double>(input.tokens) / static_cast<double>(l_.longest));
        const double falling = 0.5 * (1 + std::cos(std::numbers::pi * progress));
        return right == 1 ? l_.right_low + (l_.right_high - l_.right_low) * falling
                          : l_.wrong_high + (l_.wrong_low - l_.wrong_high) * falling;
    }

    CosineLengths l_;
    std::unique_ptr<Reward> accuracy_;
};

class RepetitionReward final : public Reward {
  public:
    explicit RepetitionReward(int n) : gram_(static_cast<std::size_t>(n)) {}

    // The penalty of open-r1's get_repetition_penalty_reward (after arXiv 2502.03373, appendix C.2)
    // with its words in lower case: (distinct n-grams) / (n-grams) - 1.
    double score(const RewardInput& input) const override {
        const std::string text = lower_ascii(input.response);
        std::vector<std::string_view> split;
        const std::string_view view = text;
        for (std::size_t at = view.find_first_not_of(kWhiteSpace); at != view.npos;) {
            const std::size_t end = std::min(view.find_first_of(kWhiteSpace, at), view.size());
            split.push_back(view.substr(at, end - at));
            at = view.find_first_not_of(kWhiteSpace, end);
        }
        if (split.size() < gram_) return 0.0;
        std::unordered_set<std::string> distinct;
        for (std::size_t i = 0; i + gram_ <= split.size(); ++i) {
            std::string gram;
            for (std::size_t j = 0; j < gram_; ++j) gram.append(split[i + j]).append(1, ' ');
            distinct.insert(std::move(gram));
        }
        const double total = static_cast<double>(split.size() - gram_ + 1);
        return static_cast<double>(distinct.size()) / total - 1.0;
    }

  private:
    std::size_t gram_;

    static std::string lower_ascii(std::string text) {
        for (char& c : text) {
            if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
        }
        return text;
    }
};

}  // namespace

std::unique_ptr<Reward> make_format_reward() {
    return std::make_unique<FormatReward>();
}

std::unique_ptr<Reward> make_language_reward(const std::string& language) {
    const bool known = std::find(kLanguages.begin(), kLanguages.end(), language) != kLanguages.end();
    require<DeckError>(known || language == kLanguageOfPrompt, "unknown language '{}' of a language reward; known: {}, {}",
                       language, kLanguageOfPrompt, fmt::join(kLanguages, ", "));
    return std::make_unique<LanguageReward>(language);
}

std::string chain_of_thought(const std::string& response) {
    if (response.find("<think>") != std::string::npos) return reasoning_part(response);
    return response.substr(0, response.rfind("</think>"));
}

std::unique_ptr<Reward> make_tags_reward() { return std::make_unique<TagsReward>(); }

std::unique_ptr<Reward> make_cosine_reward(const CosineLengths& lengths) {
    require<DeckError>(lengths.longest > 0, "a cosine reward over {} tokens; it needs at least 1", lengths.longest);
    return std::make_unique<CosineReward>(lengths);
}

std::unique_ptr<Reward> make_repetition_reward(int n) {
    require<DeckError>(n > 0, "n-grams of {} words; at least 1", n);
    return std::make_unique<RepetitionReward>(n);
}

double overlong_punishment(std::int64_t tokens, std::int64_t longest, std::int64_t buffer) {
    if (buffer == 0) return 0;
    return std::clamp(static_cast<double>(longest - buffer - tokens) / static_cast<double>(buffer), -1.0, 0.0);
}

}  // namespace gradus
