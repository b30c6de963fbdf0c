// SPDX-License-Identifier: Apache-2.0
// What a row of a JSONL file (or of a JSON array) says: a conversation, a question with its answer, two responses of
// which one is preferred, a response with a label, or text.
//
// A row is read by the fields that it has, the first of these that fits:
//
//   messages   a list of {role, content} as OpenAI's interface takes it
//   prompt     with response; reference or answer
//   question   with response, else answer; reference, else answer        (GSM8K)
//   problem    with response, else solution, else answer; reference, else answer, else solution (MATH)
//   instruction  with `input` below it, where it has one; response, else output; reference, else answer (Alpaca)
//   text       a document
//
// A preference is one of these with `chosen` and `rejected`: text, a message of role assistant in a list, or the whole
// conversation as a list. Without a field of the prompt both are whole conversations, as lists of messages or as text
// ("\n\nHuman: ...\n\nAssistant: ...", Anthropic's hh-rlhf), alike up to the last turn, which is the assistant's.
//
// Stages tokenizer and pretrain look for `text` first. Keys data.messages_field, data.prompt_field and
// data.text_field name the field of one form and leave the other forms out;
// data.response_field, data.answer_field, data.id_field, data.system_field name theirs. A field that
// is null is not there.
//
// Rows that ask for a program: HumanEval's, HumanEval-X's of C++, MBPP's, and a prompt or messages with
//
//   language       python or cpp
//   cases          a list of {input, output}: text for stdin, and the words that are to come on stdout; or
//   tests          a list of asserts, or of one block: `check(candidate)` in Python, `main` in C++, with
//   entry_point    the tested function (Python); signature  bool f(int a) (C++)
//   prologue       text before the tests (and before a program that is a whole function)
//   header         text before a program that is only the body of the function
//   names          Python: further names of the program that tests use;  in_place  whether tests see what the function
//                  does to its arguments
//
// Where such rows are answers to be scored they have a response too. data.answer_field leaves these forms out.
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
    std::string kind = "reasoning";
};

/// Two responses to one conversation.
struct PreferenceRow {
    std::string form;
    std::vector<ChatMessage> messages;  ///< ends with the user's turn
    std::string chosen, rejected;
    std::optional<double> margin;
};

/// A response and whether it is good.
struct LabelledRow {
    std::string form;
    std::vector<ChatMessage> messages;
    std::string response;
    bool good = false;
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
    PreferenceRow preference(const Json& row) const;
    LabelledRow labelled(const Json& row) const;
    /// What the user says in it, turns divided by line breaks, or the text; asks for no answer.
    std::string asked(const Json& row) const;

  private:
    struct Form;
    Form form_of(const Json& row) const;
    std::vector<ChatMessage> messages_of(const Json& value) const;
    /// A whole conversation: a list of messages, or text with turns of Human and Assistant.
    std::vector<ChatMessage> conversation_of(const Json& row, const std::string& name) const;
    /// Puts the row's or the deck's system message first where the conversation has none.
    void add_system(const Json& row, std::vector<ChatMessage>& messages) const;
    /// The conversation before any answer, with the deck's system message where it has none.
    std::vector<ChatMessage> begin(const Json& row, const Form& form) const;
    std::optional<std::string> reference_of(const Json& row, const Form& form, std::string& field) const;
    bool named(const std::string& key) const { return key != "auto"; }

    bool text_first_ = false;
    std::string messages_ = "auto", prompt_ = "auto", text_ = "auto", response_ = "auto", answer_ = "auto", id_ = "auto",
                system_field_ = "auto", kind_ = "auto", chosen_ = "auto", rejected_ = "auto", margin_ = "auto", label_ = "auto";
    std::string system_;  ///< policy.system
};

}  // namespace gradus
