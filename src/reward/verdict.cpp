// SPDX-License-Identifier: Apache-2.0
#include <cctype>

#include "gradus/reward/reward.hpp"

namespace gradus {
namespace {

bool is_word_character(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// The last place of `word` in `text` as a whole word, npos where there is none.
std::size_t last_word(const std::string& text, const std::string& word) {
    for (std::size_t at = text.rfind(word); at != std::string::npos; at = at == 0 ? std::string::npos : text.rfind(word, at - 1)) {
        const std::size_t end = at + word.size();
        if ((at == 0 || !is_word_character(text[at - 1])) && (end == text.size() || !is_word_character(text[end]))) return at;
    }
    return std::string::npos;
}

}  // namespace

double verdict_in(const std::string& reply, const std::string& yes, const std::string& no) {
    const std::string text = final_part(reply);
    const std::size_t good = last_word(text, yes), bad = last_word(text, no);
    if (good == bad) return kUnscorable;  // neither
    if (good == std::string::npos || bad == std::string::npos) return bad == std::string::npos ? 1 : 0;
    return good > bad ? 1 : 0;
}

}  // namespace gradus
