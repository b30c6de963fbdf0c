// SPDX-License-Identifier: Apache-2.0
#include "lexer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"

namespace gradus {
namespace {

std::string trim(const std::string& text) {
    const auto blank = " \t\r";
    const std::size_t begin = text.find_first_not_of(blank);
    if (begin == std::string::npos) return "";
    return text.substr(begin, text.find_last_not_of(blank) - begin + 1);
}

bool is_key(const std::string& key) {
    const bool characters = !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '_' || c == '.' || c == '-';
    });
    return characters && key.front() != '.' && key.back() != '.' &&
           key.find("..") == std::string::npos;
}

/// Reads the files of one deck; included files come at the place of their include.
class Lexer {
  public:
    LexedDeck result;

    void file(const std::string& path, const std::string& origin) {
        const std::string canonical = std::filesystem::weakly_canonical(path).string();
        if (std::find(open_.begin(), open_.end(), canonical) != open_.end())
            return error(origin, fmt::format("{} includes itself", path));
        std::string text;
        try {
            text = read_file(path);
        } catch (const DataError& e) {
            return error(origin.empty() ? path : origin, e.what());
        }
        open_.push_back(canonical);
        this->text(text, path);
        open_.pop_back();
    }

    void text(const std::string& text, const std::string& name) {
        int line_number = 0;
        for (std::size_t at = 0; at < text.size();) {
            const int first = line_number + 1;
            std::string line;
            // Joins continued lines.
            for (bool more = true; more && at < text.size();) {
                const std::size_t end = std::min(text.find('\n', at), text.size());
                std::string part = text.substr(at, end - at);
                at = end + 1;
                ++line_number;
                if (!part.empty() && part.back() == '\r') part.pop_back();
                more = !part.empty() && part.back() == '\\';
                if (more) part.back() = ' ';
                line += part;
            }
            this->line(line, fmt::format("{}:{}", name, first), name);
        }
    }

    /// Takes quotes, comments and variables out of a value. Inside quotes a backslash keeps the
    /// character after it; blanks count there, so only those outside are trimmed.
    bool clean(const std::string& raw, const std::string& origin, std::string& out) {
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
                if (!variable(raw, i, origin, out)) return false;
            } else {
                out += c;
                if (c == ' ' || c == '\t' || c == '\r') continue;
            }
            keep = out.size();
        }
        if (quoted) {
            error(origin, "a quote \" is not closed");
            return false;
        }
        out.resize(keep);
        return true;
    }

    void error(const std::string& origin, const std::string& what) {
        result.errors.push_back(origin + ": " + what);
    }

  private:
    void line(const std::string& line, const std::string& origin, const std::string& file_name) {
        const std::string content = trim(line);
        if (content.empty() || content.front() == '#') return;
        const std::size_t equals = content.find('=');
        if (equals == std::string::npos)
            return error(origin, fmt::format("`{}` is not of the form key = value", content));
        const std::string key = trim(content.substr(0, equals));
        if (!is_key(key)) return error(origin, fmt::format("`{}` is no key", key));
        std::string value;
        if (!clean(trim(content.substr(equals + 1)), origin, value)) return;
        if (key == "include") {
            const std::filesystem::path path(value);
            const auto here = std::filesystem::path(file_name).parent_path();
            return file(path.is_absolute() ? value : (here / path).string(), origin);
        }
        // Every include pushes one file; the deck itself is the first (or there is none for text).
        result.tokens.push_back({key, value, origin, open_.size() > 1});
    }

    bool variable(const std::string& raw, std::size_t& i, const std::string& origin,
                  std::string& out) {
        const bool braced = i + 1 < raw.size() && raw[i + 1] == '{';
        std::size_t at = i + 1 + (braced ? 1 : 0);
        std::string name;
        while (at < raw.size() && (std::isalnum(static_cast<unsigned char>(raw[at])) != 0 || raw[at] == '_'))
            name += raw[at++];
        if (name.empty() || (braced && (at >= raw.size() || raw[at] != '}'))) {
            error(origin, "after $ a name is expected: $NAME or ${NAME}");
            return false;
        }
        const char* value = std::getenv(name.c_str());
        if (value == nullptr || std::strchr(value, '\n') != nullptr) {
            error(origin, fmt::format("the environment variable {} {}", name,
                                      value == nullptr ? "is not set" : "holds a line break"));
            return false;
        }
        out += value;
        i = at - (braced ? 0 : 1);
        return true;
    }

    std::vector<std::string> open_;
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
    for (const std::string& word : words) {
        const std::size_t equals = word.find('=');
        const std::string key = trim(word.substr(0, equals));
        if (equals == std::string::npos || !is_key(key) || word.find('\n') != std::string::npos)
            lexer.error("command line", fmt::format("`{}` is not of the form key=value", word));
        else  // the shell has seen to quotes and variables already
            lexer.result.tokens.push_back(
                {key, trim(word.substr(equals + 1)), "command line", false});
    }
    return std::move(lexer.result);
}

}  // namespace gradus
