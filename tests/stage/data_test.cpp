// SPDX-License-Identifier: Apache-2.0
// Rows of JSONL files: which fields they are read by, what is refused, and real files where
// GRADUS_DATA names a folder of them.
#include "gradus/stage/data.hpp"

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

namespace fs = std::filesystem;

struct Files {
    fs::path folder = fs::temp_directory_path() / ("gradus_data_" + std::to_string(getpid()));
    Files() { fs::create_directories(folder); }
    ~Files() { fs::remove_all(folder); }
    std::string write(const std::string& name, const std::string& text) const {
        std::ofstream(folder / name) << text;
        return (folder / name).string();
    }
};

Deck deck_of(const std::string& stage, const std::string& lines = "", const std::string& path = "x.jsonl") {
    std::string text = "stage = " + stage + "\nrun.dir = run\ndata.path = " + path + "\npolicy.template = plain\n";
    if (stage == "rl") text += "reward.a.kind = accuracy\n";
    if (stage == "evaluate" || stage == "sample") text += "model.from = base\n";
    return resolve_deck_text(text + lines, "deck", {});
}

/// The conversation as "role: content | ...".
std::string told(const std::vector<ChatMessage>& messages) {
    std::string text;
    for (const ChatMessage& m : messages) text += (text.empty() ? "" : " | ") + m.role + ": " + m.content;
    return text;
}

TrainingRow training(const std::string& json, const std::string& lines = "") {
    return RowReader(deck_of("sft", lines)).training(Json::parse(json));
}
QuestionRow question(const std::string& json, const std::string& lines = "") {
    return RowReader(deck_of("rl", lines)).question(Json::parse(json));
}
bool refuses(const std::string& json, const std::string& part, const std::string& lines = "") {
    try {
        training(json, lines);
    } catch (const DataError& e) {
        if (std::string(e.what()).find(part) != std::string::npos) return true;
        BOOST_TEST_MESSAGE(e.what());
    }
    return false;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(rows)

BOOST_AUTO_TEST_CASE(training_rows_by_the_fields_they_have) {
    BOOST_TEST(told(training(R"({"prompt": "q", "response": "a"})").messages) == "user: q | assistant: a");
    BOOST_TEST(told(training(R"({"question": "q", "answer": "1+1=2\n#### 2"})").messages) ==
               "user: q | assistant: 1+1=2\n#### 2");
    BOOST_TEST(told(training(R"({"problem": "p", "answer": "2", "solution": "so \\boxed{2}"})").messages) ==
               "user: p | assistant: so \\boxed{2}");
    BOOST_TEST(training(R"({"problem": "p", "answer": "2", "solution": null})").form == "problem/answer");
    BOOST_TEST(training(R"({"text": "t"})").text == "t");
    BOOST_TEST(training(R"({"prompt": 7, "response": 8.5})").form == "prompt/response");
    // The order: messages, prompt, question, problem, text.
    const char* all = R"({"text": "t", "problem": "p", "question": "q", "answer": "a", "prompt": "r",
        "response": "b", "messages": [{"role": "user", "content": "m"}, {"role": "assistant", "content": "n"}]})";
    Json row = Json::parse(all);
    const std::vector<std::pair<const char*, const char*>> order = {
        {"messages", "user: m | assistant: n"}, {"prompt", "user: r | assistant: b"},
        {"question", "user: q | assistant: b"}, {"problem", "user: p | assistant: b"}};
    BOOST_TEST(RowReader(deck_of("pretrain", "train.steps = 1\n")).training(row).text == "t");
    for (const auto& [name, expected] : order) {
        BOOST_TEST(told(training(row.dump()).messages) == expected);
        row.erase(name);
    }
    BOOST_TEST(training(row.dump()).text == "t");
}

BOOST_AUTO_TEST_CASE(named_fields_win) {
    const char* mbpp = R"({"text": "Write f.", "code": "def f(): pass", "task_id": 3})";
    BOOST_TEST(told(training(mbpp, "data.prompt_field = text\ndata.response_field = code\n").messages) ==
               "user: Write f. | assistant: def f(): pass");
    BOOST_TEST(told(training(R"({"prompt": "no", "turns": [{"role": "user", "content": "m"},
        {"role": "assistant", "content": "n"}]})", "data.messages_field = turns\n").messages) == "user: m | assistant: n");
    BOOST_TEST(training(R"({"prompt": "no", "body": "b"})", "data.text_field = body\n").text == "b");
    const auto named = question(R"({"quiz": "q", "solution_text": "A is.", "index": 5})",
                                "data.prompt_field = quiz\ndata.answer_field = solution_text\ndata.id_field = index\n");
    BOOST_TEST(told(named.messages) == "user: q");
    BOOST_TEST(named.reference.value() == "A is.");
    BOOST_TEST(named.id == "5");
    BOOST_TEST(question(R"({"question": "q", "answer": "x"})", "data.answer_field = reference\n").reference.has_value() == false);
    BOOST_TEST(refuses(R"({"question": "q", "answer": "x"})", "\"quiz\"", "data.prompt_field = quiz\n"));
}

BOOST_AUTO_TEST_CASE(references) {
    BOOST_TEST(question(R"({"question": "q", "answer": "half 24 is 12\n#### 1,272"})").reference.value() == "1,272");
    BOOST_TEST(question(R"({"problem": "p", "solution": "\\boxed{1}, no: \\boxed{\\frac{1}{2}}."})").reference.value() == "\\frac{1}{2}");
    BOOST_TEST(question(R"({"problem": "p", "solution": "\\boxed{1}", "answer": "2"})").reference.value() == "2");
    BOOST_TEST(question(R"({"prompt": "p", "reference": 4, "answer": "5"})").reference.value() == "4");
    BOOST_TEST(question(R"({"prompt": "p", "reference": null, "answer": "5"})").reference.value() == "5");
    BOOST_TEST(!question(R"({"prompt": "p"})").reference.has_value());
    BOOST_CHECK_THROW(question(R"({"problem": "p", "solution": "see above"})"), DataError);
    BOOST_TEST(question(R"({"unique_id": "test/1.json", "prompt": "p"})").id == "test/1.json");
    BOOST_TEST(question(R"({"prompt": "p"})").id == "");
}

BOOST_AUTO_TEST_CASE(messages_as_openai_writes_them) {
    BOOST_TEST(told(training(R"({"messages": [{"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "x", "reasoning_content": "why"}]})").messages) ==
               "system: d | user: ab | assistant: <think>\nwhy\n</think>\n\nx");
    BOOST_TEST(told(training(R"({"messages": [{"role": "user", "content": null},
        {"role": "assistant", "content": "x", "tool_calls": []}]})").messages) == "user:  | assistant: x");
    // A list of messages may stand in `prompt`.
    BOOST_TEST(told(training(R"({"prompt": [{"role": "user", "content": "q"}], "response": "a"})").messages) ==
               "user: q | assistant: a");
    const auto user = [](const std::string& message) {
        return R"({"messages": [{"role": "user", "content": "q"}, )" + message + "]}";
    };
    BOOST_TEST(refuses(user(R"({"role": "tool", "content": "4"})"), "role 'tool'"));
    BOOST_TEST(refuses(user(R"({"role": "assistant", "content": null, "tool_calls": [{}]})"), "calls tools"));
    BOOST_TEST(refuses(user(R"({"role": "assistant", "content": [{"type": "image_url"}]})"), "image_url"));
    BOOST_TEST(refuses(user(R"({"role": "assistant", "content": 4})"), "content"));
    BOOST_TEST(refuses(user(R"({"role": "user", "content": "q"})"), "role assistant"));
    BOOST_TEST(refuses(user(R"(4)"), "no object"));
    BOOST_TEST(refuses(R"({"messages": []})", "no list"));
    BOOST_TEST(refuses(R"({"messages": {"role": "user"}})", "no list"));
    BOOST_TEST(refuses(R"({"nums": [1], "target": 2})", "the row has nums, target"));
    BOOST_TEST(refuses(R"({})", "the row has none"));
    BOOST_TEST(refuses(R"({"prompt": {"content": ["x"]}, "response": "a"})", "of type object"));
}

BOOST_AUTO_TEST_CASE(answers_at_the_end_of_a_prompt_are_its_reference) {
    const char* chat = R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "so \\boxed{7}"}]})";
    BOOST_TEST(told(question(chat).messages) == "user: a | assistant: b | user: c");
    BOOST_TEST(question(chat).reference.value() == "7");
    Json with = Json::parse(chat);
    with["answer"] = "8";
    BOOST_TEST(question(with.dump()).reference.value() == "8");
    BOOST_CHECK_THROW(question(R"({"messages": [{"role": "assistant", "content": "b"}]})"), DataError);
    BOOST_CHECK_THROW(question(R"({"text": "t"})"), DataError);
}

BOOST_AUTO_TEST_CASE(one_system_message) {
    const std::string policy = "policy.system = P\n";
    BOOST_TEST(told(training(R"({"prompt": "q", "response": "a"})", policy).messages) == "system: P | user: q | assistant: a");
    BOOST_TEST(told(training(R"({"prompt": "q", "response": "a", "system": "S"})", policy).messages) ==
               "system: S | user: q | assistant: a");
    BOOST_TEST(told(training(R"({"prompt": "q", "response": "a", "sys": "S", "system": 1})", "data.system_field = sys\n").messages) ==
               "system: S | user: q | assistant: a");
    BOOST_TEST(told(training(R"({"messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"}]})", policy).messages) == "system: own | user: q | assistant: a");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(data)

BOOST_AUTO_TEST_CASE(bad_lines_are_told_skipped_and_counted) {
    const Files files;
    const auto tokenizer = make_byte_tokenizer();
    const ChatTemplate chat("plain", *tokenizer);
    const std::string good = "{\"prompt\": \"q\", \"response\": \"a\"}\n";
    const std::string path = files.write("a.jsonl", good + "\n" + "not JSON\n" + "[1]\n" + "{\"prompt\": \"q\"}\n" +
                                                        "{\"prompt\": \"\xff\", \"response\": \"a\"}\n" + good);
    DataReport report;
    BOOST_CHECK_EXCEPTION(
        read_sequences(deck_of("sft", "train.steps = 1\n", path), chat, *tokenizer, false, 100, report), DataError,
        [&](const DataError& e) {
            const std::string text = e.what();
            return text.find(path + ":3: not a JSON object") == 0 && text.find("data.bad_lines") != std::string::npos;
        });
    report = {};
    const auto sequences = read_sequences(deck_of("sft", "train.steps = 1\ndata.bad_lines = skip\n", path), chat,
                                          *tokenizer, false, 100, report);
    BOOST_TEST(sequences.size() == 2u);
    BOOST_TEST(report.skipped == 4);
    std::string notes;
    for (const std::string& note : report.notes) notes += note + "\n";
    for (const char* part : {"a.jsonl:3: not a JSON object", "a.jsonl:4: a JSON object is expected, this is array",
                             "a.jsonl:5: there is no response", "a.jsonl: 2 rows of prompt/response",
                             "a.jsonl: 4 lines skipped"})
        BOOST_TEST(notes.find(part) != std::string::npos, part << " in " << notes);
    BOOST_TEST(notes.find(":6:") == std::string::npos);  // the first few only
    bool fine = true;
    const std::string plan = preview_data(deck_of("sft", "train.steps = 1\n", path), chat, *tokenizer, 100, fine);
    BOOST_TEST(!fine);
    for (const char* part : {"of the first 6 rows", "2 of prompt/response", "sequences of 5 to 5 tokens", "4 bad"})
        BOOST_TEST(plan.find(part) != std::string::npos, part << " in " << plan);
    // A whole file that is one array says how to make lines of it.
    const std::string array = files.write("b.json", "[\n{\"prompt\": \"q\"}]\n");
    BOOST_CHECK_EXCEPTION(
        read_sequences(deck_of("sft", "train.steps = 1\n", array), chat, *tokenizer, false, 100, report), DataError,
        [](const DataError& e) { return std::string(e.what()).find("jq -c '.[]'") != std::string::npos; });
    // A step of no sequences would have nothing to take a row from.
    const std::string short_text = files.write("c.jsonl", "{\"text\": \"abc\"}\n");
    BOOST_CHECK_EXCEPTION(
        read_sequences(deck_of("pretrain", "train.steps = 1\n", short_text), chat, *tokenizer, true, 1, report), DataError,
        [](const DataError& e) { return std::string(e.what()).find("has two tokens") != std::string::npos; });
}

BOOST_AUTO_TEST_CASE(sft_trains_all_responses_or_the_last) {
    const Files files;
    const auto tokenizer = make_byte_tokenizer();
    const ChatTemplate chat("plain", *tokenizer);
    Json row;
    for (const auto& [role, content] : {std::pair{"user", "q"}, {"assistant", "ab"}, {"user", "r"}, {"assistant", "c"}})
        row["messages"].push_back({{"role", role}, {"content", content}});
    const std::string path = files.write("a.jsonl", row.dump() + "\n");
    const auto weights = [&](const char* on) {
        DataReport report;
        const auto all = read_sequences(deck_of("sft", "train.steps = 1\nsft.train_on = " + std::string(on) + "\n", path),
                                        chat, *tokenizer, false, 100, report);
        BOOST_REQUIRE(all.size() == 1u);
        std::string w;
        for (const float weight : all[0].weight) w += weight > 0 ? '1' : '0';
        return w;
    };
    // <bos> q \n a b <eos> r \n c <eos>
    BOOST_TEST(weights("all") == "0001110011");
    BOOST_TEST(weights("last") == "0000000011");
    DataReport report;
    const auto whole = read_sequences(deck_of("pretrain", "train.steps = 1\n", path), chat, *tokenizer, true, 100, report);
    for (std::size_t i = 0; i < whole[0].weight.size(); ++i) BOOST_TEST(whole[0].weight[i] == (i > 0 ? 1.0f : 0.0f));
}

BOOST_AUTO_TEST_CASE(limits_and_parts) {
    const Files files;
    const auto tokenizer = make_byte_tokenizer();
    const ChatTemplate chat("plain", *tokenizer);
    std::string text;
    for (int i = 0; i < 7; ++i) text += "{\"id\": " + std::to_string(i) + ", \"prompt\": \"q\", \"answer\": \"a\"}\n";
    const std::string path = files.write("a.jsonl", text + "what stands behind the limit is not read\n");
    const auto ids = [&](const std::string& lines) {
        DataReport report;
        std::string all;
        for (const PromptRow& row : read_prompts(deck_of("rl", lines, path), chat, report)) all += row.id;
        return all;
    };
    BOOST_TEST(ids("data.limit = 7\n") == "0123456");
    BOOST_TEST(ids("data.limit = 3\n") == "012");
    BOOST_TEST(ids("data.bad_lines = skip\ndata.num_shards = 3\ndata.shard = 1\n") == "14");
}

BOOST_AUTO_TEST_CASE(real_files) {
    const char* where = std::getenv("GRADUS_DATA");
    if (where == nullptr) {
        BOOST_TEST_MESSAGE("skipped: GRADUS_DATA names no folder");
        return;
    }
    const auto tokenizer = make_byte_tokenizer();
    const ChatTemplate chat("r1-zero", *tokenizer);
    struct Case {
        const char *file, *lines;
        std::size_t rows;
        const char *form, *first_reference;
    };
    const Case cases[] = {
        {"gsm8k/test.jsonl", "", 1319, "question/answer", "18"},
        {"gsm8k/train.jsonl", "", 7473, "question/answer", "72"},
        {"math/math500.jsonl", "", 500, "problem/answer", "\\left( 3, \\frac{\\pi}{2} \\right)"},
        {"knights_knaves/3ppl_test.jsonl", "data.prompt_field = quiz\ndata.answer_field = solution_text\n", 100,
         "quiz/solution_text", "Amelia is a knight, Penelope is a knight, and Evelyn is a knave."},
        {"mbpp/mbpp.jsonl", "data.prompt_field = text\ndata.answer_field = code\n", 974, "text/code", nullptr},
        {"humaneval/HumanEval.jsonl", "data.answer_field = canonical_solution\n", 164, "prompt/canonical_solution", nullptr},
    };
    for (const Case& c : cases) {
        const std::string path = std::string(where) + "/" + c.file;
        if (!fs::exists(path)) continue;
        BOOST_TEST_CONTEXT(c.file) {
            DataReport report;
            const auto rows = read_prompts(deck_of("rl", std::string(c.lines) + "train.max_length = 100000\n", path),
                                           chat, report);
            BOOST_TEST(rows.size() == c.rows);
            BOOST_TEST(report.notes.size() == 1u);
            BOOST_TEST(report.notes.at(0).find(fmt::format("{} rows of {}", c.rows, c.form)) != std::string::npos);
            if (c.first_reference != nullptr) BOOST_TEST(rows.at(0).reference == c.first_reference);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
