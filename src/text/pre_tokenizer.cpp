// SPDX-License-Identifier: Apache-2.0
#include "pre_tokenizer.hpp"

#include "json_fields.hpp"
#include "normalizer.hpp"
#include "utf8.hpp"

namespace gradus {
namespace {

using Behavior = PreTokenizer::Behavior;

// GPT-2's own pattern (openai/gpt-2, encoder.py), which ByteLevel stands for where use_regex.
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Joins the parts of a text, matches and what is between them, as a behavior of Split says, and
/// hands the pieces on in order. Parts come from left to right and leave no gap.
template <class Emit>
class Joiner {
  public:
    Joiner(Behavior behavior, const Emit& emit) : behavior_(behavior), emit_(emit) {}

    void part(std::size_t begin, std::size_t end, bool match) {
        switch (behavior_) {
            case Behavior::isolated:
                emit_(begin, end);
                return;
            case Behavior::removed:
                if (!match) emit_(begin, end);
                return;
            case Behavior::contiguous:
                join(begin, end, open_ && match == match_);
                break;
            case Behavior::merged_with_previous:
                join(begin, end, open_ && match && !match_);
                break;
            // The same rule read from the right: a match goes to the part after it, if that is
            // none.
            case Behavior::merged_with_next:
                join(begin, end, open_ && match_ && !match);
                break;
        }
        match_ = match;
    }
    void finish() {
        if (open_) emit_(begin_, end_);
    }

  private:
    void join(std::size_t begin, std::size_t end, bool joined) {
        if (!joined) {
            finish();
            begin_ = begin;
        }
        end_ = end;
        open_ = true;
    }

    Behavior behavior_;
    const Emit& emit_;
    std::size_t begin_ = 0, end_ = 0;
    bool open_ = false, match_ = false;
};

template <class Emit>
void split_by(const Pattern& pattern, Behavior behavior, bool invert, std::string_view text,
              const Emit& emit) {
    Joiner<Emit> joiner(behavior, emit);
    std::size_t done = 0, begin = 0, end = 0;
    for (Pattern::Matches matches(pattern, text); matches.next(begin, end); done = end) {
        if (done < begin) joiner.part(done, begin, invert);
        joiner.part(begin, end, !invert);
    }
    if (done < text.size()) joiner.part(done, text.size(), invert);
    joiner.finish();
}

/// Parts of the characters that `is` holds for, one each, and of the runs between them.
template <class Is, class Emit>
void split_characters(Behavior behavior, std::string_view text, const Is& is, const Emit& emit) {
    Joiner<Emit> joiner(behavior, emit);
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint c = code_point(text.substr(at));
        if (is(c.value)) {
            if (done < at) joiner.part(done, at, false);
            joiner.part(at, at + c.bytes, true);
            done = at + c.bytes;
        }
        at += c.bytes;
    }
    if (done < text.size()) joiner.part(done, text.size(), false);
    joiner.finish();
}

Behavior read_behavior(const std::string& name, const std::string& where) {
    if (name == "Removed") return Behavior::removed;
    if (name == "Isolated") return Behavior::isolated;
    if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
    if (name == "MergedWithNext") return Behavior::merged_with_next;
    require<DataError>(name == "Contiguous", "{}: the behavior \"{}\" is not supported", where,
                       name);
    return Behavior::contiguous;
}

}  // namespace

PreTokenizer::PreTokenizer(const nlohmann::json& json, const std::string& where) {
    if (!json.is_null()) add(json, where);
}

PreTokenizer::Metaspace PreTokenizer::read_metaspace(JsonFields& fields) {
    Metaspace step{.replacement = fields.text("replacement"),
                   .prepend = Prepend::always,
                   .split = fields.flag("split", true)};
    require<DataError>(
        !step.replacement.empty() && code_point(step.replacement).bytes == step.replacement.size(),
        "{}: \"replacement\" is not one character", fields.where());
    const bool added = fields.flag("add_prefix_space", true);
    const std::string scheme = fields.find("prepend_scheme") != nullptr
                                   ? fields.text("prepend_scheme")
                               : added ? "always"
                                       : "never";
    require<DataError>(scheme == "always" || scheme == "first" || scheme == "never",
                       "{}: the prepend_scheme \"{}\" is not supported", fields.where(), scheme);
    require<DataError>(added || scheme == "never",
                       "{}: add_prefix_space = false, but prepend_scheme = {}", fields.where(),
                       scheme);
    step.prepend = scheme == "always"  ? Prepend::always
                   : scheme == "first" ? Prepend::first
                                       : Prepend::never;
    if (const auto* text = fields.find("str_rep"))
        require<DataError>(*text == step.replacement, "{}: \"str_rep\" is not \"replacement\"",
                           fields.where());
    return step;
}

void PreTokenizer::add(const nlohmann::json& json, const std::string& where) {
    JsonFields fields(json, where);
    const std::string type = fields.text("type");
    require<DataError>(!byte_level_, "{}: {} after ByteLevel is not supported", where, type);
    if (type == "Sequence") {
        std::size_t i = 0;
        for (const auto& step : fields.list("pretokenizers")) {
            require<DataError>(
                !step.is_object() || step.value("type", nlohmann::json()) != "Sequence",
                "{}: a Sequence in a Sequence is not supported", where);
            add(step, fmt::format("{}.pretokenizers[{}]", where, i++));
        }
        require<DataError>(steps_.size() <= 64, "{}: {} steps; at most 64 here", where,
                           steps_.size());
    } else if (type == "Split") {
        steps_.emplace_back(Split{read_pattern(fields.need("pattern"), where + ".pattern"),
                                  read_behavior(fields.text("behavior"), where),
                                  fields.flag("invert", false)});
    } else if (type == "Digits") {
        steps_.emplace_back(Digits{fields.flag("individual_digits", false)});
    } else if (type == "ByteLevel") {
        ByteLevel step{.add_prefix_space = fields.flag("add_prefix_space", true), .pattern = {}};
        fields.flag("trim_offsets", true);  // of offsets, which nobody asks for here
        if (fields.flag("use_regex", true)) step.pattern.emplace_back(kGpt2Pattern, where);
        steps_.emplace_back(std::move(step));
        byte_level_ = true;
    } else if (type == "Metaspace") {
        steps_.emplace_back(read_metaspace(fields));
    } else {
        throw DataError(
            fmt::format("{}: the pre-tokenizer \"{}\" is not supported; known: Split, Digits, "
                        "ByteLevel, Metaspace, Sequence",
                        where, type));
    }
    fields.finish();
}

void PreTokenizer::split(std::string_view text, bool first, const Sink& sink) const {
    run(0, text, first, sink);
}

/// The text with marks for blanks, and one before it where the settings say so.
std::string PreTokenizer::marked(const Metaspace& meta, std::string_view text, bool first) {
    std::string out;
    const bool begins = text.starts_with(meta.replacement) || text[0] == ' ';
    if (!begins && (meta.prepend == Prepend::always || (meta.prepend == Prepend::first && first)))
        out = meta.replacement;
    for (const char c : text)
        if (c == ' ')
            out += meta.replacement;
        else
            out += c;
    return out;
}

void PreTokenizer::run(std::size_t index, std::string_view text, bool first,
                       const Sink& sink) const {
    if (text.empty()) return;
    if (index == steps_.size()) return sink(text);
    const auto emitter = [&](std::string_view whole) {
        return [this, whole, index, first, &sink](std::size_t begin, std::size_t end) {
            run(index + 1, whole.substr(begin, end - begin), first && begin == 0, sink);
        };
    };
    if (const auto* split = std::get_if<Split>(&steps_[index])) {
        split_by(split->pattern, split->behavior, split->invert, text, emitter(text));
    } else if (const auto* digits = std::get_if<Digits>(&steps_[index])) {
        split_characters(digits->individual ? Behavior::isolated : Behavior::contiguous, text,
                         is_numeric, emitter(text));
    } else if (const auto* bytes = std::get_if<ByteLevel>(&steps_[index])) {
        std::string prefixed;
        if (bytes->add_prefix_space && text[0] != ' ') text = prefixed.append(" ").append(text);
        if (bytes->pattern.empty())
            emitter(text)(0, text.size());
        else
            split_by(bytes->pattern[0], Behavior::isolated, false, text, emitter(text));
    } else {
        const auto& meta = std::get<Metaspace>(steps_[index]);
        const std::string replaced = marked(meta, text, first);
        const auto emit = emitter(replaced);
        if (!meta.split) return emit(0, replaced.size());
        const char32_t mark = code_point(meta.replacement).value;
        split_characters(
            Behavior::merged_with_next, replaced, [&](char32_t c) { return c == mark; }, emit);
    }
}

}  // namespace gradus
