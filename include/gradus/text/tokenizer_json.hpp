// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "gradus/text/tokenizer.hpp"

namespace gradus {

/// A vocabulary of byte-level BPE.
struct ByteLevelVocabulary {
    std::vector<std::string> pieces;                  ///< bytes of each token, in order of id
    std::vector<std::pair<TokenId, TokenId>> merges;  ///< in order of rank
    std::vector<std::string> special;                 ///< the ids after those of the pieces
    std::string bos;                ///< of `special`: stands before every text; "": nothing does
    nlohmann::json pre_tokenizer;   ///< how a text is cut into words, as tokenizer.json says it
};

/// The step of a tokenizer.json that writes bytes as GPT-2's visible characters, and with `use_regex`
/// cuts words as GPT-2 does.
nlohmann::json byte_level_step(bool use_regex);

/// A tokenizer.json for load_tokenizer and for Hugging Face's tokenizers.
std::string write_tokenizer_json(const ByteLevelVocabulary& vocabulary);

}  // namespace gradus
