// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/ngrams.hpp"

#include <xxhash.h>

#include <algorithm>
#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/base/philox.hpp"
#include "utf8.hpp"

namespace gradus {
namespace {

/// Scripts that put no spaces between words: Thai, Kana, Han, with what compatibility leaves of them.
bool stands_alone(char32_t c) {
    return (c >= 0x0E00 && c <= 0x0E7F) || (c >= 0x2E80 && c <= 0x2FDF) || c == 0x3005 || (c >= 0x3041 && c <= 0x312F) ||
           (c >= 0x31F0 && c <= 0x31FF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x4E00 && c <= 0x9FFF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x20000 && c <= 0x3FFFF);
}

class WordHasher {
  public:
    void ascii(char c) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
            if (alone_) end();
            word_ += c;
        } else {
            end();
        }
    }
    void character(char32_t c) {
        const auto kind = category(c);
        const bool mark = kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_MC || kind == UTF8PROC_CATEGORY_ME;
        // Classes below are vowel killers and nuktas (India) and Kana's voicing: other sounds, not accents.
        if (mark && utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class >= 10) return;
        if (mark) {
            if (!word_.empty()) append_utf8(word_, c);
            return;
        }
        const bool alone = stands_alone(c);
        if (!is_word_character(c) || kind == UTF8PROC_CATEGORY_PC) return end();
        if (alone || alone_) end();
        append_utf8(word_, c);
        alone_ = alone;
    }
    void end() {
        if (!word_.empty()) hashes_.push_back(XXH3_64bits(word_.data(), word_.size()));
        word_.clear();
        alone_ = false;
    }
    std::vector<std::uint64_t> take() {
        end();
        return std::move(hashes_);
    }

  private:
    std::string word_;
    bool alone_ = false;
    std::vector<std::uint64_t> hashes_;
};

}  // namespace

std::vector<std::uint64_t> word_hashes(std::string_view text) {
    WordHasher hasher;
    constexpr int kFold = UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE | UTF8PROC_CASEFOLD | UTF8PROC_IGNORE | UTF8PROC_STABLE;
    std::array<utf8proc_int32_t, 32> parts{};  // 18 are the most that Unicode has
    while (!text.empty()) {
        if (static_cast<unsigned char>(text[0]) < 0x80) {
            hasher.ascii(text[0]);
            text.remove_prefix(1);
            continue;
        }
        utf8proc_int32_t point = 0;
        const auto read = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                           static_cast<utf8proc_ssize_t>(text.size()), &point);
        if (read <= 0) {
            hasher.end();
            text.remove_prefix(1);
            continue;
        }
        text.remove_prefix(static_cast<std::size_t>(read));
        int boundary = 0;
        const auto n = utf8proc_decompose_char(point, parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
                                               static_cast<utf8proc_option_t>(kFold), &boundary);
        for (utf8proc_ssize_t i = 0; i < n; ++i) {
            const auto c = static_cast<char32_t>(parts[static_cast<std::size_t>(i)]);
            c < 0x80 ? hasher.ascii(static_cast<char>(c)) : hasher.character(c);
        }
    }
    return hasher.take();
}

std::vector<std::uint64_t> ngrams(std::span<const std::uint64_t> words, std::int64_t n) {
    std::vector<std::uint64_t> grams;
    const std::size_t length = std::min(static_cast<std::size_t>(n), words.size());
    if (length == 0) return grams;
    // The seed is the length: a short text is no part of a longer one.
    for (std::size_t at = 0; at + length <= words.size(); ++at)
        grams.push_back(XXH3_64bits_withSeed(words.data() + at, length * sizeof(std::uint64_t), length));
    std::sort(grams.begin(), grams.end());
    grams.erase(std::unique(grams.begin(), grams.end()), grams.end());
    return grams;
}

double jaccard(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b) {
    std::size_t both = 0, i = 0, j = 0;
    while (i < a.size() && j < b.size()) {
        if (a[i] == b[j]) {
            ++both, ++i, ++j;
        } else {
            a[i] < b[j] ? ++i : ++j;
        }
    }
    const std::size_t either = a.size() + b.size() - both;
    return either == 0 ? 0 : static_cast<double>(both) / static_cast<double>(either);
}

NearDuplicates::NearDuplicates(double threshold, std::int64_t n, std::uint64_t seed,
                               std::function<std::string(std::int64_t)> text_of)
    : threshold_(threshold), n_(n), text_of_(std::move(text_of)) {
    require(threshold > 0 && threshold <= 1 && n > 0, "near duplicates from {} on, of {}-grams", threshold, n);
    for (std::size_t i = 0; i < kMinima; ++i) {
        const PhiloxBlock bits = random_bits({.seed = seed, .stream = Stream::shuffle, .step = 2, .prompt = i});
        factor_[i] = (static_cast<std::uint64_t>(bits[0]) << 32 | bits[1]) | 1;
        summand_[i] = static_cast<std::uint64_t>(bits[2]) << 32 | bits[3];
    }
    constexpr auto kAll = static_cast<std::int64_t>(kMinima);
    constexpr double kMissed = 0.001;
    for (std::int64_t r = 1; r <= kAll; ++r)
        if (std::pow(1 - std::pow(threshold, static_cast<double>(r)), static_cast<double>(kAll / r)) <= kMissed) rows_ = r;
}

NearDuplicates::Signature NearDuplicates::signature(std::span<const std::uint64_t> grams) const {
    Signature minima;
    minima.fill(~0u);
    for (const std::uint64_t gram : grams)
        for (std::size_t i = 0; i < kMinima; ++i)
            minima[i] = std::min(minima[i], static_cast<std::uint32_t>((factor_[i] * gram + summand_[i]) >> 32));
    return minima;
}

std::uint64_t NearDuplicates::band(std::size_t b) const {
    const auto rows = static_cast<std::size_t>(rows_);
    return XXH3_64bits_withSeed(asked_.data() + b * rows, rows * sizeof(std::uint32_t), b);
}

std::optional<NearDuplicates::Match> NearDuplicates::find(std::string_view text) {
    asked_grams_ = ngrams(word_hashes(text), n_);
    if (asked_grams_.empty()) return std::nullopt;
    asked_ = signature(asked_grams_);
    std::vector<std::uint32_t> met;
    for (std::size_t b = 0; b < kMinima / static_cast<std::size_t>(rows_); ++b)
        if (const auto it = bands_.find(band(b)); it != bands_.end()) met.insert(met.end(), it->second.begin(), it->second.end());
    std::sort(met.begin(), met.end());
    met.erase(std::unique(met.begin(), met.end()), met.end());
    const double deviation = std::sqrt(threshold_ * (1 - threshold_) / static_cast<double>(kMinima));
    std::vector<std::pair<std::size_t, std::uint32_t>> candidates;  // minima that differ, place
    for (const std::uint32_t place : met) {
        std::size_t other = 0;
        for (std::size_t i = 0; i < kMinima; ++i) other += signatures_[place][i] != asked_[i] ? 1 : 0;
        if (1 - static_cast<double>(other) / static_cast<double>(kMinima) >= threshold_ - 3 * deviation)
            candidates.emplace_back(other, place);
    }
    std::sort(candidates.begin(), candidates.end());
    if (candidates.size() > kMostCompared) candidates.resize(kMostCompared);
    for (const auto& [other, place] : candidates) {
        const double similarity = jaccard(asked_grams_, ngrams(word_hashes(text_of_(ids_[place])), n_));
        if (similarity >= threshold_) return Match{ids_[place], similarity};
    }
    return std::nullopt;
}

void NearDuplicates::keep(std::int64_t id) {
    if (asked_grams_.empty()) return;
    const auto place = static_cast<std::uint32_t>(signatures_.size());
    signatures_.push_back(asked_);
    ids_.push_back(id);
    for (std::size_t b = 0; b < kMinima / static_cast<std::size_t>(rows_); ++b) {
        // A band that so many share tells little, and all of them would be looked at for each that comes.
        std::vector<std::uint32_t>& places = bands_[band(b)];
        if (places.size() < kMostInBand) places.push_back(place);
    }
}

void Passages::add(std::string_view text, std::string name) {
    for (const std::uint64_t gram : ngrams(word_hashes(text), n_))
        from_.try_emplace(gram, static_cast<std::uint32_t>(names_.size()));
    names_.push_back(std::move(name));
}

std::optional<std::string> Passages::find(std::string_view text) const {
    for (const std::uint64_t gram : ngrams(word_hashes(text), n_))
        if (const auto it = from_.find(gram); it != from_.end()) return names_[it->second];
    return std::nullopt;
}

}  // namespace gradus
