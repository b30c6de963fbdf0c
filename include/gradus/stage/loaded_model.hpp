// SPDX-License-Identifier: Apache-2.0
// A model of a checkpoint that generates or is asked for log-probs, with memory that goes with it.
#pragma once

#include <memory>
#include <string>

#include "gradus/stage/run.hpp"
#include "gradus/stage/stack.hpp"

namespace gradus {

/// The checkpoint that a deck's model.from names, opened, and the shape of its model: all that
/// there is to check before its weights are wanted. Shards are read later.
struct ModelSource {
    ModelConfig config;
    std::unique_ptr<CheckpointReader> reader;  ///< null: model.from is empty
    Json identity = nullptr;                   ///< identity_of() it
};
/// {"directory", "index"}: where a checkpoint is, and a hash that no other has. The same on every
/// rank; throws CheckpointError where they look at different ones. All ranks together.
Json identity_of(Run& run, const CheckpointReader& reader);
/// All ranks together. Throws as resolve_model() does.
ModelSource open_model(Run& run, const Deck& deck, const Tokenizer& tokenizer);

/// Its weights on all ranks, and what generates with them.
struct LoadedModel {
    /// `name`: whose weights, for the log.
    LoadedModel(Run& run, const std::string& name, const Deck& deck, const Tokenizer& tokenizer,
                const ModelSource& source);

    Arena arena, pinned;
    RunMemory memory;
    std::unique_ptr<Stack> stack;
};

}  // namespace gradus
