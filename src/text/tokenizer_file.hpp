// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.hpp"
#include "bpe.hpp"
#include "normalizer.hpp"
#include "pre_tokenizer.hpp"
#include "token_decoder.hpp"

namespace gradus {

/// What a tokenizer.json says, checked and built. Errors are DataErrors that name the file.
struct TokenizerFile {
    std::string name;
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    TokenDecoder decoder;
    std::vector<AddedToken> added;
    std::vector<Bpe::Entry> vocabulary;  ///< pieces as the file has them, by id
    Bpe bpe;
    TokenId prepended = -1;  ///< what the post-processor puts before a text, -1: nothing
    TokenId appended = -1;   ///< and after it
    std::string hash;        ///< 16 digits, of all that decides over ids
};

TokenizerFile read_tokenizer_file(std::string_view json, const std::string& name);

}  // namespace gradus
