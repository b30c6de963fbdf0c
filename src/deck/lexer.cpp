// SPDX-License-Identifier: Apache-2.0
#include "lexer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "words.hpp"

namespace gradus {
namespace {

// Files that include each other twice grow as 2^depth; no deck needs so many.
constexpr int kMostFiles = 1000;

bool is_alnum(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0;
}

bool is_key(const std::string& key) {
    return !key.empty() && key.front() != '.' && key.back() != '.' &&
           key.find("..") == std::string::npos && std::all_of(key.begin(), key.end(), [](char c) {
               return is_alnum(c) || c == '_' || c == '.' || c == '-';
           });
}

/// Follows the parts of a continued line: where a comment begins, and whether a quote is open.
class LineScan {
  public:
    /// Takes the next part; returns whether its last backslash continues the line.
    bool continues(const std::string& part) {
        const std::size_t end = part.find_last_not_of(" \t\r");
        const bool backslash = end != std::string::npos && part[end] == '\\';
        for (std::size_t i = 0; i < part.size() && !comment_; ++i) {
            if (part[i] == '#' && !quoted_)
                comment_ = true;
            else if (part[i] == '=')
                value_ = true;
            else if (part[i] == '"' && value_)
                quoted_ = !quoted_;
            else if (part[i] == '\\' && quoted_) {
                if (i + 1 == part.size()) return true;
                ++i;
            }
        }
        return backslash && !comment_ && !quoted_;
    }

  private:
    bool value_ = false, quoted_ = false, comment_ = false;
};

/// Reads the files of one deck; included files come at the place of their include.
class Lexer {
  public:
    LexedDeck result;

    void file(const std::string& path, const std::string& origin) {
        std::error_code unused;
        const auto canonical = std::filesystem::weakly_canonical(path, unused).string();
        if (std::find(open_.begin(), open_.end(), canonical) != open_.end())
            return lose(origin, fmt::format("{} includes itself", shown(path)));
        if (++files_ > kMostFiles)
            return lose(origin, fmt::format("more than {} files are included", kMostFiles));
        if (std::filesystem::is_directory(path, unused))
            return lose(origin, fmt::format("{} is a folder, not a deck", shown(path)));
        std::string content;
        try {
            content = read_file(path);
        } catch (const DataError& e) {
            return lose(origin, e.what());
        }
        open_.push_back(canonical);
        text(content, path);
        open_.pop_back();
    }

    void text(const std::string& text, const std::string& name) {
        ++depth_;
        int line_number = 0;
        // Some editors put a byte order mark before UTF-8.
        for (std::size_t at = text.rfind("\xEF\xBB\xBF", 0) == 0 ? 3 : 0; at < text.size();) {
            const int first = line_number + 1;
            std::string joined;
            LineScan scan;
            for (bool more = true; more && at < text.size();) {
                const std::size_t end = std::min(text.find('\n', at), text.size());
                std::string part = text.substr(at, end - at);
                at = end + 1;
                ++line_number;
                if (!part.empty() && part.back() == '\r') part.pop_back();
                more = scan.continues(part);
                if (more) part.erase(part.rfind('\\'));
                joined += part;
                if (more) joined += ' ';
            }
            ++result.places;
            line(joined, fmt::format("{}:{}", shown(name), first), name);
        }
        --depth_;
    }

    void word(const std::string& word) {
        ++result.places;
        const std::string origin = "command line";
        const std::size_t equals = word.find('=');
        const std::string key = trim(word.substr(0, equals));
        if (equals == std::string::npos || !is_key(key))
            return malformed(word, origin, "key=value");
        if (key == "include") return fault(origin, "include stands in decks only");
        add(key, trim(word.substr(equals + 1)), origin);
    }

  private:
    void line(const std::string& line, const std::string& origin, const std::string& file_name) {
        const std::string content = trim(line);
        if (content.empty() || content.front() == '#') return;
        const std::size_t equals = content.find('=');
        if (equals == std::string::npos) return malformed(content, origin, "key = value");
        const std::string key = trim(content.substr(0, equals));
        if (!is_key(key))
            return fault(origin, fmt::format("`{}` is no key: words of letters, digits, _ and - "
                                             "with dots between them stand before =",
                                             shown(key)));
        std::string value;
        if (const std::string wrong = clean(trim(content.substr(equals + 1)), value);
            !wrong.empty())
            return spoil(key, origin, wrong);
        if (key != "include") return add(key, value, origin);
        if (value.empty()) return lose(origin, "include names no file");
        const std::filesystem::path path(value);
        const auto here = std::filesystem::path(file_name).parent_path();
        file(path.is_absolute() ? value : (here / path).string(), origin);
    }

    void add(const std::string& key, const std::string& value, const std::string& origin) {
        if (const std::string_view fault = fault_of(value); !fault.empty())
            return spoil(key, origin, fmt::format("the value of {} holds {}", key, fault));
        result.tokens.push_back({key, value, origin, depth_ > 1, result.places});
    }

    /// Takes quotes, comments and variables out of a value; returns what is wrong, or "". Blanks in
    /// quotes count, so only those outside are trimmed.
    static std::string clean(const std::string& raw, std::string& out) {
        bool quoted = false;
        std::size_t keep = 0;  // what of `out` is not trailing blank
        for (std::size_t i = 0; i < raw.size(); ++i) {
            const char c = raw[i];
            if (c == '"') {
                quoted = !quoted;
            } else if (quoted) {
                if (c == '\\' && i + 1 < raw.size()) ++i;
                out += raw[i];
            } else if (c == '#') {
                break;
            } else if (c == '$') {
                if (std::string wrong = variable(raw, i, out); !wrong.empty()) return wrong;
            } else {
                out += c;
                if (c == ' ' || c == '\t' || c == '\r') continue;
            }
            keep = out.size();
        }
        out.resize(keep);
        return quoted ? "a quote \" is not closed" : "";
    }

    /// Appends the variable whose $ stands at raw[i] and moves i to its last character.
    static std::string variable(const std::string& raw, std::size_t& i, std::string& out) {
        const bool braced = i + 1 < raw.size() && raw[i + 1] == '{';
        const std::size_t begin = i + (braced ? 2 : 1);
        std::size_t end = begin;
        while (end < raw.size() && (is_alnum(raw[end]) || raw[end] == '_')) ++end;
        const std::string name = raw.substr(begin, end - begin);
        if (name.empty() || (braced && (end >= raw.size() || raw[end] != '}')))
            return "after $ a name is expected, $NAME or ${NAME}; for the character write \"$\"";
        const char* value = std::getenv(name.c_str());
        if (value == nullptr)
            return fmt::format("the environment variable {} is not set", shown(name));
        out += value;
        i = end - (braced ? 0 : 1);
        return "";
    }

    void fault(const std::string& origin, const std::string& what) {
        result.faults.push_back({result.places, origin.empty() ? what : origin + ": " + what});
    }
    /// A file that cannot be read.
    void lose(const std::string& origin, const std::string& what) {
        result.incomplete = true;
        fault(origin, what);
    }
    void malformed(const std::string& text, const std::string& origin, const std::string& form) {
        // What its first word most likely means is not missing.
        result.spoiled.insert(text.substr(0, text.find_first_of(" \t:=")));
        fault(origin, fmt::format("`{}` is not of the form {}", shown(text), form));
    }
    /// A key whose value cannot be read.
    void spoil(const std::string& key, const std::string& origin, const std::string& what) {
        if (key == "include") result.incomplete = true;
        result.spoiled.insert(key);
        fault(origin, what);
    }

    std::vector<std::string> open_;
    int files_ = 0;
    int depth_ = 0;  ///< texts that are being read: the deck, what it includes ...
};

}  // namespace

LexedDeck lex_deck(const std::string& path) {
    Lexer lexer;
    lexer.file(path, "");
    return std::move(lexer.result);
}

LexedDeck lex_deck_text(const std::string& text, const std::string& name) {
    Lexer lexer;
    lexer.text(text, name);
    return std::move(lexer.result);
}

LexedDeck lex_overrides(const std::vector<std::string>& words) {
    Lexer lexer;
    for (const std::string& word : words) lexer.word(word);
    return std::move(lexer.result);
}

}  // namespace gradus
