// SPDX-License-Identifier: Apache-2.0
// The parts of a response, the final answer in it, and the accuracy reward.
#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <span>
#include <string_view>
#include <tuple>

#include "expression.hpp"
#include "gradus/reward/math_answer.hpp"
#include "gradus/reward/reward.hpp"
#include "latex.hpp"
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

/// Whether what stands between two boxes only joins them: "and", commas, typesetting, a few words.
bool joins(std::string_view gap) {
    return gap.size() <= 48 && gap.find('\n') == gap.npos &&
           (gap.find("and") != gap.npos || gap.find(',') != gap.npos || gap.find(';') != gap.npos ||
            gap.find_first_not_of(" $") == gap.npos);
}

/// The boxes at the end of a text that belong together, with commas; false if there is none.
bool last_boxes(std::string_view text, std::string& content) {
    std::string_view box;
    if (!last_box(text, box)) return false;
    content = trimmed(box);
    std::string_view before = text.substr(0, text.rfind(kBoxed));
    for (int boxes = 1; boxes < 50; ++boxes) {
        std::string_view earlier;
        if (!last_box(before, earlier)) break;
        const auto end = static_cast<std::size_t>(earlier.data() + earlier.size() + 1 - text.data());
        if (!joins(before.substr(end))) break;
        content = std::string(trimmed(earlier)) + ", " + content;
        before = before.substr(0, before.rfind(kBoxed));
    }
    return true;
}

constexpr std::string_view kAnswerPhrases[] = {"answer is", "Answer is", "answer:", "Answer:", "ANSWER:"};
constexpr std::string_view kFinalPhrases[] = {"final answer is", "Final answer is", "Final Answer:", "Final answer:",
                                              "final answer:"};

/// What follows the last of these phrases on its line, up to the end of the sentence.
bool after_phrase(std::string_view text, std::string_view& content,
                  std::span<const std::string_view> phrases = kAnswerPhrases) {
    std::size_t best = text.npos, length = 0;
    for (const std::string_view phrase : phrases) {
        const std::size_t at = text.rfind(phrase);
        if (at != text.npos && (best == text.npos || at > best)) best = at, length = phrase.size();
    }
    if (best == text.npos) return false;
    content = text.substr(best + length);
    content = content.substr(content.find_first_not_of(" :") == content.npos ? 0 : content.find_first_not_of(" :"));
    content = content.substr(0, content.find('\n'));
    const std::size_t stop = content.find(". ");
    content = trimmed(content.substr(0, stop));
    while (content.ends_with('.')) content.remove_suffix(1);
    return !content.empty();
}

/// The last piece of a text that is set as mathematics; on one line where the signs are those of a line.
bool last_formula(std::string_view text, std::string_view& content) {
    std::size_t best = text.npos;
    const auto offer = [&](std::size_t begin, std::size_t end) {
        if (best == text.npos || begin > best) {
            best = begin;
            content = text.substr(begin, end - begin);
        }
    };
    for (const auto& [open, close, line] : {std::tuple{"\\(", "\\)", true}, {"\\[", "\\]", false}}) {
        const std::size_t end = text.rfind(close);
        const std::size_t begin = end == text.npos || end == 0 ? text.npos : text.rfind(open, end - 1);
        if (begin == text.npos) continue;
        if (line && text.substr(begin, end - begin).find('\n') != text.npos) continue;
        offer(begin + 2, end);
    }
    // Dollars pair from the beginning; \$ is money.
    std::size_t opened = text.npos;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] == '\\') {
            ++at;
        } else if (text[at] == '$') {
            const bool twice = at + 1 < text.size() && text[at + 1] == '$';
            if (opened == text.npos) {
                opened = at + (twice ? 2 : 1);
            } else {
                if (twice || text.substr(opened, at - opened).find('\n') == text.npos) offer(opened, at);
                opened = text.npos;
            }
            at += twice ? 1 : 0;
        }
    }
    return best != text.npos && !trimmed(content).empty();
}

/// Whether a text is a formula from end to end, with no word in it.
bool is_formula(std::string_view text) {
    int letters = 0;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] == '\\') {
            while (at + 1 < text.size() && std::isalpha(static_cast<unsigned char>(text[at + 1])) != 0) ++at;
            letters = 0;
            continue;
        }
        letters = std::isalpha(static_cast<unsigned char>(text[at])) != 0 ? letters + 1 : 0;
        if (letters > 1) return false;
    }
    return parse_expression(text).has_value();
}

/// Where the last number of a text in words begins, npos where there is none or it is part of a word.
std::size_t last_number_in(std::string_view whole, std::string& number) {
    // Composing Unicode takes long where many marks follow one another; the last number stands in the tail.
    std::string_view text = whole.substr(whole.size() - std::min<std::size_t>(whole.size(), 2000));
    while (!text.empty() && (static_cast<unsigned char>(text[0]) & 0xC0u) == 0x80u) text.remove_prefix(1);
    std::string plain;
    for (std::size_t at = 0; at < text.size(); ++at) {
        const std::string_view rest = text.substr(at);
        if (rest.starts_with("²") || rest.starts_with("³"))
            ++at;  // of two bytes
        else
            plain += text[at];
    }
    plain = plain_notation(plain);
    const std::string_view found = last_number(plain);
    if (found.empty()) return text.npos;
    const auto at = static_cast<std::size_t>(found.data() - plain.data());
    if (at > 0 && std::isalpha(static_cast<unsigned char>(plain[at - 1])) != 0) return text.npos;
    number = found;
    // Beside the last digit of the text as it was.
    const std::size_t digit = whole.find_last_of("0123456789");
    return digit == whole.npos ? 0 : digit;
}

/// The answer of a text that marks none: the formula that it is, the last formula set as such, or the last number,
/// whichever comes later.
std::string marked_by_nothing(const std::string& part) {
    const std::string_view whole = trimmed(part);
    if (whole.size() < 300 && is_formula(whole)) return std::string(whole);
    std::string_view formula;
    std::string number;
    const std::size_t digit = last_number_in(part, number);
    if (last_formula(part, formula)) {
        const auto end = static_cast<std::size_t>(formula.data() + formula.size() - part.data());
        if (digit == part.npos || digit < end) return std::string(trimmed(formula));
    }
    return number;
}

/// What follows the last "####" on its line; false if there is none.
bool after_hashes(std::string_view text, std::string_view& content) {
    const std::size_t at = text.rfind(kHashes);
    if (at == text.npos) return false;
    content = trimmed(text.substr(at + kHashes.size()));
    content = content.substr(0, content.find('\n'));
    return true;
}

/// Whether a text is a number among words, none of which makes another number of it, and no formula.
bool in_plain_words(std::string_view text) {
    static constexpr std::array<std::string_view, 14> kFormulaWords = {"square", "root", "sqrt",  "log", "ln",      "sin", "cos",
                                                                       "tan",    "pi",   "power", "to",  "between", "am",  "pm"};
    text = trimmed(text);
    if (text.size() > 1000) return false;
    std::string word;
    for (std::size_t at = 0; at <= text.size(); ++at) {
        const char c = at < text.size() ? text[at] : ' ';
        if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
            // 2x, x2
            if (word.empty() && at > 0 && std::isdigit(static_cast<unsigned char>(text[at - 1])) != 0 &&
                !((c == 'e' || c == 'E') && at + 1 < text.size() && text[at + 1] != ' '))
                return false;
            word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
            continue;
        }
        if (std::isdigit(static_cast<unsigned char>(c)) != 0 && !word.empty() && word != "e") return false;
        // $5$$6$, 5%6
        if ((c == '$' || c == '%') && at > 0 && std::isdigit(static_cast<unsigned char>(text[at - 1])) != 0 &&
            text.find_first_not_of("$% ", at) != text.npos &&
            std::isdigit(static_cast<unsigned char>(text[text.find_first_not_of("$% ", at)])) != 0)
            return false;
        if (word.size() == 1 && word != "a" && word != "e") return false;
        const bool of_formula = std::find(kFormulaWords.begin(), kFormulaWords.end(), word) != kFormulaWords.end();
        if (!word.empty() && (of_formula || changes_number(word))) return false;
        word.clear();
        if (std::isdigit(static_cast<unsigned char>(c)) == 0 && std::string_view(" .,$%+-/'\n\t").find(c) == std::string_view::npos)
            return false;
    }
    return true;
}

class AccuracyReward final : public Reward {
  public:
    Judgement judge(const RewardInput& input) const override {
        const double right = score(input);
        return {right, std::isnan(right) ? "there is no reference answer" : ""};
    }
    double score(const RewardInput& input) const override {
        const std::string reference = extract_reference(input.reference);
        if (reference.empty()) return kUnscorable;
        const std::string answer = extract_answer(input.response);
        if (in_plain_words(reference) && in_plain_words(answer)) {
            const auto wanted = stated_number(reference), stated = stated_number(answer);
            if (wanted && stated) return equal(*wanted, *stated) ? 1.0 : 0.0;
        }
        if (same_answer(reference, answer)) return 1.0;
        // The other way round a list would be taken for a number: references write 8,12 for 8 and 12.
        const std::string decimal = with_decimal_point(answer);
        return !decimal.empty() && decimal == plain_notation(reference) ? 1.0 : 0.0;
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
    std::string boxes;
    if (last_answer_element(part, found)) {
        // A box within the element is the answer, or what its words say.
        if (last_boxes(found, boxes)) return boxes;
        std::string_view said;
        return after_phrase(found, said) ? marked_by_nothing(std::string(said)) : std::string(trimmed(found));
    }
    if (last_boxes(part, boxes)) {
        // Boxes of the working, and a final answer behind them.
        const std::string_view behind = std::string_view(part).substr(part.rfind(kBoxed));
        return after_phrase(behind, found, kFinalPhrases) && is_formula(found) ? std::string(found) : boxes;
    }
    if (after_hashes(part, found)) return std::string(found);
    return marked_by_nothing(after_phrase(part, found) ? std::string(found) : part);
}

std::string extract_reference(const std::string& reference) {
    std::string_view found;
    std::string boxes;
    if (after_hashes(reference, found)) return std::string(trimmed(found));
    return last_boxes(reference, boxes) ? boxes : std::string(trimmed(reference));
}

std::string boxed_answer(const std::string& text) {
    std::string_view found;
    return std::string(last_box(text, found) ? trimmed(found) : found);
}

std::unique_ptr<Reward> make_accuracy_reward() {
    return std::make_unique<AccuracyReward>();
}

}  // namespace gradus
