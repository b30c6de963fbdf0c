// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace gradus {

using Json = nlohmann::ordered_json;

/// Calls `row(object, line_number)` for every non-blank line of a JSONL file (lines count from 1).
/// Throws DataError naming file and line where a line is not a JSON object or is not valid UTF-8,
/// and where the file cannot be read. Where `bad` is given, lines that are not fit go there and the
/// walk goes on.
void for_each_json_line(const std::string& path,
                        const std::function<void(const Json&, std::int64_t)>& row,
                        const std::function<void(std::int64_t)>& bad = {});

/// Append-only JSONL file, one object a line, flushed after each.
class JsonLinesWriter {
  public:
    /// Opens for appending; throws DataError.
    explicit JsonLinesWriter(std::string path);
    ~JsonLinesWriter();
    JsonLinesWriter(const JsonLinesWriter&) = delete;
    JsonLinesWriter& operator=(const JsonLinesWriter&) = delete;
    /// Throws DataError (disk full, say).
    void write(const Json& object);

  private:
    std::string path_;
    int descriptor_ = -1;
};

/// Removes the lines of a JSONL file whose integer field `key` is greater than `last`, and a torn
/// last line. The file is rewritten beside itself and renamed. A missing file is fine.
void cut_json_lines(const std::string& path, const std::string& key, std::int64_t last);

/// Writes `text` to `path.tmp`, syncs and renames. Throws DataError.
void write_file_atomically(const std::string& path, const std::string& text);
/// Whole file as a string. Throws DataError.
std::string read_file(const std::string& path);

}  // namespace gradus
