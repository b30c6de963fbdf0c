// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/carried.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/base/log.hpp"
#include "gradus/store/safetensors_writer.hpp"

namespace gradus {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFolder = "huggingface";
constexpr const char* kTensors = "tensors.json";
constexpr const char* kUnused = "unused.safetensors";
constexpr std::uintmax_t kMostBytes = std::uintmax_t{64} << 20;
constexpr std::array kWeights = std::to_array<std::string_view>(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".npz"});

/// Why a file of the folder is not copied; "" where it is.
std::string left_out_because(const fs::directory_entry& entry) {
    const std::string name = entry.path().filename().string();
    std::error_code problem;
    if (entry.is_directory(problem)) return "a folder";
    if (!entry.is_regular_file(problem)) return "not a file";
    for (const std::string_view end : kWeights)
        if (name.ends_with(end)) return "weights in another format";
    if (name == kTensors) return "its name is taken by a file of Gradus";
    const std::uintmax_t bytes = entry.file_size(problem);
    if (problem) return problem.message();
    if (bytes > kMostBytes) return format_bytes(static_cast<double>(bytes)) + ", more than 64 MiB";
    return "";
}

void write_tensor_list(const fs::path& to, const SafetensorsFolder& weights) {
    Json files = Json::array();
    for (std::size_t f = 0; f < weights.files().size(); ++f) {
        const SafetensorsHeader& header = weights.files()[f].header();
        files.push_back({{"file", weights.file_names()[f]},
                         {"data_bytes", header.data_bytes},
                         {"header", header.text}});
    }
    write_file_atomically(to / kTensors, Json{{"files", std::move(files)}}.dump(1) + "\n");
}

void write_unused(const fs::path& to, const SafetensorsFolder& weights,
                  const std::vector<std::string>& unused) {
    if (unused.empty()) return;
    std::vector<SafetensorsEntry> entries;
    for (const std::string& name : unused) entries.push_back(*weights.tensors().at(name).entry);
    const std::string header = layout_safetensors(entries, {});
    SafetensorsWriter out(to / kUnused, header, entries.back().end, true);
    for (const SafetensorsEntry& entry : entries)
        out.write(entry.begin, weights.tensors().at(entry.name).data, entry.bytes());
    out.close();
}

}  // namespace

std::string hugging_face_folder(const std::string& model_from) {
    if (model_from.empty()) return "";
    fs::path where(model_from);
    if (!where.has_filename()) where = where.parent_path();
    std::error_code none;
    if (fs::exists(where / "index.h5", none)) {
        where = fs::absolute(where, none).lexically_normal();
        if (!where.has_filename()) where = where.parent_path();
        where = where.parent_path();
    }
    const fs::path folder = where / kFolder;
    return fs::is_directory(folder, none) ? folder.string() : "";
}

void carry_hugging_face(const std::string& model_from, const std::string& run_dir) {
    const std::string from = hugging_face_folder(model_from);
    const fs::path to = fs::path(run_dir) / kFolder, unfinished = to.string() + ".tmp";
    std::error_code problem;
    if (!from.empty() && fs::equivalent(from, to, problem)) return;
    const auto check = [&](const char* what) {
        require<DataError>(!problem, "{} to {}: {} failed: {}", from, to.string(), what,
                           problem.message());
    };
    problem.clear();
    fs::remove_all(unfinished, problem);
    check("removing an unfinished copy");
    if (!from.empty()) {
        fs::copy(from, unfinished, fs::copy_options::recursive, problem);
        check("copying");
    }
    fs::remove_all(to, problem);
    check("removing the old copy");
    if (from.empty()) return;
    fs::rename(unfinished, to, problem);
    check("renaming");
}

void carry_config(const std::string& file, const std::string& run_dir) {
    const fs::path to = fs::path(run_dir) / kFolder;
    std::error_code problem;
    fs::create_directories(to, problem);
    require<DataError>(!problem, "cannot make {}: {}", to.string(), problem.message());
    write_file_atomically(to / "config.json", read_file(file));
}

void carry_from_folder(const std::string& folder, const SafetensorsFolder& weights,
                       const std::vector<std::string>& unused, const std::string& run_dir,
                       const std::function<void(const std::string&)>& note) {
    const fs::path to = fs::path(run_dir) / kFolder, unfinished = to.string() + ".tmp";
    try {
        fs::remove_all(unfinished);
        fs::create_directories(unfinished);
        std::vector<fs::directory_entry> entries;
        for (const auto& entry : fs::directory_iterator(folder)) entries.push_back(entry);
        std::sort(entries.begin(), entries.end());
        for (const auto& entry : entries) {
            const std::string name = entry.path().filename().string();
            const auto is_one_of = [&](const std::vector<std::string>& names) {
                return std::find(names.begin(), names.end(), name) != names.end();
            };
            if (name.front() == '.' || is_one_of(weights.file_names()) ||
                is_one_of(weights.strays()))
                continue;
            const std::string why = left_out_because(entry);
            if (why.empty())
                fs::copy_file(entry.path(), unfinished / name);
            else
                note(fmt::format("{}/{} is left out: {}", folder, name, why));
        }
        write_tensor_list(unfinished, weights);
        write_unused(unfinished, weights, unused);
        fs::remove_all(to);
        fs::rename(unfinished, to);
    } catch (const fs::filesystem_error& error) {
        throw DataError(
            fmt::format("copying the files of {} to {}: {}", folder, to.string(), error.what()));
    }
}

std::vector<FolderFile> carried_files(const std::string& carried) {
    const std::string path = carried + "/" + kTensors;
    std::error_code none;
    if (!fs::exists(path, none)) return {};
    const std::string text = read_file(path);
    std::vector<FolderFile> files;
    try {
        const Json json = Json::parse(text);
        for (const Json& file : json.at("files")) {
            const auto header = file.at("header").get<std::string>();
            const auto data_bytes = file.at("data_bytes").get<std::int64_t>();
            std::string head(8, '\0');
            for (std::size_t i = 0; i < 8; ++i)
                head[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
            head += header;
            const auto name = file.at("file").get<std::string>();
            files.push_back(
                {name, parse_safetensors(path + ", " + name, std::as_bytes(std::span(head)),
                                         std::ssize(head) + data_bytes)});
        }
    } catch (const Json::exception& error) {
        throw DataError(fmt::format("{}: {}", path, error.what()));
    }
    return files;
}

std::string unused_tensors(const std::string& carried) {
    return carried + "/" + kUnused;
}

std::set<std::string> carried_names(const std::string& carried) {
    std::set<std::string> names;
    std::error_code problem;
    for (const auto& entry : fs::directory_iterator(carried, problem))
        if (const std::string name = entry.path().filename().string();
            name != kTensors && name != kUnused && name != kNamedTokenizer)
            names.insert(name);
    require<DataError>(!problem, "cannot read {}: {}", carried, problem.message());
    return names;
}

}  // namespace gradus
