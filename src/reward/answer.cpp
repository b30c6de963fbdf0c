// SPDX-License-Identifier: Apache-2.0
// The parts of a response, the final answer in it, and the accuracy reward.
#include <string_view>

#include "gradus/reward/reward.hpp"
#include "number.hpp"

namespace gradus {
namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kThinkEnd = "</think>";
constexpr std::string_view kAnswer = "<answer>";
constexpr std::string_view kAnswerEnd = "</answer>";
constexpr std::string_view kBoxed = "\\boxed{";
constexpr std::string_view kHashes = "####";
constexpr std::string_view kWhiteSpace = " \t\r\n\f\v";

std::string_view trimmed(std::string_view text) {
    const std::size_t first = text.find_first_not_of(kWhiteSpace);
    if (first == text.npos) return {};
    return text.substr(first, text.find_last_not_of(kWhiteSpace) - first + 1);
}

/// Content of the last complete answer element; false if there is none.
bool last_answer_element(std::string_view text, std::string_view& content) {
    const std::size_t end = text.rfind(kAnswerEnd);
    if (end == text.npos) return false;
    const std::size_t begin = text.substr(0, end).rfind(kAnswer);
    if (begin == text.npos) return false;
    content = text.substr(begin + kAnswer.size(), end - begin - kAnswer.size());
    return true;
}

/// Content of the last box whose braces close; false if there is none.
bool last_box(std::string_view text, std::string_view& content) {
    const std::size_t begin = text.rfind(kBoxed);
    if (begin == text.npos) return false;
    const std::size_t first = begin + kBoxed.size();
    int open = 1;
    for (std::size_t at = first; at < text.size(); ++at) {
        if (text[at] == '{') ++open;
        if (text[at] == '}' && --open == 0) {
            content = text.substr(first, at - first);
            return true;
        }
    }
    return false;
}

/// What follows the last "####" on its line; false if there is none.
bool after_hashes(std::string_view text, std::string_view& content) {
    const std::size_t at = text.rfind(kHashes);
    if (at == text.npos) return false;
    content = trimmed(text.substr(at + kHashes.size()));
    content = content.substr(0, content.find('\n'));
    return true;
}

class AccuracyReward final : public Reward {
  public:
    double score(const RewardInput& input) const override {
        const auto reference = stated_number(extract_reference(input.reference));
        if (!reference) return kUnscorable;
        const auto answer = stated_number(extract_answer(input.response));
        return answer && equal(*answer, *reference) ? 1.0 : 0.0;
    }
};

}  // namespace

std::string final_part(const std::string& response) {
    const std::size_t end = response.rfind(kThinkEnd);
    return end == response.npos ? response : response.substr(end + kThinkEnd.size());
}

std::string reasoning_part(const std::string& response) {
    const std::size_t begin = response.find(kThink);
    if (begin == response.npos) return "";
    const std::size_t first = begin + kThink.size();
    const std::size_t end = response.rfind(kThinkEnd);
    if (end == response.npos || end < first) return response.substr(first);
    return response.substr(first, end - first);
}

// Without `</think>` the final part is the whole response, so one look at the final part serves
// responses with and without tags.
std::string extract_answer(const std::string& response) {
    const std::string part = final_part(response);
    std::string_view found;
    if (last_answer_element(part, found) || last_box(part, found) || after_hashes(part, found)) {
        return std::string(trimmed(found));
    }
    return std::string(last_number(plain_notation(part)));
}

std::string extract_reference(const std::string& reference) {
    std::string_view found;
    return std::string(after_hashes(reference, found) ? trimmed(found) : trimmed(reference));
}

std::string boxed_answer(const std::string& text) {
    std::string_view found;
    return std::string(last_box(text, found) ? trimmed(found) : found);
}

std::unique_ptr<Reward> make_accuracy_reward() {
    return std::make_unique<AccuracyReward>();
}

}  // namespace gradus
