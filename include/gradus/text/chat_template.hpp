// SPDX-License-Identifier: Apache-2.0
// Named chat templates: how a conversation becomes tokens, and which of them are trained.
//
//   demo         <bos><user>{q}<assistant>{a}<eos>, the think and answer tags as control tokens
//   r1-zero      the plain words of DeepSeek-R1's Table 1 (arXiv 2501.12948); any tokenizer
//   plain        question, line break, response; any tokenizer
//   deepseek-v3  the template of DeepSeek-V3
//   deepseek-r1  the same, and the prompt opens the reasoning: `<think>` and a line break
//   chatml       <|im_start|>role ... <|im_end|>
//   qwen2.5      chatml with Qwen2.5's system message where a conversation has none
//   qwen3        chatml; responses begin with their reasoning, past ones are without
//   llama3       <|start_header_id|>role<|end_header_id|> ... <|eot_id|>
//   llama3.1     the same with Llama 3.1's system turn, which is always there and names two dates:
//                the fixed ones of its template (December 2023, 26 Jul 2024), not today's, so that a
//                run repeats itself
//
// A response is an assistant's turn: what stands between the prompt and the end token, and that
// token. The trained tokens are those of responses, each with its end token, and no others. What
// the prompt of a turn holds, the `<think>` of deepseek-r1 and qwen3's empty thought (thinking off)
// included, is never trained, and a response's text is encoded by itself, so that training sees the
// tokens that sampling sees.
//
// Control tokens come from the tokenizer by name. The text of a message is never read for them (where
// the tokenizer finds one in any text, as Qwen3's finds <think>, the text is broken after the `<`), but
// for the tags <think>, </think>, <answer> and </answer> in a response, where the tokenizer has them
// (r1-zero and plain: they are text).
//
// The text of a response holds its reasoning as `<think>\n{reasoning}\n</think>\n\n{answer}`, also
// where the prompt opens it. deepseek-r1 and qwen3 write line breaks in just this way, give a
// response without reasoning an empty one, and drop the reasoning of past turns.
#pragma once

#include <string>
#include <vector>

#include "gradus/text/tokenizer.hpp"

namespace gradus {

struct ChatMessage {
    std::string role;  ///< "system", "user", "assistant"
    std::string content;
};

/// A rendered conversation. `trained[i]` says whether token i is a target of the loss.
struct RenderedChat {
    std::vector<TokenId> tokens;
    std::vector<bool> trained;
};

/// Responses of a conversation that are trained.
enum class TrainOn { all, last };

/// The names of all templates, in the order above.
std::vector<std::string> chat_template_names();
/// The template of a model's family, by the tokenizer's control tokens and, among those that share
/// them, by `model_type` of config.json ("" where there is none): `<｜Assistant｜>` deepseek-r1 (with
/// <think>) or deepseek-v3; `<|start_header_id|>` llama3.1 (with <|eom_id|>) or llama3; `<|im_start|>`
/// qwen2.5 (qwen2*), qwen3 (qwen3*, or no model_type and <think>) or chatml; else r1-zero.
std::string choose_chat_template(const Tokenizer& tokenizer, const std::string& model_type);

class ChatTemplate {
  public:
    /// `thinking` false: no reasoning (qwen3's enable_thinking). Throws DeckError for an unknown name,
    /// for a tokenizer that lacks control tokens of the template, naming those and the templates that
    /// fit, and where the template has no form without thinking.
    ChatTemplate(const std::string& name, const Tokenizer& tokenizer, bool thinking = true);

    /// Everything up to where the model's response begins. Throws DataError where `messages` does not
    /// end with role user, or roles are not of this template.
    std::vector<TokenId> render_prompt(const std::vector<ChatMessage>& messages) const;
    /// A conversation that ends with an assistant's turn, to train on. One sequence, but for
    /// TrainOn::all in templates that drop past reasoning: there one for each assistant's turn, as it
    /// was said, with what stood before it. Throws DataError.
    std::vector<RenderedChat> render(const std::vector<ChatMessage>& messages, TrainOn on) const;
    /// Tokens of a response followed by the end token (what `render` puts after the prompt).
    std::vector<TokenId> render_response(const std::string& response) const;
    /// The text of sampled tokens as a response: up to the first end token, tags as text, with what
    /// the prompt opened; ids beyond the vocabulary (padding of the model) stand for nothing.
    std::string response_text(std::span<const TokenId> tokens) const;

    const std::string& name() const { return name_; }
    /// Whether a token is known that ends a response.
    bool can_end() const { return !ends_.empty(); }
    /// Every token that ends a response: the template's own, which is trained, and the tokenizer's.
    /// Throws DeckError where there is none.
    const std::vector<TokenId>& end_tokens() const;

    struct Form;  // a row of the table of templates

  private:
    class Writer;
    void write_turns(Writer& to, const std::vector<ChatMessage>& messages, std::size_t count,
                     bool train_past) const;
    void write_prompt_end(Writer& to) const;
    std::string as_response(const std::string& content) const;
    std::string as_past(const std::string& content) const;

    std::string name_;
    const Form* form_;
    const Tokenizer& tokenizer_;
    bool thinking_;
    std::vector<TokenId> ends_;
    std::vector<std::string_view> always_read_;  ///< control tokens that the tokenizer finds in any text
};

}  // namespace gradus
