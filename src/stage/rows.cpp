// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/rows.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "code_rows.hpp"
#include "gradus/base/error.hpp"
#include "gradus/reward/code.hpp"
#include "gradus/reward/puzzles.hpp"
#include "gradus/reward/reward.hpp"
#include "puzzle_rows.hpp"

namespace gradus {
namespace {

using Names = std::vector<std::string>;

bool has(const Json& row, const std::string& name) {
    const auto it = row.find(name);
    return it != row.end() && !it->is_null();
}

std::string field(const Json& row, const std::string& name) {
    require<DataError>(has(row, name), "there is no field \"{}\"", name);
    const Json& value = row[name];
    if (value.is_string()) return value.get<std::string>();
    require<DataError>(value.is_number(), "field \"{}\" is neither text nor a number but of type {}", name,
                       value.type_name());
    return value.dump();
}

/// The first of `names` that the row has; "" where it has none.
std::string first_of(const Json& row, const Names& names) {
    for (const std::string& name : names)
        if (has(row, name)) return name;
    return "";
}

std::string content_of(const Json& message) {
    const auto content = message.find("content");
    if (content == message.end() || content->is_null()) return "";
    if (content->is_string()) return content->get<std::string>();
    require<DataError>(content->is_array(), "a message's content is neither text nor a list of parts");
    std::string text;
    for (const Json& part : *content) {
        const bool object = part.is_object() && part.contains("type") && part["type"].is_string();
        require<DataError>(object && part["type"] == "text" && part.contains("text") &&
                               part["text"].is_string(),
                           "a part of a message's content is of type {}; only text is read",
                           object ? part["type"].get<std::string>() : "unknown");
        text += part["text"].get<std::string>();
    }
    return text;
}

/// Turns of "\n\nHuman: ...\n\nAssistant: ..."; none where the text does not begin so. What stands behind a marker
/// loses the blanks around it.
std::vector<ChatMessage> turns_of(const std::string& text) {
    constexpr std::string_view kHuman = "\n\nHuman:", kAssistant = "\n\nAssistant:", kBlank = " \t\r\n";
    std::vector<ChatMessage> turns;
    if (!text.starts_with(kHuman)) return turns;
    for (std::size_t at = 0; at != std::string::npos;) {
        const bool human = text.compare(at, kHuman.size(), kHuman) == 0;
        const std::size_t begin = at + (human ? kHuman : kAssistant).size();
        at = std::min(text.find(kHuman, begin), text.find(kAssistant, begin));
        std::string content = text.substr(begin, at == std::string::npos ? at : at - begin);
        content.erase(0, std::min(content.find_first_not_of(kBlank), content.size()));
        content.erase(content.find_last_not_of(kBlank) + 1);
        turns.push_back({human ? "user" : "assistant", std::move(content)});
    }
    return turns;
}

/// The field that `name` leads to, dots into objects; null where there is none.
const Json* find_field(const Json& row, const std::string& name) {
    if (has(row, name)) return &row[name];
    const std::size_t dot = name.find('.');
    if (dot == std::string::npos) return nullptr;
    const auto inner = row.find(name.substr(0, dot));
    return inner != row.end() && inner->is_object() ? find_field(*inner, name.substr(dot + 1)) : nullptr;
}

}  // namespace

/// The fields of one form of row; the first that the row has counts.
struct RowReader::Form {
    std::string prompt;  ///< of the conversation or question; "" in `text`
    bool messages = false;
    Names responses, references;
    std::string text;
    std::string input;  ///< of what stands below the prompt
};

RowReader::RowReader(const Deck& deck) : text_first_(deck.stage() == "pretrain" || deck.stage() == "tokenizer") {
    const auto values = deck.values();
    const auto value = [&](const char* key) {  // not every stage has every one of these keys
        const auto it = values.find(key);
        return it == values.end() ? std::string("auto") : it->second;
    };
    messages_ = value("data.messages_field");
    prompt_ = value("data.prompt_field");
    text_ = value("data.text_field");
    response_ = value("data.response_field");
    answer_ = value("data.answer_field");
    id_ = value("data.id_field");
    system_field_ = value("data.system_field");
    kind_ = value("data.kind_field");
    chosen_ = value("data.chosen_field");
    rejected_ = value("data.rejected_field");
    margin_ = value("data.margin_field");
    label_ = value("data.label_field");
    system_ = deck.text("policy.system");
}

RowReader::Form RowReader::form_of(const Json& row) const {
    std::vector<Form> forms = {
        {.prompt = "messages", .messages = true, .references = {"reference", "answer"}},
        {.prompt = "prompt", .responses = {"response"}, .references = {"reference", "answer"}},
        {.prompt = "question", .responses = {"response", "answer"}, .references = {"reference", "answer"}},
        {.prompt = "problem",
         .responses = {"response", "solution", "answer"},
         .references = {"reference", "answer", "solution"}},
        {.prompt = "instruction",
         .responses = {"response", "output"},
         .references = {"reference", "answer"},
         .input = "input"},
        {.text = "text"},
    };
    if (text_first_) std::rotate(forms.begin(), forms.end() - 1, forms.end());
    if (named(messages_) || named(prompt_) || named(text_)) {
        std::vector<Form> asked;
        if (named(messages_)) asked.push_back({.prompt = messages_, .messages = true, .references = {"reference", "answer"}});
        if (named(prompt_)) {
            const auto same = std::find_if(forms.begin(), forms.end(), [&](const Form& f) {
                return f.prompt == prompt_ && !f.messages;
            });
            asked.push_back(same != forms.end() ? *same : Form{.prompt = prompt_, .responses = {"response"}, .references = {"reference", "answer"}});
        }
        if (named(text_)) asked.push_back({.text = text_});
        forms = std::move(asked);
    }
    Names wanted;
    for (Form& form : forms) {
        const std::string& name = form.text.empty() ? form.prompt : form.text;
        wanted.push_back("\"" + name + "\"");
        if (!has(row, name)) continue;
        // A prompt may be a list of messages too.
        form.messages = form.messages || (form.text.empty() && row[name].is_array());
        if (named(response_)) form.responses = {response_};
        if (named(answer_)) form.references = {answer_};
        return form;
    }
    Names there;
    for (const auto& [name, value] : row.items()) there.push_back(name);
    throw DataError(fmt::format("there is no field {}; the row has {} (data.prompt_field and its like name "
                                "the fields)",
                                fmt::join(wanted, ", "), there.empty() ? "none" : fmt::format("{}", fmt::join(there, ", "))));
}

std::vector<ChatMessage> RowReader::messages_of(const Json& value) const {
    require<DataError>(value.is_array() && !value.empty(), "the messages are no list of {{role, content}}");
    std::vector<ChatMessage> messages;
    for (const Json& message : value) {
        require<DataError>(message.is_object(), "a message is no object {{role, content}}");
        std::string role = field(message, "role"), content = content_of(message);
        require<DataError>(!has(message, "tool_calls") || message["tool_calls"].empty(),
                           "a message calls tools, which is not supported");
        require<DataError>(!has(message, "function_call"), "a message calls a function, which is not supported");
        if (role == "developer") role = "system";
        require<DataError>(role == "system" || role == "user" || role == "assistant",
                           "a message has role '{}'; supported are system, developer, user, assistant", role);
        const std::string reasoning = first_of(message, {"reasoning_content", "reasoning"});
        if (role == "assistant" && !reasoning.empty()) {
            const std::string thought = field(message, reasoning);
            if (!thought.empty()) content = "<think>\n" + thought + "\n</think>\n\n" + content;
        }
        messages.push_back({std::move(role), std::move(content)});
    }
    return messages;
}

std::vector<ChatMessage> RowReader::begin(const Json& row, const Form& form) const {
    std::vector<ChatMessage> messages;
    if (form.messages)
        messages = messages_of(row[form.prompt]);
    else
        messages.push_back({"user", field(row, form.prompt)});
    if (!form.input.empty() && has(row, form.input))
        if (const std::string input = field(row, form.input); !input.empty()) messages.back().content += "\n\n" + input;
    add_system(row, messages);
    return messages;
}

void RowReader::add_system(const Json& row, std::vector<ChatMessage>& messages) const {
    std::string system = system_;
    const std::string name = named(system_field_) ? system_field_ : "system";
    if (named(system_field_) || (has(row, name) && row[name].is_string())) system = field(row, name);
    const bool own = std::any_of(messages.begin(), messages.end(),
                                 [](const ChatMessage& m) { return m.role == "system"; });
    if (!own && !system.empty()) messages.insert(messages.begin(), {"system", system});
}

std::optional<std::string> RowReader::reference_of(const Json& row, const Form& form,
                                                   std::string& name) const {
    name = first_of(row, form.references);
    if (name.empty()) return std::nullopt;
    const std::string value = field(row, name);
    if (code_task(value) || puzzle_of(value)) return value;
    const std::string boxed = boxed_answer(value);
    if (!boxed.empty()) return boxed;
    require<DataError>(name != "solution" || named(answer_), "there is no \\boxed answer in \"solution\"");
    return extract_reference(value);
}

TrainingRow RowReader::training(const Json& row) const {
    const Form form = form_of(row);
    TrainingRow out;
    if (!form.text.empty()) {
        out.form = form.text;
        out.text = field(row, form.text);
        return out;
    }
    out.form = form.prompt;
    out.messages = begin(row, form);
    if (form.messages && out.messages.back().role == "assistant") return out;
    const std::string response = first_of(row, form.responses);
    require<DataError>(!response.empty(), "there is no response to \"{}\": {}", form.prompt,
                       form.responses.empty()
                           ? std::string("the last message is not of role assistant")
                           : fmt::format("no field {}", fmt::join(form.responses, ", ")));
    out.form += "/" + response;
    out.messages.push_back({"assistant", field(row, response)});
    return out;
}

QuestionRow RowReader::question(const Json& given) const {
    const Json row = named(answer_) ? given : as_puzzle_row(as_code_row(given));
    const Form form = form_of(row);
    require<DataError>(form.text.empty(), "field \"{}\" is text without a question; data.prompt_field "
                                          "names the field of the question", form.text);
    QuestionRow out;
    std::string name;
    out.reference = reference_of(row, form, name);
    out.form = form.prompt + (name.empty() ? "" : "/" + name);
    const std::string id = named(id_) ? id_ : first_of(row, {"id", "unique_id", "task_id"});
    if (!id.empty() && has(row, id)) out.id = field(row, id);
    if (const std::string name_of_kind = named(kind_) ? kind_ : "kind"; has(row, name_of_kind))
        out.kind = field(row, name_of_kind);
    out.messages = begin(row, form);
    while (!out.messages.empty() && out.messages.back().role == "assistant") {
        if (!out.reference) {
            const std::string answer = extract_answer(out.messages.back().content);
            if (!answer.empty()) out.reference = answer;
        }
        out.messages.pop_back();
    }
    require<DataError>(!out.messages.empty() && out.messages.back().role == "user",
                       "the conversation has no question: no message of role user before the answer");
    return out;
}

AnsweredRow RowReader::answered(const Json& given) const {
    const Json row = named(answer_) ? given : as_puzzle_row(as_code_row(given));
    AnsweredRow out;
    const std::string name = named(response_) ? response_ : "response";
    out.response = field(row, name);
    const std::string prompt = named(prompt_) ? prompt_ : first_of(row, {"prompt", "question", "problem"});
    if (!prompt.empty() && has(row, prompt)) out.prompt = field(row, prompt);
    const std::string reference = named(answer_) ? answer_ : first_of(row, {"reference", "answer"});
    if (!reference.empty() && has(row, reference)) out.reference = field(row, reference);
    return out;
}

std::vector<ChatMessage> RowReader::conversation_of(const Json& row, const std::string& name) const {
    const Json& value = row[name];
    std::vector<ChatMessage> turns = value.is_string() ? turns_of(value.get<std::string>()) : messages_of(value);
    require<DataError>(!turns.empty(),
                       "the row has no prompt, and \"{}\" is no conversation that begins with \"\\n\\nHuman:\"; "
                       "data.prompt_field names the field of the prompt",
                       name);
    require<DataError>(turns.size() > 1 && turns.back().role == "assistant",
                       "the conversation in \"{}\" does not end with an assistant's turn after a user's", name);
    return turns;
}

PreferenceRow RowReader::preference(const Json& row) const {
    PreferenceRow out;
    const std::string chosen = named(chosen_) ? chosen_ : "chosen", rejected = named(rejected_) ? rejected_ : "rejected";
    for (const std::string& name : {chosen, rejected})
        require<DataError>(has(row, name),
                           "there is no field \"{}\" (data.chosen_field and data.rejected_field name them)", name);
    const auto is_whole = [&](const std::string& name) { return row[name].is_array() && row[name].size() > 1; };
    const bool prompted = named(messages_) || named(prompt_) ||
                          !first_of(row, {"messages", "prompt", "question", "problem", "instruction"}).empty();
    if (is_whole(chosen) || is_whole(rejected) || !prompted) {
        std::vector<ChatMessage> good = conversation_of(row, chosen), bad = conversation_of(row, rejected);
        out.form = fmt::format("conversations in {}, {}", chosen, rejected);
        out.chosen = std::move(good.back().content);
        out.rejected = std::move(bad.back().content);
        good.pop_back();
        bad.pop_back();
        const auto same = [](const ChatMessage& a, const ChatMessage& b) {
            return a.role == b.role && a.content == b.content;
        };
        require<DataError>(std::equal(good.begin(), good.end(), bad.begin(), bad.end(), same),
                           "\"{}\" and \"{}\" differ before their last turns, which are what is compared", chosen,
                           rejected);
        out.messages = std::move(good);
        add_system(row, out.messages);
    } else {
        const Form form = form_of(row);
        require<DataError>(form.text.empty(), "field \"{}\" is text without a question", form.text);
        out.form = fmt::format("{} with {}, {}", form.prompt, chosen, rejected);
        out.messages = begin(row, form);
        const auto response = [&](const std::string& name) {
            return row[name].is_array() ? messages_of(row[name]).back().content : field(row, name);
        };
        out.chosen = response(chosen);
        out.rejected = response(rejected);
    }
    require<DataError>(!out.messages.empty() && out.messages.back().role == "user",
                       "the conversation has no question: no message of role user before the responses");
    require<DataError>(out.chosen != out.rejected, "\"{}\" and \"{}\" are the same: there is nothing to prefer", chosen,
                       rejected);
    const std::string margin = named(margin_) ? margin_ : "margin";
    require<DataError>(!named(margin_) || has(row, margin), "there is no field \"{}\" (data.margin_field)", margin);
    if (!has(row, margin)) return out;
    require<DataError>(row[margin].is_number(), "field \"{}\" is no number but of type {}", margin,
                       row[margin].type_name());
    out.margin = row[margin].get<double>();
    return out;
}

LabelledRow RowReader::labelled(const Json& row) const {
    LabelledRow out;
    const std::string label = named(label_) ? label_ : "safe";
    const Json* value = find_field(row, label);
    require<DataError>(value != nullptr,
                       "there is no field \"{}\" (data.label_field) that says whether the response is good", label);
    require<DataError>(value->is_boolean() || (value->is_number() && (*value == 0 || *value == 1)),
                       "field \"{}\" is {}; true or false, 1 or 0 are expected", label, value->dump());
    out.good = value->is_boolean() ? value->get<bool>() : *value == 1;
    TrainingRow conversation = training(row);
    require<DataError>(!conversation.messages.empty(), "field \"{}\" is text without a question", conversation.form);
    out.form = fmt::format("{} with {}", conversation.form, label);
    out.messages = std::move(conversation.messages);
    out.response = std::move(out.messages.back().content);
    out.messages.pop_back();
    require<DataError>(!out.messages.empty() && out.messages.back().role == "user",
                       "the conversation has no question: no message of role user before the response");
    return out;
}

std::string RowReader::asked(const Json& row) const {
    const Form form = form_of(row);
    if (!form.text.empty()) return field(row, form.text);
    return user_text(begin(row, form));
}

std::string user_text(const std::vector<ChatMessage>& messages) {
    std::string text;
    for (const ChatMessage& message : messages)
        if (message.role == "user") text += (text.empty() ? "" : "\n") + message.content;
    return text;
}

}  // namespace gradus
