// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace gradus {

using Json = nlohmann::ordered_json;

/// Whether brackets nest deeper than in any file that is read here (100). Asked before a file of
/// strangers is parsed: the library copies and writes trees by recursion, on a stack that ends.
bool nests_too_deep(std::string_view json);

/// Reads a JSONL file line by line, or a file that is one JSON array of objects element by element; one row is in memory
/// at a time. Blank lines are passed over. A file that begins with `[` is an array.
class JsonLinesReader {
  public:
    /// Throws DataError where the file cannot be read.
    explicit JsonLinesReader(std::string path);
    /// Goes to the next row; false at the end. Throws DataError where reading fails.
    bool next();
    /// Number of the line on which the row begins, from 1.
    std::int64_t line() const { return line_; }
    /// Why it is no row: not JSON, not UTF-8, not an object; "" where it is one.
    const std::string& problem() const { return problem_; }
    const Json& row() const { return row_; }

  private:
    /// The text of the next row into text_; false at the end.
    bool next_line();
    bool next_element();
    void parse();

    std::string path_, text_, problem_;
    std::ifstream in_;
    std::int64_t line_ = 0;
    std::int64_t breaks_ = 0;  ///< of lines, before the next character of an array
    bool array_ = false, ended_ = false;
    Json row_;
};

/// Calls `row(object, line_number)` for every row of a file that JsonLinesReader reads.
/// Throws DataError naming file and line where a line is no row.
void for_each_json_line(const std::string& path,
                        const std::function<void(const Json&, std::int64_t)>& row);

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
