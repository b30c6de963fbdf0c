// SPDX-License-Identifier: Apache-2.0
#include "gradus/reward/math_answer.hpp"

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <utility>
#include <vector>

#include "../../src/reward/identity.hpp"

namespace gradus {
namespace {

using Pairs = std::vector<std::pair<const char*, const char*>>;

void all(const Pairs& pairs, bool wanted) {
    for (const auto& [a, b] : pairs) {
        BOOST_TEST(same_answer(a, b) == wanted, a << " and " << b);
        BOOST_TEST(same_answer(b, a) == wanted, b << " and " << a);
    }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(math_answer)

BOOST_AUTO_TEST_CASE(numbers_in_disguise) {
    all({{"1000", "1,000"}, {"1000", "$1{,}000$"}, {"1000", "\\boxed{1000}"}, {"1000", "1000.0"}, {"1000", "1 000"},
         {"1000", "10^3"}, {"0.5", "\\frac12"}, {"\\frac{1}{2}", "\\dfrac{2}{4}"}, {"3\\frac{1}{2}", "7/2"},
         {"3 1/2", "3.5"}, {"25\\%", "25"}, {"90^\\circ", "90"}, {"12\\text{ cm}^2", "12"}, {"-\\frac{3}{4}", "\\frac{-3}{4}"},
         {"5!", "120"}, {"2^{-1}", "0.5"}, {"\\$4.50", "4.5"}, {"125 miles", "125"}},
        true);
    all({{"1000", "1001"}, {"0.3333", "1/3"}, {"10^{60}", "10^{60}+1"}, {"1,2", "12"}, {"204_5", "204"}, {"12:00", "1:00"},
         {"5", "-5"}, {"2", "2x"}, {"", ""}, {"5", ""}, {"4", "4, 5"}, {"x", "2x"}},
        false);
}

BOOST_AUTO_TEST_CASE(formulas) {
    all({{"x^2+2x+1", "(x+1)^2"}, {"\\frac{x+2}{7}", "\\frac{x}{7}+\\frac{2}{7}"}, {"\\sqrt{8}", "2\\sqrt2"},
         {"\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"}, {"\\tan^2(y)+1", "\\sec^2(y)"}, {"2\\sin b\\cos a", "2 \\cos a \\sin b"},
         {"\\frac{9}{4}\\pi", "\\frac{9\\pi}{4}"}, {"e^{2x}", "(e^x)^2"}, {"\\log_2 8", "3"}, {"3i+4", "4+3i"},
         {"\\frac{\\pi r}{h+r}", "\\frac{\\pi r}{r+h}"}, {"(x-2)(x+2)", "x^2-4"}, {"\\binom{5}{2}", "10"}, {"|{-3}|", "3"}},
        true);
    all({{"x^2+2x-1", "(x+1)^2"}, {"\\sqrt{x^2}", "x"}, {"\\sin 2x", "2\\sin x"}, {"\\pi", "3.14159"}, {"\\pi", "22/7"},
         {"a+b", "a-b"}, {"x^2", "2x"}, {"e", "2.718281828"}, {"\\ln x", "\\log x"}, {"4\\sqrt2", "4"}},
        false);
}

BOOST_AUTO_TEST_CASE(several_values) {
    all({{"1,2,3", "3, 1 \\text{ and } 2"}, {"\\{1,2\\}", "\\{2,1\\}"}, {"x=1, x=2", "2,1"}, {"1\\pm\\sqrt{19}", "1+\\sqrt{19},1-\\sqrt{19}"},
         {"(1,\\frac{9}{2})", "(1,4.5)"}, {"[0,1)", "$[0, 1)$"}, {"(2,12)\\cup(12,102)", "(12,102) \\cup (2,12)"},
         {"x \\in [-2,7]", "-2 \\le x \\le 7"}, {"x > 5", "(5,\\infty)"}, {"(1,2),(3,4)", "(3,4),(1,2)"},
         {"\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix} 1 & 2 \\\\ 3 & \\frac{8}{2} \\end{bmatrix}"}},
        true);
    all({{"1,2,3", "1,2"}, {"1,2", "1,2,2"}, {"(1,2)", "(2,1)"}, {"[0,1)", "[0,1]"}, {"[0,1)", "(0,1)"}, {"\\pm 3", "3"},
         {"x > 5", "[5,\\infty)"}, {"\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}2&1\\end{pmatrix}"}, {"(1,2)", "3"},
         {"\\{1,2\\}", "(2,1)"}},
        false);
}

BOOST_AUTO_TEST_CASE(equations_and_inequalities) {
    all({{"x=5", "5"}, {"k = \\frac13", "1/3"}, {"2x+4y-3=0", "y=-\\frac{1}{2}x+\\frac{3}{4}"}, {"x < 1", "-x > -1"},
         {"x \\ge 2", "2 \\le x"}, {"34x+45y=100", "-34x-45y=-100"}, {"f(x)=x^2+1", "f(x)=1+x^2"}, {"x \\ne 3", "x != 3"}},
        true);
    all({{"x=5", "y=5"}, {"2x+z=1", "1"}, {"x < 1", "x > 1"}, {"x < 1", "x \\le 1"}, {"x+y=1", "x+y=2"}, {"a^2+b=0", "0"}},
        false);
}

BOOST_AUTO_TEST_CASE(a_chain_is_its_last_side) {
    all({{"x=11", "x=5+5+1=7=11"}, {"1/3", "x=5+5+1=1/3 \\approx 11"}, {"z=1+1=2", "z=3+3=2"}, {"15", "7+8=15"},
         {"10/9", "\\frac12=\\frac{10}{9}"}, {"x^2+2x+1", "f(x)=(x+1)^2=x^2+2x+1"}, {"15", "7+8=15 \\approx 15.01"}},
        true);
    // Of several values one alone is judged, and which one the text says.
    const std::vector<std::string> sides = {"3", "4", "5", "6"};
    for (const std::string begin : {"x=", ""})
        for (const std::string end : {"", " \\approx 7"})
            for (const std::string value : {"3", "4", "5", "6", "7", "3,4,5,6", "5,6", "\\{3,6\\}"})
                BOOST_TEST(same_answer(value, begin + "3=4=5=6" + end) == (value == "6"), value << " of " << begin << end);
    all({{"4", "x=2y=4"}, {"y", "x=3=y"}, {"3", "x=3=y"}, {"[0,5]", "x=3 \\in [0,5]"}, {"5", "x^2=5"}, {"5", "f(x)=x^2+1=5"},
         {"c", "a+b=c"}, {"11", "x=7, 11"}},
        false);
}

BOOST_AUTO_TEST_CASE(sums_and_products_of_matrices) {
    const auto matrix = [](const std::string& cells) { return "\\begin{pmatrix}" + cells + "\\end{pmatrix}"; };
    const std::string a = matrix("1&2\\\\3&4"), b = matrix("5&6\\\\7&8"), column = matrix("1\\\\x"), row = matrix("1&2");
    BOOST_TEST(same_answer(matrix("6&8\\\\10&12"), a + "+" + b));
    BOOST_TEST(same_answer(matrix("-4&-4\\\\-4&-4"), a + "-" + b));
    BOOST_TEST(same_answer(matrix("19&22\\\\43&50"), a + b));
    BOOST_TEST(same_answer(matrix("19&22\\\\43&50"), "X=" + a + "\\cdot" + b));
    BOOST_TEST(same_answer(matrix("2x+1\\\\3+4x"), a + column));
    BOOST_TEST(same_answer(matrix("\\frac12&1\\\\1.5&2"), "\\frac{1}{2}" + a));
    BOOST_TEST(same_answer(a + b, matrix("19&22\\\\43&50")));
    BOOST_TEST(!same_answer(matrix("19&22\\\\43&50"), b + a));
    BOOST_TEST(!same_answer(matrix("6&8\\\\10&13"), a + "+" + b));
    BOOST_TEST(!same_answer(a, a + "+1"));
    for (const std::string& unfit : {a + "+" + row, row + "+" + a, column + a, row + row, a + "/" + b})
        for (const std::string& other : {a, b, row, column, matrix("6&8"), std::string("5")})
            BOOST_TEST(!same_answer(other, unfit), other << " and " << unfit);
    BOOST_TEST(!same_answer(matrix("2&4\\\\6&8"), "2\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}"));
    std::string product;
    for (int i = 0; i < 30; ++i) product += matrix("x&y\\\\1&x");
    BOOST_TEST(!same_answer(a, product));
}

BOOST_AUTO_TEST_CASE(odd_roots_are_real) {
    all({{"x^{2/3}", "\\sqrt[3]{x}^2"}, {"x^{2/3}", "\\sqrt[3]{x^2}"}, {"x^{1/3}", "\\sqrt[3]{x}"}, {"x^{-1/3}", "\\frac{1}{\\sqrt[3]{x}}"},
         {"\\sqrt[3]{x^3}", "x"}, {"-\\sqrt[5]{x}", "\\sqrt[5]{-x}"}, {"x^{2/6}", "\\sqrt[3]{x}"}, {"x^{2/4}", "\\sqrt{x}"},
         {"x^{1/2}x^{1/3}", "x^{5/6}"}, {"\\sqrt{x}\\sqrt[3]{x}", "x^{5/6}"}, {"\\sqrt[3]{-8}", "-2"},
         {"y=x^{2/3}", "y-\\sqrt[3]{x}^2=0"}},
        true);
    all({{"\\sqrt{x^2}", "x"}, {"(x^2)^{1/2}", "x"}, {"(x^2)^{1/4}", "x^{2/4}"}, {"(x^2)^{1/6}", "x^{2/6}"}, {"\\sqrt[4]{x^4}", "x"},
         {"\\sqrt[6]{x^2}", "\\sqrt[3]{x}"}, {"x^{1/3}", "|x|^{1/3}"}, {"x^{2/3}", "x^{3/2}"}, {"x^{1/3}", "-|x|^{1/3}"},
         {"x^{2/3}", "x^{0.667}"}, {"x^{5/3}", "|x|^{5/3}"}},
        false);
    // An even root forgets the sign, whatever the roots of a negative number are taken for.
    all({{"x", "(x^{2/3})^{3/2}"}, {"x^{1/3}", "\\sqrt{x^{2/3}}"}, {"x^{1/3}", "\\sqrt{\\sqrt[3]{x}^2}"},
         {"x-1", "((x-1)^{2/3})^{3/2}"}, {"x^{1/5}", "\\sqrt{x^{2/5}}"}, {"x^{1/3}=2", "\\sqrt{x^{2/3}}=2"},
         {"x^{1/3}<2", "\\sqrt{x^{2/3}}<2"}, {"y^{1/2}x^{1/3}", "y^{1/2}\\sqrt{x^{2/3}}"}},
        false);
}

BOOST_AUTO_TEST_CASE(solutions_as_tuples) {
    all({{"(1,2),(3,4)", "(3,4),(1,2),(1,2)"}, {"(1,2),(3,4),(3,4)", "(1,2),(1,2),(3,4)"}, {"p=5,q=2;p=7,q=2", "(5,2),(7,2)"},
         {"p=5,q=2;p=7,q=2", "p=7,q=2;p=5,q=2"}, {"x=1, y=2", "(1,2)"}, {"x_1=1,x_2=2,x_1=3,x_2=4", "\\{(3,4),(1,2)\\}"}},
        true);
    all({{"(1,2),(3,4)", "(1,2)"}, {"(1,2),(3,4)", "(1,2),(3,4),(5,6)"}, {"1,2", "1,2,2"}, {"(1,2),(3,4)", "(1,2),(1,2)"},
         {"p=5,q=2;p=7,q=2", "(2,5),(2,7)"}, {"p=5,q=2;p=7,q=2", "(5,2),(7,3)"}, {"p=5,q=2;p=7,q=3", "p=5,q=3;p=7,q=2"},
         {"p=5,q=2;p=7,q=2", "a=5,b=2;a=7,b=2"}, {"q=2,p=5;q=3,p=7", "(2,5),(3,7)"}, {"y=1, x=2", "(1,2)"},
         {"p=5,q=2;p=7", "(5,2),(7,2)"}, {"p=5,q=2;p=7,q=2", "5,2,7,2"}},
        false);
}

BOOST_AUTO_TEST_CASE(several_values_of_one_are_no_tuple) {
    all({{"(0,1)", "x=0 \\text{ or } x=1"}, {"(0,1)", "x=0 or x=1"}, {"(2,3)", "x=2,x=3"}, {"(1,2,3,4)", "x=1,y=2,x=3,y=4"},
         {"(1,2,3)", "x=1,y=2,x=3"}, {"(1,2)", "x=1,2"}, {"(1,2)", "1,y=2"}, {"(1,2)", "1 or 2"}, {"(1,2)", "x=1 or y=2"},
         {"(1,2)", "(1 or 2)"}, {"(2,1)", "y=2,x=1"}},
        false);
    all({{"(1,2)", "x=1,y=2"}, {"(1,2)", "x=1 and y=2"}, {"(1,2)", "1,2"}, {"1,2", "1 or 2"}, {"1,2", "1 and 2"}, {"0,1", "x=0 or x=1"},
         {"\\sin x, 2", "\\sin x \\text{ and } 2"}, {"(1,2)", "x_9=1,x_{10}=2"}, {"(1,2,3)", "a=1,B=2,c=3"}, {"(1,2,3)", "A=1,b=2,C=3"}},
        true);
    all({{"(1,2)", "x_{10}=1,x_9=2"}, {"(1,2)", "B=1,a=2"}, {"(1,2)", "b=1,A=2"}}, false);
}

BOOST_AUTO_TEST_CASE(and_is_an_intersection_or_a_union) {
    all({{"(-\\infty,3)\\cup(2,\\infty)", "x>2,x<3"}, {"(-\\infty,3)\\cup(2,\\infty)", "x>2 and x<3"},
         {"|x|>2", "x<-2 and x>2"}, {"(-\\infty,-2)\\cup(2,\\infty)", "x<-2 \\text{ and } x>2"}, {"x>2 or x<3", "x>2 and x<3"},
         {"x<2 or x>3", "x<2 and x>3"}, {"(-\\infty,2)\\cup(3,\\infty)", "x<2, y>3"}, {"(2,3)", "x>2 or x<3"}, {"(2,3)", "x>2 and y<3"},
         {"(3,2)", "x>3 and x<2"}, {"(3,2)", "3<x<2"}, {"(2,3)", "x\\ge 2 and x<3"}, {"2<x<3", "y>2 and y<3"},
         {"x \\ne 1 \\text{ and } x \\ne 2", "x \\ne 1 \\text{ or } x \\ne 2"}, {"(-\\infty,2]\\cup[2,\\infty)", "x \\le 2, x \\ge 2"}},
        false);
    all({{"(2,3)", "x>2 and x<3"}, {"2<x<3", "x<3 \\text{ and } x>2"}, {"[2,3)", "x \\ge 2, x<3"}, {"|x|<2", "x>-2 and x<2"},
         {"(-\\infty,3)\\cup(2,\\infty)", "x>2 or x<3"}, {"|x|>2", "x<-2 or x>2"}, {"|x|>2", "x<-2, x>2"},
         {"(-\\infty,-\\sqrt2)\\cup(\\sqrt2,\\infty)", "x<-\\sqrt2, x>\\sqrt2"}, {"x<2, x>3", "x>3 or x<2"}, {"x=1 or x>3", "x>3, x=1"},
         {"x \\ne 1, x \\ne 2", "x \\ne 2 \\text{ and } x \\ne 1"}, {"x>0, y>0", "y>0 and x>0"}},
        true);
}

BOOST_AUTO_TEST_CASE(bounds_of_an_absolute_value) {
    all({{"1\\leq|z|\\leq\\frac32", "z \\in [-\\frac32,-1]\\cup[1,1.5]"}, {"|x|<2", "(-2,2)"}, {"|x|<2", "-2<x<2"}, {"|x| \\le a", "[-a,a]"},
         {"|x| \\ge 3", "(-\\infty,-3]\\cup[3,\\infty)"}, {"|x|>3", "x<-3 \\text{ or } x>3"}, {"2>|x|", "x \\in (-2,2)"},
         {"|z|<2", "|z|-2<0"}, {"1<|x|\\le 2", "[-2,-1) \\cup (1,2]"}, {"2\\ge|x|>1", "1<|x|\\le 2"}},
        true);
    all({{"|x|<2", "[-2,2]"}, {"|x|<2", "(-2,3)"}, {"|x|<2", "x<2"}, {"|x|>3", "(3,\\infty)"}, {"|x|>3", "x>3"}, {"|x|<2", "-2<y<2"},
         {"|x|<2", "y \\in (-2,2)"}, {"|x|<2", "|y|<2"}, {"|z|<2", "(-2,2)"}, {"1\\le|z|\\le 2", "[-2,-1]\\cup[1,2]"},
         {"1\\le|x|\\le 2", "[1,2]"}, {"1<|x|\\le 2", "[-2,-1] \\cup [1,2]"}, {"|x|=2", "(-2,2)"}, {"|x|<2", "2"}},
        false);
}

BOOST_AUTO_TEST_CASE(sums_with_an_index) {
    all({{"F_n=\\sum_{k=0}^{n-1}F_kF_{n-k-1}", "F_n=\\sum_{k=0}^{n-1}F_{n-k-1}F_k"}, {"\\sum_{k=1}^n k^2", "\\sum\\limits_{j=1}^{n} j \\cdot j"},
         {"\\sum_{k=1}^{10} k", "55"}, {"\\sum_{i=1}^{3} x^i", "x+x^2+x^3"}, {"\\sum_{k=0}^{2} a_k", "a_0+a_1+a_2"},
         {"2\\sum_{k=1}^n a_k b_k", "\\sum_{k=1}^n b_k a_k \\cdot 1 + \\sum_{k=1}^n a_k b_k"}, {"a_{n+1}=2a_n", "a_{1+n}=a_n+a_n"},
         {"\\sum_{i=1}^{2}\\sum_{j=1}^{2} ij", "9"}},
        true);
    all({{"\\sum_{k=0}^{n-1}F_kF_{n-k-1}", "\\sum_{k=0}^{n-1}F_kF_{n-k}"}, {"\\sum_{k=0}^{n}F_k", "\\sum_{k=1}^{n}F_k"},
         {"\\sum_{k=0}^{n}F_k", "\\sum_{k=0}^{m}F_k"}, {"\\sum_{k=0}^{n}F_k", "F_k"}, {"\\sum_{k=1}^{n}|k-3|", "\\sum_{k=1}^{n}(k-3)"},
         {"\\sum_{k=1}^{n}a_k \\cdot b_k", "(\\sum_{k=1}^{n}a_k)(\\sum_{k=1}^{n}b_k)"}, {"\\sum_{k=1}^{10} k", "54"},
         {"\\sum_{k=1}^{10} k+1", "\\sum_{k=1}^{10} (k+1)"}, {"a_{n+1}", "a_n+1"}, {"\\sum_{k=1}^{n} F_j", "\\sum_{k=1}^{n} F_k"},
         {"\\sum_{k=1}^{99999999} k", "4999999950000000"}},
        false);
}

BOOST_AUTO_TEST_CASE(branches_of_every_letter) {
    for (char c = 'a'; c <= 'z'; ++c) {
        for (const char letter : {c, static_cast<char>(c - 'a' + 'A')}) {
            if (letter == 'e' || letter == 'i') continue;
            const std::string v(1, letter);
            for (const std::string& other : {"\\sqrt{" + v + "^2}", "|" + v + "|", "-|" + v + "|", v + "^3", "\\arctan(\\tan " + v + ")"})
                BOOST_TEST(!same_answer(v, other), v << " and " << other);
            BOOST_TEST(!same_answer("2\\ln " + v, "\\ln(" + v + "^2)"));
        }
    }
}

BOOST_AUTO_TEST_CASE(what_a_policy_would_try) {
    all({{"5", "5 or 6"}, {"5", "5!"}, {"5", "not 5"}, {"5", "minus 5"}, {"5", "5 million"}, {"52", "5²"}, {"106", "10⁶"},
         {"5", "√5"}, {"5", "≠ 5"}, {"x ≥ 5", "x ≤ 5"}, {"5", "5π"}, {"5", "(5, x)"}, {"5", "5, x"}, {"15x", "1.5x"}, {"xy", "x,y"},
         {"x", "X"}, {"f(x)", "f'(x)"}, {"Evelyn", "nylevE"}, {"x=1, y=2", "x=2, y=1"}, {"(1 1/2, 3)", "(11/2, 3)"},
         {"12", "1 2"}, {"10 AM", "10 PM"}, {"5:00\\text{ p.m.}", "5:00\\text{ a.m.}"}, {"10\\text{ cm}", "10\\text{ km}"},
         {"3", "|x|=3"}, {"x", "\\operatorname{sin} x"}, {"5", "\\text{-}5"}, {"5", "5\\text{ or 6}"}, {"5", "\\text{not }5"},
         {"x", "x\\text{}^{2}"}, {"100!", "100!+1"}, {"\\sqrt2", "\\sqrt2+10^{-40}"}, {"10^{60}+\\pi", "10^{60}+e"},
         {"64", "2^3^2"}, {"2x", "x2"}, {"2.5", "(5 .5)"}, {"x_1+y+z", "x_{1,1:y}+z"}, {"6", "x=6=5"}, {"5, 6", "x=6=5"}, {"56", "$5$$6$"},
         {"56", "5%6"}, {"1=2", "3=5"}, {"\\sin(x^2)", "\\sin(x)^2"}, {"7/3", "(2)\\frac13"},
         {"\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}"}},
        false);
    all({{"(-\\infty,2)\\cup(3,\\infty)", "x<2, x>4"}, {"(-\\infty,2)\\cup(3,\\infty)", "x<2"}, {"0.3", "0.\\overline{3}"},
         {"0.\\overline{9}9", "1"}},
        false);
    all({{"(-\\infty,5)", "x<5"}, {"1+\\lfloor x\\rfloor", "\\lfloor x\\rfloor+1"}, {"5", "5\\text{ m}"}, {"12", "12 cm^2"},
         {"12", "\\text{12}"}, {"24", "\\text{24 hours}"}, {"12\\pi", "12\\pi square units"}, {"5", "5 = x"},
         {"2\\sqrt{3}", "2\\sqrt3 \\approx 3.46"}, {"2\\sqrt2", "\\sqrt8=2\\sqrt2"}, {"2|x|", "|2x|"}, {"|x|", "\\lvert x \\rvert"},
         {"(-\\infty,2)\\cup(3,\\infty)", "x<2 \\text{ or } x>3"}, {"1/3", "0.\\overline{3}"}, {"1/6", "0.1\\overline{6}"},
         {"(-\\infty,\\infty)", "\\mathbb{R}"}, {"\\sin^2 x", "\\sin(x)^2"}, {"3", "= 3"}, {"3", "**3**"}, {"25", "5²"}, {"11/2", "5½"}, {"120", "5!"}},
        true);
}

BOOST_AUTO_TEST_CASE(what_is_small_counts) {
    all({{"1", "1-e^{-100}"}, {"1", "1-e^{-300}"}, {"1", "\\tanh(60)"}, {"1", "\\tanh(200)"}, {"x", "x+10^{-45}"}, {"x", "x+10^{-400}"},
         {"\\sqrt2", "\\sqrt2+10^{-43}"}, {"\\sqrt2", "\\sqrt2+10^{-143}"}, {"1", "\\cos(10^{-60})"}, {"1", "e^{10^{-200}}"},
         {"1", "2^{10^{-200}}"}, {"\\pi", "\\pi+e^{-500}-\\pi+\\pi"}, {"\\frac{\\pi}{2}", "\\arctan(10^{60})"}, {"e", "(1+10^{-200})^{10^{200}}"},
         {"x", "x(1-e^{-300})"}, {"\\sqrt2", "\\sqrt{2+e^{-300}}"}, {"e^{-300}", "(1+e^{-300})-1"}, {"\\cosh(200)", "\\frac{e^{200}}{2}"},
         {"10^{-60}", "\\sin(10^{-60})"}, {"\\sqrt2", "\\sqrt[3]{\\sqrt8+10^{-50}}"}, {"1", "-\\cos(\\pi\\cos(10^{-20}))"}},
        false);
    all({{"\\tanh(2)", "\\frac{e^4-1}{e^4+1}"}, {"1+e^{-20}", "e^{-20}+1"}, {"\\sqrt2+10^{-20}", "10^{-20}+\\sqrt2"}, {"10^{-60}\\pi", "\\pi \\cdot 10^{-60}"},
         {"2\\cosh(x)", "e^x+e^{-x}"}, {"x^2-1", "(x-1)(x+1)"}, {"\\sqrt{3+2\\sqrt2}", "1+\\sqrt2"}, {"\\sum_{k=1}^{50} 2^{-k}\\pi", "\\pi-2^{-50}\\pi"}},
        true);
}

BOOST_AUTO_TEST_CASE(words) {
    all({{"\\text{(C)}", "C"}, {"Evelyn", "\\text{Evelyn}"}, {"\\text{no solution}", "No solution."}, {"\\text{odd}", "odd"}}, true);
    all({{"A", "B"}, {"even", "odd"}, {"yes", "no"}}, false);
}

BOOST_AUTO_TEST_CASE(work_has_a_budget) {
    // Items turned around, and the last another: most are compared with most, at points where none has a value.
    std::string items, turned;
    for (int i = 1; i <= 60; ++i) {
        const std::string item = "\\sin x+" + std::to_string(i) + "/0";
        items += item + (i < 60 ? "," : "");
        turned = (i < 60 ? item : "\\cos x+1/0") + (i > 1 ? "," : "") + turned;
    }
    BOOST_TEST(!same_answer(items, turned));
    BOOST_TEST(!Budget::take(1));
    BOOST_TEST(same_answer("x+x", "2x"));  // each pair has its own
    BOOST_TEST(Budget::take(1));
}

BOOST_AUTO_TEST_CASE(hostile_texts_take_bounded_time) {
    const auto began = std::chrono::steady_clock::now();
    BOOST_TEST(!same_answer("5^{5^{5^{5^{5}}}}", "6^{6^{6^{6}}}"));
    BOOST_TEST(!same_answer("5^(5^(5^(5^5)))", "2"));
    BOOST_TEST(!same_answer("1", "99999999999!"));
    BOOST_TEST(!same_answer("1", "2^{99999999999999999999}"));
    BOOST_TEST(!same_answer("7", std::string(1'000'000, '(') + "7"));
    for (const std::string part : {"/7^{2400}", "+7^{2400}", "!", "^x", "y", "+\\sin x", "+170!", "{", "\\pm x", "=7^{2400}", "|"}) {
        std::string text = "1";
        while (text.size() < 1450) text += part;
        BOOST_TEST(!same_answer("2x", text), part);
        BOOST_TEST(!same_answer("Evelyn", text), part);
        while (text.size() < 1'000'000) text += part;
        BOOST_TEST(!same_answer("Evelyn", text), part);
    }
    BOOST_TEST(!same_answer("7", std::string(1400, '(') + "7" + std::string(90, ')')));
    BOOST_TEST(!same_answer("7", std::string(1400, '9') + "x"));
    std::string nested = "x";
    for (int i = 0; i < 100; ++i) nested = "\\sqrt{" + nested + "}";
    BOOST_TEST(!same_answer("7", nested));
    std::string items = "1";
    for (int i = 0; i < 400; ++i) items += ",x^" + std::to_string(i % 10);
    BOOST_TEST(!same_answer(items, "x," + items));
    std::string powers = "x";
    for (int i = 0; i < 150; ++i) powers += "+\\sin(x^" + std::to_string(i % 10) + ")";
    BOOST_TEST(!same_answer(powers, powers + "+1"));
    for (const char* text : {"\\", "\\frac", "\\frac{", "{", "}", "$", "^", "_", "\\begin{pmatrix}", "\\end", "\\sum", "\\sum_", "\\sum_{k=", "\\sum_{k=1}^", "\\sum_{k=1}^{2}", "x_{1+", "\\left(", "|", "||",
                             "1e400", "\\sqrt[", "x_{", "\xff\xfe", "\\pm", "=", "<", ":", ",", "1/0", "0/0", "0^0", "\\text{"})
        BOOST_TEST(!same_answer("7", text), text);
    BOOST_TEST(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() < 20);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
