// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/bpe_trainer.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_map>

#include "added_tokens.hpp"
#include "gradus/base/error.hpp"
#include "gradus/text/script.hpp"
#include "gradus/text/tokenizer_json.hpp"
#include "pre_tokenizer.hpp"
#include "token_decoder.hpp"

namespace gradus {
namespace {

using Value = nlohmann::json;

constexpr std::int32_t kBytes = 256;

struct Named {
    const char* name;
    std::vector<const char*> splits;
};

// The splits of the models' own files.
const std::array<Named, 3> kPatterns = {{
    {"llama3",
     {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
    {"qwen2",
     {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
    {"deepseek",
     {R"(\p{N}{1,3})", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
      R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
}};

Value sequence(Value steps) {
    return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

/// The `pre_tokenizer` of a tokenizer.json for a named pattern.
Value pre_tokenizer_json(const std::string& name) {
    if (name == "gpt2") return byte_level_step(true);
    if (name == "digits")
        return sequence(
            Value::array({{{"type", "Digits"}, {"individual_digits", true}}, byte_level_step(true)}));
    for (const Named& named : kPatterns) {
        if (name != named.name) continue;
        Value steps = Value::array();
        for (const char* regex : named.splits)
            steps.push_back({{"type", "Split"},
                             {"pattern", {{"Regex", regex}}},
                             {"behavior", "Isolated"},
                             {"invert", false}});
        steps.push_back(byte_level_step(false));
        return sequence(std::move(steps));
    }
    throw DataError(fmt::format(
        "there is no pattern \"{}\"; known: gpt2, llama3, qwen2, deepseek, digits", name));
}

/// Bytes in the order of GPT-2's alphabet: by the code point that stands for each.
std::array<unsigned char, kBytes> alphabet_order() {
    std::array<unsigned char, kBytes> order{};
    std::size_t next = 0;
    for (char32_t c = 0; c < 512; ++c)
        if (const int byte = byte_of_alphabet(c); byte >= 0)
            order[next++] = static_cast<unsigned char>(byte);
    return order;
}

AddedTokenFinder make_finder(const std::vector<std::string>& special) {
    std::vector<AddedToken> tokens;
    for (const std::string& name : special)
        tokens.push_back(
            {.id = static_cast<TokenId>(tokens.size()), .content = name, .special = true});
    return {tokens, special};
}

using PairKey = std::uint64_t;
PairKey pair_of(TokenId left, TokenId right) {
    return static_cast<PairKey>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
}
TokenId left_of(PairKey pair) {
    return static_cast<TokenId>(pair >> 32);
}
TokenId right_of(PairKey pair) {
    return static_cast<TokenId>(pair & 0xFFFFFFFF);
}

struct CountedWord {
    std::vector<TokenId> tokens;
    std::int64_t count;
};

/// How often a pair occurs, and in which words it does or did.
struct Occurrences {
    std::int64_t count = 0;
    std::vector<std::uint32_t> words;
};

struct Candidate {
    std::int64_t count;
    PairKey pair;
    bool operator<(const Candidate& other) const {
        return count != other.count ? count < other.count : pair > other.pair;
    }
};

/// The words with their pairs, kept in step while pairs are merged: a merge costs what its words
/// weigh.
class PairTable {
  public:
    explicit PairTable(std::vector<CountedWord> words) : words_(std::move(words)) {
        for (std::uint32_t w = 0; w < words_.size(); ++w)
            for (std::size_t i = 0; i + 1 < words_[w].tokens.size(); ++i)
                change(pair_of(words_[w].tokens[i], words_[w].tokens[i + 1]), words_[w].count, w);
        for (const auto& [pair, at] : pairs_) queue_.push({at.count, pair});
        raised_.clear();
    }

    /// The most frequent pair; count 0 where there is none left. It is gone from the queue.
    Candidate next() {
        while (!queue_.empty()) {
            Candidate top = queue_.top();
            queue_.pop();
            const auto it = pairs_.find(top.pair);
            if (it == pairs_.end()) continue;
            if (it->second.count == top.count) return top;
            if (it->second.count <= 0) continue;
            top.count = it->second.count;  // it has become rarer since
            queue_.push(top);
        }
        return {0, 0};
    }

    void drop(PairKey pair) { pairs_.erase(pair); }

    void merge(PairKey pair, TokenId joined) {
        std::vector<std::uint32_t> where = std::move(pairs_[pair].words);
        std::sort(where.begin(), where.end());
        where.erase(std::unique(where.begin(), where.end()), where.end());
        for (const std::uint32_t w : where) merge_in(w, left_of(pair), right_of(pair), joined);
        pairs_.erase(pair);
        for (const PairKey raised : raised_)
            if (const auto it = pairs_.find(raised); it != pairs_.end())
                queue_.push({it->second.count, raised});
        raised_.clear();
    }

  private:
    void change(PairKey pair, std::int64_t by, std::uint32_t word) {
        Occurrences& at = pairs_[pair];
        at.count += by;
        if (by < 0) return;
        if (at.words.empty() || at.words.back() != word) at.words.push_back(word);
        raised_.push_back(pair);
    }

    void merge_in(std::uint32_t w, TokenId left, TokenId right, TokenId joined) {
        std::vector<TokenId>& tokens = words_[w].tokens;
        const std::int64_t count = words_[w].count;
        std::size_t out = 0;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            if (tokens[i] != left || i + 1 == tokens.size() || tokens[i + 1] != right) {
                tokens[out++] = tokens[i];
                continue;
            }
            if (out > 0) {
                change(pair_of(tokens[out - 1], left), -count, w);
                change(pair_of(tokens[out - 1], joined), count, w);
            }
            ++i;
            if (i + 1 < tokens.size()) {
                change(pair_of(right, tokens[i + 1]), -count, w);
                change(pair_of(joined, tokens[i + 1]), count, w);
            }
            tokens[out++] = joined;
        }
        tokens.resize(out);
    }

    std::vector<CountedWord> words_;
    std::unordered_map<PairKey, Occurrences> pairs_;
    std::priority_queue<Candidate> queue_;
    std::vector<PairKey> raised_;
};

}  // namespace

struct BpeTrainer::Impl {
    explicit Impl(const BpeTrainerOptions& o)
        : options(o),
          cut(pre_tokenizer_json(o.pattern)),
          pre_tokenizer(cut, "the trainer's pattern"),
          finder(make_finder(o.special)) {
        for (const unsigned char byte : alphabet_order())
            add_token(std::string(1, static_cast<char>(byte)));
        for (std::size_t i = 0; i < kBytes; ++i)
            id_of_byte[static_cast<unsigned char>(pieces[i][0])] = static_cast<TokenId>(i);
    }

    TokenId add_token(const std::string& piece) {
        const auto id = static_cast<TokenId>(pieces.size());
        ids.emplace(piece, id);
        pieces.push_back(piece);
        return id;
    }

    std::vector<CountedWord> sorted_words() const {
        const std::map<std::string_view, std::int64_t> sorted(counts.begin(), counts.end());
        std::vector<CountedWord> words;
        for (const auto& [text, count] : sorted) {
            CountedWord word{{}, count};
            for (const char c : text)
                word.tokens.push_back(id_of_byte[static_cast<unsigned char>(c)]);
            words.push_back(std::move(word));
        }
        return words;
    }

    BpeTrainerOptions options;
    Value cut;
    PreTokenizer pre_tokenizer;
    AddedTokenFinder finder;
    std::unordered_map<std::string, std::int64_t> counts;
    std::array<TokenId, kBytes> id_of_byte{};
    std::vector<std::string> pieces;  // bytes of the tokens but the special ones
    std::unordered_map<std::string, TokenId> ids;
    std::vector<PairKey> merges;
};

BpeTrainer::BpeTrainer(const BpeTrainerOptions& options) : impl_(std::make_unique<Impl>(options)) {
    for (std::size_t i = 0; i < options.special.size(); ++i) {
        const std::string& name = options.special[i];
        require<DataError>(name.size() > 1 && is_valid_utf8(name),
                           "the special token \"{}\" is not a name of two or more characters",
                           to_valid_utf8(name));
        require<DataError>(
            std::find(options.special.begin(),
                      options.special.begin() + static_cast<std::ptrdiff_t>(i),
                      name) == options.special.begin() + static_cast<std::ptrdiff_t>(i),
            "the special token \"{}\" stands twice", name);
    }
    require<DataError>(
        options.bos.empty() || std::find(options.special.begin(), options.special.end(),
                                         options.bos) != options.special.end(),
        "the token \"{}\" that begins a text is not among the special tokens", options.bos);
    const std::size_t least = kBytes + options.special.size();
    require<DataError>(
        options.vocab_size >= 0 && static_cast<std::size_t>(options.vocab_size) >= least,
        "a vocabulary of {} does not hold 256 bytes and {} special tokens", options.vocab_size,
        options.special.size());
}
BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::string_view text) {
    require<DataError>(is_valid_utf8(text), "a text of {} bytes is not valid UTF-8", text.size());
    std::string key;
    for (const auto& part : impl_->finder.split(text, true))
        if (part.id < 0)
            impl_->pre_tokenizer.split(part.text, false, [&](std::string_view word) {
                key = word;
                ++impl_->counts[key];
            });
}

std::int64_t BpeTrainer::words() const {
    return static_cast<std::int64_t>(impl_->counts.size());
}

void BpeTrainer::train(const std::function<void(std::int64_t, std::int64_t)>& progress) {
    Impl& t = *impl_;
    PairTable table(t.sorted_words());
    const std::size_t wanted =
        static_cast<std::size_t>(t.options.vocab_size) - t.options.special.size();
    std::int64_t last = 0;
    while (t.pieces.size() < wanted) {
        const Candidate best = table.next();
        if (best.count < std::max<std::int64_t>(1, t.options.min_frequency)) break;
        const std::string piece = t.pieces[static_cast<std::size_t>(left_of(best.pair))] +
                                  t.pieces[static_cast<std::size_t>(right_of(best.pair))];
        if (t.ids.contains(piece)) {
            table.drop(best.pair);
            continue;
        }
        t.merges.push_back(best.pair);
        table.merge(best.pair, t.add_token(piece));
        last = best.count;
        if (t.merges.size() % 256 == 0) progress(static_cast<std::int64_t>(t.merges.size()), last);
    }
    progress(static_cast<std::int64_t>(t.merges.size()), last);
}

std::int32_t BpeTrainer::vocab_size() const {
    return static_cast<std::int32_t>(impl_->pieces.size() + impl_->options.special.size());
}

std::string BpeTrainer::json() const {
    const Impl& t = *impl_;
    ByteLevelVocabulary vocabulary{.pieces = t.pieces,
                                   .special = t.options.special,
                                   .bos = t.options.bos,
                                   .pre_tokenizer = t.cut};
    for (const PairKey pair : t.merges)
        vocabulary.merges.emplace_back(left_of(pair), right_of(pair));
    return write_tokenizer_json(vocabulary);
}

}  // namespace gradus
