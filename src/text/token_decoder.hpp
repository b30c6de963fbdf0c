// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gradus {

/// Byte that a character of GPT-2's alphabet stands for (openai/gpt-2, encoder.py,
/// bytes_to_unicode), -1 if none.
int byte_of_alphabet(char32_t c);
/// The text whose bytes `piece` spells in that alphabet; nothing where another character is in it.
std::optional<std::string> bytes_of_alphabet(std::string_view piece);
/// And back.
std::string alphabet_of_bytes(std::string_view bytes);

/// The `decoder` of a tokenizer.json: ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback,
/// Fuse and Strip in this order. Metaspace's removes one blank at the start of a text, where
/// Hugging Face's removes all in the first token: so the text comes back as it was.
class TokenDecoder {
  public:
    /// Throws DataError naming what is not supported. `where` stands for the file in messages.
    TokenDecoder(const nlohmann::json& json, const std::string& where);
    bool byte_level() const { return byte_level_; }
    /// Whether one blank at the start of a text is dropped.
    bool strips_blank() const { return strips_blank_; }
    /// Text of a token of a vocabulary that is not byte-level.
    std::string text_of(std::string_view piece) const;

  private:
    /// Adds a step of a Sequence; returns its place in the order.
    int add(const nlohmann::json& json, const std::string& where);

    bool byte_level_ = false, strips_blank_ = false, byte_fallback_ = false;
    std::vector<std::pair<std::string, std::string>> replace_;
};

}  // namespace gradus
