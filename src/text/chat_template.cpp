// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/chat_template.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

using std::string_view;

// The only control tokens that the text of a message may stand for, and only in a response.
constexpr std::array<string_view, 4> kResponseTags = {"<think>", "</think>", "<answer>",
                                                      "</answer>"};
constexpr string_view kThink = "<think>", kThinkEnd = "</think>";
constexpr string_view kThinkOpening = "<think>\n", kThinkClosing = "\n</think>\n\n";

/// How a template treats reasoning: text like any other; opened by the prompt; written by the model.
enum class Reasoning { text, opened, written };

struct Turn {
    string_view before, after;
};

}  // namespace

/// What a template writes around the texts of a conversation. In `before` and `after`, names of
/// `controls` stand for these tokens.
struct ChatTemplate::Form {
    string_view name;
    std::vector<string_view> controls;  ///< that the tokenizer must have
    bool bos_of_tokenizer = false;      ///< begins with the tokenizer's own, where it has one
    string_view opening;                ///< before all turns
    string_view first_system;           ///< within the first system turn, before its text
    std::optional<string_view> default_system;
    bool one_system = false;  ///< the template has no place for a second system message
    Turn system, user;
    string_view first_user;  ///< in the place of user.before in the first of these turns
    string_view assistant;   ///< before a response
    string_view end;         ///< token that ends a response; "": the tokenizer's
    string_view after_end;
    bool trim = false;  ///< white space around texts is dropped
    bool tags = true;   ///< in responses, tags are control tokens where the tokenizer has them
    Reasoning reasoning = Reasoning::text;
};

namespace {

using Form = ChatTemplate::Form;

// DeepSeek-R1 (arXiv 2501.12948 v1), Table 1.
constexpr string_view kR1ZeroUser =
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves "
    "it. The assistant first thinks about the reasoning process in the mind and then provides the "
    "user with the answer. The reasoning process and answer are enclosed within <think> </think> "
    "and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>. User: ";

Form deepseek(string_view name) {
    return {.name = name,
            .controls = {"<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
                         "<｜end▁of▁sentence｜>"},
            .opening = "<｜begin▁of▁sentence｜>",
            .one_system = true,
            .user = {"<｜User｜>", ""},
            .assistant = "<｜Assistant｜>",
            .end = "<｜end▁of▁sentence｜>"};
}

Form chatml(string_view name) {
    return {.name = name,
            .controls = {"<|im_start|>", "<|im_end|>"},
            .system = {"<|im_start|>system\n", "<|im_end|>\n"},
            .user = {"<|im_start|>user\n", "<|im_end|>\n"},
            .assistant = "<|im_start|>assistant\n",
            .end = "<|im_end|>",
            .after_end = "\n"};
}

Form llama(string_view name) {
    return {.name = name,
            .controls = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                         "<|eot_id|>"},
            .opening = "<|begin_of_text|>",
            .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
            .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
            .assistant = "<|start_header_id|>assistant<|end_header_id|>\n\n",
            .end = "<|eot_id|>",
            .trim = true};
}

std::vector<Form> make_forms() {
    std::vector<Form> forms = {
        {.name = "demo",
         .controls = {"<user>", "<assistant>", "<think>", "</think>", "<answer>", "</answer>"},
         .bos_of_tokenizer = true,
         .user = {"<user>", ""},
         .assistant = "<assistant>"},
        {.name = "r1-zero",
         .bos_of_tokenizer = true,
         .system = {"", "\n"},
         .user = {" User: ", ". Assistant:"},
         .first_user = kR1ZeroUser,
         .tags = false},
        {.name = "plain",
         .bos_of_tokenizer = true,
         .system = {"", "\n"},
         .user = {"", "\n"},
         .tags = false},
        deepseek("deepseek-v3"),
        deepseek("deepseek-r1"),
        chatml("chatml"),
        chatml("qwen2.5"),
        chatml("qwen3"),
        llama("llama3"),
        llama("llama3.1"),
    };
    const auto at = [&](string_view name) -> Form& {
        return *std::find_if(forms.begin(), forms.end(), [&](const Form& f) { return f.name == name; });
    };
    at("deepseek-r1").reasoning = Reasoning::opened;
    at("qwen3").reasoning = Reasoning::written;
    for (const string_view name : {"deepseek-r1", "qwen3"})
        for (const string_view tag : {kThink, kThinkEnd}) at(name).controls.push_back(tag);
    at("qwen2.5").default_system =
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
    at("llama3.1").default_system = "";
    at("llama3.1").first_system =
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
    return forms;
}

const std::vector<Form>& forms() {
    static const std::vector<Form> table = make_forms();
    return table;
}

std::vector<string_view> lacking(const Form& form, const Tokenizer& tokenizer) {
    std::vector<string_view> names;
    for (const string_view control : form.controls)
        if (tokenizer.special(control) < 0) names.push_back(control);
    return names;
}

const Form& find_form(const std::string& name, const Tokenizer& tokenizer) {
    const auto form = std::find_if(forms().begin(), forms().end(),
                                   [&](const Form& f) { return f.name == name; });
    require<DeckError>(form != forms().end(), "unknown chat template '{}'; known: {}", name,
                       fmt::join(chat_template_names(), ", "));
    const auto names = lacking(*form, tokenizer);
    std::vector<string_view> fitting;
    for (const Form& other : forms())
        if (lacking(other, tokenizer).empty()) fitting.push_back(other.name);
    require<DeckError>(names.empty(),
                       "chat template '{}' needs the special tokens {}, which tokenizer '{}' does not "
                       "have; policy.template can be {}",
                       name, fmt::join(names, " "), tokenizer.identity(), fmt::join(fitting, ", "));
    return *form;
}

string_view without(string_view text, string_view characters) {
    const std::size_t first = text.find_first_not_of(characters);
    if (first == text.npos) return {};
    return text.substr(first, text.find_last_not_of(characters) - first + 1);
}
string_view trimmed(string_view text) {
    return without(text, " \t\r\n\f\v");
}
string_view without_leading_breaks(string_view text) {
    return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}

/// What follows the last `</think>`; all where there is none.
string_view after_reasoning(string_view text) {
    const std::size_t end = text.rfind(kThinkEnd);
    return end == text.npos ? text : text.substr(end + kThinkEnd.size());
}
/// What stands before the first `</think>`, after the last `<think>` there.
string_view reasoning_of(string_view text) {
    text = text.substr(0, std::min(text.find(kThinkEnd), text.size()));
    const std::size_t begin = text.rfind(kThink);
    return without(begin == text.npos ? text : text.substr(begin + kThink.size()), "\n");
}

}  // namespace

/// Collects tokens. Texts that follow each other are encoded as one, as a tokenizer that reads the
/// whole conversation would.
class ChatTemplate::Writer {
  public:
    explicit Writer(const ChatTemplate& chat)
        : chat_(chat), form_(*chat.form_), tokenizer_(chat.tokenizer_) {}

    void open() {
        if (form_.bos_of_tokenizer && tokenizer_.bos() >= 0) token(tokenizer_.bos(), false);
        markup(form_.opening);
    }
    /// Text of a message: broken where the tokenizer would read a control token.
    void text(string_view text) {
        if (form_.trim) text = trimmed(text);
        split(text, chat_.always_read_, [&](string_view) {
            pending_ += '<';
            flush(false);
            return std::size_t{1};
        });
    }
    /// Text of the template itself, in which names of its control tokens are these tokens.
    void markup(string_view text) {
        split(text, form_.controls, [&](string_view name) { return control(name, false); });
    }
    /// Text of a response, by itself, with its tags and its end.
    void response(string_view text, bool trained) {
        flush(false);
        if (form_.tags)
            split(text, kResponseTags, [&](string_view name) { return control(name, trained); });
        else
            pending_ += text;
        flush(trained);
        token(chat_.end_tokens().front(), trained);
    }
    RenderedChat take() {
        flush(false);
        return std::move(rendered_);
    }

  private:
    /// Text as it is, but where one of `names` stands: `found(name)` takes so many bytes of it.
    template <class Names, class Found>
    void split(string_view text, const Names& names, const Found& found) {
        while (!text.empty()) {
            const std::size_t at = std::min(text.find('<'), text.size());
            pending_ += text.substr(0, at);
            text.remove_prefix(at);
            const auto name = std::find_if(names.begin(), names.end(),
                                           [&](string_view n) { return text.starts_with(n); });
            std::size_t taken = name == names.end() ? 0 : found(*name);
            if (taken == 0 && !text.empty()) {
                pending_ += text.front();
                taken = 1;
            }
            text.remove_prefix(std::min(taken, text.size()));
        }
    }
    std::size_t control(string_view name, bool trained) {
        const TokenId id = tokenizer_.special(name);
        if (id < 0) return 0;
        flush(trained);
        token(id, trained);
        return name.size();
    }
    void flush(bool trained) {
        if (pending_.empty()) return;
        for (const TokenId id : tokenizer_.encode(pending_, false)) token(id, trained);
        pending_.clear();
    }
    void token(TokenId id, bool trained) {
        rendered_.tokens.push_back(id);
        rendered_.trained.push_back(trained);
    }

    const ChatTemplate& chat_;
    const Form& form_;
    const Tokenizer& tokenizer_;
    std::string pending_;
    RenderedChat rendered_;
};

std::vector<std::string> chat_template_names() {
    std::vector<std::string> names;
    for (const Form& form : forms()) names.emplace_back(form.name);
    return names;
}

std::string choose_chat_template(const Tokenizer& tokenizer, const std::string& model_type) {
    const auto has = [&](string_view name) { return tokenizer.special(name) >= 0; };
    if (has("<｜Assistant｜>")) return has(kThink) ? "deepseek-r1" : "deepseek-v3";
    if (has("<|start_header_id|>")) return has("<|eom_id|>") ? "llama3.1" : "llama3";
    if (!has("<|im_start|>")) return "r1-zero";
    if (model_type.starts_with("qwen3") || (model_type.empty() && has(kThink))) return "qwen3";
    return model_type.starts_with("qwen2") ? "qwen2.5" : "chatml";
}

ChatTemplate::ChatTemplate(const std::string& name, const Tokenizer& tokenizer, bool thinking)
    : name_(name), form_(&find_form(name, tokenizer)), tokenizer_(tokenizer), thinking_(thinking) {
    require<DeckError>(thinking || form_->reasoning == Reasoning::written,
                       "policy.thinking = false: of the chat templates only qwen3 has a form for it, "
                       "policy.template is {}", name);
    const TokenId end = form_->end.empty() ? tokenizer.eos() : tokenizer.special(form_->end);
    if (end >= 0) ends_.push_back(end);
    for (const TokenId id : tokenizer.eos_ids())
        if (id != end) ends_.push_back(id);
    std::vector<string_view> controls(kResponseTags.begin(), kResponseTags.end());
    controls.insert(controls.end(), form_->controls.begin(), form_->controls.end());
    for (const string_view control : controls) {
        const auto read = tokenizer.encode(control, false);
        if (std::find(read.begin(), read.end(), tokenizer.special(control)) != read.end())
            always_read_.push_back(control);
    }
}

/// A response as the model writes it after the prompt.
std::string ChatTemplate::as_response(const std::string& content) const {
    const string_view text = form_->trim ? trimmed(content) : content;
    if (form_->reasoning == Reasoning::text) return std::string(text);
    const bool closed = text.find(kThinkEnd) != text.npos;
    const bool begun = without_leading_breaks(text).starts_with(kThink);
    if (!thinking_) {
        require<DataError>(!closed && !begun, "a response reasons, and policy.thinking is false");
        return std::string(text);
    }
    std::string whole(kThinkOpening);
    if (closed || !begun) {
        if (closed) whole += reasoning_of(text);
        whole += kThinkClosing;
        whole += without_leading_breaks(after_reasoning(text));
    } else {  // reasoning that was cut off
        whole += without_leading_breaks(without_leading_breaks(text).substr(kThink.size()));
    }
    return form_->reasoning == Reasoning::opened ? whole.substr(kThinkOpening.size()) : whole;
}

/// A response as later prompts show it.
std::string ChatTemplate::as_past(const std::string& content) const {
    switch (form_->reasoning) {
        case Reasoning::text: return as_response(content);
        case Reasoning::opened: return std::string(after_reasoning(content));
        case Reasoning::written: break;
    }
    return content.find(kThinkEnd) == content.npos
               ? content
               : std::string(without_leading_breaks(after_reasoning(content)));
}

/// What a prompt ends with, after its last turn.
void ChatTemplate::write_prompt_end(Writer& to) const {
    to.markup(form_->assistant);
    if (form_->reasoning == Reasoning::opened) to.markup(kThinkOpening);
    if (!thinking_) to.markup("<think>\n\n</think>\n\n");
}

/// The first `count` messages, assistant's turns as past ones.
void ChatTemplate::write_turns(Writer& to, const std::vector<ChatMessage>& messages,
                               std::size_t count, bool train_past) const {
    bool first_user = true, first_system = true;
    to.open();
    const auto system = [&](string_view content) {
        to.markup(form_->system.before);
        if (first_system) to.markup(form_->first_system);
        to.text(content);
        to.markup(form_->system.after);
        first_system = false;
    };
    if (form_->default_system && messages.front().role != "system") system(*form_->default_system);
    for (std::size_t i = 0; i < count; ++i) {
        const auto& [role, content] = messages[i];
        if (role == "assistant") {
            to.markup(form_->assistant);
            to.response(as_past(content), train_past);
            to.markup(form_->after_end);
        } else if (role == "user") {
            to.markup(first_user && !form_->first_user.empty() ? form_->first_user
                                                               : form_->user.before);
            to.text(content);
            to.markup(form_->user.after);
            first_user = false;
        } else {
            require<DataError>(role == "system",
                               "a message has role '{}'; chat template '{}' knows system, user, "
                               "assistant", role, name_);
            require<DataError>(!form_->one_system || i == 0,
                               "message {} has role 'system'; chat template '{}' takes one such "
                               "message, the first", i + 1, name_);
            system(content);
        }
    }
}

std::vector<TokenId> ChatTemplate::render_prompt(const std::vector<ChatMessage>& messages) const {
    require<DataError>(!messages.empty() && messages.back().role == "user",
                       "a prompt must end with a message of role 'user'");
    Writer writer(*this);
    write_turns(writer, messages, messages.size(), false);
    write_prompt_end(writer);
    return writer.take().tokens;
}

std::vector<RenderedChat> ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                               TrainOn on) const {
    require<DataError>(!messages.empty() && messages.back().role == "assistant",
                       "a training conversation must end with a message of role 'assistant'");
    const bool past_as_said = form_->reasoning == Reasoning::text;
    std::vector<RenderedChat> chats;
    for (std::size_t i = 0; i < messages.size(); ++i) {
        const bool last = i + 1 == messages.size();
        if (messages[i].role != "assistant" || (!last && (on == TrainOn::last || past_as_said)))
            continue;
        Writer writer(*this);
        write_turns(writer, messages, i, on == TrainOn::all && past_as_said);
        write_prompt_end(writer);
        writer.response(as_response(messages[i].content), true);
        chats.push_back(writer.take());
    }
    return chats;
}

std::vector<TokenId> ChatTemplate::render_response(const std::string& response) const {
    Writer writer(*this);
    writer.response(as_response(response), true);
    return writer.take().tokens;
}

const std::vector<TokenId>& ChatTemplate::end_tokens() const {
    require<DeckError>(can_end(),
                       "chat template '{}' ends responses with the tokenizer's end token, and '{}' names "
                       "none; eos_token_id in a generation_config.json beside tokenizer.json names it",
                       name_, tokenizer_.identity());
    return ends_;
}

std::string ChatTemplate::response_text(std::span<const TokenId> tokens) const {
    std::vector<TokenId> known;
    for (const TokenId token : tokens) {
        if (std::find(ends_.begin(), ends_.end(), token) != ends_.end()) break;
        if (token < tokenizer_.vocab_size()) known.push_back(token);
    }
    const std::string text = tokenizer_.decode(known);
    return form_->reasoning == Reasoning::opened ? std::string(kThinkOpening) + text : text;
}

}  // namespace gradus
