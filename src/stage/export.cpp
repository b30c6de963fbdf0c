// SPDX-License-Identifier: Apache-2.0
// stage = export: a checkpoint becomes a Hugging Face folder. It is written beside its place as
// PATH.tmp and renamed; each rank reads a part of the checkpoint by runs of rows and writes it
// where it belongs in the files.
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "folder.hpp"
#include "gradus/base/error.hpp"
#include "gradus/stage/carried.hpp"
#include "gradus/store/checkpoint.hpp"
#include "gradus/store/read_floats.hpp"
#include "gradus/store/safetensors_writer.hpp"
#include "gradus/tensor/convert.hpp"
#include "new_folder.hpp"
#include "stages.hpp"

namespace gradus {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kRunBytes = std::int64_t{8} << 20;

/// What is to be written: files with their tensors, and where the numbers of each come from.
struct Output {
    std::vector<SafetensorsShard> files;
    std::map<std::string, FolderWeight> weights;  ///< by name; `entry` as in the source
    bool is_new = false;                          ///< never was a folder
    bool same_files = false;   ///< names, types and split are those of the folder that was imported
    bool drops_fp8 = false;    ///< 8-bit weights become BF16
    std::optional<DType> all;  ///< export.dtype, where it is not auto
};

/// The type in which a tensor is written.
std::string target_dtype(const FolderWeight& weight, const Output& out) {
    if (weight.use == FolderWeight::Use::unused) return weight.entry.dtype;
    if (out.all) return safetensors_dtype(*out.all);
    return out.drops_fp8 && weight.entry.dtype == "F8_E4M3" ? "BF16" : weight.entry.dtype;
}

std::optional<DType> asked_dtype(const Deck& deck) {
    const std::string& name = deck.text("export.dtype");
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32})
        if (name == name_of(dtype)) return dtype;
    return std::nullopt;
}

std::int64_t largest_file(const Deck& deck) {
    constexpr std::int64_t kLargest = 5'000'000'000;  // what others split at
    return deck.text("export.shard_bytes") == "auto" ? kLargest
                                                     : deck.integer("export.shard_bytes");
}

/// Weights of a model that was imported.
Output plan_known(const Deck& deck, const CheckpointReader& reader, const ModelConfig& model,
                  const std::vector<FolderFile>& files, const std::string& carried) {
    const WeightMap map = map_weights(model, files, carried + "/tensors.json");
    Output out{.all = asked_dtype(deck)};
    for (const auto& [tensor, stored] : map.stored)
        if (stored.dtype == DType::f8_e4m3 && reader.has(tensor))
            out.drops_fp8 = out.drops_fp8 || out.all || reader.info(tensor).dtype != DType::f8_e4m3;
    bool same = deck.text("export.shard_bytes") == "auto";
    std::vector<SafetensorsEntry> entries;
    for (const FolderWeight& weight : map.weights) {
        out.weights.emplace(weight.entry.name, weight);
        if (out.drops_fp8 && weight.use == FolderWeight::Use::scale) continue;
        entries.push_back(weight.entry);
        entries.back().dtype = target_dtype(weight, out);
        same = same && entries.back().dtype == weight.entry.dtype;
    }
    out.same_files = same && !out.drops_fp8;
    if (!out.same_files) {
        out.files = split_safetensors(entries, largest_file(deck));
        return out;
    }
    for (const FolderFile& file : files)
        out.files.push_back({file.name, file.header.text, file.header.entries});
    return out;
}

/// Weights of a model that never was a Hugging Face folder: its parameters by their names, experts
/// one by one, in the checkpoint's own types.
Output plan_new(const Deck& deck, const CheckpointReader& reader, const ModelConfig& model) {
    Output out{.is_new = true, .all = asked_dtype(deck)};
    std::vector<SafetensorsEntry> entries;
    for (FolderWeight& weight : new_weights(model)) {
        weight.entry.dtype = safetensors_dtype(reader.info(weight.pieces.front().tensor).dtype);
        entries.push_back(weight.entry);
        entries.back().dtype = target_dtype(weight, out);
        out.weights.emplace(weight.entry.name, std::move(weight));
    }
    out.files = split_safetensors(entries, largest_file(deck));
    return out;
}

/// Copies parts of a checkpoint into the files.
class Pieces {
  public:
    Pieces(Run& run, const CheckpointReader& reader, const Output& out, const std::string& folder)
        : run_(run), reader_(reader), out_(out), folder_(folder) {}

    /// The part that falls to this rank.
    void write() {
        std::int64_t total = 0, before = 0;
        for (const SafetensorsShard& file : out_.files)
            for (const SafetensorsEntry& entry : file.entries) total += entry.bytes();
        for (const SafetensorsShard& file : out_.files) {
            std::optional<SafetensorsWriter> to;
            for (const SafetensorsEntry& entry : file.entries) {
                const FolderWeight& weight = out_.weights.at(entry.name);
                const std::int64_t element = safetensors_size(entry.dtype);
                for (const WeightPiece& piece : weight.pieces) {
                    const WeightPiece mine =
                        share_of(piece, element, before, total, run_.grid.rank(), run_.grid.size());
                    before += piece.box.elements() * element;
                    if (mine.box.elements() == 0) continue;
                    if (!to)
                        to.emplace(folder_ + "/" + file.file, file.header, file.data_bytes(),
                                   false);
                    write_rows(mine, entry, *to);
                }
                if (weight.pieces.empty()) before += entry.bytes();
            }
            if (to) to->close();
        }
    }

  private:
    void write_rows(const WeightPiece& piece, const SafetensorsEntry& entry,
                    SafetensorsWriter& to) {
        const std::int64_t rows = count_rows(piece), width = piece.box.elements() / rows;
        const std::int64_t element = safetensors_size(entry.dtype);
        const std::int64_t step = std::max<std::int64_t>(1, kRunBytes / (width * 4));
        for (std::int64_t first = 0; first < rows; first += step) {
            const WeightPiece part = piece_rows(piece, first, std::min(step, rows - first));
            const std::int64_t n = part.box.elements();
            bytes_.resize(static_cast<std::size_t>(n * element));
            read(part, entry);
            to.write(entry.begin + part.at * element, bytes_.data(), n * element);
            run_.watchdog.alive();
        }
    }

    void read(const WeightPiece& part, const SafetensorsEntry& entry) {
        const DType stored = reader_.info(part.tensor).dtype;
        const DType dtype = *float_dtype(entry.dtype);
        if (stored == dtype) return reader_.read(part.tensor, part.box, bytes_.data());
        const auto n = static_cast<std::size_t>(part.box.elements());
        floats_.resize(n);
        read_floats(reader_, part.tensor, part.box, floats_.data());
        if (dtype == DType::f16) check_f16(entry.name);
        from_f32(dtype, floats_.data(), bytes_.data(), static_cast<std::int64_t>(n));
    }

    void check_f16(const std::string& name) const {
        for (const float x : floats_)
            require<DataError>(std::abs(x) < 65520.0f || !std::isfinite(x),
                               "{} holds {}, which is beyond the largest number of F16; export "
                               "with export.dtype = "
                               "bf16 or f32",
                               name, x);
    }

    Run& run_;
    const CheckpointReader& reader_;
    const Output& out_;
    const std::string& folder_;
    std::vector<char> bytes_;
    std::vector<float> floats_;
};

/// Tensors that the model computes itself, as they were in the folder.
void write_unused(const Output& out, const std::string& carried, const std::string& folder) {
    std::optional<SafetensorsFile> kept;
    for (const SafetensorsShard& file : out.files)
        for (const SafetensorsEntry& entry : file.entries) {
            if (out.weights.at(entry.name).use != FolderWeight::Use::unused) continue;
            if (!kept) kept.emplace(unused_tensors(carried));
            for (const SafetensorsEntry& source : kept->header().entries) {
                if (source.name != entry.name) continue;
                SafetensorsWriter to(folder + "/" + file.file, file.header, file.data_bytes(),
                                     false);
                to.write(entry.begin, kept->data(source), entry.bytes());
                to.close();
            }
        }
}

constexpr const char* kIndex = "model.safetensors.index.json";

/// config.json of the folder that was imported, with what has changed.
std::string changed_config(const std::string& text, const Output& out) {
    Json config = Json::parse(text);
    if (out.drops_fp8) config.erase("quantization_config");
    if (out.all)
        for (const char* key : {"dtype", "torch_dtype"})
            if (config.contains(key)) config[key] = torch_dtype(*out.all);
    return config.dump(2) + "\n";
}

/// All files but those of the weights, by name. Throws DataError where the model is of no family.
std::map<std::string, std::string> other_files(const Output& out, const ModelConfig& model,
                                               const Tokenizer& tokenizer,
                                               const std::string& carried) {
    std::map<std::string, std::string> made;
    std::set<std::string> names;
    if (!carried.empty()) names = carried_names(carried);
    const std::string config =
        names.contains("config.json") ? read_file(carried + "/config.json") : "";
    if (out.is_new)
        made = new_folder_files(model, config, tokenizer, out.all.value_or(DType::f32), names);
    else if (!out.same_files && (out.drops_fp8 || out.all))
        made["config.json"] = changed_config(config, out);
    if (!out.same_files && out.files.size() > 1) made[kIndex] = safetensors_index(out.files);
    for (const std::string& name : names)
        if (!made.contains(name) && (name != kIndex || out.same_files))
            made[name] = read_file(carried + "/" + name);
    return made;
}

/// Files of the run directory: what was exported, and (between the renaming of the folder and that
/// file) what is about to be.
constexpr const char *kDone = "export.json", *kBegun = "exporting.json";

/// A text that such a file tells; "" where it does not.
std::string told(const Run& run, const char* file, const char* key) {
    std::error_code none;
    if (!fs::exists(run.path(file), none)) return "";
    const Json json = Json::parse(read_file(run.path(file)), nullptr, false);
    return json.is_object() && json.contains(key) && json[key].is_string() ? json[key].get<std::string>()
                                                                            : "";
}

/// Throws unless `path` is free, an empty folder, or what this run has exported before.
void check_place(const Run& run, const std::string& path) {
    std::error_code none;
    if (!fs::exists(path, none) || (fs::is_directory(path, none) && fs::is_empty(path, none)))
        return;
    const std::string place = fs::absolute(path).lexically_normal().string();
    const bool own = told(run, kDone, "path") == place || told(run, kBegun, "path") == place;
    require<DataError>(own,
                       "export.path = {}: there is something already, which this run has not "
                       "exported; remove it, or choose another export.path",
                       path);
}

/// What an earlier export of this run was made from, on all ranks; "": there is none.
std::string exported_from(Run& run) {
    return run.grid.world().broadcast(run.is_root() ? told(run, kDone, "from") : "");
}

void sync_folder(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    ::fsync(descriptor);
    ::close(descriptor);
}

/// `temporary` takes the place of `path`, where an earlier export may stand.
void publish(const std::string& temporary, const std::string& path) {
    sync_folder(temporary);
    std::error_code problem;
    if (fs::exists(path) &&
        ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
        fs::remove_all(temporary, problem);
    } else {
        fs::remove_all(path, problem);
        if (!problem) fs::rename(temporary, path, problem);
    }
    require<DataError>(!problem, "cannot rename {} to {}: {}", temporary, path, problem.message());
    sync_folder(fs::absolute(path).lexically_normal().parent_path().string());
}

/// Stands in a folder while it is being made.
constexpr const char* kMark = ".gradus-export";

/// The folder with its small files, and the weight files with room for what is to come.
void create_files(const Output& out, const std::map<std::string, std::string>& others,
                  const std::string& temporary) {
    require<DataError>(
        !fs::exists(temporary) || fs::exists(temporary + "/" + kMark) || fs::is_empty(temporary),
        "{} is in the way, and no unfinished export: remove it, or choose another export.path",
        temporary);
    fs::remove_all(temporary);
    fs::create_directories(temporary);
    write_file_atomically(temporary + "/" + kMark, "");
    for (const auto& [name, text] : others) write_file_atomically(temporary + "/" + name, text);
    for (const SafetensorsShard& file : out.files)
        SafetensorsWriter(temporary + "/" + file.file, file.header, file.data_bytes(), true)
            .close();
}

ModelConfig stored_model(const CheckpointReader& reader) {
    require<CheckpointError>(reader.state().contains("model"), "{} holds no model",
                             reader.directory());
    const ModelConfig model = ModelConfig::from_json(reader.state()["model"]);
    require<CheckpointError>(!model.scalar_head,
                             "{} holds a reward model, for which Hugging Face's families have no folder; name a policy",
                             reader.directory());
    return model;
}

Output plan_output(const Deck& deck, const CheckpointReader& reader, const ModelConfig& model,
                   const std::string& carried) {
    const std::vector<FolderFile> files =
        carried.empty() ? std::vector<FolderFile>{} : carried_files(carried);
    Output out = files.empty() ? plan_new(deck, reader, model)
                               : plan_known(deck, reader, model, files, carried);
    for (const auto& [name, weight] : out.weights)
        for (const WeightPiece& piece : weight.pieces)
            require<CheckpointError>(
                reader.has(piece.tensor) || weight.use == FolderWeight::Use::scale,
                "{} holds no tensor {}", reader.directory(), piece.tensor);
    return out;
}

}  // namespace

void plan_export(const Deck& deck, Plan& plan) {
    const std::string& from = deck.text("model.from");
    const std::string checkpoint = find_checkpoint(
        from, [&](const std::string& text) { plan.text += "note: " + text + "\n"; });
    if (checkpoint.empty()) {
        plan.complete = false;
        plan.text += fmt::format("model.from = {}: no checkpoint there yet\n", from);
        return;
    }
    const CheckpointReader reader(checkpoint);
    const Output out = plan_output(deck, reader, stored_model(reader), hugging_face_folder(from));
    plan.text += fmt::format("weights from {}\n", checkpoint);
    for (const SafetensorsShard& file : out.files)
        plan.text +=
            fmt::format("{}/{}: {} tensors, {}\n", deck.text("export.path"), file.file,
                        file.entries.size(), format_bytes(static_cast<double>(file.data_bytes())));
    if (out.drops_fp8)
        plan.text += "F8_E4M3 weights are written as BF16, without quantization_config\n";
}

ExitCode run_export(Run& run) {
    std::string path = run.deck.text("export.path");
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    const std::string there =
        run.grid.world().broadcast(run.is_root() && fs::exists(path) ? "yes" : "no");
    const std::string& from = run.deck.text("model.from");
    std::string checkpoint;
    if (run.is_root())
        checkpoint =
            find_checkpoint(from, [&](const std::string& text) { run.log.warn("{}", text); });
    checkpoint = run.grid.world().broadcast(checkpoint);
    // An export of weights that have been trained on since is made again.
    const std::string before = exported_from(run);
    const bool newer = !before.empty() && !checkpoint.empty() && before != checkpoint;
    if (newer && run.deck.text("restart") != "none")
        run.log.info("{} was made from {}; exporting {}", path, before, checkpoint);
    if (there == "yes" && !newer && run.finished_before(kDone)) return ExitCode::done;
    run.on_root([&] { check_place(run, path); });
    run.begin();
    require<CheckpointError>(
        !checkpoint.empty(),
        "model.from = {} ({}): there is no checkpoint; has that stage finished?", from,
        run.deck.origin("model.from"));
    const CheckpointReader reader(checkpoint);
    const std::string carried = hugging_face_folder(from);
    const ModelConfig model = stored_model(reader);
    const Output out = plan_output(run.deck, reader, model, carried);
    if (out.drops_fp8)
        run.log.info("F8_E4M3 weights are written as BF16, without quantization_config");

    const std::string temporary = path + ".tmp";
    run.on_root([&] {
        create_files(out, other_files(out, model, *run.tokenizer, carried), temporary);
    });
    {
        const Profile::Region region(run.profile, "export.write");
        Pieces(run, reader, out, temporary).write();
        run.grid.world().barrier();
    }
    run.on_root([&] {
        write_unused(out, carried, temporary);
        write_file_atomically(
            run.path(kBegun),
            Json{{"path", fs::absolute(path).lexically_normal().string()}}.dump(2) + "\n");
        fs::remove(temporary + "/" + kMark);
        publish(temporary, path);
    });
    std::int64_t bytes = 0, tensors = 0;
    for (const SafetensorsShard& file : out.files) {
        bytes += file.data_bytes();
        tensors += std::ssize(file.entries);
    }
    run.log.info("{} tensors, {} in {} files: {}", tensors,
                 format_bytes(static_cast<double>(bytes)), out.files.size(), path);
    run.finish(0, 0, {});
    if (run.is_root()) {
        write_file_atomically(run.path(kDone),
                              Json{{"path", fs::absolute(path).lexically_normal().string()},
                                   {"from", checkpoint},
                                   {"tensors", tensors},
                                   {"bytes", bytes}}
                                      .dump(2) +
                                  "\n");
        fs::remove(run.path(kBegun));
    }
    return ExitCode::done;
}

}  // namespace gradus
