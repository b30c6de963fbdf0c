// SPDX-License-Identifier: Apache-2.0
// What stage sample puts beside and around its samples: test sets to keep out, general SFT data, an order.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gradus/deck/deck.hpp"
#include "gradus/text/chat_template.hpp"
#include "gradus/text/ngrams.hpp"

namespace gradus {

/// The prompts of sample.decontaminate. Throws DataError with file and line. `beat` is called after each.
Passages read_test_sets(const Deck& deck, const std::function<void()>& beat);

/// A row of general SFT data.
struct GeneralRow {
    std::string id;  ///< FILE:LINE
    std::string prompt, response;  ///< all that the user, and all that the assistant says
    std::vector<ChatMessage> messages;
};

/// The rows of sample.mix in a random order, a function of run.seed and their number alone. A bad line ends the run with file
/// and line, or is skipped and told in `notes` (data.bad_lines).
std::vector<GeneralRow> read_general(const Deck& deck, std::vector<std::string>& notes, const std::function<void()>& beat);

/// How many general rows go with `reasoning` kept samples; -1: all there are.
std::int64_t general_rows(const Deck& deck, std::int64_t reasoning);

/// The lines in a random order, a function of the seed and their number alone, as one text.
std::string shuffled_lines(const std::vector<std::string>& lines, std::uint64_t seed);

}  // namespace gradus
