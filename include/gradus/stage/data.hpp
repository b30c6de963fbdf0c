// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gradus/deck/deck.hpp"
#include "gradus/text/chat_template.hpp"
#include "gradus/train/packing.hpp"

namespace gradus {

/// A prompt with its reference answer.
struct PromptRow {
    std::string id;
    std::vector<ChatMessage> messages;
    std::string text;  ///< last user message
    std::string reference;
    std::vector<TokenId> tokens;  ///< rendered
};

/// The deck's keys of the files to read and of how many rows of them.
struct RowSource {
    const char* files = "data.path";
    const char* limit = "data.limit";
};

/// Rows of the source's files as prompts: {id, prompt | messages, reference, kind}; field names from
/// the deck. Bad lines are fatal with file and line, or skipped and counted (data.bad_lines).
std::vector<PromptRow> read_prompts(const Deck& deck, const ChatTemplate& chat,
                                    std::int64_t& skipped, const RowSource& source = {});

/// Rows of `data.path` as training sequences: {messages}, {prompt, response} or {text}. Where
/// `everything`, the loss is on all tokens (pretraining), else on responses only. Sequences longer
/// than `max_length` are cut in text, refused in conversations.
std::vector<Sequence> read_sequences(const Deck& deck, const ChatTemplate& chat,
                                     const Tokenizer& tokenizer, bool everything,
                                     std::int64_t max_length, std::int64_t& skipped);

/// Walks a data set of n rows in permuted epochs: row `at` of the endless order.
/// A function of (seed, at) alone.
class Shuffler {
  public:
    Shuffler(std::uint64_t seed, std::int64_t rows, bool shuffle)
        : seed_(seed), rows_(rows), shuffle_(shuffle) {}
    std::int64_t row(std::int64_t at);

  private:
    std::uint64_t seed_;
    std::int64_t rows_;
    bool shuffle_;
    std::int64_t epoch_ = -1;
    std::vector<std::int64_t> order_;
};

}  // namespace gradus
