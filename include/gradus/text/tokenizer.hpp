// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gradus {

using TokenId = std::int32_t;

/// Text <-> token ids. Implementations: bytes plus special tokens (make_byte_tokenizer); later,
/// tokenizer.json. Immutable and safe to share between threads.
class Tokenizer {
  public:
    virtual ~Tokenizer() = default;

    virtual std::int32_t vocab_size() const = 0;
    /// Special tokens (`<think>`, say) are recognised in the text where `parse_special`, otherwise
    /// their characters are ordinary text: user data must not inject control tokens.
    virtual std::vector<TokenId> encode(std::string_view text, bool parse_special) const = 0;
    /// Bytes of the tokens, special ones by their names. Incomplete UTF-8 is passed through as it is.
    virtual std::string decode(std::span<const TokenId> tokens) const = 0;
    /// Id of a special token by name, -1 if there is none.
    virtual TokenId special(std::string_view name) const = 0;
    /// Ends a response.
    virtual TokenId eos() const = 0;
    /// Begins a document, -1 if the family has none.
    virtual TokenId bos() const = 0;
    /// Stable text that names the tokenizer in checkpoints ("bytes-v1", or a hash of the file).
    virtual std::string identity() const = 0;
};

/// 256 bytes, then `<bos>` 256, `<eos>` 257, `<user>` 258, `<assistant>` 259, `<think>` 260,
/// `</think>` 261, `<answer>` 262, `</answer>` 263: vocab_size() is 264, a multiple of 8.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

}  // namespace gradus
