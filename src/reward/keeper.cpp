// SPDX-License-Identifier: Apache-2.0
// A keeper does one job: builds what is to run, runs it in its box, and compares.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>

#include "box.hpp"
#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "harness.hpp"
#include "warden.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kComplaint = 4096;          ///< bytes of stderr that are kept
constexpr std::int64_t kVerdict = std::int64_t{4} << 20;  ///< bytes of results

/// A verdict on the program: no program to run, say. Ends the job with all tests failed.
struct Failed {
    std::string reason;
};
/// The tests cannot be used.
struct BrokenTests {
    std::string reason;
};

void write_file(const std::string& path, const std::string& text) {
    const BoxFile file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    require(static_cast<bool>(file), "{}: {}", path, std::strerror(errno));
    for (std::size_t at = 0; at < text.size();) {
        const ssize_t n = ::write(file.get(), text.data() + at, text.size() - at);
        if (n <= 0) throw Failed{"the source does not fit into the box"};
        at += static_cast<std::size_t>(n);
    }
}

/// The line of a compiler's or interpreter's complaint that says most.
std::string gist(const std::string& complaint) {
    std::istringstream lines(complaint);
    std::string line, last, error;
    while (std::getline(lines, line)) {
        if (line.empty()) continue;
        last = line;
        if (error.empty() && line.find("error") != std::string::npos) error = line;
    }
    return (error.empty() ? last : error).substr(0, 300);
}

std::vector<std::string> words_of(const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> words;
    for (std::string word; in >> word;) words.push_back(word);
    return words;
}

class Keeper {
  public:
    Keeper(const CodeJob& job, CompiledTests& compiled) : job_(job), compiled_(compiled), box_(job.settings) {
        if (job_.language == Language::cpp && job_.cases.empty()) tests_ = BoxFile(compiled_.find(tests_key()));
        compiled_.forget();
    }

    CodeResult run() {
        CodeResult result{.judged = true, .passed = {}, .reason = ""};
        try {
            if (job_.cases.empty())
                run_tests(result);
            else
                run_cases(result);
        } catch (const Failed& failed) {
            result.reason = failed.reason;
            result.passed.assign(std::max<std::size_t>(1, std::max(job_.cases.size(), job_.tests.size())), 0);
        } catch (const BrokenTests& broken) {
            result = {.judged = false, .passed = {}, .reason = "the tests cannot be used: " + broken.reason};
        }
        return result;
    }

  private:
    std::string tool(const std::string& name, const char* what, const char* key) const {
        const std::string path = box_.find_tool(name);
        require(!path.empty(), "there is no {} `{}` in the box: install it, or name its path by reward.NAME.{} and "
                "folders outside of /usr by reward.NAME.folders", what, name, key);
        return path;
    }

    /// Compiles `text` with the headers of the harness beside it. Throws Failed with the compiler's complaint.
    BoxFile compile(const std::string& text, bool tests) {
        const std::string folder = box_.make_folder(tests ? "tests" : "program");
        write_file(folder + "/program.cpp", text);
        if (job_.cases.empty()) {
            write_file(folder + "/wire.hpp", harness::kWire);
            write_file(folder + "/any.hpp", harness::kAny);
        }
        if (tests) {
            write_file(folder + "/tests.hpp", harness::kTests);
            write_file(folder + "/assert.h", harness::kAssert);
        }
        BoxRun run{.folder = folder, .seconds = job_.settings.limits.compile_seconds};
        BoxProgram compiler;
        compiler.argv = {tool(job_.settings.compiler, "C++ compiler", "compiler"), "-std=c++17", "-O1", "-w", "-I.",
                         "-fdiagnostics-color=never", "-fmax-errors=3", "-o", "program", "program.cpp"};
        if (text.find("openssl/") != std::string::npos) compiler.argv.push_back("-lcrypto");
        Pipe errors;
        compiler.wires = {{errors.in.release(), 2}};
        run.outputs.push_back({.descriptor = errors.out.get(), .bound = kComplaint, .text = {}});
        run.programs.push_back(std::move(compiler));
        const std::string reason = box_.run(run);
        if (!reason.empty())
            throw Failed{"does not compile: " + (reason.rfind("exit code", 0) == 0 ? gist(run.outputs[0].text) : reason)};
        BoxFile image(::open((folder + "/program").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        remove_tree(folder);
        if (!image) throw Failed{"does not compile: the compiler has left no program"};
        return image;
    }

    void run_cases(CodeResult& result) {
        BoxFile image;
        if (job_.language == Language::cpp) image = compile(job_.source, false);
        for (const InputOutput& test : job_.cases) {
            BoxRun run{.folder = "", .seconds = job_.settings.limits.seconds};
            BoxProgram program = candidate(image.get(), false);
            Pipe output, errors;
            program.wires.emplace_back(sealed_text(test.input).release(), 0);
            program.wires.emplace_back(output.in.release(), 1);
            program.wires.emplace_back(errors.in.release(), 2);
            run.outputs.push_back(
                {.descriptor = output.out.get(), .bound = job_.settings.limits.output, .strict = true, .text = {}});
            run.outputs.push_back({.descriptor = errors.out.get(), .bound = kComplaint, .text = {}});
            run.programs.push_back(std::move(program));
            std::string reason = box_.run(run);
            if (reason.rfind("exit code", 0) == 0) reason += " " + gist(run.outputs[1].text);
            if (reason.empty() && words_of(run.outputs[0].text) != words_of(test.output)) reason = "wrong output";
            note(result, reason);
        }
    }

    static void note(CodeResult& result, const std::string& reason) {
        result.passed.push_back(reason.empty());
        if (result.reason.empty()) result.reason = reason;
    }

    /// The process of the program; `calls`: it answers calls instead of running by itself.
    BoxProgram candidate(int image, bool calls) {
        BoxProgram program;
        if (job_.language == Language::cpp) {
            program.argv = {"program"};
            program.image = image;
            return program;
        }
        // The source comes by a descriptor: the folder of a run is the program's own.
        program.argv = {tool(job_.settings.python, "Python", "python"), "-c",
                        calls ? harness::kCandidatePython : harness::kScriptPython};
        program.wires = {{sealed_text(job_.source).release(), 9}};
        return program;
    }

    BoxProgram tester(int image) {
        BoxProgram program;
        if (job_.language == Language::cpp) {
            program.argv = {"tests"};
            program.image = image;
            return program;
        }
        Json work = {{"prologue", job_.prologue}, {"entry_point", job_.entry_point}, {"names", job_.names},
                     {"tests", job_.tests},       {"in_place", job_.in_place}};
        program.argv = {tool(job_.settings.python, "Python", "python"), "-I", "-S", "-B", "-c", harness::kTesterPython};
        program.wires = {{sealed_text(work.dump()).release(), 0}};
        return program;
    }

    /// C++: the program with what answers calls behind it.
    std::string program_text() const {
        return fmt::format("{}#define main gradus_main_of_the_program\n{}\n#undef main\n"
                           "using gradus_signature = {};\n"
                           "int main() {{\n    return gradus_wire::serve(static_cast<gradus_signature*>(nullptr), "
                           "[](auto&&... a) -> decltype(auto) {{ return ::{}(static_cast<decltype(a)>(a)...); }});\n}}\n",
                           headers(), job_.source, job_.signature, job_.entry_point);
    }
    /// The headers that the signature needs, and the wire behind them.
    std::string headers() const {
        std::string text;
        std::istringstream lines(job_.prologue);
        for (std::string line; std::getline(lines, line);)
            if (line.rfind("#include", 0) == 0) text += line + "\n";
        if (text.find("boost/any.hpp") != std::string::npos) text += "#include <list>\n";  // one of the kinds of any
        return text + "#include \"wire.hpp\"\n#include \"any.hpp\"\n";
    }
    /// C++: the tests, in which the tested function's name stands for calls.
    std::string tests_text() const {
        std::string body;
        const bool whole = job_.tests.size() == 1 && job_.tests[0].find("main") != std::string::npos;
        for (const std::string& test : job_.tests) body += test + "\n";
        if (!whole) body = "int main() {\n" + body + "}\n";
        return fmt::format("{}#include \"tests.hpp\"\n{}\n"
                           "namespace {{ const gradus_wire::Remote<{}> gradus_tested{{}}; }}\n#define {} gradus_tested\n"
                           "enum {{ gradus_first = __COUNTER__ }};\n#include <assert.h>\n{}\n"
                           "namespace {{ const gradus_wire::Tests gradus_tests(__COUNTER__ - gradus_first - 1); }}\n",
                           headers(), job_.prologue, job_.signature, job_.entry_point, body);
    }

    std::string tests_key() const { return job_.settings.compiler + "\n" + tests_text(); }

    /// The tests as a program, from the helper or compiled and handed to it.
    BoxFile compiled_tests() {
        if (tests_) return std::move(tests_);
        try {
            const BoxFile image = compile(tests_text(), true);
            BoxFile held = sealed_copy(image.get());
            compiled_.hand_in(tests_key(), held.get());
            return held;
        } catch (const Failed& failed) {
            throw BrokenTests{failed.reason};
        }
    }

    void run_tests(CodeResult& result) {
        BoxFile program_image, tests_image;
        if (job_.language == Language::cpp) {
            tests_image = compiled_tests();
            program_image = compile(program_text(), false);
        }
        BoxRun run{.folder = "", .seconds = job_.settings.limits.seconds};
        BoxProgram tests = tester(tests_image.get()), program = candidate(program_image.get(), true);
        Pipe requests, answers, verdict, errors;
        tests.wires.emplace_back(answers.out.release(), 3);
        tests.wires.emplace_back(requests.in.release(), 4);
        tests.wires.emplace_back(verdict.in.release(), 5);
        program.wires.emplace_back(requests.out.release(), 3);
        program.wires.emplace_back(answers.in.release(), 4);
        run.programs.push_back(std::move(tests));
        run.programs.push_back(std::move(program));
        run.outputs.push_back({.descriptor = verdict.out.get(), .bound = kVerdict, .text = {}});
        const std::string reason = box_.run(run);
        read_verdict(run.outputs[0].text, reason, result);
    }

    /// "tests N", then "pass I" and "fail I REASON" as harness/ writes them. What was not told has failed.
    void read_verdict(const std::string& text, const std::string& ended_by, CodeResult& result) const {
        const std::string otherwise = ended_by.empty() ? "the tests did not end" : ended_by;
        std::istringstream lines(text);
        std::vector<std::string> reasons(std::max<std::size_t>(1, job_.tests.size()), otherwise);
        for (std::string line; std::getline(lines, line);) {
            if (lines.eof()) break;  // torn
            std::istringstream words(line);
            std::string what;
            std::size_t number = 0;
            words >> what;
            if (what == "broken") throw BrokenTests{line.substr(7)};
            words >> number;
            if (what == "tests") {
                if (number == 0) throw BrokenTests{"they assert nothing"};
                reasons.assign(number, otherwise);
            } else if ((what == "pass" || what == "fail") && number < reasons.size()) {
                std::getline(words >> std::ws, line);
                reasons[number] = what == "pass" ? "" : line.empty() ? "failed" : line;
            }
        }
        for (const std::string& reason : reasons) note(result, reason);
    }

    const CodeJob& job_;
    CompiledTests& compiled_;
    BoxFile tests_;
    CodeBox box_;
};

std::string answer_job(ByteReader& reader, CompiledTests& compiled) {
    CodeJob job;
    exchange_job(reader, job);
    CodeResult result;
    try {
        result = Keeper(job, compiled).run();
    } catch (const std::exception& e) {
        result = {.judged = false, .passed = {}, .reason = e.what()};
    }
    ByteWriter writer;
    exchange_result(writer, result);
    return writer.take();
}

std::string answer_probe(ByteReader& reader) {
    CodeSettings settings;
    exchange_settings(reader, settings);
    std::string problem, python, compiler;
    try {
        CodeBox box(settings);
        python = box.find_tool(settings.python);
        compiler = box.find_tool(settings.compiler);
        // A run of anything shows that processes can be started as jobs will start them.
        BoxRun run{.folder = "", .seconds = 5};
        run.programs.push_back({.argv = {"/bin/true"}, .wires = {}});
        problem = box.run(run);
    } catch (const std::exception& e) {
        problem = e.what();
    }
    ByteWriter writer;
    writer.text(problem);
    writer.text(python);
    writer.text(compiler);
    return writer.take();
}

}  // namespace

void keep(int descriptor, CompiledTests& compiled) {
    int code = 1;
    try {
        std::string request;
        if (receive_message(descriptor, request)) {
            ByteReader reader(request);
            RequestKind kind = RequestKind::job;
            reader.value(kind);
            code = send_message(descriptor, kind == RequestKind::job ? answer_job(reader, compiled) : answer_probe(reader)) ? 0 : 1;
        }
    } catch (...) {
        // No answer: the rank sees an end without a result.
    }
    ::_exit(code);
}

}  // namespace gradus
