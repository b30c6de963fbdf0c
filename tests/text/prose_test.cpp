// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/prose.hpp"

#include <boost/test/unit_test.hpp>

using namespace gradus;

BOOST_AUTO_TEST_SUITE(prose_of_text)

BOOST_AUTO_TEST_CASE(formulas_are_no_prose) {
    BOOST_TEST(prose("so $x+y$ is") == "so   is");
    BOOST_TEST(prose("so $$a\n\nb$$ is") == "so   is");
    BOOST_TEST(prose("so \\(a\\) and \\[b\n\\] is") == "so   and   is");
    BOOST_TEST(prose("\\begin{align*}a&=b\\end{align*} then") == "  then");
    BOOST_TEST(prose("\\begin{quote}said\\end{quote}") == " {quote}said {quote}");
    BOOST_TEST(prose("thus \\boxed{two}") == "thus  {two}");
    // Prices.
    BOOST_TEST(prose("it costs $5 or $10 a day") == "it costs $5 or $10 a day");
    BOOST_TEST(prose("$5-$10") == "$5-$10");
    BOOST_TEST(prose("\\$5 and 3\\$ more") == "\\$5 and 3\\$ more");
    // Not over the end of a paragraph.
    BOOST_TEST(prose("$a\n\nb$") == "$a\n\nb$");
    BOOST_TEST(prose("$a\nb$") == " ");
    for (const char* open : {"$", "$$", "\\(", "\\[", "\\begin{align}", "\\", "`", "``"}) prose(open);
    BOOST_TEST(prose("\\( a") == "\\( a");
}

BOOST_AUTO_TEST_CASE(code_and_addresses_are_no_prose) {
    BOOST_TEST(prose("a\n```py\nprint(1)\n```\nb") == "a\n \nb");
    BOOST_TEST(prose("a\n~~~\n```\n~~~~\nb") == "a\n \nb");
    BOOST_TEST(prose("a\n```\nnever closed\n\nb") == "a\n ");
    BOOST_TEST(prose("use `for x` and ``a`b`` or `open") == "use   and   or `open");
    BOOST_TEST(prose("see https://a.org/b?c=d, then") == "see   then");
    BOOST_TEST(prose("\u89c1https://a.org/b\u3002\u7136\u540e") == "\u89c1 \u3002\u7136\u540e");
    BOOST_TEST(prose("www.a.org how what ftp") == "  how what ftp");
    BOOST_TEST(prose("") == "");
}

// A fuzzer's finding, and less: the run that is left has a length that no run has.
BOOST_AUTO_TEST_CASE(an_escaped_backtick_shortens_its_run) {
    BOOST_TEST(prose("a \\``") == "a \\``");
    BOOST_TEST(prose("a \\``b` c") == "a \\`  c");
    const std::string found = "a`\xa0``/```````,\"test``\xa0``/`````````````\\`````\"h`````````l? ";
    BOOST_TEST(prose(found).size() <= found.size());
}

BOOST_AUTO_TEST_CASE(code_blocks_are_found) {
    for (const char* with : {"```\na\n```", "a\n  ```c\nb", "~~~\n", "a\n\n````"}) BOOST_TEST(has_code_block(with), with);
    for (const char* without : {"", "a", "`a`", "```a``` b", "a ```", "``\n", "\n\n"}) BOOST_TEST(!has_code_block(without), without);
}

BOOST_AUTO_TEST_CASE(paragraphs_are_counted_in_words) {
    BOOST_TEST(longest_paragraph("") == 0);
    BOOST_TEST(longest_paragraph("\n\n \n") == 0);
    BOOST_TEST(longest_paragraph("one") == 1);
    BOOST_TEST(longest_paragraph("one two\nthree\n\nfour") == 3);
    BOOST_TEST(longest_paragraph("one\n \t\ntwo three four five") == 4);
    BOOST_TEST(longest_paragraph("\u5148\u7b97\u4e00\u52a0\u4e8c\u3002") == 5);
    BOOST_TEST(longest_paragraph("\xff\xfe one \xe7") == 1);
}

/// Patterns that cost a careless scanner the square of their length.
BOOST_AUTO_TEST_CASE(megabytes_of_openings_are_read_in_one_pass) {
    for (const std::string part : {"$a ", "\\(a", "\\[a ", "$$", "` ``", "\\begin{align}", "\n```a`\n", "$a\n\n", "\n", "http://", "````a"}) {
        std::string text;
        while (text.size() < 1'000'000) text += part;
        BOOST_TEST(prose(text).size() <= text.size());
        has_code_block(text);
        longest_paragraph(text);
    }
    std::string runs;
    for (std::size_t n = 1; runs.size() < 1'000'000; ++n) runs += std::string(n, '`') + ' ';
    BOOST_TEST(prose(runs) == runs);
}

BOOST_AUTO_TEST_SUITE_END()
