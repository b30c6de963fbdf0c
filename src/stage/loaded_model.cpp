// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/loaded_model.hpp"

#include "gradus/base/error.hpp"

namespace gradus {

Json identity_of(Run& run, const CheckpointReader& reader) {
    const std::string& directory = reader.directory();
    // A run that is still training may have moved its `latest` on between two ranks' looks.
    for (const std::string& other : run.grid.world().all_gather(directory))
        require<CheckpointError>(other == directory,
                                 "ranks see {} and {} as the newest checkpoint; name one of them",
                                 directory, other);
    return run.from_root<CheckpointError>([&] {
        return Json{{"directory", directory}, {"index", checkpoint_identity(directory)}};
    });
}

ModelSource open_model(Run& run, const Deck& deck, const Tokenizer& tokenizer) {
    ModelSource source;
    source.config = resolve_model(deck, tokenizer, source.reader,
                                  [&](const std::string& text) { run.log.warn("{}", text); });
    if (source.reader) source.identity = identity_of(run, *source.reader);
    return source;
}

LoadedModel::LoadedModel(Run& run, const std::string& name, const Deck& deck,
                         const Tokenizer& tokenizer, const ModelSource& source)
    : arena(&run.device()),
      pinned(run.gpu ? &run.gpu->pinned() : run.cpu.get()),
      memory{arena, run.gpu ? pinned : arena, run.gpu.get()} {
    stack = std::make_unique<Stack>(deck, source.config, run.grid, tokenizer, memory, run.profile,
                                    StackNeeds{.generate = true});
    load_parameters(*stack->policy, *source.reader, "weights", *stack->ops);
    run.log.info("{}: weights from {}\n{}", name, source.reader->directory(), memory_table(memory));
}

}  // namespace gradus
