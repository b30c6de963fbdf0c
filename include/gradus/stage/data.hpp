// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
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
    std::map<std::string, std::string> fields;  ///< those that eval.by names
    std::string kind;  ///< what rewards apply to (reward.NAME.applies_to)
    std::vector<TokenId> tokens;  ///< rendered
};

/// What a reward model learns from: two sequences of which the first is preferred, or one with its label. Each ends with
/// the response's end token.
struct RatedRow {
    std::vector<Sequence> sequences;
    std::size_t prompt = 0;  ///< tokens of the prompt, which all of them begin with
    double margin = 0;       ///< of a pair
    double label = 0;        ///< of a single one: 1 good, 0 not
};

/// The deck's keys of the files to read and of how many rows of them.
struct RowSource {
    const char* files = "data.path";
    const char* limit = "data.limit";  ///< null: all
    bool measured = false;  ///< prompts whose answers are measured, whatever the rewards
};

/// What came of reading files, for the log: for each file how many rows of which form; the first bad
/// lines with the reason, where they were skipped.
struct DataReport {
    std::int64_t skipped = 0;
    std::vector<std::string> notes;
};

/// Whether the reward NAME of the deck is for prompts of this kind.
bool reward_applies(const Deck& deck, const std::string& name, const std::string& kind);

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

/// Rows of the source's files as reward_model.kind takes them; longer ones than `max_length` are bad lines.
std::vector<RatedRow> read_rated(const Deck& deck, const ChatTemplate& chat, std::int64_t max_length,
                                 DataReport& report, const RowSource& source = {});

/// Takes `share` of the rows out, chosen by the seed, so that no prompt is on both sides; both keep their order.
/// Throws DataError where a side would be empty.
std::vector<RatedRow> hold_out(std::vector<RatedRow>& rows, double share, std::uint64_t seed);

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
