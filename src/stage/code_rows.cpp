// SPDX-License-Identifier: Apache-2.0
#include "code_rows.hpp"

#include <set>
#include <sstream>

#include "gradus/base/error.hpp"
#include "gradus/reward/code.hpp"

namespace gradus {
namespace {

bool has_text(const Json& row, const char* name) { return row.contains(name) && row[name].is_string(); }

std::string text_of(const Json& row, const char* name) { return has_text(row, name) ? row[name].get<std::string>() : ""; }

std::vector<std::string> texts_of(const Json& row, const char* name) {
    std::vector<std::string> texts;
    if (!row.contains(name) || row[name].is_null()) return texts;
    require<DataError>(row[name].is_array(), "field \"{}\" is no list of texts", name);
    for (const Json& item : row[name]) {
        require<DataError>(item.is_string(), "field \"{}\" is no list of texts", name);
        texts.push_back(item.get<std::string>());
    }
    return texts;
}

/// Words of Python text that may be names.
std::vector<std::string> names_in(const std::string& text) {
    std::vector<std::string> names;
    std::string name;
    for (const char c : text + " ") {
        if (std::isalnum(static_cast<unsigned char>(c)) || c == '_') {
            name += c;
            continue;
        }
        if (!name.empty()) names.push_back(name);
        name.clear();
    }
    return names;
}

/// The row with `prompt` and `reference` in place of what they were made from.
Json finished(const Json& row, const std::string& prompt, const CodeTask& task) {
    Json out = row;
    for (const char* name : {"text", "declaration", "canonical_solution", "code", "test", "answer"}) out.erase(name);
    if (!prompt.empty()) out["prompt"] = prompt;
    out["reference"] = to_reference(task);
    (void)code_task(out["reference"].get<std::string>());  // throws what is wrong with it
    return out;
}

Json human_eval(const Json& row) {
    const std::string prompt = text_of(row, "prompt");
    // The prompt ends with a docstring, which a function may consist of; `pass` serves where it does not.
    const CodeTask task = {.language = Language::python,
                           .tests = {text_of(row, "test")},
                           .entry_point = text_of(row, "entry_point"),
                           .prologue = prompt + "    pass\n",
                           .header = prompt};
    return finished(row, "Complete this Python function. Give the whole function in one fenced block.\n\n```python\n" + prompt +
                    "```", task);
}

Json human_eval_cpp(const Json& row) {
    const std::string declaration = text_of(row, "declaration");
    const std::optional<CppHeader> header = cpp_header(declaration);
    require<DataError>(header.has_value(), "field \"declaration\" does not end with the head of a function");
    const CodeTask task = {.language = Language::cpp,
                           .tests = {text_of(row, "test")},
                           .entry_point = header->name,
                           .signature = header->type,
                           .prologue = header->before,
                           // One declaration has part of the body too, which its solution begins anew.
                           .header = declaration.substr(0, declaration.find('{', header->before.size()) + 1) + "\n"};
    return finished(row, "Complete this C++ function. Give the whole function in one fenced block.\n\n```cpp\n" +
                    text_of(row, "prompt") + "```", task);
}

/// MBPP names the tested function only in its tests: of the names that its own solution defines the first that they use.
Json mbpp(const Json& row) {
    CodeTask task = {.language = Language::python,
                     .tests = texts_of(row, "test_list"),
                     .prologue = text_of(row, "test_setup_code")};
    require<DataError>(!task.tests.empty(), "field \"test_list\" holds no test");
    std::set<std::string> functions, others;
    std::istringstream code(text_of(row, "code"));
    std::string modules;
    for (std::string line; std::getline(code, line);) {
        const std::vector<std::string> words = names_in(line);
        if (words.size() < 2 || line.empty() || std::isspace(static_cast<unsigned char>(line[0]))) continue;
        if (words[0] == "def") functions.insert(words[1]);
        if (words[0] == "class") others.insert(words[1]);
        if (words[0] == "import")
            for (const std::string& name : names_in(task.tests[0]))
                if (name == words[1]) modules = "import " + name + "\n" + modules;
    }
    std::set<std::string> used;
    for (const std::string& test : task.tests)
        for (const std::string& name : names_in(test)) {
            if (functions.contains(name) && task.entry_point.empty()) task.entry_point = name;
            if ((functions.contains(name) || others.contains(name)) && name != task.entry_point) used.insert(name);
        }
    require<DataError>(!task.entry_point.empty(), "no function of field \"code\" stands in \"test_list\"");
    task.names.assign(used.begin(), used.end());
    task.prologue = modules + task.prologue;
    return finished(row, text_of(row, "text") + "\nGive the Python program in one fenced block. It has to pass this test:\n\n```python\n" +
                    task.tests[0] + "\n```", task);
}

Json own_form(const Json& row) {
    CodeTask task = {.tests = texts_of(row, "tests"),
                     .entry_point = text_of(row, "entry_point"),
                     .signature = text_of(row, "signature"),
                     .prologue = text_of(row, "prologue"),
                     .header = text_of(row, "header"),
                     .names = texts_of(row, "names"),
                     .in_place = row.value("in_place", false)};
    const std::string language = text_of(row, "language");
    require<DataError>(language == "python" || language == "cpp", "field \"language\" is {}; programs in python and cpp are run",
                       language);
    task.language = language == "python" ? Language::python : Language::cpp;
    if (row.contains("cases") && row["cases"].is_array())
        for (const Json& test : row["cases"]) {
            require<DataError>(has_text(test, "input") && has_text(test, "output"),
                               "an entry of field \"cases\" is no object {{input, output}} of texts");
            task.cases.push_back({text_of(test, "input"), text_of(test, "output")});
        }
    if (task.language == Language::cpp && !task.signature.empty()) {
        const std::optional<CppHeader> header = cpp_header(task.signature);
        require<DataError>(header.has_value(), "field \"signature\" is no head of a function, as in bool f(int a)");
        task.entry_point = header->name;
        task.signature = header->type;
    }
    return finished(row, "", task);
}

}  // namespace

Json as_code_row(const Json& row) {
    if (has_text(row, "declaration") && has_text(row, "test")) return human_eval_cpp(row);
    if (has_text(row, "prompt") && has_text(row, "entry_point") && has_text(row, "test")) return human_eval(row);
    if (has_text(row, "text") && row.contains("test_list")) return mbpp(row);
    if (has_text(row, "language") && (row.contains("tests") || row.contains("cases"))) return own_form(row);
    return row;
}

}  // namespace gradus
