// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gradus {

using TokenId = std::int32_t;

/// Text <-> token ids. Implementations: bytes plus special tokens (make_byte_tokenizer), Hugging
/// Face's tokenizer.json (load_tokenizer). Immutable and safe to share between threads.
class Tokenizer {
  public:
    virtual ~Tokenizer() = default;

    /// One more than the largest id. A model's table may be padded beyond it.
    virtual std::int32_t vocab_size() const = 0;
    /// Ids of `text`; no begin or end token is added. Special tokens (`<|im_end|>`, say) are
    /// recognised where `parse_special`, otherwise their characters are ordinary text: user data
    /// must not inject control tokens. Added tokens that a tokenizer.json does not call special
    /// (Qwen3's `<think>`) are recognised always. Throws DataError where the text cannot be
    /// encoded.
    virtual std::vector<TokenId> encode(std::string_view text, bool parse_special) const = 0;
    /// Text of the tokens, special ones by their names. Incomplete UTF-8 is passed through as it
    /// is. An id beyond the vocabulary (a padded row of the model's table) stands for nothing,
    /// where the implementation has no fixed range; a negative one is a DataError.
    virtual std::string decode(std::span<const TokenId> tokens) const = 0;
    /// What one token adds to a text that has begun already; valid as long as the tokenizer. Errors
    /// as in `decode`.
    virtual std::string_view token_bytes(TokenId token) const = 0;
    /// Id of an added token (special or not) by its name, -1 if there is none.
    virtual TokenId special(std::string_view name) const = 0;
    /// Tokens at which generation stops; eos() is the first. Empty where none are known.
    virtual const std::vector<TokenId>& eos_ids() const = 0;
    /// Begins a document, -1 if the family has none.
    virtual TokenId bos() const = 0;
    /// Stable text that names the tokenizer in checkpoints: "bytes-v1", or "bpe-" and a hash of all
    /// that decides over ids.
    virtual std::string identity() const = 0;

    /// Ends a rendered response, -1 where none is known.
    TokenId eos() const { return eos_ids().empty() ? -1 : eos_ids().front(); }
    bool is_eos(TokenId token) const {
        for (const TokenId id : eos_ids())
            if (id == token) return true;
        return false;
    }
};

/// 256 bytes, then `<bos>` 256, `<eos>` 257, `<user>` 258, `<assistant>` 259, `<think>` 260,
/// `</think>` 261, `<answer>` 262, `</answer>` 263: vocab_size() is 264, a multiple of 8.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

/// What a tokenizer.json does not hold; other files of a model's folder do.
struct TokenizerOptions {
    /// Tokens that end a response, by name (tokenizer_config.json) and by id
    /// (generation_config.json). eos_ids() is both in this order, each once: the first one ends a
    /// rendered response.
    std::vector<std::string> eos_names;
    std::vector<TokenId> eos;
    /// Begins a document: an id, or -1 for none. Unset: `bos_name` where that is not empty, else
    /// the token that the file's post-processor prepends.
    std::optional<TokenId> bos;
    std::string bos_name;
};

/// Reads a Hugging Face tokenizer.json: model BPE, byte-level (GPT-2, Llama 3, Qwen, DeepSeek) or
/// SentencePiece's form with byte fallback (Llama 2). Throws DataError naming the file and what in
/// it is wrong, or not supported: nothing that decides over ids is passed over.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path,
                                          const TokenizerOptions& options = {});
/// The same from the file's text; `name` stands for the file in messages.
std::unique_ptr<Tokenizer> parse_tokenizer(std::string_view json, const std::string& name,
                                           const TokenizerOptions& options = {});

/// Text of tokens that come one by one. What `push` and `flush` return, put together, is
/// `decode` of all tokens, and every piece but flush's ends at a whole character.
class StreamDecoder {
  public:
    explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
    /// The text that is complete with this token; incomplete UTF-8 is held back (at most 3 bytes).
    std::string push(TokenId token);
    /// What is held back; the decoder then begins anew.
    std::string flush();

  private:
    const Tokenizer& tokenizer_;
    std::string held_;
    bool begun_ = false;
};

}  // namespace gradus
