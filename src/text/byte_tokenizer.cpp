// SPDX-License-Identifier: Apache-2.0
// Bytes plus special tokens: the demo's tokenizer. Every text has exactly one encoding and every
// byte string comes back as it was.
#include <array>

#include "gradus/base/error.hpp"
#include "gradus/text/tokenizer.hpp"

namespace gradus {
namespace {

constexpr TokenId kFirstSpecial = 256;
constexpr std::array<std::string_view, 8> kSpecialNames = {
    "<bos>", "<eos>", "<user>", "<assistant>", "<think>", "</think>", "<answer>", "</answer>"};

constexpr auto kBytes = [] {
    std::array<char, kFirstSpecial> bytes{};
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i);
    return bytes;
}();

class ByteTokenizer final : public Tokenizer {
  public:
    std::int32_t vocab_size() const override {
        return kFirstSpecial + static_cast<std::int32_t>(kSpecialNames.size());
    }

    std::vector<TokenId> encode(std::string_view text, bool parse_special) const override {
        std::vector<TokenId> tokens;
        tokens.reserve(text.size());
        while (!text.empty()) {
            const int found = parse_special && text.front() == '<' ? special_at(text) : -1;
            if (found >= 0) {
                tokens.push_back(kFirstSpecial + found);
                text.remove_prefix(kSpecialNames[static_cast<std::size_t>(found)].size());
            } else {
                tokens.push_back(static_cast<unsigned char>(text.front()));
                text.remove_prefix(1);
            }
        }
        return tokens;
    }

    std::string decode(std::span<const TokenId> tokens) const override {
        std::string text;
        text.reserve(tokens.size());
        for (const TokenId token : tokens) text += token_bytes(token);
        return text;
    }

    std::string_view token_bytes(TokenId token) const override {
        require<DataError>(token >= 0 && token < vocab_size(),
                           "token id {} is outside the byte tokenizer's range 0..{}: was this "
                           "file written with another tokenizer?",
                           token, vocab_size() - 1);
        const auto i = static_cast<std::size_t>(token);
        if (token >= kFirstSpecial) return kSpecialNames[i - kFirstSpecial];
        return std::string_view(kBytes.data() + i, 1);
    }

    TokenId special(std::string_view name) const override {
        for (std::size_t i = 0; i < kSpecialNames.size(); ++i) {
            if (kSpecialNames[i] == name) return kFirstSpecial + static_cast<TokenId>(i);
        }
        return -1;
    }

    const std::vector<TokenId>& eos_ids() const override { return eos_; }
    TokenId bos() const override { return kFirstSpecial; }
    std::string identity() const override { return "bytes-v1"; }

  private:
    /// Index of the special token that `text` begins with, -1 if none. No name is a prefix of
    /// another, so the first match is the only one.
    static int special_at(std::string_view text) {
        for (std::size_t i = 0; i < kSpecialNames.size(); ++i) {
            if (text.starts_with(kSpecialNames[i])) return static_cast<int>(i);
        }
        return -1;
    }

    std::vector<TokenId> eos_ = {kFirstSpecial + 1};
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
    return std::make_unique<ByteTokenizer>();
}

}  // namespace gradus
