// SPDX-License-Identifier: Apache-2.0
#include "bpe.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <queue>

#include "gradus/base/error.hpp"
#include "utf8.hpp"

namespace gradus {
namespace {

// Up to so many symbols the pair of lowest rank is found by looking at all: faster than a heap.
constexpr std::size_t kFew = 48;
// Pieces of up to so many bytes are their own key in the table.
constexpr std::size_t kShort = 8;

std::uint32_t load4(const char* at) {
    std::uint32_t value;
    std::memcpy(&value, at, 4);
    return value;
}

/// What stands for a piece in the table: for up to 8 bytes, with their number, all of it (the first
/// and the last four, which may overlap); a hash for a longer one.
std::uint64_t key_of(std::string_view piece) {
    const std::size_t n = piece.size();
    const char* at = piece.data();
    if (n > kShort) return XXH3_64bits(at, n);
    if (n >= 4) return load4(at) | static_cast<std::uint64_t>(load4(at + n - 4)) << 32;
    const auto byte = [&](std::size_t i) {
        return static_cast<std::uint64_t>(static_cast<unsigned char>(at[i]));
    };
    return n == 0 ? 0 : byte(0) | byte(n / 2) << 8 | byte(n - 1) << 16;
}

std::uint64_t key_of(TokenId left, TokenId right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
}

/// Spreads a key over a table's slots (the finaliser of splitmix64, by Vigna).
std::size_t spread(std::uint64_t key) {
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9u;
    key = (key ^ key >> 27) * 0x94D049BB133111EBu;
    return static_cast<std::size_t>(key ^ key >> 31);
}

/// Where, after `begin`, a mark stands after something else; npos if nowhere.
std::size_t next_word(std::string_view text, std::size_t begin) {
    std::size_t at = begin;
    while (text.substr(at).starts_with(kWordMark)) at += kWordMark.size();
    return text.find(kWordMark, at);
}

/// Size of an open table for `n` entries: a power of two, at most two thirds full.
std::size_t table_size(std::size_t n) {
    return std::bit_ceil(n + n / 2 + 8);
}

}  // namespace

Bpe::Bpe(std::vector<Entry> vocabulary, const std::vector<Merge>& merges, const Options& options,
         const std::string& name)
    : options_(options),
      name_(name),
      vocabulary_(std::move(vocabulary)),
      slots_(table_size(vocabulary_.size())) {
    for (std::size_t i = 0; i < vocabulary_.size(); ++i) {
        const std::string& piece = vocabulary_[i].piece;
        const std::uint64_t key = key_of(piece);
        std::size_t at = spread(key + piece.size()) & (slots_.size() - 1);
        while (slots_[at].index >= 0) at = (at + 1) & (slots_.size() - 1);
        slots_[at] = {key, static_cast<std::int32_t>(i), vocabulary_[i].id,
                      static_cast<std::uint32_t>(piece.size()), false};
    }
    for (unsigned i = 0; i < bytes_.size(); ++i) {
        const char byte = static_cast<char>(i);
        bytes_[i] = -1;
        if (options_.byte_level) bytes_[i] = find({&byte, 1});
        if (!options_.byte_fallback) continue;
        bytes_[i] = find(fmt::format("<0x{:02X}>", i));
        require<DataError>(bytes_[i] >= 0,
                           "{}: byte_fallback, but the vocabulary has no <0x{:02X}>", name, i);
    }
    add_merges(merges, name);
    mark_whole();
}

void Bpe::mark_whole() {
    std::vector<TokenId> tokens;
    for (Slot& slot : slots_) {
        if (slot.index < 0 || slot.bytes == 0) continue;
        slot.whole = options_.ignore_merges;
        // Longer ones are left to the merges, so that hostile vocabularies cost no more than they
        // weigh.
        if (slot.whole || slot.bytes > kFew) continue;
        tokens.clear();
        try {
            symbols(vocabulary_[static_cast<std::size_t>(slot.index)].piece, tokens);
        } catch (const DataError&) {
            continue;  // it cannot be reached from its characters
        }
        merge(tokens, 0);
        slot.whole = tokens.size() == 1 && tokens[0] == slot.id;
    }
}

void Bpe::add_merges(const std::vector<Merge>& merges, const std::string& name) {
    pairs_.resize(table_size(merges.size()));
    cuts_ = !options_.byte_level && !options_.ignore_merges && !options_.fuse_unk;
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
        const Merge& merge = merges[rank];
        const TokenId left = find(merge.left), right = find(merge.right),
                      joined = find(merge.left + merge.right);
        require<DataError>(left >= 0 && right >= 0 && joined >= 0,
                           "{}: merges[{}]: {} is not in the vocabulary", name, rank,
                           left < 0    ? "the left part"
                           : right < 0 ? "the right part"
                                       : "what it makes");
        if (next_word(merge.left + merge.right, 0) != std::string::npos) cuts_ = false;
        const std::uint64_t key = key_of(left, right);
        std::size_t at = spread(key) & (pairs_.size() - 1);
        while (pairs_[at].pair != key && pairs_[at].pair != ~std::uint64_t{0})
            at = (at + 1) & (pairs_.size() - 1);
        pairs_[at] = {key, static_cast<std::uint32_t>(rank), joined};
    }
}

const Bpe::Slot* Bpe::slot_of(std::string_view piece) const {
    const std::uint64_t key = key_of(piece);
    const std::size_t n = piece.size();
    for (std::size_t at = spread(key + n) & (slots_.size() - 1);;
         at = (at + 1) & (slots_.size() - 1)) {
        const Slot& slot = slots_[at];
        if (slot.index < 0) return nullptr;
        if (slot.key != key || slot.bytes != n) continue;
        if (n <= kShort || vocabulary_[static_cast<std::size_t>(slot.index)].piece == piece)
            return &slot;
    }
}

TokenId Bpe::find(std::string_view piece) const {
    const Slot* slot = slot_of(piece);
    return slot == nullptr ? -1 : slot->id;
}

Bpe::Joined Bpe::join(TokenId left, TokenId right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t at = spread(key) & (pairs_.size() - 1);; at = (at + 1) & (pairs_.size() - 1)) {
        const PairSlot& slot = pairs_[at];
        if (slot.pair == key) return {slot.rank, slot.joined};
        if (slot.pair == ~std::uint64_t{0}) return {kNone, -1};
    }
}

void Bpe::encode(std::string_view word, std::vector<TokenId>& out) const {
    if (!cuts_) return encode_part(word, out);
    // SentencePiece's vocabularies come without a pre-tokeniser: the word is the whole text.
    for (std::size_t begin = 0; begin < word.size();) {
        const std::size_t end = std::min(next_word(word, begin), word.size());
        encode_part(word.substr(begin, end - begin), out);
        begin = end;
    }
}

void Bpe::encode_part(std::string_view word, std::vector<TokenId>& out) const {
    const Slot* slot = slot_of(word);
    if (slot != nullptr && slot->whole) {
        out.push_back(slot->id);
        return;
    }
    const std::size_t begin = out.size();
    symbols(word, out);
    merge(out, begin);
}

void Bpe::no_token(std::string_view character) const {
    throw DataError(
        fmt::format("the tokenizer of {} has no token for {} and no unknown token", name_,
                    options_.byte_level
                        ? fmt::format("the byte {}", static_cast<unsigned char>(character[0]))
                        : fmt::format("the character U+{:04X}",
                                      static_cast<std::uint32_t>(code_point(character).value))));
}

/// What the merges begin with: bytes, or characters.
void Bpe::symbols(std::string_view word, std::vector<TokenId>& out) const {
    bool unknown_before = false;
    for (std::size_t at = 0; at < word.size();) {
        const std::size_t n = options_.byte_level ? 1 : utf8_length(word[at]);
        const std::string_view character = word.substr(at, n);
        const TokenId id =
            options_.byte_level ? bytes_[static_cast<unsigned char>(word[at])] : find(character);
        at += n;
        if (id >= 0) {
            out.push_back(id);
        } else if (options_.byte_fallback) {
            for (const char c : character) out.push_back(bytes_[static_cast<unsigned char>(c)]);
        } else {
            if (options_.unk < 0) no_token(character);
            if (!options_.fuse_unk || !unknown_before) out.push_back(options_.unk);
            unknown_before = true;
            continue;
        }
        unknown_before = false;
    }
}

void Bpe::merge(std::vector<TokenId>& tokens, std::size_t begin) const {
    const std::size_t n = tokens.size() - begin;
    if (n < 2) return;
    if (n <= kFew)
        merge_few(tokens, begin);
    else
        merge_many(tokens, begin);
}

void Bpe::merge_few(std::vector<TokenId>& tokens, std::size_t begin) const {
    std::size_t n = tokens.size() - begin;
    TokenId* id = tokens.data() + begin;
    std::array<Joined, kFew> next;  // next[i]: what i and i + 1 make
    for (std::size_t i = 0; i + 1 < n; ++i) next[i] = join(id[i], id[i + 1]);
    while (n > 1) {
        std::size_t best = 0;
        for (std::size_t i = 1; i + 1 < n; ++i)
            if (next[i].rank < next[best].rank) best = i;
        if (next[best].rank == kNone) break;
        id[best] = next[best].id;
        std::copy(id + best + 2, id + n, id + best + 1);
        std::copy(next.begin() + static_cast<std::ptrdiff_t>(best) + 1,
                  next.begin() + static_cast<std::ptrdiff_t>(n) - 1,
                  next.begin() + static_cast<std::ptrdiff_t>(best));
        --n;
        if (best > 0) next[best - 1] = join(id[best - 1], id[best]);
        if (best + 1 < n) next[best] = join(id[best], id[best + 1]);
    }
    tokens.resize(begin + n);
}

/// The same by a heap of the pairs and a list of the symbols.
void Bpe::merge_many(std::vector<TokenId>& tokens, std::size_t begin) const {
    struct Symbol {
        TokenId id;  // -1: joined to the one before
        std::int32_t before, after;
    };
    struct Pair {
        std::uint32_t rank;
        std::int32_t at;
        TokenId joined;
        bool operator<(const Pair& other) const {
            return rank != other.rank ? rank > other.rank : at > other.at;
        }
    };
    const std::size_t n = tokens.size() - begin;
    require<DataError>(n < 0x7FFFFFFF, "a word of {} characters is too long", n);
    std::vector<Symbol> symbols(n);
    std::priority_queue<Pair> queue;
    const auto look = [&](std::int32_t at) {
        const std::int32_t after = at < 0 ? -1 : symbols[static_cast<std::size_t>(at)].after;
        if (after < 0) return;
        const Joined joined = join(symbols[static_cast<std::size_t>(at)].id,
                                   symbols[static_cast<std::size_t>(after)].id);
        if (joined.rank != kNone) queue.push({joined.rank, at, joined.id});
    };
    for (std::size_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::int32_t>(i);
        symbols[i] = {tokens[begin + i], at - 1, i + 1 < n ? at + 1 : -1};
    }
    for (std::size_t i = 0; i < n; ++i) look(static_cast<std::int32_t>(i));
    while (!queue.empty()) {
        const Pair pair = queue.top();
        queue.pop();
        Symbol& left = symbols[static_cast<std::size_t>(pair.at)];
        if (left.id < 0 || left.after < 0) continue;
        Symbol& right = symbols[static_cast<std::size_t>(left.after)];
        if (join(left.id, right.id).rank != pair.rank)
            continue;  // no longer the pair of this entry
        left.id = pair.joined;
        right.id = -1;
        left.after = right.after;
        if (left.after >= 0) symbols[static_cast<std::size_t>(left.after)].before = pair.at;
        look(left.before);
        look(pair.at);
    }
    tokens.resize(begin);
    for (std::int32_t at = 0; at >= 0; at = symbols[static_cast<std::size_t>(at)].after)
        tokens.push_back(symbols[static_cast<std::size_t>(at)].id);
}

}  // namespace gradus
