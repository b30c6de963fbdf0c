// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace gradus {

struct BpeTrainerOptions {
    /// Tokens in all: 256 bytes, what the merges make, special tokens.
    std::int32_t vocab_size = 32768;
    /// How texts are cut into words: "gpt2", "llama3", "qwen2", "deepseek" as those models' files
    /// say, "digits": every digit by itself, then as gpt2.
    std::string pattern = "gpt2";
    /// The last ids. Where they stand in a text they are left out of the counts.
    std::vector<std::string> special;
    /// Of `special`: what the file's post-processor puts before a text; "": nothing.
    std::string bos;
    /// Pairs that occur less often are not merged.
    std::int64_t min_frequency = 2;
};

/// Learns a byte-level BPE vocabulary: merges the most frequent pair of neighbours again and again
/// (Sennrich et al., arXiv 1508.07909, algorithm 1). Of pairs that occur equally often the one with
/// the smaller left id is taken, then with the smaller right id; a pair whose text is a token
/// already is passed over, so that every token is made in one way. Ids: bytes in the order of
/// GPT-2's alphabet, then merges in their order, then special tokens. The result is a function of
/// the texts alone, not of their order.
class BpeTrainer {
  public:
    /// Throws DataError for a pattern that is not known, a special token that is empty or stands
    /// twice, and a vocab_size that does not hold bytes and special tokens.
    explicit BpeTrainer(const BpeTrainerOptions& options);
    ~BpeTrainer();

    /// Counts the words of a text. Throws DataError where it is not UTF-8.
    void add(std::string_view text);
    /// Different words so far.
    std::int64_t words() const;

    /// Learns the merges. `progress` is called now and then with the number of merges so far and
    /// how often the last pair occurred.
    void train(const std::function<void(std::int64_t merges, std::int64_t frequency)>& progress);
    /// Tokens of the vocabulary: fewer than asked for where no pair was frequent enough.
    std::int32_t vocab_size() const;
    /// A tokenizer.json for load_tokenizer and for Hugging Face's tokenizers.
    std::string json() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace gradus
