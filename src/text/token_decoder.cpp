// SPDX-License-Identifier: Apache-2.0
#include "token_decoder.hpp"

#include <array>

#include "json_fields.hpp"
#include "utf8.hpp"

namespace gradus {
namespace {

constexpr bool stands_for_itself(unsigned byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/// Code point by byte: printable Latin-1 as it is, the others from U+0100 on in order.
constexpr std::array<char32_t, 256> kAlphabet = [] {
    std::array<char32_t, 256> alphabet{};
    char32_t next = 256;
    for (unsigned byte = 0; byte < 256; ++byte)
        alphabet[byte] = stands_for_itself(byte) ? byte : next++;
    return alphabet;
}();

constexpr std::array<int, 512> kBytes = [] {
    std::array<int, 512> bytes{};
    for (int& byte : bytes) byte = -1;
    for (unsigned byte = 0; byte < 256; ++byte) bytes[kAlphabet[byte]] = static_cast<int>(byte);
    return bytes;
}();

/// The byte of `<0xNN>`, -1 if the piece is none.
int fallback_byte(std::string_view piece) {
    if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
    int value = 0;
    for (const char c : piece.substr(3, 2)) {
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                                 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

}  // namespace

int byte_of_alphabet(char32_t c) {
    return c < kBytes.size() ? kBytes[c] : -1;
}

std::optional<std::string> bytes_of_alphabet(std::string_view piece) {
    std::string bytes;
    for (std::size_t at = 0; at < piece.size();) {
        const CodePoint c = code_point(piece.substr(at));
        const int byte = byte_of_alphabet(c.value);
        if (byte < 0) return std::nullopt;
        bytes += static_cast<char>(byte);
        at += c.bytes;
    }
    return bytes;
}

std::string alphabet_of_bytes(std::string_view bytes) {
    std::string text;
    for (const char byte : bytes) append_utf8(text, kAlphabet[static_cast<unsigned char>(byte)]);
    return text;
}

TokenDecoder::TokenDecoder(const nlohmann::json& json, const std::string& where) {
    require<DataError>(!json.is_null(),
                       "{}: there is none, and tokens joined by blanks are no text", where);
    JsonFields fields(json, where);
    const std::string type = fields.text("type");
    if (type == "ByteLevel") {
        byte_level_ = true;
        // The same settings as the pre-tokenizer's, without effect on decoding.
        for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"})
            fields.flag(key, true);
        fields.finish();
    } else if (type == "Metaspace") {
        replace_.emplace_back(fields.text("replacement"), " ");
        require<DataError>(!replace_[0].first.empty(), "{}: \"replacement\" is empty", where);
        const bool added = fields.flag("add_prefix_space", true);
        fields.flag("split", true);
        fields.find("str_rep");
        const auto* scheme = fields.find("prepend_scheme");
        strips_blank_ = scheme != nullptr ? *scheme != "never" : added;
        fields.finish();
    } else if (type == "Sequence") {
        int last = 0;
        std::size_t i = 0;
        for (const auto& step : fields.list("decoders")) {
            const int place = add(step, fmt::format("{}.decoders[{}]", where, i++));
            require<DataError>(place >= last,
                               "{}: decoders in another order than Replace, ByteFallback, Fuse, "
                               "Strip are not supported",
                               where);
            last = place;
        }
        fields.finish();
    } else {
        add(json, where);
    }
}

int TokenDecoder::add(const nlohmann::json& json, const std::string& where) {
    JsonFields fields(json, where);
    const std::string type = fields.text("type");
    int place = 0;
    if (type == "Replace") {
        JsonFields pattern(fields.need("pattern"), where + ".pattern");
        replace_.emplace_back(pattern.text("String"), fields.text("content"));
        pattern.finish();
        require<DataError>(!replace_.back().first.empty(), "{}: an empty pattern", where);
    } else if (type == "ByteFallback") {
        byte_fallback_ = true;
        place = 1;
    } else if (type == "Fuse") {
        place = 2;
    } else if (type == "Strip") {
        require<DataError>(fields.text("content") == " " && fields.count("start", 2) == 1 &&
                               fields.count("stop", 1) == 0,
                           "{}: Strip of anything but one blank at the start is not supported",
                           where);
        strips_blank_ = true;
        place = 3;
    } else {
        throw DataError(fmt::format(
            "{}: the decoder \"{}\" is not supported here; known: ByteLevel, Metaspace, "
            "and Sequence of Replace, ByteFallback, Fuse, Strip",
            where, type));
    }
    fields.finish();
    return place;
}

std::string TokenDecoder::text_of(std::string_view piece) const {
    std::string text(piece);
    for (const auto& [from, to] : replace_) {
        std::string out;
        std::size_t done = 0;
        for (std::size_t at; (at = text.find(from, done)) != std::string::npos;
             done = at + from.size())
            out.append(text, done, at - done) += to;
        text = out.append(text, done);
    }
    const int byte = byte_fallback_ ? fallback_byte(text) : -1;
    if (byte >= 0) return std::string(1, static_cast<char>(byte));
    return text;
}

}  // namespace gradus
