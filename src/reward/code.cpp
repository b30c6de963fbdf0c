// SPDX-License-Identifier: Apache-2.0
#include "gradus/reward/code.hpp"

#include <algorithm>
#include <sstream>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"

namespace gradus {
namespace {

constexpr std::size_t kLongestCode = 1 << 20;

bool is_word(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

std::string trimmed(const std::string& text) {
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

std::vector<std::string> lines_of(const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

/// A fenced block: what its first line names, and its lines.
struct Block {
    std::string info, text;
};

std::vector<Block> fenced_blocks(const std::string& text) {
    std::vector<Block> blocks;
    bool open = false;
    std::string fence;
    for (const std::string& line : lines_of(text)) {
        const std::string bare = trimmed(line);
        const std::size_t ticks = std::min(bare.find_first_not_of('`'), bare.size());
        if (!open && ticks >= 3) {
            open = true;
            fence = bare.substr(0, ticks);
            std::string info = trimmed(bare.substr(ticks));
            std::transform(info.begin(), info.end(), info.begin(), [](unsigned char c) { return std::tolower(c); });
            blocks.push_back({.info = info, .text = ""});
        } else if (open && ticks >= fence.size() && ticks == bare.size()) {
            open = false;
        } else if (open) {
            blocks.back().text += line + "\n";
        }
    }
    return blocks;
}

bool names_language(const std::string& info, Language language) {
    const std::string word = info.substr(0, info.find_first_of(" {"));
    if (word.empty()) return true;
    const std::vector<std::string> python = {"python", "python3", "py"}, cpp = {"cpp", "c++", "cc", "cxx", "c"};
    const auto& all = language == Language::python ? python : cpp;
    return std::find(all.begin(), all.end(), word) != all.end();
}

/// Where the bracket that opens at each place of a text closes, npos where none does; found in one pass, since a model may
/// open any number.
std::vector<std::size_t> closing_brackets(const std::string& text) {
    std::vector<std::size_t> closing(text.size(), std::string::npos), open;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] == '(') open.push_back(at);
        if (text[at] != ')' || open.empty()) continue;
        closing[open.back()] = at;
        open.pop_back();
    }
    return closing;
}

/// Whether C++ text defines a function: its name, brackets that close, then a brace.
bool defines(const std::string& text, const std::string& name) {
    const std::vector<std::size_t> closing = closing_brackets(text);
    for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
        if (at > 0 && is_word(text[at - 1])) continue;
        std::size_t end = text.find_first_not_of(" \t\r\n", at + name.size());
        if (end == std::string::npos || text[end] != '(') continue;
        if (closing[end] == std::string::npos) continue;
        end = text.find_first_not_of(" \t\r\n", closing[end] + 1);
        if (end == std::string::npos) continue;
        if (text[end] == '{' || text.compare(end, 2, "->") == 0 || text.compare(end, 8, "noexcept") == 0) return true;
    }
    return false;
}

/// Names of the functions that C++ text defines at the start of a line.
std::vector<std::string> defined_names(const std::string& text) {
    std::vector<std::string> names;
    for (const std::string& line : lines_of(text)) {
        if (line.empty() || !is_word(line[0])) continue;
        const std::size_t bracket = line.find('(');
        if (bracket == std::string::npos) continue;
        std::size_t begin = bracket;
        while (begin > 0 && is_word(line[begin - 1])) --begin;
        if (begin < bracket && begin > 0) names.push_back(line.substr(begin, bracket - begin));
    }
    return names;
}

std::string whole_cpp(const CodeTask& task, const std::string& code) {
    if (task.entry_point.empty()) return code;
    if (!defines(code, task.entry_point)) return task.header.empty() ? code : task.header + code;
    // Functions that a model wrote out again are taken from its text; headers may stand twice.
    const std::vector<std::string> helpers = defined_names(task.prologue);
    const bool again = std::any_of(helpers.begin(), helpers.end(),
                                   [&](const std::string& name) { return defines(code, name); });
    if (!again) return task.prologue + "\n" + code;
    std::string head;
    for (const std::string& line : lines_of(task.prologue))
        if (line.rfind("#", 0) == 0 || line.rfind("using ", 0) == 0 || line.rfind("typedef ", 0) == 0) head += line + "\n";
    return head + code;
}

std::string whole_python(const CodeTask& task, const std::string& code) {
    if (task.entry_point.empty()) return code;
    const auto lines = lines_of(code);
    const bool whole = std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
        for (const char* begin : {"def ", "async def ", "class ", ""}) {
            const std::string wanted = begin + task.entry_point;
            if (line.rfind(wanted, 0) != 0) continue;
            const std::size_t next = line.find_first_not_of(" \t", wanted.size());
            const char c = next == std::string::npos ? '\0' : line[next];
            if (*begin != '\0' ? c == '(' || c == ':' : c == '=') return true;
        }
        return false;
    });
    if (whole || task.header.empty()) return task.prologue + "\n" + code;
    // A body: as indented as it stands, or by one step where it is not at all.
    const auto first = std::find_if(lines.begin(), lines.end(), [](const std::string& line) { return !trimmed(line).empty(); });
    if (first == lines.end() || (*first)[0] == ' ' || (*first)[0] == '\t') return task.header + code;
    std::string body;
    for (const std::string& line : lines) body += "    " + line + "\n";
    return task.header + body;
}

class CodeReward : public Reward {
  public:
    CodeReward(const Sandbox& sandbox, CodeRewardOptions options) : sandbox_(sandbox), options_(std::move(options)) {}

    double score(const RewardInput& input) const override { return judge(input).score; }
    Judgement judge(const RewardInput& input) const override {
        const std::optional<CodeTask> task = code_task(input.reference);
        if (!task) return {kUnscorable, "the reference is no task of a program"};
        const CodeResult result = sandbox_.run(code_job(*task, input.response, options_.settings));
        return result.judged ? Judgement{share(result), ""} : Judgement{kUnscorable, result.reason};
    }

  private:
    double share(const CodeResult& result) const {
        const auto all = static_cast<double>(result.passed.size());
        const auto passed = static_cast<double>(std::count(result.passed.begin(), result.passed.end(), 1));
        if (options_.partial) return all > 0 ? passed / all : 0;
        return passed == all && all > 0 ? 1 : 0;
    }

    const Sandbox& sandbox_;
    CodeRewardOptions options_;
};

}  // namespace

std::string to_reference(const CodeTask& task) {
    Json out = {{"code", task.language == Language::python ? "python" : "cpp"}};
    const auto text = [&](const char* name, const std::string& value) {
        if (!value.empty()) out[name] = value;
    };
    if (!task.tests.empty()) out["tests"] = task.tests;
    for (const InputOutput& test : task.cases) out["cases"].push_back({{"input", test.input}, {"output", test.output}});
    text("entry_point", task.entry_point);
    text("signature", task.signature);
    text("prologue", task.prologue);
    text("header", task.header);
    if (!task.names.empty()) out["names"] = task.names;
    if (task.in_place) out["in_place"] = true;
    return out.dump();
}

std::optional<CodeTask> code_task(const std::string& reference) {
    if (reference.rfind("{\"code\":", 0) != 0 || nests_too_deep(reference)) return std::nullopt;
    const Json row = Json::parse(reference, nullptr, false);
    if (!row.is_object()) return std::nullopt;
    CodeTask task;
    try {
        const std::string language = row.at("code");
        require<DataError>(language == "python" || language == "cpp", "a program in {} is asked for; python and cpp are run",
                           language);
        task.language = language == "python" ? Language::python : Language::cpp;
        task.tests = row.value("tests", std::vector<std::string>{});
        if (row.contains("cases"))
            for (const Json& test : row["cases"]) task.cases.push_back({test.at("input"), test.at("output")});
        task.entry_point = row.value("entry_point", "");
        task.signature = row.value("signature", "");
        task.prologue = row.value("prologue", "");
        task.header = row.value("header", "");
        task.names = row.value("names", std::vector<std::string>{});
        task.in_place = row.value("in_place", false);
    } catch (const Json::exception& e) {
        throw DataError(fmt::format("the tests of a program: {}", e.what()));
    }
    require<DataError>(task.tests.empty() != task.cases.empty(),
                       "a program is tested either by `tests` or by `cases` of input and output");
    require<DataError>(task.cases.empty() ? !task.entry_point.empty() : true,
                       "`tests` of a program need the `entry_point` (C++: the `signature`) of what they test");
    require<DataError>(task.tests.empty() || task.language == Language::python || !task.signature.empty(),
                       "`tests` of a C++ program need the `signature` of the function that they test");
    return task;
}

std::optional<CppHeader> cpp_header(const std::string& whole) {
    // A body may have begun: the head ends at the first brace behind a bracket that is still open at the end.
    std::vector<std::size_t> open_braces;
    for (std::size_t i = 0; i < whole.size(); ++i) {
        if (whole[i] == '{') open_braces.push_back(i);
        if (whole[i] == '}' && !open_braces.empty()) open_braces.pop_back();
    }
    std::string text = whole;
    for (const std::size_t brace : open_braces) {
        const std::size_t before = brace == 0 ? std::string::npos : whole.find_last_not_of(" \t\r\n", brace - 1);
        if (before == std::string::npos || whole[before] != ')') continue;
        text = whole.substr(0, brace + 1);
        break;
    }
    std::size_t end = text.find_last_not_of(" \t\r\n");
    if (end == std::string::npos) return std::nullopt;
    if (text[end] == '{' || text[end] == ';') end = end > 0 ? text.find_last_not_of(" \t\r\n", end - 1) : std::string::npos;
    if (end == std::string::npos || text[end] != ')') return std::nullopt;
    std::size_t open = end + 1;
    for (int depth = 0; open-- > 0;) {
        depth += text[open] == ')' ? 1 : text[open] == '(' ? -1 : 0;
        if (depth == 0) break;
    }
    if (open == std::string::npos || open == 0) return std::nullopt;
    std::size_t name_end = text.find_last_not_of(" \t\r\n", open - 1);
    if (name_end == std::string::npos || !is_word(text[name_end])) return std::nullopt;
    std::size_t name = name_end;
    while (name > 0 && is_word(text[name - 1])) --name;
    std::size_t begin = text.find_last_of("\n;}", name);
    begin = begin == std::string::npos ? 0 : begin + 1;
    const std::string result = trimmed(text.substr(begin, name - begin));
    if (result.empty()) return std::nullopt;
    return CppHeader{.before = text.substr(0, begin),
                     .type = result + text.substr(open, end - open + 1),
                     .name = text.substr(name, name_end - name + 1)};
}

std::string extract_code(const std::string& response, Language language) {
    const std::string text = final_part(response);
    const std::vector<Block> blocks = fenced_blocks(text);
    const auto mine = std::find_if(blocks.rbegin(), blocks.rend(),
                                   [&](const Block& block) { return names_language(block.info, language); });
    if (mine != blocks.rend()) return mine->text;
    if (!blocks.empty()) return blocks.back().text;
    const std::size_t close = text.rfind("</answer>");
    const std::size_t open = close == std::string::npos ? close : text.rfind("<answer>", close);
    return open == std::string::npos ? text : text.substr(open + 8, close - open - 8);
}

std::string whole_program(const CodeTask& task, const std::string& code) {
    return task.language == Language::python ? whole_python(task, code) : whole_cpp(task, code);
}

CodeJob code_job(const CodeTask& task, const std::string& response, const CodeSettings& settings) {
    std::string code = extract_code(response, task.language);
    if (code.size() > kLongestCode) code.clear();  // nothing that a person would call a program
    return {.settings = settings,
            .language = task.language,
            .source = whole_program(task, code),
            .cases = task.cases,
            .tests = task.tests,
            .prologue = task.prologue,
            .entry_point = task.entry_point,
            .signature = task.signature,
            .names = task.names,
            .in_place = task.in_place};
}

std::unique_ptr<Reward> make_code_reward(const Sandbox& sandbox, CodeRewardOptions options) {
    return std::make_unique<CodeReward>(sandbox, std::move(options));
}

}  // namespace gradus
