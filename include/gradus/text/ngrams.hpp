// SPDX-License-Identifier: Apache-2.0
// Texts compared by their sequences of words: which are nearly the same, which share a passage.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace gradus {

/// The words of a text as 64-bit hashes (XXH3), so normalised that spelling alone tells no two texts apart: maximal runs
/// of letters, digits and their marks; Han, Kana and Thai by the character; case folded, full-width and other
/// compatibility forms replaced (Unicode's NFKC_Casefold, code point by code point), accents dropped (marks of combining class
/// >= 10). Punctuation, signs, emoji and bytes that are not UTF-8 only separate words. Linear in the text.
std::vector<std::uint64_t> word_hashes(std::string_view text);

/// The distinct sequences of n words, hashed, in ascending order. A text of fewer words has one: all of it, which no part
/// of a longer text equals; a text without words has none.
std::vector<std::uint64_t> ngrams(std::span<const std::uint64_t> words, std::int64_t n);

/// Elements in both sets / elements in either; both in ascending order; 0 where both are empty.
double jaccard(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b);

/// Finds, among texts shown before, one whose n-grams have a Jaccard similarity of at least `threshold` with those of a new text.
///
/// MinHash (Broder 1997, "On the resemblance and containment of documents"): 128 hash functions, multiply-add-shift
/// (Dietzfelbinger 1996) with numbers from Philox; the share of equal minima estimates the similarity. Bands of r
/// minima are looked up (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4), with the largest r for which a pair at the
/// threshold meets in some band with probability >= 0.999: 1 - (1 - threshold^r)^floor(128 / r). Candidates whose estimate
/// is within three standard deviations of the threshold or above are then compared exactly.
/// A function of the texts and their order. Memory: about 1 KiB a text kept (at threshold 0.8), whatever its length.
class NearDuplicates {
  public:
    /// `threshold` in (0, 1]; `text_of(id)` gives a text again that was kept under this id.
    NearDuplicates(double threshold, std::int64_t n, std::uint64_t seed, std::function<std::string(std::int64_t)> text_of);

    struct Match {
        std::int64_t id;
        double similarity;
    };
    /// A text kept before that is like this one; the one of highest estimate is compared first. Reads the text and at most
    /// kMostCompared others.
    std::optional<Match> find(std::string_view text);
    /// Keeps the text that `find` was asked for last.
    void keep(std::int64_t id);
    std::int64_t band_rows() const { return rows_; }

    static constexpr std::size_t kMinima = 128, kMostInBand = 256, kMostCompared = 16;

  private:
    using Signature = std::array<std::uint32_t, kMinima>;
    Signature signature(std::span<const std::uint64_t> grams) const;
    std::uint64_t band(std::size_t b) const;

    double threshold_;
    std::int64_t n_, rows_ = 1;
    std::function<std::string(std::int64_t)> text_of_;
    std::array<std::uint64_t, kMinima> factor_{}, summand_{};
    std::vector<std::uint64_t> asked_grams_;
    Signature asked_{};
    std::vector<Signature> signatures_;
    std::vector<std::int64_t> ids_;
    std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> bands_;
};

/// Passages of texts that are to be kept out of others (test sets out of training data).
class Passages {
  public:
    /// None, to which nothing is added.
    Passages() = default;
    explicit Passages(std::int64_t n) : n_(n) {}
    /// `name` says where the text is from.
    void add(std::string_view text, std::string name);
    /// The name of an added text that shares an n-gram with this one; texts of fewer than n words only when they are
    /// the same (ngrams).
    std::optional<std::string> find(std::string_view text) const;

  private:
    std::int64_t n_ = 0;
    std::vector<std::string> names_;
    std::unordered_map<std::uint64_t, std::uint32_t> from_;
};

}  // namespace gradus
