// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/language.hpp"

#include <boost/test/unit_test.hpp>

#include "gradus/base/error.hpp"

using namespace gradus;

namespace {

double share(std::string_view text, std::string_view language) { return count_languages(text).share(language); }
std::string main_of(std::string_view text) { return std::string(count_languages(text).main()); }

}  // namespace

BOOST_AUTO_TEST_SUITE(language)

BOOST_AUTO_TEST_CASE(sentences_of_each_language_are_its_own) {
    const std::vector<std::pair<std::string, std::string>> sentences = {
        {"en", "First we count the apples that are left. Then we add those from the second basket, which gives 12."},
        {"de", "Zuerst zählen wir die Äpfel, die noch im Korb sind. Dann kommen 5 dazu, und das ergibt 12."},
        {"fr", "Il reste sept pommes dans le panier. Nous ajoutons donc les cinq autres, et la somme est douze."},
        {"es", "Primero contamos las manzanas que hay en la cesta. Entonces sumamos otras cinco, porque sobran."},
        {"zh", "先数一数篮子里还剩几个苹果，然后加上第二个篮子里的5个，一共是12个。"},
        {"ja", "まず、かごに残っているリンゴを数えます。次に5個を足すと、答えは12個です。コーヒーはｶﾞラスに。"},
        {"ko", "먼저 바구니에 남은 사과를 셉니다. 그다음 다섯 개를 더하면 답은 12입니다."},
        {"ru", "Сначала посчитаем яблоки в корзине. Затем прибавим ещё пять, и получится 12."},
        {"ar", "نعدّ أولًا التفاحات الباقية في السلة، ثم نضيف خمسًا أخرى فيكون المجموع ١٢."},
        {"hi", "पहले हम टोकरी में बचे सेब गिनते हैं। फिर पाँच और जोड़ते हैं, तो उत्तर १२ है।"},
        {"el", "Πρώτα μετράμε τα μήλα που έμειναν. Μετά προσθέτουμε άλλα πέντε και έχουμε 12."},
        {"he", "קודם נספור את התפוחים שנשארו בסל. אחר כך נוסיף עוד חמישה, והתשובה היא 12."},
        {"th", "ก่อนอื่นนับแอปเปิลที่เหลือในตะกร้า แล้วบวกอีกห้าลูก รวมเป็น 12"},
    };
    for (const auto& [language, text] : sentences) {
        BOOST_TEST(share(text, language) == 1.0, language << ": " << share(text, language));
        BOOST_TEST(main_of(text) == language);
        for (const auto& [other, unused] : sentences)
            if (other != language) BOOST_TEST(share(text, other) < 0.35, other << " in " << language);
    }
    BOOST_TEST(sentences.size() == kLanguages.size());
}

BOOST_AUTO_TEST_CASE(mixed_texts_are_shared_out) {
    // Six English words, four Chinese characters.
    BOOST_TEST(share("We add the three and get 12, 所以答案 12", "en") == 0.6);
    BOOST_TEST(share("We add the three and get 12, 所以答案 12", "zh") == 0.4);
    // Han within a sentence with Kana is Japanese: 4 of 4 + 4.
    BOOST_TEST(share("答えは。答案正确。", "ja") == 3.0 / 7.0);
    // A French sentence among English ones.
    BOOST_TEST(share("Then we add the two. Nous avons donc les deux.", "en") == 0.5);
    BOOST_TEST(share("Сначала then", "ru") == 0.5);
    BOOST_TEST(share("Сначала then", "en") == 0.5);
    // Without function words a Latin sentence may be any of them.
    BOOST_TEST(share("Lena kauft Brot 3", "de") == 1.0);
    BOOST_TEST(share("Lena kauft Brot 3", "en") == 1.0);
    BOOST_TEST(main_of("Lena kauft Brot 3") == "en");
}

BOOST_AUTO_TEST_CASE(what_is_no_word_does_not_count) {
    for (const char* nothing : {"", "12 + 3 = 15", "１２＋３＝１５", "٣ + ٤ = ٧", "😀👍🏽👨‍👩‍👧 ⇒ ∴", "$\\text{then } x$", "\\[ \\text{so} \\]",
                                "```\nfor i in range(3): print(i)\n```", "`then`", "https://example.org/then/so",
                                "<think></think><answer>12</answer>", "<|im_end|>", "x = y_2, f(x), 5cm, max_len", "\\frac", "\xff\xfe\xc3"}) {
        BOOST_TEST(count_languages(nothing).all() == 0, nothing);
        BOOST_TEST(share(nothing, "zh") == 1.0);
        BOOST_TEST(main_of(nothing) == "");
    }
    // Variables within Chinese, units joined to numbers, a formula, a tag.
    BOOST_TEST(share("设 x 为苹果数，长 5cm，则 $y = \\sin x$。<br>所以 \\boxed{12}", "zh") == 1.0);
    BOOST_TEST(share("_Really_ the don't's", "en") == 1.0);
}

BOOST_AUTO_TEST_CASE(marks_belong_to_their_letters) {
    const std::string decomposed = "e\u0301te\u0301 and cafe\u0301";
    BOOST_TEST(count_languages(decomposed).all() == 3);
    BOOST_TEST(count_languages("הַסְּפָרִים").all() == 1);
    BOOST_TEST(count_languages("مُحَـــمَّد").all() == 1);
    BOOST_TEST(count_languages("می\u200cروم").all() == 1);
    BOOST_TEST(count_languages("क्\u200dष").all() == 1);
    BOOST_TEST(count_languages("ｔｈｅｎ").all() == 1);
    BOOST_TEST(count_languages("ガ" "か\u3099").all() == 2);
}

BOOST_AUTO_TEST_CASE(time_is_linear_in_the_text) {
    for (const std::string part : {"then 所以 ", "a", "1", "<a x=\"", "e\u0301", "\u0301", ". ", "\n", "\xe7\x84", "$a ", "_", "'a", "<|", "x_"}) {
        std::string text;
        while (text.size() < 1'000'000) text += part;
        BOOST_TEST(count_languages(text).all() >= 0);
    }
    BOOST_CHECK_THROW(count_languages("a").share("tlh"), InternalError);
}

BOOST_AUTO_TEST_SUITE_END()
