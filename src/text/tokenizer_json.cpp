// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/tokenizer_json.hpp"

#include "token_decoder.hpp"

namespace gradus {
namespace {

using Value = nlohmann::json;

/// Puts `bos` before a text, or before both of a pair.
Value bos_template(const std::string& bos, std::size_t id) {
    const auto part = [](const char* kind, const std::string& what, int type) {
        return Value{{kind, {{"id", what}, {"type_id", type}}}};
    };
    return {
        {"type", "TemplateProcessing"},
        {"single", Value::array({part("SpecialToken", bos, 0), part("Sequence", "A", 0)})},
        {"pair", Value::array({part("SpecialToken", bos, 0), part("Sequence", "A", 0),
                               part("SpecialToken", bos, 1), part("Sequence", "B", 1)})},
        {"special_tokens",
         {{bos, {{"id", bos}, {"ids", Value::array({id})}, {"tokens", Value::array({bos})}}}}}};
}

}  // namespace

Value byte_level_step(bool use_regex) {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", use_regex}};
}

std::string write_tokenizer_json(const ByteLevelVocabulary& v) {
    Value vocab = Value::object(), merges = Value::array(), added = Value::array(), post_processor;
    const auto text = [&](TokenId id) {
        return alphabet_of_bytes(v.pieces[static_cast<std::size_t>(id)]);
    };
    for (std::size_t i = 0; i < v.pieces.size(); ++i) vocab[alphabet_of_bytes(v.pieces[i])] = i;
    for (const auto& [left, right] : v.merges) merges.push_back(text(left) + " " + text(right));
    for (std::size_t i = 0; i < v.special.size(); ++i) {
        const std::size_t id = v.pieces.size() + i;
        added.push_back({{"id", id},
                         {"content", v.special[i]},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", true}});
        if (v.special[i] == v.bos) post_processor = bos_template(v.bos, id);
    }
    const Value file = {{"version", "1.0"},
                        {"truncation", nullptr},
                        {"padding", nullptr},
                        {"added_tokens", added},
                        {"normalizer", nullptr},
                        {"pre_tokenizer", v.pre_tokenizer},
                        {"post_processor", post_processor},
                        {"decoder", byte_level_step(true)},
                        {"model",
                         {{"type", "BPE"},
                          {"dropout", nullptr},
                          {"unk_token", nullptr},
                          {"continuing_subword_prefix", nullptr},
                          {"end_of_word_suffix", nullptr},
                          {"fuse_unk", false},
                          {"byte_fallback", false},
                          {"ignore_merges", false},
                          {"vocab", vocab},
                          {"merges", merges}}}};
    return file.dump(1) + "\n";
}

}  // namespace gradus
