// SPDX-License-Identifier: Apache-2.0
#include "gradus/reward/code.hpp"

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cmath>
#include <csignal>

#include "gradus/base/error.hpp"

using namespace gradus;

BOOST_AUTO_TEST_SUITE(code)

BOOST_AUTO_TEST_CASE(programs_in_responses) {
    const auto python = [](const std::string& response) { return extract_code(response, Language::python); };
    BOOST_TEST(python("a = 1") == "a = 1");
    BOOST_TEST(python("<think>```python\nno\n```</think>a = 1") == "a = 1");
    BOOST_TEST(python("<think>x</think>One:\n```python\na\n```\nbetter:\n```py\nb\n\nc\n```\nbye") == "b\n\nc\n");
    // What it prints, in a block of another language, is no program.
    BOOST_TEST(python("```python\na\n```\nprints\n```text\n5\n```") == "a\n");
    BOOST_TEST(python("```cpp\nint a;\n```") == "int a;\n");
    BOOST_TEST(extract_code("```python\na\n```\n```C++ title\nb\n```", Language::cpp) == "b\n");
    BOOST_TEST(python("````python\n```\nx\n```\n````") == "```\nx\n```\n");
    BOOST_TEST(python("<answer>a</answer> <answer>b</answer>") == "b");
    BOOST_TEST(python("<answer>\n```\na\n```\n</answer>") == "a\n");
    BOOST_TEST(python("  ```python\ncut off") == "cut off\n");
    BOOST_TEST(python("") == "");
}

BOOST_AUTO_TEST_CASE(heads_of_functions) {
    const auto head = cpp_header("#include <vector>\nusing namespace std;\nvector<int> f(vector<pair<int, int>> v, int (*g)(int)){\n");
    BOOST_REQUIRE(head.has_value());
    BOOST_TEST(head->before == "#include <vector>\nusing namespace std;\n");
    BOOST_TEST(head->name == "f");
    BOOST_TEST(head->type == "vector<int>(vector<pair<int, int>> v, int (*g)(int))");
    // A body that has begun, behind a function that is whole.
    const auto begun = cpp_header("int g(int a) { if (a) { } return a; }\nint f(int a) {\n    for (;;) {\n");
    BOOST_REQUIRE(begun.has_value());
    BOOST_TEST(begun->name == "f");
    BOOST_TEST(begun->before == "int g(int a) { if (a) { } return a; }\n");
    for (const char* none : {"", "int x;", "f(", "{", ")", "(a)", "int f(int a) { return 1; }"})
        BOOST_TEST(!cpp_header(none).has_value(), none);
}

BOOST_AUTO_TEST_CASE(whole_programs) {
    const CodeTask python{.entry_point = "f", .prologue = "import re\ndef f(x):\n    pass\n", .header = "import re\ndef f(x):\n"};
    BOOST_TEST(whole_program(python, "def f(x):\n    return 1") == "import re\ndef f(x):\n    pass\n\ndef f(x):\n    return 1");
    BOOST_TEST(whole_program(python, "    return 1\n") == "import re\ndef f(x):\n    return 1\n");
    BOOST_TEST(whole_program(python, "return 1") == "import re\ndef f(x):\n    return 1\n");
    BOOST_TEST(whole_program(python, "f = lambda x: 1") == python.prologue + "\nf = lambda x: 1");
    BOOST_TEST(whole_program(python, "    y = f == 2\n") == python.header + "    y = f == 2\n");
    const CodeTask cpp{.language = Language::cpp, .entry_point = "f", .signature = "int(int a)",
                       .prologue = "#include <map>\nint h(int a) { return a; }\n",
                       .header = "#include <map>\nint h(int a) { return a; }\nint f(int a) {"};
    BOOST_TEST(whole_program(cpp, "int f(int a) { return h(a); }") == cpp.prologue + "\nint f(int a) { return h(a); }");
    BOOST_TEST(whole_program(cpp, "return h(f(1)); }") == cpp.header + "return h(f(1)); }");
    const std::string again = "int h(int a) { return 1; }\nint f(int a)\n{ return h(a); }";
    BOOST_TEST(whole_program(cpp, again) == "#include <map>\n" + again);
}

BOOST_AUTO_TEST_CASE(any_number_of_open_brackets_takes_little_time) {
    const CodeTask cpp{.language = Language::cpp, .entry_point = "f", .header = "int f() {\n"};
    std::string code;
    while (code.size() < 1'000'000) code += "f(";
    const auto began = std::chrono::steady_clock::now();
    BOOST_TEST(whole_program(cpp, code) == cpp.header + code);
    BOOST_TEST(whole_program(cpp, code + ")") == cpp.header + code + ")");
    BOOST_TEST(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() < 5);
    BOOST_TEST(whole_program(cpp, code + "int a) {") == "\n" + code + "int a) {");
}

BOOST_AUTO_TEST_CASE(references) {
    const CodeTask task{.language = Language::cpp, .tests = {"assert(f(1) == 1);"}, .entry_point = "f", .signature = "int(int a)"};
    const auto read = code_task(to_reference(task));
    BOOST_REQUIRE(read.has_value());
    BOOST_TEST(read->tests == task.tests);
    BOOST_TEST((read->language == Language::cpp));
    BOOST_TEST(read->signature == task.signature);
    for (const char* other : {"", "42", "{}", "{\"code\":", "[\"code\"]"}) BOOST_TEST(!code_task(other).has_value(), other);
    for (const char* wrong : {R"({"code":"perl","cases":[]})", R"({"code":"python"})", R"({"code":"python","tests":["a"]})",
                              R"({"code":"cpp","tests":["a"],"entry_point":"f"})", R"({"code":"python","cases":[{"input":1}]})",
                              R"({"code":"python","tests":["a"],"cases":[{"input":"","output":""}],"entry_point":"f"})"})
        BOOST_CHECK_THROW(code_task(wrong), DataError);
}

/// What cannot be judged is unscorable, for a reason.
BOOST_AUTO_TEST_CASE(without_a_helper) {
    const Sandbox sandbox;
    BOOST_REQUIRE(sandbox.helper() > 0);
    const auto reward = make_code_reward(sandbox, {});
    const Judgement other = reward->judge({.response = "x", .reference = "42"});
    BOOST_TEST(std::isnan(other.score));
    BOOST_TEST(other.reason == "the reference is no task of a program");
    ::kill(sandbox.helper(), SIGKILL);
    const CodeTask task{.tests = {"assert f() == 1"}, .entry_point = "f"};
    for (int i = 0; i < 3; ++i) {
        const Judgement judgement = reward->judge({.response = "def f():\n    return 1", .reference = to_reference(task)});
        BOOST_TEST(std::isnan(judgement.score));
        BOOST_TEST(judgement.reason.find("has ended") != std::string::npos, judgement.reason);
    }
}

BOOST_AUTO_TEST_SUITE_END()
