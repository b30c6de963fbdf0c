// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/tokenizer.hpp"

#include <boost/test/unit_test.hpp>

#include "gradus/base/error.hpp"

using namespace gradus;

BOOST_AUTO_TEST_SUITE(byte_tokenizer)

BOOST_AUTO_TEST_CASE(ids_are_those_of_the_contract) {
    const auto tokenizer = make_byte_tokenizer();
    BOOST_TEST(tokenizer->vocab_size() == 264);
    BOOST_TEST(tokenizer->bos() == 256);
    BOOST_TEST(tokenizer->eos() == 257);
    BOOST_TEST(tokenizer->special("<user>") == 258);
    BOOST_TEST(tokenizer->special("<assistant>") == 259);
    BOOST_TEST(tokenizer->special("<think>") == 260);
    BOOST_TEST(tokenizer->special("</think>") == 261);
    BOOST_TEST(tokenizer->special("<answer>") == 262);
    BOOST_TEST(tokenizer->special("</answer>") == 263);
    BOOST_TEST(tokenizer->special("think") == -1);
    BOOST_TEST(tokenizer->identity() == "bytes-v1");
}

BOOST_AUTO_TEST_CASE(special_tokens_only_where_asked_for) {
    const auto tokenizer = make_byte_tokenizer();
    const std::vector<TokenId> parsed = {'a', 260, '<', 't', 261, 257};
    BOOST_TEST(tokenizer->encode("a<think><t</think><eos>", true) == parsed);
    const auto plain = tokenizer->encode("<eos>", false);
    const std::vector<TokenId> bytes = {'<', 'e', 'o', 's', '>'};
    BOOST_TEST(plain == bytes);
}

BOOST_AUTO_TEST_CASE(every_byte_string_comes_back) {
    const auto tokenizer = make_byte_tokenizer();
    std::string text;
    for (int i = 0; i < 256; ++i) text.push_back(static_cast<char>(i));
    text += "<think>\u7136\u540e</answer><bos";
    for (const bool parse : {false, true}) {
        BOOST_TEST(tokenizer->decode(tokenizer->encode(text, parse)) == text);
    }
    BOOST_TEST(tokenizer->encode("\xE7\x84", true).size() == 2u);
}

BOOST_AUTO_TEST_CASE(foreign_ids_are_refused) {
    const auto tokenizer = make_byte_tokenizer();
    const std::vector<TokenId> high = {264}, negative = {-1};
    BOOST_CHECK_THROW(tokenizer->decode(high), DataError);
    BOOST_CHECK_THROW(tokenizer->decode(negative), DataError);
}

BOOST_AUTO_TEST_SUITE_END()
