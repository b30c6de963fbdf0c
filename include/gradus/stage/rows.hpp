// SPDX-License-Identifier: Apache-2.0
// What a row of a JSONL file says: a conversation, a question with its answer, or text.
//
// A row is read by the fields that it has, the first of these that fits:
//
//   messages   a list of {role, content} as OpenAI's interface takes it
//   prompt     with response; reference or answer
//   question   with response, else answer; reference, else answer        (GSM8K)
//   problem    with response, else solution, else answer; reference, else answer, else solution (MATH)
//   text       a document
//
// Stages tokenizer and pretrain look for `text` first. Keys data.messages_field, data.prompt_field and
// data.text_field name the field of one form and leave the other forms out;
// data.response_field, data.answer_field, data.id_field, data.system_field name theirs. A field that
// is null is not there.
//
// The reference answer is what stands in the last \boxed of its field, else what follows the last
// `####`, else all of it; of `solution` only what is boxed.
//
// Of messages: role `developer` is system; content is text, null, or a list of parts of type text;
// `reasoning_content` (or `reasoning`) of an assistant's turn goes before its content as <think>
// text. Tool calls, tool messages and other parts are refused. Where a prompt is wanted, assistant's
// turns at the end are dropped; where the row has no reference, the answer in the last of them is it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gradus/base/json_lines.hpp"
#include "gradus/deck/deck.hpp"
#include "gradus/text/chat_template.hpp"

namespace gradus {

/// A row to train on: a conversation that ends with an assistant's turn, or text.
struct TrainingRow {
    std::string form;  ///< fields that it was read from: "question/answer"
    std::vector<ChatMessage> messages;
    std::string text;  ///< where there are no messages
};

/// A row to answer: a conversation that ends with the user's turn.
struct QuestionRow {
    std::string form;
    std::string id;  ///< "" where the row names none
    std::vector<ChatMessage> messages;
    std::optional<std::string> reference;
};

/// A row to score.
struct AnsweredRow {
    std::string prompt, response, reference;  ///< prompt and reference may be ""
};

/// What the user says in a conversation, turns divided by line breaks.
std::string user_text(const std::vector<ChatMessage>& messages);

class RowReader {
  public:
    explicit RowReader(const Deck& deck);
    /// Reads every field by its usual name and adds no system message: for files beside data.path.
    RowReader() = default;

    // All throw DataError with what is wrong with the row.
    TrainingRow training(const Json& row) const;
    QuestionRow question(const Json& row) const;
    AnsweredRow answered(const Json& row) const;
    /// What the user says in it, turns divided by line breaks, or the text; asks for no answer.
    std::string asked(const Json& row) const;

  private:
    struct Form;
    Form form_of(const Json& row) const;
    std::vector<ChatMessage> messages_of(const Json& value) const;
    /// The conversation before any answer, with the deck's system message where it has none.
    std::vector<ChatMessage> begin(const Json& row, const Form& form) const;
    std::optional<std::string> reference_of(const Json& row, const Form& form, std::string& field) const;
    bool named(const std::string& key) const { return key != "auto"; }

    bool text_first_ = false;
    std::string messages_ = "auto", prompt_ = "auto", text_ = "auto", response_ = "auto", answer_ = "auto", id_ = "auto",
                system_field_ = "auto";
    std::string system_;  ///< policy.system
};

}  // namespace gradus
