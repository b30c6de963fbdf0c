// SPDX-License-Identifier: Apache-2.0
// A second model of a stage: a judge, one that rewrites. It is loaded for a phase, and its memory
// goes with it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gradus/stage/run.hpp"
#include "gradus/stage/stack.hpp"

namespace gradus {

/// What a model is asked about one sample. The sample's place is the reply's random address.
struct Ask {
    std::int64_t group = 0;
    std::int32_t sample = 0;
    std::string prompt;
};

/// The model of key PREFIX.from with its own tokenizer and its family's chat template. Other keys
/// of the prefix: max_length, max_new_tokens, temperature.
class PhaseModel {
  public:
    /// Opens the checkpoint and looks whether it can do what is asked; weights come later. All
    /// ranks together. Throws DeckError or CheckpointError where it cannot.
    PhaseModel(Run& run, const std::string& prefix);
    ~PhaseModel();

    const std::string& prefix() const;
    /// True at the first call: nothing has been asked in this run yet.
    bool first_turn();
    /// What decides its replies beside the prompts: checkpoint, lengths, temperature.
    std::string description() const;
    /// Takes its memory, reads its weights; nothing where that is done.
    void load();
    void unload();

    /// A reply to each prompt, on every rank; "" where the prompt is too long for it and, if only
    /// `whole` ones count, where the reply has no end. All ranks together.
    std::vector<std::string> replies(const std::vector<Ask>& asks, Stream stream,
                                     bool whole = false);
    /// P(yes) / (P(yes) + P(no)) of the two as whole replies, on every rank; NaN where the prompt
    /// is too long.
    std::vector<double> chances(const std::vector<Ask>& asks, const std::string& yes,
                                const std::string& no);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Verdicts or texts about samples, asked for in parts and kept in a file, so that a run that is
/// cut goes on.
struct Inquiry {
    std::string file;   ///< in the run directory, JSON lines; its first line is `about` and the
                        ///< model's description
    std::string about;  ///< what decides the replies beside the model and the prompts
    /// JSON values of a part of the asks, in their order.
    std::function<std::vector<Json>(PhaseModel& model, const std::vector<Ask>& asks)> answer;
};
/// A JSON value for each ask, on every rank, in their order; nothing where the run was asked to
/// stop before all were there. The model is loaded where a reply is missing, and unloaded at the
/// end. Throws DataError where the file is of another inquiry.
std::optional<std::vector<Json>> inquire(Run& run, PhaseModel& model, const std::vector<Ask>& asks,
                                         const Inquiry& inquiry);

/// `text` with {name} replaced by its value, for each of `values`; what is put in is not looked at
/// again.
std::string fill_template(const std::string& text,
                          const std::vector<std::pair<std::string, std::string>>& values);

}  // namespace gradus
