// SPDX-License-Identifier: Apache-2.0
#include "normalizer.hpp"

#include <algorithm>
#include <array>

#include "json_fields.hpp"
#include "utf8.hpp"

namespace gradus {
namespace {

/// Longest text that is normalised at once: utf8proc counts in 32 bits.
constexpr std::size_t kMaxText = std::size_t{1} << 28;

/// Longest text that a text of `bytes` may become. The largest factor in Unicode is 11 (U+FDFA in
/// NFKD); steps of Replace could multiply without end.
std::size_t longest_result(std::size_t bytes) {
    return std::min(64 * bytes + 65536, kMaxText);
}

void check_size(std::size_t bytes, std::size_t most) {
    require<DataError>(bytes <= most, "a text is too long to normalise: {} bytes, at most {}",
                       bytes, most);
}

/// A normalisation form of `text` (UAX 15). utf8proc_map would do, but it orders marks in quadratic
/// time, and a text may be nothing but marks.
std::string mapped(std::string_view text, int options) {
    check_size(text.size(), kMaxText);
    const auto option = static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE);
    std::vector<utf8proc_int32_t> points;
    std::array<utf8proc_int32_t, 32> parts;  // 18 are the most that Unicode has
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint c = code_point(text.substr(at));
        int bound_class = 0;
        const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.value), parts.data(),
                                               static_cast<utf8proc_ssize_t>(parts.size()), option,
                                               &bound_class);
        require(n >= 0 && n <= static_cast<utf8proc_ssize_t>(parts.size()),
                "utf8proc decomposes U+{:04X} into {}", static_cast<std::uint32_t>(c.value), n);
        points.insert(points.end(), parts.begin(), parts.begin() + n);
        check_size(points.size(), kMaxText);
        at += c.bytes;
    }
    const auto weight = [](utf8proc_int32_t c) {
        return utf8proc_get_property(c)->combining_class;
    };
    for (auto begin = points.begin(); begin != points.end();) {
        auto end = begin;
        while (end != points.end() && weight(*end) != 0) ++end;
        std::stable_sort(begin, end, [&](auto a, auto b) { return weight(a) < weight(b); });
        begin = end == points.end() ? end : end + 1;
    }
    auto length = static_cast<utf8proc_ssize_t>(points.size());
    if ((options & UTF8PROC_COMPOSE) != 0)
        length = utf8proc_normalize_utf32(points.data(), length, option);
    std::string out;
    for (utf8proc_ssize_t i = 0; i < length; ++i)
        append_utf8(out, static_cast<char32_t>(points[static_cast<std::size_t>(i)]));
    return out;
}

bool is_ascii(std::string_view text) {
    for (const char c : text)
        if (static_cast<unsigned char>(c) >= 0x80) return false;
    return true;
}

/// Which code points may change in normalisation form C, or make a neighbour change: all that are
/// not NFC_Quick_Check=Yes with combining class 0 (UAX 15, section 9). Found from utf8proc's
/// tables.
class CompositionTable {
  public:
    CompositionTable();
    bool inert(char32_t c) const { return c >= kEnd || !active_[c]; }

  private:
    static constexpr char32_t kEnd = 0x30000;  // nothing composes or decomposes beyond
    std::vector<bool> active_;
};

CompositionTable::CompositionTable() : active_(kEnd) {
    for (char32_t c = 0xC0; c < kEnd; ++c) {
        const utf8proc_property_t* property =
            utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
        if (property->combining_class != 0) active_[c] = true;
        if (property->decomp_seqindex == UINT16_MAX || property->decomp_type != 0) continue;
        // A canonical decomposition: its last code point may compose with what stands before it,
        // and the character itself is active where composition does not bring it back.
        std::string text;
        append_utf8(text, c);
        std::string_view parts = text;
        const std::string decomposed = mapped(parts, UTF8PROC_DECOMPOSE);
        if (mapped(parts, UTF8PROC_COMPOSE) != text) active_[c] = true;
        if (code_point(decomposed).bytes < decomposed.size())
            active_[last_code_point(decomposed).value] = true;
    }
    // Hangul vowels and final consonants compose by rule.
    for (char32_t c = 0x1161; c <= 0x1175; ++c) active_[c] = true;
    for (char32_t c = 0x11A8; c <= 0x11C2; ++c) active_[c] = true;
}

}  // namespace

std::string Normalizer::run(const Compose&, std::string text) {
    static const CompositionTable table;
    constexpr char32_t kFirst = 0x300;  // all below is composed
    std::string out;
    std::size_t done = 0;   // text before is in `out`
    std::size_t inert = 0;  // begin of the last character that composition leaves alone
    for (std::size_t at = 0; at < text.size();) {
        const auto lead = static_cast<unsigned char>(text[at]);
        const CodePoint c =
            lead < 0x80 ? CodePoint{lead, 1} : code_point(std::string_view(text).substr(at));
        if (c.value < kFirst || table.inert(c.value)) {
            inert = at;
            at += c.bytes;
            continue;
        }
        // From the character before, to the next one that nothing before it can reach.
        std::size_t end = at;
        while (end < text.size()) {
            const CodePoint next = code_point(std::string_view(text).substr(end));
            if (table.inert(next.value)) break;
            end += next.bytes;
        }
        out.append(text, done, inert - done);
        out += mapped(std::string_view(text).substr(inert, end - inert), UTF8PROC_COMPOSE);
        done = inert = at = end;
    }
    if (done == 0 && out.empty()) return text;
    return out.append(text, done);
}

std::string Normalizer::run(const Decompose& step, std::string text) {
    return is_ascii(text) ? text : mapped(text, step.options);
}

std::string Normalizer::run(const Lowercase&, std::string text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint c = code_point(std::string_view(text).substr(at));
        // The only character whose lower case is two (Unicode's SpecialCasing.txt, unconditional).
        if (c.value == 0x130)
            out += "i\u0307";
        else
            append_utf8(out, static_cast<char32_t>(
                                 utf8proc_tolower(static_cast<utf8proc_int32_t>(c.value))));
        at += c.bytes;
    }
    return out;
}

std::string Normalizer::run(const Prepend& step, std::string text) {
    return text.empty() ? text : step.text + text;
}

std::string Normalizer::run(const Replace& step, std::string text) {
    std::string out;
    std::size_t done = 0, begin = 0, end = 0;
    const std::size_t most = longest_result(text.size());
    for (Pattern::Matches matches(step.pattern, text); matches.next(begin, end); done = end) {
        out.append(text, done, begin - done);
        out += step.content;
        check_size(out.size(), most);
    }
    return out.append(text, done);
}

Pattern read_pattern(const nlohmann::json& json, const std::string& where) {
    JsonFields fields(json, where);
    const bool literal = fields.find("String") != nullptr;
    const std::string text = fields.text(literal ? "String" : "Regex");
    fields.finish();
    require<DataError>(!text.empty(), "{}: an empty pattern", where);
    return literal ? Pattern::literal(text, where) : Pattern(text, where);
}

Normalizer::Normalizer(const nlohmann::json& json, const std::string& where) {
    if (!json.is_null()) add(json, where);
}

void Normalizer::add(const nlohmann::json& json, const std::string& where) {
    JsonFields fields(json, where);
    const std::string type = fields.text("type");
    if (type == "Sequence") {
        std::size_t i = 0;
        for (const auto& step : fields.list("normalizers")) {
            // A sequence in a sequence would only serve to nest without end.
            require<DataError>(
                !step.is_object() || step.value("type", nlohmann::json()) != "Sequence",
                "{}: a Sequence in a Sequence is not supported", where);
            add(step, fmt::format("{}.normalizers[{}]", where, i++));
        }
    } else if (type == "NFC") {
        steps_.emplace_back(Compose{});
    } else if (type == "NFD") {
        steps_.emplace_back(Decompose{UTF8PROC_DECOMPOSE});
    } else if (type == "NFKC") {
        steps_.emplace_back(Decompose{UTF8PROC_COMPOSE | UTF8PROC_COMPAT});
    } else if (type == "NFKD") {
        steps_.emplace_back(Decompose{UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT});
    } else if (type == "Lowercase") {
        steps_.emplace_back(Lowercase{});
    } else if (type == "Prepend") {
        steps_.emplace_back(Prepend{fields.text("prepend")});
    } else if (type == "Replace") {
        steps_.emplace_back(Replace{read_pattern(fields.need("pattern"), where + ".pattern"),
                                    fields.text("content")});
    } else {
        throw DataError(
            fmt::format("{}: the normalizer \"{}\" is not supported; known: NFC, NFD, NFKC, "
                        "NFKD, Lowercase, Prepend, Replace, Sequence",
                        where, type));
    }
    fields.finish();
}

std::string Normalizer::apply(std::string text) const {
    const std::size_t most = longest_result(text.size());
    for (const Step& step : steps_) {
        text = std::visit([&](const auto& s) { return run(s, std::move(text)); }, step);
        check_size(text.size(), most);
    }
    return text;
}

}  // namespace gradus
