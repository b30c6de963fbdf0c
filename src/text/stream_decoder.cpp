// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/tokenizer.hpp"

#include <utility>

namespace gradus {
namespace {

/// Bytes at the end of `text` that begin a character which may still be completed: a lead byte with
/// fewer continuation bytes than it asks for. Anything else, ill-formed or not, is final.
std::size_t incomplete_tail(std::string_view text) {
    for (std::size_t n = 1; n <= 3 && n <= text.size(); ++n) {
        const auto byte = static_cast<unsigned char>(text[text.size() - n]);
        if (byte >= 0xC2 && byte <= 0xF4) {
            const std::size_t length = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
            return n < length ? n : 0;
        }
        if ((byte & 0xC0) != 0x80) return 0;
    }
    return 0;
}

}  // namespace

std::string StreamDecoder::push(TokenId token) {
    // A decoder may drop a blank at the start of a text, so the first piece goes through decode().
    if (begun_) {
        held_ += tokenizer_.token_bytes(token);
    } else {
        held_ += tokenizer_.decode({&token, 1});
        begun_ = !tokenizer_.token_bytes(token).empty();
    }
    const std::size_t tail = incomplete_tail(held_);
    std::string text = held_.substr(0, held_.size() - tail);
    held_.erase(0, text.size());
    return text;
}

std::string StreamDecoder::flush() {
    begun_ = false;
    return std::exchange(held_, {});
}

}  // namespace gradus
