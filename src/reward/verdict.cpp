// SPDX-License-Identifier: Apache-2.0
#include <cctype>

#include "gradus/reward/reward.hpp"

namespace gradus {
namespace {

bool is_word_character(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// Whether `word` stands at `at` of `text` as a whole word.
bool stands_at(const std::string& text, std::size_t at, const std::string& word) {
    const std::size_t end = at + word.size();
    return text.compare(at, word.size(), word) == 0 && (at == 0 || !is_word_character(text[at - 1])) &&
           (end == text.size() || !is_word_character(text[end]));
}

/// Whether what stands at `at` is the `word` within an `other`: CORRECT in NOT CORRECT.
bool is_part(const std::string& text, std::size_t at, const std::string& word, const std::string& other) {
    for (std::size_t offset = 0; (offset = other.find(word, offset)) != std::string::npos; ++offset)
        if (other.size() > word.size() && offset <= at && stands_at(text, at - offset, other)) return true;
    return false;
}

/// The last place of `word` in `text` as a whole word that is no part of `other`, npos where there is none.
std::size_t last_word(const std::string& text, const std::string& word, const std::string& other) {
    for (std::size_t at = text.rfind(word); at != std::string::npos; at = at == 0 ? std::string::npos : text.rfind(word, at - 1))
        if (stands_at(text, at, word) && !is_part(text, at, word, other)) return at;
    return std::string::npos;
}

}  // namespace

double verdict_in(const std::string& reply, const std::string& yes, const std::string& no) {
    const std::string text = final_part(reply);
    const std::size_t good = last_word(text, yes, no), bad = last_word(text, no, yes);
    if (good == bad) return kUnscorable;  // neither
    if (good == std::string::npos || bad == std::string::npos) return bad == std::string::npos ? 1 : 0;
    return good > bad ? 1 : 0;
}

}  // namespace gradus
