// SPDX-License-Identifier: Apache-2.0
// The parts of a response, the final answer in it, and the accuracy reward.
#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>

#include "characters.hpp"
#include "expression.hpp"
#include "gradus/reward/math_answer.hpp"
#include "gradus/reward/reward.hpp"
#include "latex.hpp"
#include "measures.hpp"
#include "number.hpp"
#include "words.hpp"

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

/// The last number of a text in words: `plain` is the tail of the text in plain notation, the number stands in it at
/// [begin, end), and its last digit in the text itself at `digit`. None where it is part of a word.
struct NumberInWords {
    std::string plain;
    std::size_t begin = 0, end = 0, digit = 0;
};
std::optional<NumberInWords> last_number_in(std::string_view whole) {
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
    NumberInWords number{.plain = plain_notation(plain)};
    const std::string_view found = last_number(number.plain);
    if (found.empty()) return {};
    number.begin = static_cast<std::size_t>(found.data() - number.plain.data());
    number.end = number.begin + found.size();
    if (number.begin > 0 && is_letter(number.plain[number.begin - 1])) return {};
    // Beside the last digit of the text as it was.
    const std::size_t digit = whole.find_last_of("0123456789");
    number.digit = digit == whole.npos ? 0 : digit;
    return number;
}

/// The words beside [begin, end) of a text that make something else of what stands there, and where the phrase with them
/// begins and ends: "half of 5", "3 million", "5 and a half", "3 to 5". In front of it "of", "the", "a" lead on to the next
/// word, behind it "and", "a", "below". `minus`: the word in front is the sign of a number.
struct Beside {
    std::size_t begin, end;
    bool changed = false, minus = false;
};
Beside words_beside(std::string_view text, std::size_t begin, std::size_t end, bool strict) {
    static constexpr std::array<std::string_view, 8> kLeading = {"of", "the", "a", "an", "about", "approximately", "only", "exactly"};
    static constexpr std::array<std::string_view, 20> kConnecting = {
        "and", "or", "nor", "to", "but", "not", "no", "never", "times", "over", "plus", "minus", "between", "than", "without",
        "except", "below", "above", "under", "a"};
    const auto among = [](const auto& list, std::string_view word) { return std::find(list.begin(), list.end(), word) != list.end(); };
    constexpr std::string_view kSigns = " $*_(\"'-";
    Beside beside{begin, end};
    for (std::size_t at = begin; true;) {
        const std::size_t last = at == 0 ? text.npos : text.find_last_not_of(kSigns, at - 1);
        if (last == text.npos || !is_letter(text[last])) break;
        at = last;
        while (at > 0 && is_letter(text[at - 1])) --at;
        if (at > 0 && text[at - 1] == '\\') break;
        const std::vector<std::string> word = words_in(text.substr(at, last + 1 - at));
        const std::size_t further = at == 0 ? text.npos : text.find_last_not_of(kSigns, at - 1);
        const bool behind_number = further != text.npos && is_digit(text[further]);
        if ((word[0] == "minus" || word[0] == "negative") && !behind_number && beside.begin == begin) {
            beside.minus = true;
        } else if (word[0] == "and" || word[0] == "or" || word[0] == "to" || word[0] == "but") {
            beside.changed = beside.changed || behind_number;
            if (behind_number) beside.begin = text.find_last_not_of("0123456789.,/$", further) + 1;
            break;
        } else if (changes_number(word[0]) || word[0] == "than" || word[0] == "most" || word[0] == "least") {
            beside.changed = true;
        } else if (!among(kLeading, word[0])) {
            break;
        }
        beside.begin = at;
    }
    for (std::size_t at = end; true;) {
        const std::size_t first = text.find_first_not_of(" $*_)\"'-", at);
        if (first == text.npos || !is_letter(text[first])) break;
        at = first;
        while (at < text.size() && is_letter(text[at])) ++at;
        const std::string_view word = text.substr(first, at - first);
        if (among(kConnecting, words_in(word)[0])) continue;
        // With the next word: "square feet", "at most".
        const std::size_t next = std::min(text.find_first_not_of(' ', at), text.size());
        std::size_t next_end = next;
        while (next_end < text.size() && is_letter(text[next_end])) ++next_end;
        if (!has_changing_word(text.substr(first, next_end - first)) || (!changes_number(word) && words_in(word)[0] != "at")) break;
        beside.changed = true;
        beside.end = next_end;
        break;
    }
    if (strict && !beside.changed && !beside.minus && !may_precede_number(text.substr(0, begin))) {
        const std::size_t last = text.substr(0, begin).find_last_not_of(" $");
        beside.changed = last != text.npos && is_letter(text[last]);
        if (beside.changed) beside.begin = 0;
    }
    return beside;
}

/// What stands at [begin, end), with the words that make another number of it.
std::string with_words_beside(std::string_view text, std::size_t begin, std::size_t end, std::size_t outer_begin, std::size_t outer_end,
                              bool strict) {
    const std::string_view inside = trimmed(text.substr(begin, end - begin));
    const Beside beside = words_beside(text, outer_begin, outer_end, strict);
    if (beside.changed) return std::string(trimmed(text.substr(beside.begin, beside.end - beside.begin)));
    if (!beside.minus) return std::string(inside);
    const bool one = inside.find_first_not_of("0123456789.,/") == inside.npos;
    std::string negative = one ? "-" : "-(";
    negative.append(inside).append(one ? "" : ")");
    return negative;
}

/// Whether a text has a command of LaTeX that is named by letters.
bool has_command(std::string_view text) {
    for (std::size_t at = 0; at + 1 < text.size(); ++at)
        if (text[at] == '\\' && is_letter(text[at + 1])) return true;
    return false;
}

/// The answer of a text that marks none: the formula that it is, the last formula set as such, or the last number,
/// whichever comes later, with the words beside it that change it. `strict`: of what "the answer is", also with words in
/// front that are not known to leave a number alone.
std::string marked_by_nothing(const std::string& part, bool strict) {
    const std::string_view whole = trimmed(part);
    if (whole.size() < 300 && is_formula(whole)) return std::string(whole);
    std::string_view formula;
    const auto number = last_number_in(part);
    if (last_formula(part, formula)) {
        const auto begin = static_cast<std::size_t>(formula.data() - part.data()), end = begin + formula.size();
        std::size_t from = part.find_last_not_of('$', begin == 0 ? 0 : begin - 1) + 1, to = end;
        if (begin >= 2 && part[begin - 2] == '\\') from = begin - 2;
        while (to < part.size() && part[to] == '$') ++to;
        if (to == end) to = std::min(end + 2, part.size());
        if (!number || number->digit < end) return with_words_beside(part, begin, end, from, to, strict);
    } else if (strict && has_command(part)) {
        return std::string(whole);  // \text{half of }5
    }
    return number ? with_words_beside(number->plain, number->begin, number->end, number->begin, number->end, strict) : "";
}

/// The answer in what follows a phrase. Behind "is" stands the value, behind "Answer:" perhaps a sentence.
std::string answer_said(const std::string& text, std::string_view said) {
    const std::string_view before = trimmed(std::string_view(text).substr(0, static_cast<std::size_t>(said.data() - text.data())));
    return marked_by_nothing(std::string(said), before.ends_with("is"));
}

/// What follows the last "####" on its line; false if there is none.
bool after_hashes(std::string_view text, std::string_view& content) {
    const std::size_t at = text.rfind(kHashes);
    if (at == text.npos) return false;
    content = trimmed(text.substr(at + kHashes.size()));
    content = content.substr(0, content.find('\n'));
    return true;
}

/// Whether a text is a number among words, none of which makes another number of it, and no formula. A word in front of
/// the number is one that is known to leave it alone, or a label: "Profit a day: 5".
bool in_plain_words(std::string_view text) {
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
        word.clear();
        if (std::isdigit(static_cast<unsigned char>(c)) == 0 && std::string_view(" .,:$%+-/'\n\t").find(c) == std::string_view::npos)
            return false;
    }
    if (has_changing_word(text)) return false;
    const std::string_view before = text.substr(0, text.find_first_of("0123456789"));
    const std::size_t last = before.find_last_not_of(" $+-.");
    return last == before.npos || before[last] == ':' || before[last] == '=' || may_precede_number(before);
}

/// Whether a formula is more than a letter, which may be a word: "The final answer is a ...".
bool says_something(std::string_view formula) {
    return formula.find_first_of("0123456789\\") != formula.npos || std::count_if(formula.begin(), formula.end(), is_letter) > 1;
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
        if (reference != answer && !of_one_measure(reference, answer)) return 0.0;
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
        return after_phrase(found, said) ? answer_said(part, said) : std::string(trimmed(found));
    }
    if (last_boxes(part, boxes)) {
        // Boxes of the working, and a final answer behind them.
        const std::string_view behind = std::string_view(part).substr(part.rfind(kBoxed));
        return after_phrase(behind, found, kFinalPhrases) && says_something(found) && is_formula(found) ? std::string(found) : boxes;
    }
    if (after_hashes(part, found)) return std::string(found);
    return after_phrase(part, found) ? answer_said(part, found) : marked_by_nothing(part, false);
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
