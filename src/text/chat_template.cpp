// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/chat_template.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

// DeepSeek-R1 (arXiv 2501.12948 v1), Table 1, up to "User: ".
constexpr std::string_view kR1ZeroOpening =
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves "
    "it. The assistant first thinks about the reasoning process in the mind and then provides the "
    "user with the answer. The reasoning process and answer are enclosed within <think> </think> "
    "and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>. ";

// The only control tokens that the text of a message may stand for, and only in a response.
constexpr std::array<std::string_view, 4> kResponseTags = {"<think>", "</think>", "<answer>",
                                                           "</answer>"};

void append(std::vector<TokenId>& to, const std::vector<TokenId>& from) {
    to.insert(to.end(), from.begin(), from.end());
}

void append_text(std::vector<TokenId>& to, const Tokenizer& tokenizer, std::string_view text) {
    append(to, tokenizer.encode(text, false));
}

TokenId needed_special(const Tokenizer& tokenizer, std::string_view name) {
    const TokenId id = tokenizer.special(name);
    require<DeckError>(id >= 0,
                       "chat template 'demo' needs the special token {}, which tokenizer '{}' does "
                       "not have; choose 'r1-zero' or 'plain'",
                       name, tokenizer.identity());
    return id;
}

/// Tokens of `text` in which the think and answer tags are special tokens and all else is text.
std::vector<TokenId> encode_with_tags(const Tokenizer& tokenizer, std::string_view text) {
    std::vector<TokenId> tokens;
    std::size_t begin = 0;
    for (std::size_t at = text.find('<'); at != text.npos; at = text.find('<', at + 1)) {
        const auto tag = std::find_if(kResponseTags.begin(), kResponseTags.end(),
                                      [&](auto name) { return text.substr(at).starts_with(name); });
        if (tag == kResponseTags.end()) continue;
        append_text(tokens, tokenizer, text.substr(begin, at - begin));
        tokens.push_back(needed_special(tokenizer, *tag));
        begin = at + tag->size();
    }
    append_text(tokens, tokenizer, text.substr(begin));
    return tokens;
}

/// Tokens that stand before the response to `messages[index]`, or for a message without one.
void append_turn(std::vector<TokenId>& to, const std::string& name, const Tokenizer& tokenizer,
                 const ChatMessage& message, bool first_user) {
    const bool system = message.role == "system";
    require<DataError>(system || message.role == "user",
                       "unknown role '{}' in a conversation; known: system, user, assistant",
                       message.role);
    if (name == "demo") {
        if (!system) to.push_back(needed_special(tokenizer, "<user>"));
        append_text(to, tokenizer, message.content);
        if (!system) to.push_back(needed_special(tokenizer, "<assistant>"));
    } else if (name == "r1-zero") {
        if (system) {
            append_text(to, tokenizer, message.content + "\n");
            return;
        }
        append_text(to, tokenizer, first_user ? kR1ZeroOpening : std::string_view(" "));
        append_text(to, tokenizer, "User: " + message.content + ". Assistant:");
    } else {
        append_text(to, tokenizer, message.content + "\n");
    }
}

}  // namespace

ChatTemplate::ChatTemplate(std::string name, const Tokenizer& tokenizer)
    : name_(std::move(name)), tokenizer_(tokenizer) {
    require<DeckError>(name_ == "demo" || name_ == "r1-zero" || name_ == "plain",
                       "unknown chat template '{}'; known: demo, r1-zero, plain", name_);
    if (name_ != "demo") return;
    needed_special(tokenizer_, "<user>");
    needed_special(tokenizer_, "<assistant>");
    for (const std::string_view tag : kResponseTags) needed_special(tokenizer_, tag);
}

std::vector<TokenId> ChatTemplate::render_prompt(const std::vector<ChatMessage>& messages) const {
    require<DataError>(!messages.empty() && messages.back().role == "user",
                       "a prompt must end with a message of role 'user'");
    std::vector<TokenId> tokens;
    if (tokenizer_.bos() >= 0) tokens.push_back(tokenizer_.bos());
    bool first_user = true;
    for (const ChatMessage& message : messages) {
        if (message.role == "assistant") {
            append(tokens, render_response(message.content));
            continue;
        }
        append_turn(tokens, name_, tokenizer_, message, first_user);
        if (message.role == "user") first_user = false;
    }
    return tokens;
}

RenderedChat ChatTemplate::render(const std::vector<ChatMessage>& messages) const {
    require<DataError>(!messages.empty() && messages.back().role == "assistant",
                       "a training conversation must end with a message of role 'assistant'");
    RenderedChat chat;
    if (tokenizer_.bos() >= 0) chat.tokens.push_back(tokenizer_.bos());
    chat.trained.assign(chat.tokens.size(), false);
    bool first_user = true;
    for (const ChatMessage& message : messages) {
        const bool response = message.role == "assistant";
        if (response) {
            append(chat.tokens, render_response(message.content));
        } else {
            append_turn(chat.tokens, name_, tokenizer_, message, first_user);
            if (message.role == "user") first_user = false;
        }
        chat.trained.resize(chat.tokens.size(), response);
    }
    return chat;
}

std::vector<TokenId> ChatTemplate::render_response(const std::string& response) const {
    std::vector<TokenId> tokens = name_ == "demo" ? encode_with_tags(tokenizer_, response)
                                                  : tokenizer_.encode(response, false);
    tokens.push_back(tokenizer_.eos());
    return tokens;
}

std::string ChatTemplate::response_text(std::span<const TokenId> tokens) const {
    const auto end = std::find(tokens.begin(), tokens.end(), tokenizer_.eos());
    return tokenizer_.decode(tokens.first(static_cast<std::size_t>(end - tokens.begin())));
}

}  // namespace gradus
