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

/// Calls `take(row, line, place)`, which returns the row's form, for every row of every file that the deck's
/// shard and limit leave. A DataError of `take` gains file and line, or is counted and skipped where
/// the deck says so.
template <class Take>
void for_each_row(const Deck& deck, const RowSource& source, DataReport& report, const Take& take) {
    const bool skip = deck.text("data.bad_lines") == "skip";
    const std::int64_t limit = source.limit == nullptr ? 0 : deck.integer(source.limit);
    const std::int64_t shard = deck.integer("data.shard"), shards = deck.integer("data.num_shards");
    const auto files = deck.list(source.files);
    require<DeckError>(!files.empty(), "{} is not set: name one or more files of rows", source.files);
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
            const std::int64_t place = seen++;
            if (place % shards != shard) continue;
            try {
                ++forms[take(lines.row(), lines.line(), place)];
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

/// Whether the stage compares answers to prompts of this kind with references.
bool judges_answers(const Deck& deck, const std::string& kind) {
    if (deck.stage() == "sample") return deck.flag("sample.keep_correct");
    if (deck.stage() != "rl") return true;
    for (const std::string& name : deck.names("reward"))
        if (const std::string& what = deck.text("reward." + name + ".kind");
            (what == "accuracy" || what == "code" || what == "puzzle") && reward_applies(deck, name, kind))
            return true;
    return false;
}

/// Makes prompts of rows.
class PromptMaker {
  public:
    /// `measured`: for measurements of the answers, whatever the rewards.
    PromptMaker(const Deck& deck, const ChatTemplate& chat, bool measured)
        : deck_(deck),
          reader_(deck),
          chat_(chat),
          measured_(measured),
          answer_field_(deck.text("data.answer_field")),
          instruction_(deck.text("data.instruction")),
          fields_(deck.stage() == "evaluate" ? deck.list("eval.by") : std::vector<std::string>{}),
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
        if (!instruction_.empty()) row.messages.back().content += "\n\n" + instruction_;
        for (const std::string& name : fields_)
            if (const auto at = json.find(name); at != json.end() && !at->is_null())
                row.fields[name] = at->is_string() ? at->get<std::string>() : at->dump();
        row.text = row.messages.back().content;
        row.kind = std::move(question.kind);
        require<DataError>(question.reference.has_value() || !(measured_ || judges_answers(deck_, row.kind)),
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
    const Deck& deck_;
    RowReader reader_;
    const ChatTemplate& chat_;
    bool measured_;
    std::string answer_field_, instruction_;
    std::vector<std::string> fields_;
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

/// Makes rows for a reward model.
class RatedMaker {
  public:
    RatedMaker(const Deck& deck, const ChatTemplate& chat, std::int64_t max_length)
        : reader_(deck),
          chat_(chat),
          pairs_(deck.text("reward_model.kind") == "pairwise"),
          margin_(pairs_ ? deck.number("reward_model.margin") : 0.0),
          max_length_(max_length) {
        (void)chat.end_tokens();  // no fault of a line
    }

    RatedRow make(const Json& json, std::string& form) const {
        RatedRow row;
        if (pairs_) {
            const PreferenceRow read = reader_.preference(json);
            form = read.form;
            row.margin = read.margin.value_or(margin_);
            for (const std::string& response : {read.chosen, read.rejected}) add(row, read.messages, response);
        } else {
            const LabelledRow read = reader_.labelled(json);
            form = read.form;
            row.label = read.good ? 1 : 0;
            add(row, read.messages, read.response);
        }
        return row;
    }

  private:
    void add(RatedRow& row, const std::vector<ChatMessage>& messages, const std::string& response) const {
        Sequence& sequence = row.sequences.emplace_back();
        sequence.tokens = chat_.render_prompt(messages);
        row.prompt = sequence.tokens.size();
        const std::vector<TokenId> tokens = chat_.render_response(response);
        sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
        const std::int64_t length = std::ssize(sequence.tokens);
        require<DataError>(length <= max_length_,
                           "{} tokens, more than {}, the least of train.max_length, train.micro_tokens and the model's "
                           "max_positions",
                           length, max_length_);
        sequence.weight.assign(sequence.tokens.size(), 0.0f);
    }

    RowReader reader_;
    const ChatTemplate& chat_;
    bool pairs_;
    double margin_;
    std::int64_t max_length_;
};

}  // namespace

bool reward_applies(const Deck& deck, const std::string& name, const std::string& kind) {
    const auto key = fmt::format("reward.{}.applies_to", name);
    if (deck.stage() != "rl") return true;
    const std::vector<std::string> kinds = deck.list(key);
    return kinds.empty() || std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

std::vector<RatedRow> read_rated(const Deck& deck, const ChatTemplate& chat, std::int64_t max_length,
                                 DataReport& report, const RowSource& source) {
    const RatedMaker maker(deck, chat, max_length);
    std::vector<RatedRow> rows;
    for_each_row(deck, source, report, [&](const Json& json, std::int64_t line, std::int64_t) {
        std::string form;
        rows.push_back(maker.make(json, form));
        for (Sequence& s : rows.back().sequences) s.address = line;
        return form;
    });
    return rows;
}

std::vector<RatedRow> hold_out(std::vector<RatedRow>& rows, double share, std::uint64_t seed) {
    using Prompt = std::vector<TokenId>;
    const auto prompt_of = [](const RatedRow& row) {
        const Prompt& tokens = row.sequences.front().tokens;
        return Prompt(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(row.prompt));
    };
    std::map<Prompt, std::vector<std::size_t>> of_prompt;
    std::vector<const std::vector<std::size_t>*> prompts;  // in order of appearance
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto [at, fresh] = of_prompt.try_emplace(prompt_of(rows[i]));
        at->second.push_back(i);
        if (fresh) prompts.push_back(&at->second);
    }
    std::vector<std::int64_t> order(prompts.size());
    random_permutation(seed, Stream::held_out, 0, std::ssize(prompts), order.data());
    const double wanted = share * static_cast<double>(rows.size());
    std::vector<bool> out(rows.size(), false);
    std::size_t count = 0;
    for (const std::int64_t p : order) {
        const std::vector<std::size_t>& members = *prompts[static_cast<std::size_t>(p)];
        if (static_cast<double>(count + members.size()) > wanted && count > 0) break;
        for (const std::size_t i : members) out[i] = true;
        count += members.size();
    }
    require<DataError>(count < rows.size(),
                       "data.eval_share = {} leaves none of {} rows of {} prompts for training", share, rows.size(),
                       prompts.size());
    std::vector<RatedRow> kept, held;
    for (std::size_t i = 0; i < rows.size(); ++i) (out[i] ? held : kept).push_back(std::move(rows[i]));
    rows = std::move(kept);
    return held;
}

std::vector<PromptRow> read_prompts(const Deck& deck, const ChatTemplate& chat, DataReport& report,
                                    const RowSource& source) {
    const PromptMaker maker(deck, chat, source.measured);
    std::vector<PromptRow> rows;
    for_each_row(deck, source, report, [&](const Json& json, std::int64_t line, std::int64_t place) {
        std::string form;
        rows.push_back(maker.make(json, line, form));
        rows.back().index = place;
        return form;
    });
    return rows;
}

std::vector<Sequence> read_sequences(const Deck& deck, const ChatTemplate& chat,
                                     const Tokenizer& tokenizer, bool everything,
                                     std::int64_t max_length, DataReport& report) {
    const SequenceMaker maker(deck, chat, tokenizer, everything, max_length);
    std::vector<Sequence> sequences;
    for_each_row(deck, {}, report, [&](const Json& json, std::int64_t, std::int64_t) {
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
    for_each_row(deck, {}, report, [&](const Json& json, std::int64_t, std::int64_t) {
        const TrainingRow row = reader.training(json);
        if (row.messages.empty()) take(row.text);
        for (const ChatMessage& message : row.messages) take(message.content);
        return row.form;
    });
}

std::string preview_data(const Deck& deck, const ChatTemplate& chat, const Tokenizer& tokenizer,
                         std::int64_t rows, bool& good) {
    const std::string& stage = deck.stage();
    const bool training = stage == "pretrain" || stage == "sft" || stage == "reward_model";
    const bool skip = deck.text("data.bad_lines") == "skip";
    const std::int64_t longest = std::min(deck.integer("train.max_length"), deck.integer("train.micro_tokens"));
    const auto lengths = [&](const Json& row, std::int64_t line, bool measured, std::string& form) {
        std::vector<std::size_t> sizes;
        if (stage == "reward_model")
            for (const Sequence& s : RatedMaker(deck, chat, longest).make(row, form).sequences)
                sizes.push_back(s.tokens.size());
        else if (training)
            for (const Sequence& s : SequenceMaker(deck, chat, tokenizer, stage == "pretrain", longest).make(row, form))
                sizes.push_back(s.tokens.size());
        else
            sizes.push_back(PromptMaker(deck, chat, measured).make(row, line, form).tokens.size());
        return sizes;
    };
    std::vector<std::string> files = deck.list("data.path");
    const std::size_t for_training = files.size();
    if (stage == "rl" || stage == "reward_model")
        for (const std::string& file : deck.list("data.eval_path")) files.push_back(file);
    std::string text;
    for (std::size_t f = 0; f < files.size(); ++f) {
        const std::string& file = files[f];
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
                    for (const std::size_t size : lengths(lines.row(), lines.line(), f >= for_training, form)) sizes.push_back(size);
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
