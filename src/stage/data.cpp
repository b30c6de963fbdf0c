// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/data.hpp"

#include <unistd.h>

#include <algorithm>
#include <map>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kBadLinesTold = 3;

/// Calls `take(row, line)`, which returns the row's form, for every row of every file that the deck's
/// shard and limit leave. A DataError of `take` gains file and line, or is counted and skipped where
/// the deck says so.
template <class Take>
void for_each_row(const Deck& deck, const RowSource& source, DataReport& report, const Take& take) {
    const bool skip = deck.text("data.bad_lines") == "skip";
    const std::int64_t limit = deck.integer(source.limit);
    const std::int64_t shard = deck.integer("data.shard"), shards = deck.integer("data.num_shards");
    const auto files = deck.list(source.files);
    require<DeckError>(!files.empty(), "{} is not set: name one or more JSONL files", source.files);
    std::int64_t taken = 0, seen = 0;
    for (const std::string& file : files) {
        std::map<std::string, std::int64_t> forms;
        std::int64_t bad = 0;
        const auto refuse = [&](std::int64_t line, const std::string& why) {
            const std::string told = fmt::format("{}:{}: {}", file, line, why);
            if (!skip) throw DataError(told + " (data.bad_lines = skip passes over it)");
            if (report.skipped++ < kBadLinesTold) report.notes.push_back("skipped " + told);
            ++bad;
        };
        JsonLinesReader lines(file);
        while ((limit == 0 || taken < limit) && lines.next()) {
            if (!lines.problem().empty()) {
                refuse(lines.line(), lines.problem());
                continue;
            }
            if (seen++ % shards != shard) continue;
            try {
                ++forms[take(lines.row(), lines.line())];
                ++taken;
            } catch (const std::exception& error) {
                refuse(lines.line(), error.what());
            }
        }
        for (const auto& [form, count] : forms)
            report.notes.push_back(fmt::format("{}: {} rows of {}", file, count, form));
        if (bad > 0) report.notes.push_back(fmt::format("{}: {} lines skipped", file, bad));
    }
    std::string told;
    for (const std::string& note : report.notes) told += "\n  " + note;
    require<DataError>(taken > 0, "no usable row in {} ({} skipped){}", fmt::join(files, ", "),
                       report.skipped, told);
}

/// Whether the stage compares answers with references.
bool judges_answers(const Deck& deck) {
    if (deck.stage() == "sample") return deck.flag("sample.keep_correct");
    if (deck.stage() != "rl") return true;
    for (const std::string& name : deck.names("reward"))
        if (const std::string& kind = deck.text("reward." + name + ".kind"); kind == "accuracy" || kind == "code") return true;
    return deck.integer("eval.every") > 0;
}

/// Makes prompts of rows.
class PromptMaker {
  public:
    PromptMaker(const Deck& deck, const ChatTemplate& chat)
        : reader_(deck),
          chat_(chat),
          judged_(judges_answers(deck)),
          answer_field_(deck.text("data.answer_field")),
          longest_(deck.integer("train.max_length")),
          longest_response_(deck.integer("rollout.max_new_tokens")) {
        (void)chat.end_tokens();  // no fault of a line
    }

    PromptRow make(const Json& json, std::int64_t line, std::string& form) const {
        QuestionRow question = reader_.question(json);
        form = question.form;
        PromptRow row;
        row.id = question.id.empty() ? std::to_string(line) : question.id;
        row.messages = std::move(question.messages);
        row.text = row.messages.back().content;
        require<DataError>(!judged_ || question.reference.has_value(),
                           "there is no field \"{}\" (data.answer_field) to judge answers by",
                           answer_field_ == "auto" ? "reference" : answer_field_);
        row.reference = question.reference.value_or("");
        row.tokens = chat_.render_prompt(row.messages);
        const auto length = static_cast<std::int64_t>(row.tokens.size());
        require<DataError>(length + longest_response_ <= longest_,
                           "the prompt has {} tokens; with rollout.max_new_tokens = {} that is more than "
                           "train.max_length = {}",
                           length, longest_response_, longest_);
        return row;
    }

  private:
    RowReader reader_;
    const ChatTemplate& chat_;
    bool judged_;
    std::string answer_field_;
    std::int64_t longest_, longest_response_;
};

/// Makes training sequences of rows.
class SequenceMaker {
  public:
    SequenceMaker(const Deck& deck, const ChatTemplate& chat, const Tokenizer& tokenizer,
                  bool everything, std::int64_t max_length)
        : reader_(deck),
          chat_(chat),
          tokenizer_(tokenizer),
          everything_(everything),
          train_on_(!everything && deck.text("sft.train_on") == "all" ? TrainOn::all : TrainOn::last),
          max_length_(max_length) {
        (void)chat.end_tokens();  // no fault of a line
    }

    std::vector<Sequence> make(const Json& json, std::string& form) const {
        const TrainingRow row = reader_.training(json);
        form = row.form;
        if (row.messages.empty()) {
            require<DataError>(everything_, "field \"{}\" is text without a response, which stage = pretrain "
                               "trains on; data.prompt_field and data.response_field name a conversation's",
                               row.form);
            return of_text(row.text);
        }
        std::vector<Sequence> sequences;
        for (RenderedChat& chat : chat_.render(row.messages, train_on_)) {
            const auto length = static_cast<std::int64_t>(chat.tokens.size());
            require<DataError>(length <= max_length_,
                               "{} tokens, more than {}, the least of train.max_length, "
                               "train.micro_tokens and the model's max_positions",
                               length, max_length_);
            std::vector<float> weight(chat.tokens.size());
            for (std::size_t i = 0; i < weight.size(); ++i)
                weight[i] = everything_ || chat.trained[i] ? 1.0f : 0.0f;
            sequences.push_back(sequence(std::move(chat.tokens), std::move(weight)));
        }
        return sequences;
    }

  private:
    static Sequence sequence(std::vector<TokenId> tokens, std::vector<float> weight) {
        Sequence sequence;
        sequence.tokens = std::move(tokens);
        sequence.weight = std::move(weight);
        sequence.weight[0] = 0;  // nothing predicts the first token
        return sequence;
    }
    std::vector<Sequence> of_text(const std::string& text) const {
        std::vector<TokenId> tokens = tokenizer_.encode(text, false);
        if (tokenizer_.bos() >= 0) tokens.insert(tokens.begin(), tokenizer_.bos());
        if (tokenizer_.eos() >= 0) tokens.push_back(tokenizer_.eos());
        std::vector<Sequence> sequences;
        for (std::size_t at = 0; at + 1 < tokens.size(); at += static_cast<std::size_t>(max_length_)) {
            const std::size_t end = std::min(tokens.size(), at + static_cast<std::size_t>(max_length_));
            if (end - at < 2) break;
            std::vector<TokenId> part(tokens.begin() + static_cast<std::ptrdiff_t>(at),
                                      tokens.begin() + static_cast<std::ptrdiff_t>(end));
            std::vector<float> weight(part.size(), 1.0f);
            sequences.push_back(sequence(std::move(part), std::move(weight)));
        }
        return sequences;
    }

    RowReader reader_;
    const ChatTemplate& chat_;
    const Tokenizer& tokenizer_;
    bool everything_;
    TrainOn train_on_;
    std::int64_t max_length_;
};

}  // namespace

std::vector<PromptRow> read_prompts(const Deck& deck, const ChatTemplate& chat, DataReport& report,
                                    const RowSource& source) {
    const PromptMaker maker(deck, chat);
    std::vector<PromptRow> rows;
    for_each_row(deck, source, report, [&](const Json& json, std::int64_t line) {
        std::string form;
        rows.push_back(maker.make(json, line, form));
        return form;
    });
    return rows;
}

std::vector<Sequence> read_sequences(const Deck& deck, const ChatTemplate& chat,
                                     const Tokenizer& tokenizer, bool everything,
                                     std::int64_t max_length, DataReport& report) {
    const SequenceMaker maker(deck, chat, tokenizer, everything, max_length);
    std::vector<Sequence> sequences;
    for_each_row(deck, {}, report, [&](const Json& json, std::int64_t) {
        std::string form;
        for (Sequence& sequence : maker.make(json, form)) {
            sequence.address = static_cast<std::int64_t>(sequences.size());
            sequences.push_back(std::move(sequence));
        }
        return form;
    });
    require<DataError>(!sequences.empty(), "no text in {} has two tokens, of which one predicts the other",
                       fmt::join(deck.list("data.path"), ", "));
    return sequences;
}

void read_texts(const Deck& deck, DataReport& report, const std::function<void(const std::string&)>& take) {
    const RowReader reader(deck);
    for_each_row(deck, {}, report, [&](const Json& json, std::int64_t) {
        const TrainingRow row = reader.training(json);
        if (row.messages.empty()) take(row.text);
        for (const ChatMessage& message : row.messages) take(message.content);
        return row.form;
    });
}

std::string preview_data(const Deck& deck, const ChatTemplate& chat, const Tokenizer& tokenizer,
                         std::int64_t rows, bool& good) {
    const std::string& stage = deck.stage();
    const bool training = stage == "pretrain" || stage == "sft";
    const bool skip = deck.text("data.bad_lines") == "skip";
    const std::int64_t longest = std::min(deck.integer("train.max_length"), deck.integer("train.micro_tokens"));
    const auto lengths = [&](const Json& row, std::int64_t line, std::string& form) {
        std::vector<std::size_t> sizes;
        if (training)
            for (const Sequence& s : SequenceMaker(deck, chat, tokenizer, stage == "pretrain", longest).make(row, form))
                sizes.push_back(s.tokens.size());
        else
            sizes.push_back(PromptMaker(deck, chat).make(row, line, form).tokens.size());
        return sizes;
    };
    std::vector<std::string> files = deck.list("data.path");
    if (stage == "rl")
        for (const std::string& file : deck.list("data.eval_path")) files.push_back(file);
    std::string text;
    for (const std::string& file : files) {
        if (access(file.c_str(), R_OK) != 0) continue;
        std::map<std::string, std::int64_t> forms;
        std::vector<std::size_t> sizes;
        std::string bad;
        std::int64_t read = 0, wrong = 0;
        JsonLinesReader lines(file);
        for (; read < rows && lines.next(); ++read) {
            std::string form, problem = lines.problem();
            try {
                if (problem.empty())
                    for (const std::size_t size : lengths(lines.row(), lines.line(), form)) sizes.push_back(size);
            } catch (const DataError& e) {
                problem = e.what();
            }
            if (problem.empty())
                ++forms[form];
            else if (++wrong <= kBadLinesTold)
                bad += fmt::format("  {}:{}: {}{}\n", file, lines.line(), problem, skip ? " (skipped)" : "");
        }
        good = good && wrong < read && (skip || wrong == 0);
        text += fmt::format("data {}: of the first {} rows", file, read);
        for (const auto& [form, count] : forms) text += fmt::format(", {} of {}", count, form);
        if (!sizes.empty()) {
            const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end());
            text += fmt::format(", {} of {} to {} tokens", training ? "sequences" : "prompts", *least, *most);
        }
        text += wrong > 0 ? fmt::format(", {} bad:\n{}", wrong, bad) : "\n";
    }
    return text;
}

std::int64_t Shuffler::row(std::int64_t at) {
    if (!shuffle_) return at % rows_;
    if (at / rows_ != epoch_) {
        epoch_ = at / rows_;
        order_.resize(static_cast<std::size_t>(rows_));
        random_permutation(seed_, Stream::shuffle, static_cast<std::uint64_t>(epoch_), rows_,
                           order_.data());
    }
    return order_[static_cast<std::size_t>(at % rows_)];
}

}  // namespace gradus
