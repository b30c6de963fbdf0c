// SPDX-License-Identifier: Apache-2.0
// Files of Hugging Face's safetensors format: eight bytes with the length of a JSON header (little
// endian), the header {name: {dtype, shape, data_offsets}, "__metadata__": {...}}, the tensors'
// bytes. Reading maps the file; a tensor is a pointer into the map. Files come from strangers:
// whatever their bytes are, they are described correctly or refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gradus/base/handle.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus {

/// A tensor as a header describes it.
struct SafetensorsEntry {
    std::string name;
    std::string dtype;  ///< as in the file: "BF16"
    Shape shape;
    std::int64_t begin = 0;  ///< of its bytes in the data after the header
    std::int64_t end = 0;
    std::int64_t bytes() const { return end - begin; }
};

/// "F32", "BF16", "F16", "F8_E4M3" as a type of Gradus; nothing for the format's other types.
std::optional<DType> float_dtype(std::string_view dtype);
/// The other way. Throws InternalError for a type that is none of these.
std::string safetensors_dtype(DType dtype);
/// Bytes of a number of any type of the format; 0: unknown.
std::int64_t safetensors_size(std::string_view dtype);

struct SafetensorsHeader {
    std::vector<SafetensorsEntry> entries;  ///< in the header's order
    std::map<std::string, std::string> metadata;
    std::string text;  ///< the JSON as it stands, padding included
    std::int64_t data_bytes = 0;
};

/// Reads the header of a file whose first bytes are `head` and which has `file_bytes` in all;
/// `head` must hold the whole header where the file does. Throws DataError, which begins with
/// `file` and names the tensor: truncated file, header of more than 100 MB, bad JSON, a name twice,
/// unknown type, bytes that are not type x shape, overlapping ranges, gaps, bytes after the last
/// tensor.
SafetensorsHeader parse_safetensors(const std::string& file, std::span<const std::byte> head,
                                    std::int64_t file_bytes);

/// One file, mapped for reading.
class SafetensorsFile {
  public:
    /// Throws DataError as parse_safetensors, and where the file cannot be read.
    explicit SafetensorsFile(const std::string& path);

    const std::string& path() const { return path_; }
    const SafetensorsHeader& header() const { return header_; }
    /// The bytes of a tensor; no alignment is promised.
    const std::byte* data(const SafetensorsEntry& entry) const { return data_ + entry.begin; }

  private:
    struct Unmap {
        void operator()(const std::span<const std::byte>* map) const;
    };
    std::string path_;
    UniqueHandle<const std::span<const std::byte>*, Unmap, nullptr> map_;
    SafetensorsHeader header_;
    const std::byte* data_ = nullptr;
};

/// Says that mapped bytes are not needed any more, so that they leave the process's memory; they
/// can be read again.
void release_pages(const void* data, std::int64_t bytes);

/// The weights of a Hugging Face folder: model.safetensors, or model.safetensors.index.json with
/// the files that it names.
class SafetensorsFolder {
  public:
    struct Tensor {
        const SafetensorsEntry* entry = nullptr;
        std::size_t file = 0;  ///< number in files()
        const std::byte* data = nullptr;
    };

    /// Throws DataError: neither or both of the two are there, an index that is no such JSON or
    /// names a file outside the folder, a tensor that its file lacks, that is in two files, or not
    /// in the index.
    explicit SafetensorsFolder(const std::string& folder);

    const std::string& path() const { return path_; }
    const std::vector<SafetensorsFile>& files() const { return files_; }
    /// Their names in the folder.
    const std::vector<std::string>& file_names() const { return file_names_; }
    /// *.safetensors in the folder that are not part of it.
    const std::vector<std::string>& strays() const { return strays_; }
    /// All tensors, by name.
    const std::map<std::string, Tensor>& tensors() const { return tensors_; }

  private:
    std::string path_;
    std::vector<SafetensorsFile> files_;
    std::vector<std::string> file_names_, strays_;
    std::map<std::string, Tensor> tensors_;
};

/// Reads model.safetensors.index.json: names of tensors with their files. Throws DataError, which
/// begins with `file`.
std::map<std::string, std::string> parse_safetensors_index(const std::string& file,
                                                           const std::string& text);

}  // namespace gradus
