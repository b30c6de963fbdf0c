// SPDX-License-Identifier: Apache-2.0
// Small tokenizer.json files, built by hand.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gradus/text/tokenizer.hpp"

namespace gradus::test {

using Value = nlohmann::json;

// The splits of the models, verbatim from their files.
inline const std::string kLlama3Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline const std::vector<std::string> kDeepSeekSplits = {
    R"(\p{N}{1,3})", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

inline Value split(const std::string& regex) {
    return {{"type", "Split"},
            {"pattern", {{"Regex", regex}}},
            {"behavior", "Isolated"},
            {"invert", false}};
}
inline Value byte_level(bool use_regex) {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", use_regex}};
}
inline Value added(TokenId id, const std::string& content, bool special) {
    return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
            {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// A byte-level file. Ids: 0 to 255 the bytes in the order of GPT-2's alphabet, that is `!` 0, `"`
/// 1
/// ... `a` 64, `b` 65 ... `~` 93, U+00A1 94 ..., and from 188 on the others in order: byte 0 188,
/// line feed 198, blank 220. From 256 on what the merges make, in their order.
class ByteFile {
  public:
    ByteFile() {
        for (int c = 33; c < 127; ++c) add(c);
        for (int c = 161; c < 173; ++c) add(c);
        for (int c = 174; c < 256; ++c) add(c);
        for (int c = 256; c < 324; ++c) add(c);
        json = {
            {"version", "1.0"},
            {"truncation", nullptr},
            {"padding", nullptr},
            {"added_tokens", Value::array()},
            {"normalizer", nullptr},
            {"pre_tokenizer", byte_level(true)},
            {"post_processor", nullptr},
            {"decoder", byte_level(true)},
            {"model", {{"type", "BPE"}, {"vocab", Value::object()}, {"merges", Value::array()}}}};
    }
    /// Adds a merge of two pieces, in GPT-2's alphabet, and the token that it makes.
    ByteFile& merge(const std::string& left, const std::string& right, bool as_pair = false) {
        merges_.push_back(as_pair ? Value{left, right} : Value(left + " " + right));
        return token(left + right);
    }
    ByteFile& token(const std::string& piece) {
        if (!vocab_.contains(piece)) vocab_[piece] = vocab_.size();
        return *this;
    }
    std::string text() const {
        Value whole = json;
        whole["model"]["vocab"] = vocab_;
        whole["model"]["merges"] = merges_;
        return whole.dump();
    }
    std::unique_ptr<Tokenizer> load(const TokenizerOptions& options = {}) const {
        return parse_tokenizer(text(), "small.json", options);
    }

    Value json;

  private:
    void add(int c) {
        if (c < 0x80)
            token(std::string(1, static_cast<char>(c)));
        else
            token({static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))});
    }
    Value vocab_ = Value::object(), merges_ = Value::array();
};

/// Llama 2's form: `<unk>` 0, `<s>` 1, `</s>` 2, bytes 3 to 258, then `pieces` from 259 on.
inline Value sentencepiece_file(const std::vector<std::string>& pieces, const Value& merges) {
    Value vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
    for (int byte = 0; byte < 256; ++byte) {
        const char* digits = "0123456789ABCDEF";
        vocab[std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">"] = 3 + byte;
    }
    for (const std::string& piece : pieces) vocab[piece] = vocab.size();
    return {
        {"version", "1.0"},
        {"added_tokens", {added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)}},
        {"normalizer",
         {{"type", "Sequence"},
          {"normalizers",
           {{{"type", "Prepend"}, {"prepend", "\u2581"}},
            {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}}},
        {"pre_tokenizer", nullptr},
        {"post_processor",
         {{"type", "TemplateProcessing"},
          {"single",
           {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
            {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
          {"pair", Value::array()},
          {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
        {"decoder",
         {{"type", "Sequence"},
          {"decoders",
           {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
            {{"type", "ByteFallback"}},
            {{"type", "Fuse"}},
            {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
        {"model",
         {{"type", "BPE"},
          {"unk_token", "<unk>"},
          {"fuse_unk", true},
          {"byte_fallback", true},
          {"vocab", vocab},
          {"merges", merges}}}};
}

}  // namespace gradus::test
