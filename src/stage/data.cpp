// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/data.hpp"

#include <algorithm>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

std::string field(const Json& row, const std::string& name) {
    require<DataError>(row.contains(name), "there is no field \"{}\"", name);
    const Json& value = row[name];
    if (value.is_string()) return value.get<std::string>();
    require<DataError>(value.is_number(), "field \"{}\" is neither text nor a number", name);
    return value.dump();
}

std::vector<ChatMessage> messages_of(const Json& row) {
    std::vector<ChatMessage> messages;
    require<DataError>(row["messages"].is_array() && !row["messages"].empty(),
                       "\"messages\" is not a list of {{role, content}}");
    for (const Json& message : row["messages"])
        messages.push_back({field(message, "role"), field(message, "content")});
    return messages;
}

/// Calls `take(row)` for every row of every file; a DataError of `take` gains file and line, or is
/// counted and skipped where the deck says so.
template <class Take>
std::int64_t for_each_row(const Deck& deck, const RowSource& source, const Take& take) {
    const bool skip = deck.text("data.bad_lines") == "skip";
    const std::int64_t limit = deck.integer(source.limit);
    std::int64_t skipped = 0, taken = 0, seen = 0;
    const std::int64_t shard = deck.integer("data.shard"), shards = deck.integer("data.num_shards");
    const auto files = deck.list(source.files);
    require<DeckError>(!files.empty(), "{} is not set: name one or more JSONL files", source.files);
    std::function<void(std::int64_t)> bad;
    if (skip) bad = [&](std::int64_t) { ++skipped; };
    for (const std::string& file : files)
        for_each_json_line(file, [&](const Json& row, std::int64_t line) {
            if (seen++ % shards != shard) return;
            if (limit > 0 && taken >= limit) return;
            try {
                take(row, line);
                ++taken;
            } catch (const std::exception& error) {
                if (!skip)
                    throw DataError(fmt::format("{}:{}: {} (data.bad_lines = skip passes over it)",
                                                file, line, error.what()));
                ++skipped;
            }
        }, bad);
    require<DataError>(taken > 0, "no usable row in {} ({} skipped)", fmt::join(files, ", "), skipped);
    return skipped;
}

/// Whether the stage compares answers with references.
bool judges_answers(const Deck& deck) {
    if (deck.stage() == "sample") return deck.flag("sample.keep_correct");
    if (deck.stage() != "rl") return true;
    for (const std::string& name : deck.names("reward"))
        if (deck.text("reward." + name + ".kind") == "accuracy") return true;
    return deck.integer("eval.every") > 0;
}

}  // namespace

std::vector<PromptRow> read_prompts(const Deck& deck, const ChatTemplate& chat,
                                    std::int64_t& skipped, const RowSource& source) {
    const std::string prompt = deck.text("data.prompt_field"), answer = deck.text("data.answer_field"),
                      id = deck.text("data.id_field"), system = deck.text("policy.system");
    const bool judged = judges_answers(deck);
    const std::int64_t longest = deck.integer("train.max_length");
    const std::int64_t longest_response = deck.integer("rollout.max_new_tokens");
    std::vector<PromptRow> rows;
    skipped = for_each_row(deck, source, [&](const Json& json, std::int64_t line) {
        PromptRow row;
        row.id = json.contains(id) ? field(json, id) : std::to_string(line);
        if (!system.empty()) row.messages.push_back({"system", system});
        if (json.contains("messages"))
            for (ChatMessage& m : messages_of(json)) row.messages.push_back(std::move(m));
        else
            row.messages.push_back({"user", field(json, prompt)});
        row.text = row.messages.back().content;
        require<DataError>(!judged || json.contains(answer),
                           "there is no field \"{}\" (data.answer_field) to judge answers by", answer);
        row.reference = json.contains(answer) ? field(json, answer) : "";
        row.tokens = chat.render_prompt(row.messages);
        const auto length = static_cast<std::int64_t>(row.tokens.size());
        require<DataError>(length + longest_response <= longest,
                           "the prompt has {} tokens; with rollout.max_new_tokens = {} that is more than "
                           "train.max_length = {}",
                           length, longest_response, longest);
        rows.push_back(std::move(row));
    });
    return rows;
}

std::vector<Sequence> read_sequences(const Deck& deck, const ChatTemplate& chat,
                                     const Tokenizer& tokenizer, bool everything,
                                     std::int64_t max_length, std::int64_t& skipped) {
    const std::string prompt = deck.text("data.prompt_field"),
                      response = deck.text("data.response_field"), system = deck.text("policy.system");
    std::vector<Sequence> sequences;
    auto add = [&](std::vector<TokenId> tokens, std::vector<float> weight) {
        Sequence sequence;
        sequence.tokens = std::move(tokens);
        sequence.weight = std::move(weight);
        sequence.weight[0] = 0;  // nothing predicts the first token
        sequence.address = static_cast<std::int64_t>(sequences.size());
        sequences.push_back(std::move(sequence));
    };
    auto add_text = [&](const std::string& text) {
        std::vector<TokenId> tokens = tokenizer.encode(text, false);
        if (tokenizer.bos() >= 0) tokens.insert(tokens.begin(), tokenizer.bos());
        tokens.push_back(tokenizer.eos());
        for (std::size_t at = 0; at + 1 < tokens.size(); at += static_cast<std::size_t>(max_length)) {
            const std::size_t end = std::min(tokens.size(), at + static_cast<std::size_t>(max_length));
            if (end - at < 2) break;
            std::vector<TokenId> part(tokens.begin() + static_cast<std::ptrdiff_t>(at),
                                      tokens.begin() + static_cast<std::ptrdiff_t>(end));
            std::vector<float> weight(part.size(), 1.0f);
            add(std::move(part), std::move(weight));
        }
    };
    skipped = for_each_row(deck, {}, [&](const Json& json, std::int64_t) {
        if (json.contains("text")) return add_text(field(json, "text"));
        std::vector<ChatMessage> messages;
        if (!system.empty()) messages.push_back({"system", system});
        if (json.contains("messages")) {
            for (ChatMessage& m : messages_of(json)) messages.push_back(std::move(m));
        } else {
            messages.push_back({"user", field(json, prompt)});
            messages.push_back({"assistant", field(json, response)});
        }
        const auto chats = chat.render(messages, everything ? TrainOn::last : TrainOn::all);
        for (const RenderedChat& chatted : chats) {
            const auto length = static_cast<std::int64_t>(chatted.tokens.size());
            require<DataError>(length <= max_length, "{} tokens, more than train.max_length = {}", length,
                               max_length);
        }
        for (const RenderedChat& chatted : chats) {
            std::vector<float> weight(chatted.tokens.size());
            for (std::size_t i = 0; i < weight.size(); ++i)
                weight[i] = everything || chatted.trained[i] ? 1.0f : 0.0f;
            add(chatted.tokens, std::move(weight));
        }
    });
    return sequences;
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
