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

BOOST_AUTO_TEST_CASE(instructions_with_their_input) {
    const char* alpaca = R"({"instruction": "Add.", "input": "1 2", "output": "3"})";
    BOOST_TEST(told(training(alpaca).messages) == "user: Add.\n\n1 2 | assistant: 3");
    BOOST_TEST(told(training(R"({"instruction": "Hi.", "input": "", "response": "Ho."})").messages) == "user: Hi. | assistant: Ho.");
    BOOST_TEST(question(R"({"instruction": "q", "answer": "7", "kind": "general"})").kind == "general");
    BOOST_TEST(question(R"({"instruction": "q"})").kind == "reasoning");
    BOOST_TEST(question(R"({"prompt": "q", "source": "chat"})", "data.kind_field = source\n").kind == "chat");
}

BOOST_AUTO_TEST_CASE(preferences_by_the_fields_they_have) {
    const auto read = [](const std::string& json, const std::string& lines = "") {
        return RowReader(deck_of("reward_model", "train.steps = 1\n" + lines)).preference(Json::parse(json));
    };
    const auto all = [&](const std::string& json, const std::string& lines = "") {
        const PreferenceRow row = read(json, lines);
        return told(row.messages) + " > " + row.chosen + " > " + row.rejected;
    };
    BOOST_TEST(all(R"({"prompt": "q", "chosen": "a", "rejected": "b"})") == "user: q > a > b");
    BOOST_TEST(all(R"({"instruction": "q", "input": "x", "output": "o", "chosen": "a", "rejected": "b"})") ==
               "user: q\n\nx > a > b");
    BOOST_TEST(all(R"({"messages": [{"role": "user", "content": "q"}], "better": "a", "worse": "b"})",
                   "data.chosen_field = better\ndata.rejected_field = worse\n") == "user: q > a > b");
    // The whole conversation: as text, and as messages, with or without a prompt beside them.
    BOOST_TEST(all(R"({"chosen": "\n\nHuman: q\n\nAssistant: r\n\nHuman: s \n\nAssistant: a",
        "rejected": "\n\nHuman: q\n\nAssistant: r\n\nHuman: s\n\nAssistant:"})") ==
               "user: q | assistant: r | user: s > a > ");
    const std::string turns = R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": ")";
    const std::string lists = "\"chosen\": " + turns + "a\"}], \"rejected\": " + turns + "b\"}]}";
    BOOST_TEST(all("{" + lists) == "user: q > a > b");
    BOOST_TEST(all("{\"prompt\": \"q\", " + lists) == "user: q > a > b");
    BOOST_TEST(all(R"({"prompt": "q", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"})") ==
               "user: q > a > b");
    BOOST_TEST(all("{" + lists, "policy.system = P\n") == "system: P | user: q > a > b");
    BOOST_TEST(!read("{" + lists).margin.has_value());
    BOOST_TEST(read(R"({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 0.5})").margin.value() == 0.5);

    const auto wrong = [&](const std::string& json, const std::string& part, const std::string& lines = "") {
        try {
            read(json, lines);
        } catch (const DataError& e) {
            BOOST_TEST(std::string(e.what()).find(part) != std::string::npos, e.what());
            return;
        }
        BOOST_ERROR("no error for " + json);
    };
    wrong(R"({"prompt": "q", "chosen": "a"})", "no field \"rejected\"");
    wrong(R"({"prompt": "q", "chosen": "a", "rejected": "a"})", "the same");
    wrong(R"({"chosen": "a", "rejected": "b"})", "begins with");
    wrong(R"({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"})", "differ before");
    wrong(R"({"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q\n\nAssistant: b"})", "does not end");
    wrong(R"({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "much"})", "no number");
    wrong(R"({"prompt": "q", "chosen": "a", "rejected": "b"})", "data.margin_field", "data.margin_field = delta\n");
    wrong(R"({"prompt": "q", "chosen": {"x": 1}, "rejected": "b"})", "of type object");
    wrong(R"({"chosen": [4, 5], "rejected": [4, 6]})", "no object");
}

BOOST_AUTO_TEST_CASE(labels) {
    const auto read = [](const std::string& json, const std::string& lines = "") {
        return RowReader(deck_of("reward_model", "train.steps = 1\nreward_model.kind = pointwise\n" + lines))
            .labelled(Json::parse(json));
    };
    const LabelledRow row = read(R"({"prompt": "q", "response": "a", "safe": true})");
    BOOST_TEST(told(row.messages) == "user: q");
    BOOST_TEST(row.response == "a");
    BOOST_TEST(row.good);
    BOOST_TEST(!read(R"({"prompt": "q", "response": "a", "safe": 0})").good);
    BOOST_TEST(read(R"({"prompt": "q", "response": "a", "rewards": {"accuracy": 1.0}})",
                    "data.label_field = rewards.accuracy\n").good);
    BOOST_CHECK_THROW(read(R"({"prompt": "q", "response": "a"})"), DataError);
    BOOST_CHECK_THROW(read(R"({"prompt": "q", "response": "a", "safe": "yes"})"), DataError);
    BOOST_CHECK_THROW(read(R"({"prompt": "q", "response": "a", "safe": 0.5})"), DataError);
    BOOST_CHECK_THROW(read(R"({"prompt": "q", "safe": 1})"), DataError);
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
    // In a file that is one array the line is that on which the row begins.
    const std::string array = files.write("b.json", "[\n" + good + ",\n{\"prompt\":\n\"q\"}]\n");
    BOOST_CHECK_EXCEPTION(
        read_sequences(deck_of("sft", "train.steps = 1\n", array), chat, *tokenizer, false, 100, report), DataError,
        [&](const DataError& e) { return std::string(e.what()).find(array + ":4: there is no response") == 0; });
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

BOOST_AUTO_TEST_CASE(rated_rows_and_what_is_held_out) {
    const Files files;
    const auto tokenizer = make_byte_tokenizer();
    const ChatTemplate chat("plain", *tokenizer);
    std::string text;
    for (int i = 0; i < 40; ++i)
        text += "{\"prompt\": \"q" + std::to_string(i / 2) + "\", \"chosen\": \"a" + std::to_string(i) + "\", \"rejected\": \"b\"}\n";
    const std::string path = files.write("a.jsonl", text);
    DataReport report;
    const Deck deck = deck_of("reward_model", "train.steps = 1\nreward_model.margin = 0.25\n", path);
    auto rows = read_rated(deck, chat, 100, report);
    BOOST_REQUIRE(rows.size() == 40u);
    // <bos> q 0 \n a 0 <eos>: the response ends with its end token.
    BOOST_TEST(rows[0].sequences.size() == 2u);
    BOOST_TEST(rows[0].sequences[0].tokens.size() == 7u);
    BOOST_TEST(rows[0].sequences[1].tokens.size() == 6u);
    BOOST_TEST(rows[0].prompt == 4u);
    BOOST_TEST(rows[0].sequences[1].tokens.back() == tokenizer->eos());
    BOOST_TEST(rows[0].margin == 0.25);
    BOOST_CHECK_EXCEPTION(read_rated(deck, chat, 6, report), DataError, [&](const DataError& e) {
        return std::string(e.what()).find(path + ":1: 7 tokens, more than 6") == 0;
    });
    auto again = rows;
    const auto held = hold_out(rows, 0.25, 7);
    BOOST_TEST(held.size() == 10u);
    BOOST_TEST(rows.size() == 30u);
    const auto prompt = [](const RatedRow& r) {
        return std::vector<TokenId>(r.sequences[0].tokens.begin(), r.sequences[0].tokens.begin() + static_cast<std::ptrdiff_t>(r.prompt));
    };
    for (const RatedRow& out : held)
        for (const RatedRow& in : rows) BOOST_TEST((prompt(out) != prompt(in)));
    const auto same = hold_out(again, 0.25, 7);
    for (std::size_t i = 0; i < held.size(); ++i) BOOST_TEST((same[i].sequences[0].tokens == held[i].sequences[0].tokens));
    auto few = std::vector<RatedRow>(again.begin(), again.begin() + 1);
    BOOST_CHECK_THROW(hold_out(few, 0.5, 7), DataError);
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

BOOST_AUTO_TEST_CASE(real_preferences) {
    const char* where = std::getenv("GRADUS_DATA");
    if (where == nullptr) {
        BOOST_TEST_MESSAGE("skipped: GRADUS_DATA names no folder");
        return;
    }
    const auto tokenizer = make_byte_tokenizer();
    const ChatTemplate chat("demo", *tokenizer);
    struct Case {
        const char* file;
        std::size_t rows;
        std::int64_t skipped;
        const char* form;
    };
    // Skipped are pairs that are the same, and conversations that differ before their last turn.
    for (const Case& c : {Case{"preference/hh_harmless.jsonl", 2307, 5, "conversations in chosen, rejected"},
                          Case{"preference/instruction_preference.json", 1094, 6, "instruction with chosen, rejected"}}) {
        const std::string path = std::string(where) + "/" + c.file;
        if (!fs::exists(path)) continue;
        DataReport report;
        const auto rows = read_rated(deck_of("reward_model", "train.steps = 1\ndata.bad_lines = skip\n", path), chat,
                                     100000, report);
        BOOST_TEST(rows.size() == c.rows, c.file);
        BOOST_TEST(report.skipped == c.skipped, c.file);
        BOOST_TEST(report.notes.at(report.notes.size() - 2).find(c.form) != std::string::npos);
    }
    const std::string chats = std::string(where) + "/preference/roleplay_instruct.json";
    if (!fs::exists(chats)) return;
    DataReport report;
    BOOST_TEST(read_sequences(deck_of("sft", "train.steps = 1\n", chats), chat, *tokenizer, false, 100000, report).size() ==
               1923u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
