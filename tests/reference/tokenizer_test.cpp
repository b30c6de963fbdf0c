// SPDX-License-Identifier: Apache-2.0
// Tokenizers as Hugging Face ships them, with llama.cpp's fixtures (GRADUS_REFERENCE/tokenizers):
// ids of every case, and the text that comes back.
#include <utf8proc.h>

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "gradus/base/json_lines.hpp"
#include "gradus/text/tokenizer.hpp"

namespace gradus {
namespace {

/// The parts of a text, each ended by the divider; the last one may go without.
std::vector<std::string> split_by(const std::string& text, const std::string& divider) {
    std::vector<std::string> parts;
    std::size_t begin = 0;
    for (std::size_t at; (at = text.find(divider, begin)) != std::string::npos;
         begin = at + divider.size())
        parts.push_back(text.substr(begin, at - begin));
    if (begin < text.size()) parts.push_back(text.substr(begin));
    return parts;
}

std::vector<std::vector<TokenId>> read_ids(const std::string& path) {
    std::vector<std::vector<TokenId>> rows;
    std::istringstream lines(read_file(path));
    for (std::string line; std::getline(lines, line);) {
        std::istringstream row(line);
        rows.emplace_back(std::istream_iterator<TokenId>(row), std::istream_iterator<TokenId>());
    }
    return rows;
}

std::string nfc(const std::string& text) {
    utf8proc_uint8_t* out = nullptr;
    utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                 static_cast<utf8proc_ssize_t>(text.size()), &out,
                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    // The length: texts of the tests hold no zero byte but where they say so.
    std::string composed(reinterpret_cast<const char*>(out));
    std::free(out);
    return composed;
}

/// Texts for the way there and back beside llama.cpp's own; composed and decomposed ones.
std::vector<std::string> more_texts() {
    std::vector<std::string> texts = {
        "e\u0301 cafe\u0301 A\u030Angstro\u0308m \u212B",     // decomposed, and a singleton
        "q\u0307\u0323 q\u0323\u0307 \u1E0B\u0323",           // marks in both orders
        "\u1112\u1161\u11AB\u1100\u1173\u11AF \uD55C\uAE00",  // Hangul in parts and whole
        "\u0958 \u0915\u093C \U0001D15E \uFB1D",              // composition exclusions
        "\u0301 at the start",
        "x\u0301\u0301\u0301",
        "\u2126 \u00C5 \u0344",
        "a\u00A0b\u2003c\u3000d\u180Ee\u200Bf\u2028g\u0085h",
        "I'M we'LL it'\u017F DON'T '",
        "\t\n \r\n  \n\n x  \n",
        "\u0664\u0665\u0666 \u2167 \u00BD 1234567",
        std::string(5000, 'a'),
        std::string(3000, ' ') + "x",
        "\U0001F468\u200D\U0001F469\u200D\U0001F467 \U0001F1E9\U0001F1EA"};
    std::string all;
    for (utf8proc_int32_t c = 1; c < 0x20000; c += c < 0x3400 ? 1 : 37) {
        if (c >= 0xD800 && c < 0xE000) continue;
        utf8proc_uint8_t bytes[4];
        all.append(reinterpret_cast<const char*>(bytes),
                   static_cast<std::size_t>(utf8proc_encode_char(c, bytes)));
    }
    texts.push_back(all);
    return texts;
}

std::string by_stream(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
    StreamDecoder decoder(tokenizer);
    std::string text;
    for (const TokenId id : ids) text += decoder.push(id);
    return text + decoder.flush();
}

void check_folder(const std::filesystem::path& folder) {
    const std::string name = folder.filename();
    const auto tokenizer = load_tokenizer(folder / "tokenizer.json");
    const auto file = nlohmann::json::parse(read_file(folder / "tokenizer.json"));
    const bool composes = file["normalizer"].is_object() && file["normalizer"]["type"] == "NFC";
    std::vector<std::string> texts =
        split_by(read_file(folder / "llama_cpp.inp"), "\n__ggml_vocab_test__\n");
    const auto rows = read_ids(folder / "llama_cpp.out");
    BOOST_TEST_REQUIRE(texts.size() == rows.size(), name);
    std::size_t compared = 0;
    for (; compared < rows.size(); ++compared)
        BOOST_TEST(
            tokenizer->encode(texts[compared], false) == rows[compared],
            name << " case " << compared << ": \"" << texts[compared] << "\" gives "
                 << fmt::format("{}", fmt::join(tokenizer->encode(texts[compared], false), " ")));
    const auto more = more_texts();
    texts.insert(texts.end(), more.begin(), more.end());
    for (const std::string& text : texts) {
        const auto ids = tokenizer->encode(text, false);
        const std::string wanted = composes ? nfc(text) : text;
        BOOST_TEST(tokenizer->decode(ids) == wanted,
                   name << ": \"" << text.substr(0, 80) << "\" comes back as \""
                        << tokenizer->decode(ids).substr(0, 80) << "\"");
        BOOST_TEST(by_stream(*tokenizer, ids) == wanted, name << ": token by token");
    }
    fmt::print("reference tokenizers/{}: {} cases\n", name, compared);
}

}  // namespace

BOOST_AUTO_TEST_CASE(tokenizers) {
    const char* root = std::getenv("GRADUS_REFERENCE");
    if (root == nullptr) {
        fmt::print("skipped: GRADUS_REFERENCE is not set\n");
        return;
    }
    std::size_t folders = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(std::string(root) + "/tokenizers")) {
        if (!entry.is_directory()) continue;
        check_folder(entry.path());
        ++folders;
    }
    BOOST_TEST(folders > 0u);
}

}  // namespace gradus
