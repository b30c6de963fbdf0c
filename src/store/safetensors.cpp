// SPDX-License-Identifier: Apache-2.0
#include "gradus/store/safetensors.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "json_text.hpp"

namespace gradus {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr std::int64_t kMaxIndex = 64'000'000;  // ten times that of a model of 100 000 tensors

struct CloseDescriptor {
    void operator()(int descriptor) const { ::close(descriptor); }
};

std::span<const std::byte> map_file(const std::string& path) {
    const UniqueHandle<int, CloseDescriptor, -1> file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    require<DataError>(static_cast<bool>(file), "cannot open {}: {}", path, std::strerror(errno));
    struct stat found = {};
    const bool found_it = ::fstat(file.get(), &found) == 0;  // before errno is read
    require<DataError>(found_it, "cannot read {}: {}", path,
                       std::strerror(errno));
    require<DataError>(S_ISREG(found.st_mode), "cannot read {}: it is not a file", path);
    require<DataError>(found.st_size > 0, "{}: the file is empty", path);
    void* const data = ::mmap(nullptr, static_cast<std::size_t>(found.st_size), PROT_READ,
                              MAP_SHARED, file.get(), 0);
    require<DataError>(data != MAP_FAILED, "cannot map {}: {}", path, std::strerror(errno));
    return {static_cast<const std::byte*>(data), static_cast<std::size_t>(found.st_size)};
}

/// `name` is that of a file of its folder, and of a safetensors file.
bool plain_name(const std::string& name) {
    return !name.empty() && name.find('/') == std::string::npos &&
           name.find('\0') == std::string::npos && name.front() != '.' &&
           name.ends_with(".safetensors");
}

}  // namespace

void SafetensorsFile::Unmap::operator()(const std::span<const std::byte>* map) const {
    ::munmap(const_cast<std::byte*>(map->data()), map->size());
    delete map;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
    map_ = decltype(map_)(new std::span<const std::byte>(map_file(path)));
    const std::span<const std::byte> bytes = *map_.get();
    header_ = parse_safetensors(path, bytes, std::ssize(bytes));
    data_ = bytes.data() + (std::ssize(bytes) - header_.data_bytes);
}

void release_pages(const void* data, std::int64_t bytes) {
    static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(data) / page * page;
    const auto end = reinterpret_cast<std::uintptr_t>(data) + static_cast<std::uintptr_t>(bytes);
    // Advice: where it is not taken, memory is all that is lost.
    if (bytes > 0) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

std::map<std::string, std::string> parse_safetensors_index(const std::string& file,
                                                           const std::string& text) {
    require<DataError>(std::ssize(text) <= kMaxIndex, "{}: it has more than {} bytes", file,
                       kMaxIndex);
    // A later one of two equal keys would win without a word.
    std::set<std::string> names;
    std::string problem;
    // The ordered kind looks through all keys before each new one.
    using Tree = nlohmann::json;
    const auto watch = [&](int depth, Tree::parse_event_t event, Tree& parsed) {
        if (depth > 3 && problem.empty()) problem = "it is nested too deep";
        if (depth == 2 && event == Tree::parse_event_t::key &&
            !names.insert(parsed.get<std::string>()).second && problem.empty())
            problem = "the name " + json_text(parsed.get<std::string>()) + " stands there twice";
        return problem.empty();
    };
    Tree json;
    try {
        json = Tree::parse(text, watch);
    } catch (const Tree::exception& error) {
        throw DataError(fmt::format("{}: not JSON: {}", file, error.what()));
    }
    require<DataError>(problem.empty(), "{}: {}", file, problem);
    require<DataError>(
        json.is_object() && json.contains("weight_map") && json["weight_map"].is_object(),
        "{}: there is no object `weight_map` in it", file);
    std::map<std::string, std::string> map;
    for (const auto& [name, value] : json["weight_map"].items()) {
        require<DataError>(value.is_string(), "{}: weight_map: tensor {}: its file is not a text",
                           file, json_text(name));
        const auto& target = value.get_ref<const std::string&>();
        require<DataError>(
            plain_name(target),
            "{}: weight_map: tensor {}: {} is not the name of a .safetensors file beside the "
            "index",
            file, json_text(name), json_text(target));
        map[name] = target;
    }
    require<DataError>(!map.empty(), "{}: its weight_map is empty", file);
    return map;
}

SafetensorsFolder::SafetensorsFolder(const std::string& folder) : path_(folder) {
    std::error_code none;
    require<DataError>(fs::is_directory(folder, none), "{}: there is no such folder", folder);
    const std::string index_file = folder + "/" + kIndex;
    const bool sharded = fs::exists(index_file, none),
               single = fs::exists(folder + "/" + kSingle, none);
    require<DataError>(
        sharded || single,
        "{}: neither {} nor {} is there (weights in another format, as *.bin, are not read)",
        folder, kSingle, kIndex);
    std::map<std::string, std::string> index;
    std::set<std::string> names = {kSingle};
    if (sharded) {
        require<DataError>(static_cast<std::int64_t>(fs::file_size(index_file, none)) <= kMaxIndex,
                           "{}: it has more than {} bytes", index_file, kMaxIndex);
        index = parse_safetensors_index(index_file, read_file(index_file));
        names.clear();
        for (const auto& [tensor, file] : index) names.insert(file);
        require<DataError>(!single || names.contains(kSingle),
                           "{}: both {} and {}, which does not name it, are there: remove one",
                           folder, kSingle, kIndex);
    }
    file_names_.assign(names.begin(), names.end());
    files_.reserve(names.size());
    for (const std::string& name : file_names_) files_.emplace_back(folder + "/" + name);
    for (std::size_t f = 0; f < files_.size(); ++f)
        for (const SafetensorsEntry& entry : files_[f].header().entries) {
            const auto [place, fresh] =
                tensors_.emplace(entry.name, Tensor{&entry, f, files_[f].data(entry)});
            require<DataError>(fresh, "{}: tensor {} is in {} and in {}", folder,
                               json_text(entry.name), file_names_[place->second.file],
                               file_names_[f]);
            if (!sharded) continue;
            const auto listed = index.find(entry.name);
            require<DataError>(listed != index.end(),
                               "{}: tensor {} of {} is not in its weight_map", index_file,
                               json_text(entry.name), file_names_[f]);
            require<DataError>(listed->second == file_names_[f],
                               "{}: tensor {} is in {}, the weight_map says {}", index_file,
                               json_text(entry.name), file_names_[f], listed->second);
        }
    for (const auto& [name, file] : index)
        require<DataError>(tensors_.contains(name),
                           "{}: {} holds no tensor {}, which the weight_map names", index_file,
                           file, json_text(name));
    for (const auto& entry : fs::directory_iterator(folder))
        if (const std::string name = entry.path().filename().string();
            name.ends_with(".safetensors") && !names.contains(name))
            strays_.push_back(name);
    std::sort(strays_.begin(), strays_.end());
}

}  // namespace gradus
