// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <variant>
#include <vector>

#include "pattern.hpp"

namespace gradus {

/// The `normalizer` of a tokenizer.json: null, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace,
/// and Sequence of these.
class Normalizer {
  public:
    /// Throws DataError naming what is not supported. `where` stands for the file in messages.
    Normalizer(const nlohmann::json& json, const std::string& where);
    /// The text after all steps, one after the other. `text` must be well-formed UTF-8.
    std::string apply(std::string text) const;
    bool empty() const { return steps_.empty(); }

  private:
    struct Compose {};
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
