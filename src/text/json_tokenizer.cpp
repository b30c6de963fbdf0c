// SPDX-License-Identifier: Apache-2.0
// The tokenizer of a tokenizer.json: added tokens, normaliser, pre-tokeniser and merges, in the
// order in which Hugging Face's tokenizers go through them.
#include <algorithm>
#include <unordered_map>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/text/script.hpp"
#include "gradus/text/tokenizer.hpp"
#include "tokenizer_file.hpp"

namespace gradus {
namespace {

std::vector<AddedToken> chosen(const std::vector<AddedToken>& tokens, bool normalized) {
    std::vector<AddedToken> out;
    for (const AddedToken& token : tokens)
        if (token.normalized == normalized) out.push_back(token);
    return out;
}

/// A finder of the tokens that are looked for before the normaliser, or after it.
AddedTokenFinder make_finder(const TokenizerFile& file, bool normalized) {
    const std::vector<AddedToken> tokens = chosen(file.added, normalized);
    std::vector<std::string> patterns;
    for (const AddedToken& token : tokens) {
        patterns.push_back(normalized ? file.normalizer.apply(token.content) : token.content);
        require<DataError>(!patterns.back().empty(),
                           "{}: nothing is left of the added token \"{}\" normalised", file.name,
                           token.content);
    }
    return {tokens, patterns};
}

class JsonTokenizer final : public Tokenizer {
  public:
    JsonTokenizer(TokenizerFile file, const TokenizerOptions& options)
        : file_(std::move(file)),
          raw_(make_finder(file_, false)),
          normalized_(make_finder(file_, true)) {
        for (const AddedToken& token : file_.added) {
            added_.emplace(token.content, token.id);
            has_normalized_ = has_normalized_ || token.normalized;
        }
        index_texts();
        for (const std::string& name : options.eos_names) add_eos(named(name, "end"));
        for (const TokenId id : options.eos) add_eos(checked(id, "end"));
        if (eos_.empty() && file_.appended >= 0) add_eos(checked(file_.appended, "end"));
        bos_ = options.bos                ? *options.bos
               : options.bos_name.empty() ? file_.prepended
                                          : named(options.bos_name, "begin");
        if (bos_ != -1) checked(bos_, "begin");
    }

    std::int32_t vocab_size() const override {
        return static_cast<std::int32_t>(texts_.size() - 1);
    }

    std::vector<TokenId> encode(std::string_view text, bool parse_special) const override {
        require<DataError>(is_valid_utf8(text),
                           "a text to encode is not valid UTF-8: {} bytes that begin with \"{}\"",
                           text.size(), to_valid_utf8(text.substr(0, 32)));
        std::vector<TokenId> tokens;
        tokens.reserve(text.size() / 4);
        for (const auto& part : raw_.split(text, parse_special)) {
            if (part.id >= 0)
                tokens.push_back(part.id);
            else
                encode_part(part.text, part.text.data() == text.data(), parse_special, tokens);
        }
        return tokens;
    }

    std::string decode(std::span<const TokenId> tokens) const override {
        std::string text;
        for (const TokenId token : tokens) text += token_bytes(token);
        if (file_.decoder.strips_blank() && text.starts_with(' ')) text.erase(0, 1);
        return text;
    }

    std::string_view token_bytes(TokenId token) const override {
        require<DataError>(token >= 0,
                           "token id {} is negative: was this file written with another tokenizer?",
                           token);
        if (token >= vocab_size()) return {};
        const auto i = static_cast<std::size_t>(token);
        return std::string_view(bytes_).substr(texts_[i], texts_[i + 1] - texts_[i]);
    }

    TokenId special(std::string_view name) const override {
        const auto it = added_.find(std::string(name));
        return it == added_.end() ? -1 : it->second;
    }
    const std::vector<TokenId>& eos_ids() const override { return eos_; }
    TokenId bos() const override { return bos_; }
    std::string identity() const override { return "bpe-" + file_.hash; }

  private:
    /// Text between the added tokens that are looked for first.
    void encode_part(std::string_view part, bool first, bool parse_special,
                     std::vector<TokenId>& tokens) const {
        std::string normalized;
        if (!file_.normalizer.empty())
            part = normalized = file_.normalizer.apply(std::string(part));
        const PreTokenizer::Sink sink = [&](std::string_view word) {
            file_.bpe.encode(word, tokens);
        };
        if (!has_normalized_) return file_.pre_tokenizer.split(part, first, sink);
        for (const auto& piece : normalized_.split(part, parse_special)) {
            if (piece.id >= 0)
                tokens.push_back(piece.id);
            else
                file_.pre_tokenizer.split(piece.text, first && piece.text.data() == part.data(),
                                          sink);
        }
    }

    /// Texts of all ids, one after the other in bytes_; ids that stand for nothing have none.
    void index_texts() {
        const bool byte_level = file_.decoder.byte_level();
        std::vector<std::pair<TokenId, std::string>> texts;
        for (const Bpe::Entry& entry : file_.vocabulary) {
            if (!byte_level)
                texts.emplace_back(entry.id, file_.decoder.text_of(entry.piece));
            else if (auto bytes = bytes_of_alphabet(entry.piece))
                texts.emplace_back(entry.id, std::move(*bytes));
            else
                texts.emplace_back(entry.id, entry.piece);
        }
        file_.vocabulary = {};
        for (const AddedToken& token : file_.added)
            texts.emplace_back(token.id,
                               byte_level ? token.content : file_.decoder.text_of(token.content));
        std::stable_sort(texts.begin(), texts.end(),
                         [](const auto& a, const auto& b) { return a.first < b.first; });
        for (std::size_t i = 0; i < texts.size(); ++i) {
            // An added token that is in the vocabulary too goes by its own name.
            if (i + 1 < texts.size() && texts[i + 1].first == texts[i].first) continue;
            texts_.resize(static_cast<std::size_t>(texts[i].first) + 1, bytes_.size());
            bytes_ += texts[i].second;
        }
        texts_.push_back(bytes_.size());
    }

    TokenId named(const std::string& name, const char* what) const {
        TokenId id = special(name);
        if (id < 0) id = file_.bpe.find(name);
        require<DataError>(id >= 0, "{}: there is no token \"{}\" to {} a text with", file_.name,
                           name, what);
        return id;
    }
    TokenId checked(TokenId id, const char* what) const {
        require<DataError>(id >= 0 && id < vocab_size(),
                           "{}: there is no token {} to {} a text with; ids go to {}", file_.name,
                           id, what, vocab_size() - 1);
        return id;
    }
    void add_eos(TokenId id) {
        if (!is_eos(id)) eos_.push_back(id);
    }

    TokenizerFile file_;
    AddedTokenFinder raw_, normalized_;
    std::unordered_map<std::string, TokenId> added_;
    bool has_normalized_ = false;
    std::string bytes_;
    std::vector<std::size_t> texts_;  // where each id's text begins, and the end
    std::vector<TokenId> eos_;
    TokenId bos_ = -1;
};

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer(std::string_view json, const std::string& name,
                                           const TokenizerOptions& options) {
    return std::make_unique<JsonTokenizer>(read_tokenizer_file(json, name), options);
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path,
                                          const TokenizerOptions& options) {
    return parse_tokenizer(read_file(path), path, options);
}

}  // namespace gradus
