// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gradus/text/tokenizer.hpp"

namespace gradus {

/// What stands for a blank in SentencePiece's vocabularies: U+2581.
inline constexpr std::string_view kWordMark = "\u2581";

/// Byte-pair encoding of one piece of text (Sennrich et al., arXiv 1508.07909): of all neighbours
/// that a merge joins, those of the merge of lowest rank are joined, the leftmost first, until none
/// is left. Immutable. A word costs O(n log n), however long.
class Bpe {
  public:
    struct Entry {
        std::string piece;  ///< bytes where byte_level, else UTF-8 as the file has it
        TokenId id;
    };
    struct Merge {
        std::string left, right;
    };
    struct Options {
        bool byte_level = true;
        bool ignore_merges =
            false;  ///< a word that is a token is that token, whatever the merges say
        bool byte_fallback = false;  ///< characters that are no token become `<0xNN>` tokens
        bool fuse_unk = false;       ///< neighbouring unknown characters become one unknown token
        TokenId unk = -1;            ///< for what is no token; -1: that is an error
    };

    /// `merges` in the order of rank; of a pair that stands twice, the last one counts. `name` is
    /// the file in messages. Throws DataError where a merge speaks of pieces that are no tokens.
    Bpe(std::vector<Entry> vocabulary, const std::vector<Merge>& merges, const Options& options,
        const std::string& name);

    /// Appends the tokens of `word`, which is not empty. Throws DataError where it holds what is no
    /// token and there is no unknown token.
    void encode(std::string_view word, std::vector<TokenId>& out) const;
    /// Id of a piece, -1 if it is no token.
    TokenId find(std::string_view piece) const;

  private:
    /// A piece of up to 8 bytes is compared by its key alone, a longer one by its hash, then its
    /// text.
    struct Slot {
        std::uint64_t key = 0;
        std::int32_t index = -1;  // into vocabulary_, -1: empty
        TokenId id = -1;
        std::uint32_t bytes = 0;
        bool whole = false;  // merges make the piece this one token
    };
    struct PairSlot {
        std::uint64_t pair = ~std::uint64_t{0};
        std::uint32_t rank = 0;
        TokenId joined = 0;
    };
    struct Joined {
        std::uint32_t rank;
        TokenId id;
    };
    static constexpr std::uint32_t kNone = 0xFFFFFFFF;

    void encode_part(std::string_view word, std::vector<TokenId>& out) const;
    const Slot* slot_of(std::string_view piece) const;
    void mark_whole();
    Joined join(TokenId left, TokenId right) const;
    void add_merges(const std::vector<Merge>& merges, const std::string& name);
    void symbols(std::string_view word, std::vector<TokenId>& out) const;
    void merge(std::vector<TokenId>& tokens, std::size_t begin) const;
    void merge_few(std::vector<TokenId>& tokens, std::size_t begin) const;
    void merge_many(std::vector<TokenId>& tokens, std::size_t begin) const;
    void no_token(std::string_view character) const;

    Options options_;
    std::string name_;
    std::vector<Entry> vocabulary_;
    bool cuts_ = false;  // no merge goes over the beginning of a word marked by kWordMark
    std::vector<Slot> slots_;
    std::vector<PairSlot> pairs_;
    std::array<TokenId, 256>
        bytes_;  // token of a byte (byte_level), or of `<0xNN>` (byte_fallback)
};

}  // namespace gradus
