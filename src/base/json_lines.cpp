// SPDX-License-Identifier: Apache-2.0
#include "gradus/base/json_lines.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "gradus/base/error.hpp"
#include "gradus/base/handle.hpp"

namespace gradus {
namespace {

struct CloseDescriptor {
    void operator()(int descriptor) const { ::close(descriptor); }
};
using Descriptor = UniqueHandle<int, CloseDescriptor, -1>;

void write_all(int descriptor, const std::string& text, const std::string& path) {
    for (std::size_t at = 0; at < text.size();) {
        const ssize_t n = ::write(descriptor, text.data() + at, text.size() - at);
        if (n < 0 && errno == EINTR) continue;
        require<DataError>(n > 0, "cannot write {}: {}", path, std::strerror(errno));
        at += static_cast<std::size_t>(n);
    }
}

bool is_blank(int c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

}  // namespace

bool nests_too_deep(std::string_view json) {
    constexpr int kDeepest = 100;
    int depth = 0;
    bool in_text = false;
    for (std::size_t i = 0; i < json.size(); ++i) {
        const char c = json[i];
        if (in_text) {
            if (c == '\\')
                ++i;  // what is escaped ends nothing
            else if (c == '"')
                in_text = false;
        } else if (c == '"') {
            in_text = true;
        } else if (c == '[' || c == '{') {
            if (++depth > kDeepest) return true;
        } else if (c == ']' || c == '}') {
            --depth;
        }
    }
    return false;
}

JsonLinesReader::JsonLinesReader(std::string path) : path_(std::move(path)), in_(path_) {
    require<DataError>(!std::filesystem::is_directory(path_), "cannot read {}: it is a folder", path_);
    require<DataError>(in_.good(), "cannot read {}: {}", path_, std::strerror(errno));
    int first = in_.get();
    for (; is_blank(first); first = in_.get()) breaks_ += first == '\n';
    array_ = first == '[';
    if (array_) return;
    in_.clear();
    in_.seekg(0);
}

bool JsonLinesReader::next() {
    problem_.clear();
    if (!(array_ ? next_element() : next_line())) {
        require<DataError>(in_.eof() || ended_, "{}: reading stopped in the middle: {}", path_, std::strerror(errno));
        return false;
    }
    if (problem_.empty()) parse();
    return true;
}

bool JsonLinesReader::next_line() {
    do {
        if (!std::getline(in_, text_)) return false;
        ++line_;
        if (!text_.empty() && text_.back() == '\r') text_.pop_back();
    } while (text_.find_first_not_of(" \t") == std::string::npos);
    return true;
}

bool JsonLinesReader::next_element() {
    const auto more_behind_array = [&] {
        for (int c = in_.get(); c != EOF; c = in_.get()) {
            breaks_ += c == '\n';
            if (is_blank(c)) continue;
            line_ = breaks_ + 1;
            row_ = Json();
            problem_ = "text behind the end of the array";
            in_.setstate(std::ios::eofbit);  // told once
            return true;
        }
        return false;
    };
    if (ended_) return more_behind_array();
    text_.clear();
    int depth = 0;
    bool in_text = false, escaped = false;
    for (int c = in_.get(); c != EOF; c = in_.get()) {
        if (text_.empty() && !is_blank(c)) line_ = breaks_ + 1;
        breaks_ += c == '\n';
        if (in_text) {
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if (depth == 0 && (c == ',' || c == ']')) {
            ended_ = c == ']';
            if (!text_.empty()) return true;
            if (ended_) return more_behind_array();
            continue;
        } else {
            in_text = c == '"';
            depth += c == '[' || c == '{' ? 1 : c == ']' || c == '}' ? -1 : 0;
        }
        if (!text_.empty() || !is_blank(c)) text_ += static_cast<char>(c);
    }
    require<DataError>(in_.eof(), "{}: reading stopped in the middle: {}", path_, std::strerror(errno));
    ended_ = true;
    line_ = breaks_ + 1;
    row_ = Json();
    problem_ = "the file ends before its array does";
    return true;
}

void JsonLinesReader::parse() {
    row_ = Json();
    if (nests_too_deep(text_)) {
        problem_ = "not a row: brackets nest too deep";
        return;
    }
    try {
        row_ = Json::parse(text_);
        if (!row_.is_object())
            problem_ = fmt::format("a JSON object is expected, this is {}", row_.type_name());
    } catch (const nlohmann::json::exception& error) {
        problem_ = fmt::format("not a JSON object: {}", error.what());
    }
}

void for_each_json_line(const std::string& path,
                        const std::function<void(const Json&, std::int64_t)>& row) {
    JsonLinesReader lines(path);
    while (lines.next()) {
        require<DataError>(lines.problem().empty(), "{}:{}: {}", path, lines.line(), lines.problem());
        row(lines.row(), lines.line());
    }
}

JsonLinesWriter::JsonLinesWriter(std::string path) : path_(std::move(path)) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    require<DataError>(descriptor_ >= 0, "cannot open {}: {}", path_, std::strerror(errno));
}

JsonLinesWriter::~JsonLinesWriter() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

void JsonLinesWriter::write(const Json& object) {
    write_all(descriptor_, object.dump() + "\n", path_);
}

void cut_json_lines(const std::string& path, const std::string& key, std::int64_t last) {
    if (!std::filesystem::exists(path)) return;
    const std::string text = read_file(path);
    std::string kept;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = text.find('\n', at);
        if (end == std::string::npos) break;  // a torn last line
        const std::string line = text.substr(at, end - at);
        at = end + 1;
        const Json object = Json::parse(line, nullptr, false);
        if (object.is_object() && object.value(key, std::int64_t{0}) <= last) kept += line + "\n";
    }
    if (kept != text) write_file_atomically(path, kept);
}

void write_file_atomically(const std::string& path, const std::string& text) {
    const std::string temporary = path + ".tmp";
    {
        const Descriptor file(
            ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
        require<DataError>(static_cast<bool>(file), "cannot write {}: {}", temporary,
                           std::strerror(errno));
        write_all(file.get(), text, temporary);
        const bool synced = ::fsync(file.get()) == 0;  // before errno is read
        require<DataError>(synced, "cannot sync {}: {}", temporary,
                           std::strerror(errno));
    }
    const bool renamed = ::rename(temporary.c_str(), path.c_str()) == 0;  // before errno is read
    require<DataError>(renamed, "cannot rename {} to {}: {}",
                       temporary, path, std::strerror(errno));
}

std::string read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    require<DataError>(in.good() && !std::filesystem::is_directory(path), "cannot read {}: {}", path,
                       std::strerror(errno));
    std::ostringstream text;
    text << in.rdbuf();
    require<DataError>(in.good(), "cannot read {}: {}", path, std::strerror(errno));
    return std::move(text).str();
}

}  // namespace gradus
