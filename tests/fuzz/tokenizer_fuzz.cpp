// SPDX-License-Identifier: Apache-2.0
// tokenizer.json: whole files, single parts of a good file, expressions, and texts for a good file.
// The first byte says which; a byte 0xFF divides what goes into the file from the text to encode.
#include <cstdlib>
#include <string>

#include "gradus/base/error.hpp"
#include "gradus/text/script.hpp"
#include "gradus/text/tokenizer.hpp"

namespace {

using gradus::TokenId;

constexpr std::size_t kLongestText = 2048;

/// Parts of a small byte-level file, and of one in SentencePiece's form.
struct Parts {
    std::string added =
        R"([{"id":300,"content":"<a>","special":true,"normalized":false,"lstrip":true},
                            {"id":301,"content":"b c","special":false,"normalized":true,"rstrip":true,"single_word":true}])";
    std::string normalizer = R"({"type":"NFC"})";
    std::string pre_tokenizer = R"({"type":"Sequence","pretokenizers":[
        {"type":"Split","pattern":{"Regex":"\\p{N}{1,3}| ?\\p{L}+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},
        {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]})";
    std::string post_processor =
        R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<a>","type_id":0}},
        {"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<a>":{"id":"<a>","ids":[300],"tokens":["<a>"]}}})";
    std::string decoder = R"({"type":"ByteLevel"})";
    std::string model;

    std::string json() const {
        return R"({"version":"1.0","added_tokens":)" + added + R"(,"normalizer":)" + normalizer +
               R"(,"pre_tokenizer":)" + pre_tokenizer + R"(,"post_processor":)" + post_processor +
               R"(,"decoder":)" + decoder + R"(,"model":)" + model + "}";
    }
};

/// JSON of a vocabulary and its merges; all bytes in GPT-2's alphabet, or as `<0xNN>`.
std::string model_json(bool byte_level) {
    std::string vocab, merges;
    int id = 0;
    const auto add = [&](const std::string& piece) {
        vocab += (vocab.empty() ? "\"" : ",\"") + piece + "\":" + std::to_string(id++);
    };
    const auto utf8 = [](int c) {
        if (c < 0x80) return std::string(1, static_cast<char>(c));
        return std::string{static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    };
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
        const bool itself =
            (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        const char* digits = "0123456789ABCDEF";
        std::string piece = byte_level
                                ? utf8(itself ? byte : next++)
                                : std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">";
        if (piece == "\"" || piece == "\\") piece = "\\" + piece;
        add(piece);
    }
    const std::string mark = byte_level ? "\u0120" : "\u2581";
    if (!byte_level)
        for (const std::string piece : {mark, std::string("a"), std::string("b"), std::string("c")})
            add(piece);
    const std::string pairs[][2] = {{"a", "b"},   {mark, "a"},       {"ab", "c"},
                                    {mark, mark}, {mark + "a", "b"}, {"a", "a"}};
    for (const auto& pair : pairs) {
        add(pair[0] + pair[1]);
        merges += (merges.empty() ? "\"" : ",\"") + pair[0] + " " + pair[1] + "\"";
    }
    return std::string(R"({"type":"BPE","byte_fallback":)") + (byte_level ? "false" : "true") +
           R"(,"vocab":{)" + vocab + R"(},"merges":[)" + merges + "]}";
}

Parts byte_level_parts() {
    Parts parts;
    static const std::string model = model_json(true);
    parts.model = model;
    return parts;
}

Parts sentencepiece_parts() {
    Parts parts;
    static const std::string model = model_json(false);
    parts.model = model;
    parts.normalizer = R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},
                           {"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]})";
    parts.pre_tokenizer = "null";
    parts.decoder =
        R"({"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},"content":" "},
                        {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]})";
    return parts;
}

void expect(bool condition) {
    if (!condition) std::abort();
}

/// What holds for every tokenizer that was accepted.
void use(const gradus::Tokenizer& tokenizer, std::string_view text) {
    tokenizer.identity();
    for (const bool special : {false, true}) {
        try {
            const std::vector<TokenId> ids = tokenizer.encode(text, special);
            for (const TokenId id : ids) expect(id >= 0 && id < tokenizer.vocab_size());
            const std::string whole = tokenizer.decode(ids);
            gradus::StreamDecoder stream(tokenizer);
            std::string streamed;
            for (const TokenId id : ids) streamed += stream.push(id);
            expect(streamed + stream.flush() == whole);
        } catch (const gradus::DataError&) {
        }
    }
}

/// A text of a good file comes back, whatever it is: nothing in it is normalised or added.
void there_and_back(bool byte_level, std::string_view text) {
    static const auto make = [](bool bytes) {
        Parts parts = bytes ? byte_level_parts() : sentencepiece_parts();
        parts.added = "[]";
        if (bytes) parts.normalizer = "null";
        parts.post_processor = "null";
        return gradus::parse_tokenizer(parts.json(), "there and back");
    };
    static const auto bytes = make(true), characters = make(false);
    const gradus::Tokenizer& tokenizer = byte_level ? *bytes : *characters;
    if (!gradus::is_valid_utf8(text)) {
        try {
            tokenizer.encode(text, false);
        } catch (const gradus::DataError&) {
            return;
        }
        std::abort();
    }
    // A mark of the text itself comes back as a blank.
    if (!byte_level && text.find("\u2581") != text.npos) return;
    expect(tokenizer.decode(tokenizer.encode(text, false)) == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view all(reinterpret_cast<const char*>(data) + 1, size - 1);
    const std::size_t divider = all.find('\xFF');
    const std::string part(all.substr(0, divider));
    const std::string_view text =
        divider == all.npos ? all.substr(0, kLongestText) : all.substr(divider + 1, kLongestText);
    const int kind = data[0] % 9;
    if (kind >= 7) {
        there_and_back(kind == 7, all.substr(0, kLongestText));
        return 0;
    }
    Parts parts = data[0] / 9 % 2 == 0 ? byte_level_parts() : sentencepiece_parts();
    std::string* const slots[] = {&parts.added,          &parts.normalizer, &parts.pre_tokenizer,
                                  &parts.post_processor, &parts.decoder,    &parts.model};
    if (kind < 6) *slots[kind] = part;
    try {
        use(*gradus::parse_tokenizer(kind == 6 ? part : parts.json(), "fuzzed"), text);
    } catch (const gradus::DataError&) {
    }
    return 0;
}
