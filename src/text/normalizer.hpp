// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <variant>
#include <vector>

#include "pattern.hpp"

namespace gradus {

/// A code point that may change in normalisation form C, or make a neighbour change: all that is not
/// NFC_Quick_Check=Yes with combining class 0 (UAX 15, section 9). Found from utf8proc's tables.
class CompositionTable {
  public:
    CompositionTable();
    bool inert(char32_t c) const { return c >= kEnd || !active_[c]; }

  private:
    static constexpr char32_t kEnd = 0x30000;  // nothing composes or decomposes beyond
    std::vector<bool> active_;
};

/// The `normalizer` of a tokenizer.json: null, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, and
/// Sequence of these.
class Normalizer {
  public:
    /// Throws DataError naming what is not supported. `where` stands for the file in messages.
    Normalizer(const nlohmann::json& json, const std::string& where);
    /// The text after all steps, one after the other. `text` must be well-formed UTF-8.
    std::string apply(std::string text) const;
    bool empty() const { return steps_.empty(); }

  private:
    struct Compose {
        CompositionTable table;
    };
    struct Decompose {
        int options;  // of utf8proc
    };
    struct Lowercase {};
    struct Prepend {
        std::string text;
    };
    struct Replace {
        Pattern pattern;
        std::string content;
    };
    using Step = std::variant<Compose, Decompose, Lowercase, Prepend, Replace>;

    void add(const nlohmann::json& json, const std::string& where);
    static std::string run(const Compose& step, std::string text);
    static std::string run(const Decompose& step, std::string text);
    static std::string run(const Lowercase& step, std::string text);
    static std::string run(const Prepend& step, std::string text);
    static std::string run(const Replace& step, std::string text);

    std::vector<Step> steps_;
};

/// {"String": "..."} or {"Regex": "..."}.
Pattern read_pattern(const nlohmann::json& json, const std::string& where);

}  // namespace gradus
