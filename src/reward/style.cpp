// SPDX-License-Identifier: Apache-2.0
// Rewards on the form of a response: format, language, repetition, length.
#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/reward/reward.hpp"
#include "gradus/text/script.hpp"

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
    explicit LanguageReward(std::string script) : script_(std::move(script)) {}

    double score(const RewardInput& input) const override {
        const bool tagged = input.response.find("<think>") != std::string::npos;
        const auto found = words(tagged ? reasoning_part(input.response) : input.response);
        if (found.empty()) return 1.0;
        const auto target = std::count_if(found.begin(), found.end(),
                                          [&](const Word& w) { return w.script == script_; });
        return static_cast<double>(target) / static_cast<double>(found.size());
    }

  private:
    std::string script_;
};

class RepetitionReward final : public Reward {
  public:
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
        if (split.size() < kGram) return 0.0;
        std::unordered_set<std::string> distinct;
        for (std::size_t i = 0; i + kGram <= split.size(); ++i) {
            std::string gram;
            for (std::size_t j = 0; j < kGram; ++j) gram.append(split[i + j]).append(1, ' ');
            distinct.insert(std::move(gram));
        }
        const double total = static_cast<double>(split.size() - kGram + 1);
        return static_cast<double>(distinct.size()) / total - 1.0;
    }

  private:
    static constexpr std::size_t kGram = 3;

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
    require<DeckError>(language == "en" || language == "zh",
                       "unknown language '{}' of a language reward; known: en, zh", language);
    return std::make_unique<LanguageReward>(language == "en" ? "Latin" : "Han");
}

std::unique_ptr<Reward> make_repetition_reward() {
    return std::make_unique<RepetitionReward>();
}

double overlong_punishment(std::int64_t tokens, std::int64_t longest, std::int64_t buffer) {
    if (buffer == 0) return 0;
    return std::clamp(static_cast<double>(longest - buffer - tokens) / static_cast<double>(buffer), -1.0, 0.0);
}

}  // namespace gradus
