// SPDX-License-Identifier: Apache-2.0
// The tokenizer and the chat template that a deck asks for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gradus/deck/deck.hpp"
#include "gradus/ranks/communicator.hpp"
#include "gradus/text/chat_template.hpp"
#include "gradus/text/tokenizer.hpp"

namespace gradus {

/// The text of a tokenizer.json and what the files beside it say.
struct TokenizerFiles {
    std::string path;  ///< of tokenizer.json; "": the byte tokenizer
    std::string text;  ///< of tokenizer.json
    /// End tokens: eos_token_id of generation_config.json (one or a list), else that of config.json,
    /// else the eos_token of tokenizer_config.json. Begin token: bos_token of tokenizer_config.json as
    /// add_bos_token says; where that is not there, what tokenizer.json itself prepends.
    TokenizerOptions options;
    std::string model_type;       ///< of config.json
    bool chat_template = false;   ///< there is a Jinja chat template (it is carried, not executed)
};

/// Reads the files that `policy.tokenizer` names: `bytes` none; a path that of a tokenizer.json or of a
/// folder with one; `auto` those in import.path, or that the run of model.from carries, else those that this run's
/// directory carries from before, else none. Throws DeckError where there are none at the path,
/// DataError where one is not JSON.
TokenizerFiles find_tokenizer(const Deck& deck);
/// Those that the run `run` (a run directory, or a checkpoint in one) carries, else none: the byte tokenizer.
TokenizerFiles carried_tokenizer(const std::string& run);
/// The same as find_tokenizer on all ranks: rank 0 reads. Its errors are thrown on every rank.
TokenizerFiles share_tokenizer(const Deck& deck, Communicator& world);

/// Throws DataError naming the file.
std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerFiles& files);
/// The template that `policy.template` names, or for `auto` that of the model's family. Throws
/// DeckError.
ChatTemplate make_chat_template(const Deck& deck, const TokenizerFiles& files,
                                const Tokenizer& tokenizer);
/// What was chosen, for the log: a line or two.
std::vector<std::string> describe_policy_text(const Deck& deck, const TokenizerFiles& files,
                                              const Tokenizer& tokenizer, const ChatTemplate& chat);

/// Writes the tokenizer's files, where the deck names them by a path, into RUN/huggingface, so that
/// later stages and the export find them there. Throws DataError.
void keep_tokenizer(const Deck& deck, const TokenizerFiles& files, const Tokenizer& tokenizer);

}  // namespace gradus
