// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <variant>
#include <vector>

#include "pattern.hpp"

namespace gradus {

class JsonFields;

/// The `pre_tokenizer` of a tokenizer.json: cuts a text into the pieces in which merges happen.
/// Split, Digits, ByteLevel, Metaspace, and Sequence of these; ByteLevel only as the last step,
/// since what it would give to later ones is the GPT-2 alphabet, not text.
class PreTokenizer {
  public:
    using Sink = std::function<void(std::string_view)>;

    /// Throws DataError naming what is not supported. `where` stands for the file in messages.
    PreTokenizer(const nlohmann::json& json, const std::string& where);

    /// Hands the pieces of `text` to `sink` in order, none empty; a piece is valid until sink
    /// returns. `first`: the text stands at the beginning of the whole (prepend_scheme "first"
    /// asks).
    void split(std::string_view text, bool first, const Sink& sink) const;
    /// Whether merges work on bytes (ByteLevel) rather than on characters.
    bool byte_level() const { return byte_level_; }

    /// What becomes of a match of Split.
    enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

  private:
    struct Split {
        Pattern pattern;
        Behavior behavior;
        bool invert;
    };
    struct Digits {
        bool individual;
    };
    struct ByteLevel {
        bool add_prefix_space;
        std::vector<Pattern> pattern;  // GPT-2's, or none
    };
    enum class Prepend { always, first, never };
    struct Metaspace {
        std::string replacement;
        Prepend prepend;
        bool split;
    };
    using Step = std::variant<Split, Digits, ByteLevel, Metaspace>;

    static Metaspace read_metaspace(JsonFields& fields);
    static std::string marked(const Metaspace& meta, std::string_view text, bool first);
    void add(const nlohmann::json& json, const std::string& where);
    void run(std::size_t step, std::string_view text, bool first, const Sink& sink) const;

    std::vector<Step> steps_;
    bool byte_level_ = false;
};

}  // namespace gradus
