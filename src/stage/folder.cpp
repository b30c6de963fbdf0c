// SPDX-License-Identifier: Apache-2.0
#include "folder.hpp"

#include <set>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/base/log.hpp"

namespace gradus {
namespace {

std::vector<FolderFile> files_of(const SafetensorsFolder& weights) {
    std::vector<FolderFile> files;
    for (std::size_t f = 0; f < weights.files().size(); ++f)
        files.push_back({weights.file_names()[f], weights.files()[f].header()});
    return files;
}

}  // namespace

HuggingFaceConfig read_config_file(const std::string& path,
                                   std::span<const std::string> ignored_keys) {
    constexpr std::size_t kMost = 16'000'000;
    const std::string text = read_file(path);
    require<DataError>(text.size() <= kMost, "{}: it has more than {} bytes", path, kMost);
    require<DataError>(!nests_too_deep(text), "{}: brackets nest too deep", path);
    Json json;
    try {
        json = Json::parse(text);
    } catch (const Json::exception& error) {
        throw DataError(fmt::format("{}: not JSON: {}", path, error.what()));
    }
    return read_hugging_face_config(json, path, ignored_keys);
}

Folder::Folder(const std::string& folder, std::span<const std::string> ignored_keys)
    : path(folder),
      config(read_config_file(folder + "/config.json", ignored_keys)),
      weights(folder),
      model(folder_model(config, files_of(weights))),
      map(map_weights(model, files_of(weights), folder)) {
    require<DataError>(
        !map.has_fp8 || config.fp8,
        "{}: it has F8_E4M3 weights, but config.json has no quantization_config that says how they "
        "are scaled",
        folder);
}

std::int64_t Folder::stored_bytes() const {
    std::int64_t bytes = 0;
    for (const auto& [tensor, stored] : map.stored)
        bytes += stored.global.elements() * size_of(stored.dtype);
    return bytes;
}

std::string Folder::summary() const {
    std::int64_t bytes = 0;
    std::set<std::string> dtypes;
    for (const FolderWeight& weight : map.weights) {
        bytes += weight.entry.bytes();
        dtypes.insert(weight.entry.dtype);
    }
    std::string types;
    for (const std::string& dtype : dtypes) types += (types.empty() ? "" : ", ") + dtype;
    return fmt::format("{}: {}, {} parameters, {} tensors in {} files, {} ({})", path,
                       config.family, format_count(static_cast<double>(model.parameters())),
                       map.weights.size(), weights.files().size(),
                       format_bytes(static_cast<double>(bytes)), types);
}

std::vector<std::string> Folder::notes() const {
    std::vector<std::string> lines;
    for (const FolderWeight& weight : map.weights)
        if (weight.use == FolderWeight::Use::unused)
            lines.push_back(fmt::format(
                "{} is not used: the model computes rotary frequencies from config.json; "
                "kept for export",
                weight.entry.name));
    for (const std::string& file : weights.strays())
        lines.push_back(
            fmt::format("{}/{} is not part of the model's weights: left out", path, file));
    if (config.announced_mtp_layers > 0 && model.mtp_layers == 0)
        lines.push_back(fmt::format(
            "config.json announces {} multi-token prediction layers, but there are no tensors "
            "of them: the model has none",
            config.announced_mtp_layers));
    if (map.has_fp8)
        lines.emplace_back("F8_E4M3 weights keep their bytes and scales until a stage trains them");
    return lines;
}

}  // namespace gradus
