// SPDX-License-Identifier: Apache-2.0
// stage = import: a Hugging Face folder becomes the checkpoint of step 0. Bytes go from the mapped
// files to the ranks' shards as they are; the other files of the folder are carried along.
#include <algorithm>
#include <cstring>

#include "folder.hpp"
#include "gradus/base/error.hpp"
#include "gradus/stage/carried.hpp"
#include "gradus/stage/policy_text.hpp"
#include "gradus/store/checkpoint.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// Whether this run's checkpoint is there already.
bool imported_before(Run& run) {
    std::string found, changed;
    if (run.is_root() && run.deck.text("restart") != "none")
        found =
            find_checkpoint(run.dir, [&](const std::string& text) { run.log.warn("{}", text); });
    found = run.grid.world().broadcast(found);
    if (found.empty()) return false;
    const CheckpointReader reader(found);
    require<CheckpointError>(
        reader.state().value("stage", "") == "import",
        "{} was written by another stage than `import`: choose another run.dir, or "
        "restart = none",
        found);
    if (run.is_root()) changed = changed_keys(reader.deck(), run.deck);
    changed = run.grid.world().broadcast(changed);
    require<DeckError>(
        changed.empty(),
        "{} was made with other keys:{}\nchoose another run.dir, or restart = none to make it "
        "anew",
        found, changed);
    run.log.info("{} is there: nothing to do", found);
    return true;
}

/// Whether the bytes of a tensor are those of the one that it repeats; each rank looks at a part.
void check_copy(Run& run, const Folder& folder, const FolderWeight& weight) {
    const auto& tensors = folder.weights.tensors();
    const std::byte *copy = tensors.at(weight.entry.name).data,
                    *original = tensors.at(weight.original).data;
    const std::int64_t bytes = weight.entry.bytes();
    const int rank = run.grid.rank(), size = run.grid.size();
    constexpr std::int64_t kStep = std::int64_t{4} << 20;
    double differ = 0;
    for (std::int64_t at = rank * kStep; at < bytes; at += size * kStep) {
        const std::int64_t n = std::min(kStep, bytes - at);
        if (std::memcmp(copy + at, original + at, static_cast<std::size_t>(n)) != 0) differ = 1;
        release_pages(copy + at, n);
        release_pages(original + at, n);
        run.watchdog.alive();
    }
    require<DataError>(
        run.grid.world().max(differ) == 0,
        "{}: {} is not equal to {}, but the model shares these weights (tied, or of a multi-token "
        "prediction module): this folder cannot be imported without loss",
        folder.path, weight.entry.name, weight.original);
    run.log.info("{} repeats {} (equal bytes): stored once, written again on export",
                 weight.entry.name, weight.original);
}

/// This rank's boxes, as pointers into the map.
std::vector<Slab> slabs_of(const Run& run, const Folder& folder) {
    std::int64_t total = 0, before = 0;
    const auto stores = [](const FolderWeight& w) {
        return w.use == FolderWeight::Use::weight || w.use == FolderWeight::Use::scale;
    };
    for (const FolderWeight& weight : folder.map.weights)
        if (stores(weight)) total += weight.entry.bytes();
    std::vector<Slab> slabs;
    for (const FolderWeight& weight : folder.map.weights) {
        if (!stores(weight)) continue;
        const std::byte* const data = folder.weights.tensors().at(weight.entry.name).data;
        for (const WeightPiece& piece : weight.pieces) {
            const auto& stored = folder.map.stored.at(piece.tensor);
            const std::int64_t element = size_of(stored.dtype);
            const WeightPiece mine =
                share_of(piece, element, before, total, run.grid.rank(), run.grid.size());
            before += piece.box.elements() * element;
            if (mine.box.elements() == 0) continue;
            slabs.push_back({.tensor = piece.tensor,
                             .dtype = stored.dtype,
                             .global = stored.global,
                             .box = mine.box,
                             .data = data + mine.at * element});
        }
    }
    return slabs;
}

/// Throws DataError where the model has no rows for all tokens.
void check_vocabulary(const Folder& folder, const Tokenizer& tokenizer) {
    require<DataError>(tokenizer.vocab_size() <= folder.model.vocab_size,
                       "{}/config.json: vocab_size = {}, but the tokenizer {} has {} tokens: this "
                       "tokenizer is not the model's; policy.tokenizer names another",
                       folder.path, folder.model.vocab_size, tokenizer.identity(),
                       tokenizer.vocab_size());
}

/// What a user should know who imports a folder without its tokenizer; "" where there is one.
std::string no_tokenizer(const Deck& deck, const TokenizerFiles& files) {
    if (!files.path.empty() || deck.text("policy.tokenizer") != "auto") return "";
    return fmt::format("{} holds no tokenizer.json: the model is imported with the tokenizer of bytes; "
                       "policy.tokenizer names the model's own",
                       deck.text("import.path"));
}

void tell(Run& run, const Folder& folder) {
    run.log.info("{}", folder.summary());
    for (const std::string& line : folder.notes()) run.log.info("{}", line);
}

}  // namespace

void plan_import(const Deck& deck, const TokenizerFiles& files, const Tokenizer& tokenizer,
                 Plan& plan) {
    try {
        const Folder folder(deck.text("import.path"), deck.list("import.ignore_keys"));
        check_vocabulary(folder, tokenizer);
        if (const std::string told = no_tokenizer(deck, files); !told.empty())
            plan.text += "warning: " + told + "\n";
        plan.text += folder.summary() + "\n";
        for (const std::string& line : folder.notes()) plan.text += line + "\n";
        for (const FolderWeight& weight : folder.map.weights)
            if (weight.use == FolderWeight::Use::copy)
                plan.text += fmt::format("{} repeats {}\n", weight.entry.name, weight.original);
        plan.text += fmt::format("every tensor has its place; the checkpoint takes {}\n",
                                 format_bytes(static_cast<double>(folder.stored_bytes())));
    } catch (const DataError& error) {
        plan.complete = false;
        plan.text += fmt::format("{}\n", error.what());
    }
}

ExitCode run_import(Run& run) {
    if (imported_before(run)) return ExitCode::done;
    run.begin();
    const Folder folder(run.deck.text("import.path"), run.deck.list("import.ignore_keys"));
    check_vocabulary(folder, *run.tokenizer);
    tell(run, folder);
    if (const std::string told = no_tokenizer(run.deck, run.tokenizer_files); !told.empty())
        run.log.warn("{}", told);
    std::vector<std::string> unused;
    for (const FolderWeight& weight : folder.map.weights) {
        if (weight.use == FolderWeight::Use::copy) check_copy(run, folder, weight);
        if (weight.use == FolderWeight::Use::unused) unused.push_back(weight.entry.name);
    }
    if (run.is_root()) {
        remove_unfinished(run.dir);
        carry_from_folder(folder.path, folder.weights, unused, run.dir,
                          [&](const std::string& text) { run.log.info("{}", text); });
        keep_tokenizer(run.deck, run.tokenizer_files, *run.tokenizer);
    }
    {
        const Profile::Region region(run.profile, "checkpoint.write");
        CheckpointWriter writer(run.grid.world(),
                                {.run_dir = run.dir,
                                 .keep = 1,
                                 .background = false,
                                 .written =
                                     [&](const void* data, std::int64_t bytes) {
                                         release_pages(data, bytes);
                                         run.watchdog.alive();
                                     }},
                                0, run.arena);
        const Json state = {{"stage", "import"},
                            {"model", folder.model.to_json()},
                            {"tokenizer", run.tokenizer->identity()},
                            {"optimizer_steps", 0},
                            {"finished", true}};
        writer.write(0, slabs_of(run, folder), state, run.deck.resolved());
        writer.finish();
    }
    run.finish(0, 0, {});
    return ExitCode::done;
}

}  // namespace gradus
