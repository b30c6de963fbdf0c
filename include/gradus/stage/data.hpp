// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gradus/deck/deck.hpp"
#include "gradus/stage/rows.hpp"
#include "gradus/text/chat_template.hpp"
#include "gradus/train/packing.hpp"

namespace gradus {

/// A prompt with its reference answer.
struct PromptRow {
    std::int64_t index = 0;  ///< place among all rows, of every shard
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

/// What came of reading files, for the log: for each file how many rows of which form; the first bad
/// lines with the reason, where they were skipped.
struct DataReport {
    std::int64_t skipped = 0;
    std::vector<std::string> notes;
};

/// Rows of the source's files as prompts (stage/rows.hpp says which forms there are). Bad lines are
/// fatal with file and line, or skipped and counted (data.bad_lines).
std::vector<PromptRow> read_prompts(const Deck& deck, const ChatTemplate& chat, DataReport& report,
                                    const RowSource& source = {});

/// Rows of `data.path` as training sequences. Where `everything`, the loss is on all tokens
/// (pretraining), else on responses only, those that sft.train_on names. Text is cut into sequences
/// of `max_length`; longer conversations are bad lines. One row of the file is in memory at a time.
std::vector<Sequence> read_sequences(const Deck& deck, const ChatTemplate& chat,
                                     const Tokenizer& tokenizer, bool everything,
                                     std::int64_t max_length, DataReport& report);

/// Calls `take` with every text of `data.path`: documents, and of conversations what each turn says.
void read_texts(const Deck& deck, DataReport& report, const std::function<void(const std::string&)>& take);

/// Reads the first `rows` rows of each file as the stage would; a line of text a file: the form of the
/// rows, their lengths in tokens, what is wrong. `good` becomes false where a line would end the run.
std::string preview_data(const Deck& deck, const ChatTemplate& chat, const Tokenizer& tokenizer,
                         std::int64_t rows, bool& good);

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
