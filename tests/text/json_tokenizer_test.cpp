// SPDX-License-Identifier: Apache-2.0
// tokenizer.json: ids of small files, worked out by hand.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <random>

#include "gradus/base/error.hpp"
#include "tokenizer_json.hpp"

using namespace gradus;
using namespace gradus::test;

namespace {

using Ids = std::vector<TokenId>;

std::string message_of(const std::string& json, const TokenizerOptions& options = {}) {
    try {
        parse_tokenizer(json, "small.json", options);
    } catch (const DataError& error) {
        return error.what();
    }
    return "";
}

bool holds(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

using Merges = std::vector<std::pair<std::string, std::string>>;

/// `count` different merges of pieces that letters and earlier merges make.
Merges random_merges(std::vector<std::string> pieces, std::size_t count, std::mt19937& random) {
    Merges merges;
    while (merges.size() < count) {
        const std::pair pair(pieces[random() % pieces.size()], pieces[random() % pieces.size()]);
        if (std::find(merges.begin(), merges.end(), pair) != merges.end()) continue;
        merges.push_back(pair);
        if (std::find(pieces.begin(), pieces.end(), pair.first + pair.second) == pieces.end())
            pieces.push_back(pair.first + pair.second);
    }
    return merges;
}

/// The word after all merges: the first in rank that fits anywhere, where it fits first, and again.
std::vector<std::string> merged(std::vector<std::string> word, const Merges& merges) {
    const auto once = [&] {
        for (const auto& [left, right] : merges)
            for (std::size_t i = 0; i + 1 < word.size(); ++i)
                if (word[i] == left && word[i + 1] == right) {
                    word[i] += word[i + 1];
                    word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
                    return true;
                }
        return false;
    };
    while (once()) continue;
    return word;
}

std::vector<std::string> pieces_of(const Tokenizer& tokenizer,
                                   const std::vector<std::string>& word) {
    std::string text;
    for (const std::string& piece : word) text += piece;
    std::vector<std::string> pieces;
    for (const TokenId id : tokenizer.encode(text, false))
        pieces.emplace_back(tokenizer.token_bytes(id));
    return pieces;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(json_tokenizer)

// Bytes of "hi hi": h 71, i 72, blank 220. Merges by rank: "h i" 256, then blank + "hi" 257.
BOOST_AUTO_TEST_CASE(byte_level_merges) {
    for (const bool as_pair : {false, true}) {
        ByteFile file;
        file.merge("h", "i", as_pair).merge("\u0120", "hi", as_pair);
        const auto tokenizer = file.load();
        BOOST_TEST(tokenizer->encode("hi hi", false) == (Ids{256, 257}));
        BOOST_TEST(tokenizer->encode("", false) == Ids{});
        // é is C3 A9 in UTF-8: C3 and A9 are letters of the alphabet at 94 + 12 + (C3 - AE), 94 +
        // (A9 - A1).
        BOOST_TEST(tokenizer->encode("\u00E9", false) ==
                   (Ids{94 + 12 + 0xC3 - 0xAE, 94 + 0xA9 - 0xA1}));
        BOOST_TEST(tokenizer->decode(Ids{256, 257, 198}) == "hi hi\n");
        BOOST_TEST(tokenizer->vocab_size() == 258);
    }
}

// "b c" comes before "a b": the lowest rank wins over the leftmost, and the leftmost among equals.
BOOST_AUTO_TEST_CASE(rank_then_position) {
    ByteFile file;
    file.merge("b", "c").merge("a", "b").merge("a", "a");
    const auto tokenizer = file.load();
    BOOST_TEST(tokenizer->encode("abc", false) == (Ids{64, 256}));
    BOOST_TEST(tokenizer->encode("abab", false) == (Ids{257, 257}));
    BOOST_TEST(tokenizer->encode("aaa", false) == (Ids{258, 64}));
}

// The definition, word for word and slow, against what is fast, for short words and long ones.
BOOST_AUTO_TEST_CASE(merges_agree_with_their_definition) {
    std::mt19937 random(7);
    for (int round = 0; round < 20; ++round) {
        ByteFile file;
        const Merges merges = random_merges({"a", "b", "c"}, 40, random);
        for (const auto& [left, right] : merges) file.merge(left, right);
        const auto tokenizer = file.load();
        for (const std::size_t length : {2u, 5u, 17u, 48u, 49u, 300u}) {
            std::vector<std::string> word;
            for (std::size_t i = 0; i < length; ++i) word.emplace_back(1, "abc"[random() % 3]);
            BOOST_TEST(pieces_of(*tokenizer, word) == merged(word, merges),
                       boost::test_tools::per_element());
        }
    }
}

// The same in SentencePiece's form, where the word is the whole text: with merges that go over the
// beginning of a word, and without.
BOOST_AUTO_TEST_CASE(merges_of_whole_texts_agree_with_their_definition) {
    std::mt19937 random(8);
    for (int round = 0; round < 40; ++round) {
        Merges merges = random_merges({"a", "b", "\u2581"}, 40, random);
        if (round % 2 == 0) {  // nothing but marks before a mark
            std::erase_if(merges, [](const auto& m) {
                std::string whole = m.first + m.second;
                while (whole.starts_with("\u2581")) whole.erase(0, 3);
                return holds(whole, "\u2581");
            });
        }
        std::vector<std::string> pieces = {"a", "b", "\u2581"};
        Value pairs = Value::array();
        for (const auto& [left, right] : merges) {
            pairs.push_back({left, right});
            if (std::find(pieces.begin(), pieces.end(), left + right) == pieces.end())
                pieces.push_back(left + right);
        }
        Value file = sentencepiece_file(pieces, pairs);
        file["normalizer"] = nullptr;
        file["decoder"] = {{"type", "Fuse"}};
        file["model"]["fuse_unk"] = false;
        const auto tokenizer = parse_tokenizer(file.dump(), "small.json");
        for (const std::size_t length : {3u, 20u, 200u}) {
            std::vector<std::string> word;
            for (std::size_t i = 0; i < length; ++i) word.push_back(pieces[random() % 3]);
            BOOST_TEST(pieces_of(*tokenizer, word) == merged(word, merges),
                       boost::test_tools::per_element());
        }
    }
}

// Llama 3: a word that is a token is that token, though no merge makes it.
BOOST_AUTO_TEST_CASE(ignore_merges) {
    ByteFile file;
    file.json["pre_tokenizer"] = {{"type", "Sequence"},
                                  {"pretokenizers", {split(kLlama3Split), byte_level(false)}}};
    file.merge("a", "b").token("\u0120abc");
    BOOST_TEST(file.load()->encode("ab abc", false) == (Ids{256, 220, 256, 66}));
    file.json["model"]["ignore_merges"] = true;
    BOOST_TEST(file.load()->encode("ab abc", false) == (Ids{256, 257}));
    // "123" and "45" are words, so that a token 1234 is out of reach.
    file.token("1234").token("123").token("45");
    BOOST_TEST(file.load()->encode("12345", false) == (Ids{259, 260}));
}

// Words of Prepend and Replace: "hi hi" is _hi_hi. h 260, i 261; "h i" 262, then "_ hi" 263.
BOOST_AUTO_TEST_CASE(sentencepiece_form) {
    const Value file =
        sentencepiece_file({"\u2581", "h", "i", "hi", "\u2581hi"}, {"h i", "\u2581 hi"});
    const auto tokenizer = parse_tokenizer(file.dump(), "small.json");
    BOOST_TEST(tokenizer->encode("hi hi", false) == (Ids{263, 263}));
    BOOST_TEST(tokenizer->encode(" hi", false) == (Ids{259, 263}));
    // What is no token falls back to its bytes: C3 A9, then the line feed.
    BOOST_TEST(tokenizer->encode("\u00E9\n", false) == (Ids{259, 3 + 0xC3, 3 + 0xA9, 3 + 10}));
    // Prepend acts on each text between added tokens.
    BOOST_TEST(tokenizer->encode("<s>hi</s>hi", true) == (Ids{1, 263, 2, 263}));
    BOOST_TEST(tokenizer->encode("<s>", false).size() == 4u);
    BOOST_TEST(tokenizer->bos() == 1);
    BOOST_TEST(tokenizer->decode(Ids{263, 259, 198, 172, 13}) == "hi \u00E9\n");
    for (const char* text : {"hi", " hi", "  h  i ", "\u4f60\u597d \n\n\t", "x"})
        BOOST_TEST(tokenizer->decode(tokenizer->encode(text, false)) == text);
}

BOOST_AUTO_TEST_CASE(metaspace) {
    Value file = sentencepiece_file({"\u2581", "h", "i", "hi", "\u2581hi"}, {"h i", "\u2581 hi"});
    file["normalizer"] = nullptr;
    file["pre_tokenizer"] = {{"type", "Metaspace"},
                             {"replacement", "\u2581"},
                             {"prepend_scheme", "first"},
                             {"split", false}};
    BOOST_TEST(parse_tokenizer(file.dump(), "f")->encode("hi<s>hi hi", true) ==
               (Ids{263, 1, 262, 263}));
    file["pre_tokenizer"]["prepend_scheme"] = "always";
    BOOST_TEST(parse_tokenizer(file.dump(), "f")->encode("hi<s>hi hi", true) ==
               (Ids{263, 1, 263, 263}));
    file["pre_tokenizer"]["prepend_scheme"] = "never";
    file["pre_tokenizer"]["split"] = true;
    BOOST_TEST(parse_tokenizer(file.dump(), "f")->encode("hi hi", true) == (Ids{262, 263}));
}

BOOST_AUTO_TEST_CASE(metaspace_decoder) {
    Value file = sentencepiece_file({"\u2581", "h", "\u2581h"}, {"\u2581 h"});
    file["decoder"] = {
        {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}};
    BOOST_TEST(parse_tokenizer(file.dump(), "f")->decode(Ids{261, 261, 259}) == "h h ");
    file["decoder"]["prepend_scheme"] = "never";
    BOOST_TEST(parse_tokenizer(file.dump(), "f")->decode(Ids{261, 260}) == " hh");
}

BOOST_AUTO_TEST_CASE(unknown_characters) {
    Value file = sentencepiece_file({"a"}, Value::array());
    file["normalizer"] = nullptr;
    file["model"]["byte_fallback"] = false;
    BOOST_TEST(parse_tokenizer(file.dump(), "f")->encode("xyaz", false) == (Ids{0, 259, 0}));
    file["model"]["fuse_unk"] = false;
    BOOST_TEST(parse_tokenizer(file.dump(), "f")->encode("xyaz", false) == (Ids{0, 0, 259, 0}));
    file["model"].erase("unk_token");
    BOOST_CHECK_THROW(parse_tokenizer(file.dump(), "f")->encode("xyaz", false), DataError);
}

BOOST_AUTO_TEST_CASE(special_tokens_only_where_asked_for) {
    ByteFile file;
    file.json["added_tokens"] = {added(256, "<|end|>", true), added(257, "<think>", false),
                                 added(258, "<|end|>>", false)};
    const auto tokenizer = file.load();
    BOOST_TEST(tokenizer->encode("a<think><|end|>", true) == (Ids{64, 257, 256}));
    BOOST_TEST(tokenizer->encode("<|end|>>", true) == Ids{258});  // the longest
    const Ids text = tokenizer->encode("<think><|end|>", false);
    BOOST_TEST(text.size() == 8u);
    BOOST_TEST(text[0] == 257);
    BOOST_TEST(tokenizer->decode(text) == "<think><|end|>");
    BOOST_TEST(tokenizer->special("<think>") == 257);
    BOOST_TEST(tokenizer->special("<|end|>") == 256);
    BOOST_TEST(tokenizer->special("a") == -1);
}

BOOST_AUTO_TEST_CASE(added_tokens_take_blanks_and_want_whole_words) {
    ByteFile file;
    Value wide = added(256, "<w>", false), word = added(257, "ab", false);
    wide["lstrip"] = wide["rstrip"] = word["single_word"] = true;
    file.json["added_tokens"] = {wide, word};
    const auto tokenizer = file.load();
    BOOST_TEST(tokenizer->encode("a \u2003<w>\n b", true) == (Ids{64, 256, 65}));
    BOOST_TEST(tokenizer->encode(" <w> <w>", true) == (Ids{256, 256}));
    BOOST_TEST(tokenizer->encode("ab-ab", true) == (Ids{257, 12, 257}));
    BOOST_TEST(tokenizer->encode("abb", true) == (Ids{64, 65, 65}));
    BOOST_TEST(tokenizer->encode("\u00E9ab", true).size() == 4u);
    BOOST_TEST(tokenizer->encode("ab\u0301", true).size() == 4u);
}

// A token with normalized = true is looked for in the normalised text, others in the text as it is.
BOOST_AUTO_TEST_CASE(added_tokens_before_and_after_the_normalizer) {
    ByteFile file;
    file.json["normalizer"] = {{"type", "NFC"}};
    Value after = added(256, "e\u0301", false), before = added(257, "o\u0308", false);
    after["normalized"] = true;
    file.json["added_tokens"] = {after, before};
    const auto tokenizer = file.load();
    BOOST_TEST(tokenizer->encode("\u00E9e\u0301", true) == (Ids{256, 256}));
    BOOST_TEST(tokenizer->encode("o\u0308", true) == Ids{257});
    BOOST_TEST(tokenizer->encode("\u00F6", true).size() == 2u);
}

BOOST_AUTO_TEST_CASE(options_say_what_begins_and_ends) {
    ByteFile file;
    file.json["added_tokens"] = {added(256, "<b>", true), added(257, "<e>", true),
                                 added(258, "<t>", true)};
    BOOST_TEST(file.load()->eos() == -1);
    BOOST_TEST(file.load()->bos() == -1);
    const auto tokenizer = file.load({.eos_names = {"<t>"}, .eos = {257, 258}, .bos_name = "<b>"});
    BOOST_TEST(tokenizer->eos_ids() == (Ids{258, 257}));
    BOOST_TEST(tokenizer->is_eos(257));
    BOOST_TEST(!tokenizer->is_eos(256));
    BOOST_TEST(tokenizer->bos() == 256);
    file.json["post_processor"] = {{"type", "Sequence"},
                                   {"processors",
                                    {byte_level(true),
                                     {{"type", "TemplateProcessing"},
                                      {"single",
                                       {{{"SpecialToken", {{"id", "<b>"}, {"type_id", 0}}}},
                                        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                                        {{"SpecialToken", {{"id", "<e>"}, {"type_id", 0}}}}}},
                                      {"special_tokens",
                                       {{"<b>", {{"id", "<b>"}, {"ids", {256}}}},
                                        {"<e>", {{"id", "<e>"}, {"ids", {257}}}}}}}}}};
    BOOST_TEST(file.load()->bos() == 256);
    BOOST_TEST(file.load()->eos() == 257);
    BOOST_TEST(file.load({.bos = -1})->bos() == -1);
    BOOST_TEST(holds(message_of(file.text(), {.eos_names = {"<x>"}}), "<x>"));
    BOOST_TEST(holds(message_of(file.text(), {.eos = {259}}), "259"));
    BOOST_TEST(holds(message_of(file.text(), {.bos = -2}), "-2"));
}

BOOST_AUTO_TEST_CASE(ids_outside_the_vocabulary) {
    ByteFile file;
    file.json["added_tokens"] =
        Value::array({added(300, "<x>", true)});  // 256 to 299 stand for nothing
    const auto tokenizer = file.load();
    BOOST_TEST(tokenizer->vocab_size() == 301);
    BOOST_TEST(tokenizer->decode(Ids{64, 256, 299, 300, 301, 151935, 65}) == "a<x>b");
    BOOST_CHECK_THROW(tokenizer->decode(Ids{-1}), DataError);
    BOOST_CHECK_THROW(tokenizer->token_bytes(-1), DataError);
}

BOOST_AUTO_TEST_CASE(invalid_utf8_is_refused) {
    const auto tokenizer = ByteFile().load();
    for (const char* text : {"\xE7\x84", "a\xFF", "\xC0\x80", "\xED\xA0\x80"})
        BOOST_CHECK_THROW(tokenizer->encode(text, false), DataError);
    const std::string zero("a\0b", 3);
    BOOST_TEST(tokenizer->decode(tokenizer->encode(zero, false)) == zero);
}

BOOST_AUTO_TEST_CASE(identity_is_of_what_decides_over_ids) {
    ByteFile a, b, c;
    a.merge("h", "i");
    b.merge("h", "i", true);
    b.json["padding"] = {{"strategy", "BatchLongest"}};
    c.merge("h", "i");
    c.json["normalizer"] = {{"type", "NFC"}};
    BOOST_TEST(a.load()->identity() == b.load()->identity());
    BOOST_TEST(a.load()->identity() != c.load()->identity());
    BOOST_TEST(a.load()->identity() != ByteFile().load()->identity());
    BOOST_TEST(a.load()->identity().starts_with("bpe-"));
}

// Each fault is refused with the words that lead to it.
BOOST_AUTO_TEST_CASE(what_is_not_supported_is_named) {
    const auto refused = [](const char* pointer, const Value& value, const std::string& words) {
        ByteFile file;
        file.json[Value::json_pointer(pointer)] = value;
        const std::string message = message_of(file.text());
        BOOST_TEST(holds(message, words), pointer << " = " << value << ": " << message);
        BOOST_TEST(holds(message, "small.json"), message);
    };
    refused("/version", "2.0", "2.0");
    refused("/surprise", 1, "surprise");
    refused("/model/type", "Unigram", "Unigram");
    refused("/model/dropout", 0.1, "dropout");
    refused("/model/surprise", 1, "surprise");
    refused("/model/end_of_word_suffix", "</w>", "end_of_word_suffix");
    refused("/model/byte_fallback", true, "byte_fallback");
    refused("/model/unk_token", "<unk>", "<unk>");
    refused("/normalizer", {{"type", "Precompiled"}}, "Precompiled");
    refused("/normalizer", {{"type", "NFC"}, {"more", 1}}, "more");
    refused("/pre_tokenizer", {{"type", "Whitespace"}}, "Whitespace");
    refused("/pre_tokenizer", nullptr, "ByteLevel");
    refused("/pre_tokenizer",
            {{"type", "Sequence"}, {"pretokenizers", {byte_level(true), {{"type", "Digits"}}}}},
            "after ByteLevel");
    refused("/decoder", nullptr, "decoder");
    refused("/decoder", {{"type", "WordPiece"}}, "WordPiece");
    refused("/post_processor", {{"type", "RobertaProcessing"}}, "RobertaProcessing");
    refused("/added_tokens", Value::array({added(5, "<x>", true)}), "the id 5");
    refused("/added_tokens", Value::array({added(300, "a", true)}), "\"a\" has the ids");
    refused("/added_tokens", Value::array({added(300, "", true)}), "content");
    refused("/added_tokens", Value::array({added(2000000000, "<x>", true)}), "\"id\"");
    for (const char* regex :
         {R"(\w+)", R"(a\b)", "^a", "a$", R"((a)\1)", "[a[b]]", "[a&&b]", "(?m:a)", "(?i)a",
          "a{,3}", "a{2}+", R"(\h)", R"(\R)", R"(\p{Alphabetic})", "(*UCP)a", "(a", R"(a\)"}) {
        refused("/pre_tokenizer",
                {{"type", "Sequence"}, {"pretokenizers", {split(regex), byte_level(false)}}},
                "expression");
    }
    BOOST_TEST(holds(message_of("{"), "not JSON"));
    BOOST_TEST(holds(message_of("[]"), "object"));
    BOOST_TEST(holds(message_of("{}"), "model"));
    Value json = Value::parse(ByteFile().merge("a", "b").text());
    json["model"]["merges"] = {"a b", "a zz"};
    BOOST_TEST(holds(message_of(json.dump()), "merges[1]"));
    json["model"]["merges"] = {"a b c"};
    BOOST_TEST(holds(message_of(json.dump()), "merges[0]"));
    json["model"]["merges"] = Value::array();
    json["model"]["vocab"]["b"] = 64;
    BOOST_TEST(holds(message_of(json.dump()), "same id"));
    json["model"]["vocab"]["b"] = -1;
    BOOST_TEST(holds(message_of(json.dump()), "\"b\""));
}

BOOST_AUTO_TEST_CASE(a_file_is_named) {
    try {
        load_tokenizer("/nonexistent/tokenizer.json");
        BOOST_TEST(false);
    } catch (const DataError& error) {
        BOOST_TEST(holds(error.what(), "/nonexistent/tokenizer.json"));
    }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(stream_decoder)

BOOST_AUTO_TEST_CASE(characters_come_whole) {
    const auto tokenizer = make_byte_tokenizer();
    StreamDecoder stream(*tokenizer);
    BOOST_TEST(stream.push('a') == "a");
    BOOST_TEST(stream.push(0xE7) == "");
    BOOST_TEST(stream.push(0x84) == "");
    BOOST_TEST(stream.push(0xB6) == "\u7136");
    BOOST_TEST(stream.push(0xF0) == "");
    BOOST_TEST(stream.push('b') ==
               "\xF0"
               "b");  // ill-formed: nothing to wait for
    BOOST_TEST(stream.push(0xC3) == "");
    BOOST_TEST(stream.flush() == "\xC3");
    BOOST_TEST(stream.flush() == "");
}

BOOST_AUTO_TEST_CASE(the_first_blank_is_dropped_once) {
    const Value file = sentencepiece_file({"\u2581", "h", "\u2581h"}, {"\u2581 h"});
    const auto tokenizer = parse_tokenizer(file.dump(), "small.json");
    StreamDecoder stream(*tokenizer);
    BOOST_TEST(stream.push(261) == "h");
    BOOST_TEST(stream.push(261) == " h");
    stream.flush();
    BOOST_TEST(stream.push(259) == "");
    BOOST_TEST(stream.push(259) == " ");
}

BOOST_AUTO_TEST_SUITE_END()
