// SPDX-License-Identifier: Apache-2.0
#include "tokenizer_file.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "gradus/base/json_lines.hpp"
#include "json_fields.hpp"
#include "utf8.hpp"

namespace gradus {
namespace {

using Value = JsonFields::Value;

constexpr std::int64_t kMaxId = std::int64_t{1} << 22;
constexpr std::size_t kMaxAddedBytes = 1024;

const Value& or_null(const Value* value) {
    static const Value null;
    return value == nullptr ? null : *value;
}

Value parsed(std::string_view json, const std::string& name) {
    require<DataError>(!nests_too_deep(json), "{}: brackets nest too deep", name);
    try {
        return Value::parse(json);
    } catch (const nlohmann::json::exception& error) {
        throw DataError(fmt::format("{}: not JSON: {}", name, error.what()));
    }
}

std::vector<AddedToken> read_added(const Value* list, const std::string& where) {
    std::vector<AddedToken> tokens;
    if (list == nullptr) return tokens;
    require<DataError>(list->is_array(), "{}: \"added_tokens\" is not a list", where);
    for (const Value& json : *list) {
        JsonFields fields(json, fmt::format("{}: added_tokens[{}]", where, tokens.size()));
        AddedToken token{.id = static_cast<TokenId>(fields.count("id", kMaxId)),
                         .content = fields.text("content"),
                         .special = fields.flag("special", false)};
        token.normalized = fields.flag("normalized", !token.special);
        token.single_word = fields.flag("single_word", false);
        token.lstrip = fields.flag("lstrip", false);
        token.rstrip = fields.flag("rstrip", false);
        fields.finish();
        require<DataError>(!token.content.empty() && token.content.size() <= kMaxAddedBytes,
                           "{}: \"content\" has {} bytes; 1 to {} are supported", fields.where(),
                           token.content.size(), kMaxAddedBytes);
        tokens.push_back(std::move(token));
    }
    return tokens;
}

std::vector<Bpe::Entry> read_vocabulary(const Value& json, const std::string& where) {
    require<DataError>(json.is_object() && !json.empty(),
                       "{}: \"vocab\" is not a list of names with ids", where);
    std::vector<Bpe::Entry> vocabulary;
    vocabulary.reserve(json.size());
    for (const auto& [piece, id] : json.items()) {
        require<DataError>(
            id.is_number_unsigned() && id.get<std::uint64_t>() < static_cast<std::uint64_t>(kMaxId),
            "{}: the id of \"{}\" is not a whole number below {}", where, piece, kMaxId);
        vocabulary.push_back({piece, id.get<TokenId>()});
    }
    std::sort(vocabulary.begin(), vocabulary.end(),
              [](const auto& a, const auto& b) { return a.id < b.id; });
    for (std::size_t i = 1; i < vocabulary.size(); ++i)
        require<DataError>(vocabulary[i].id != vocabulary[i - 1].id,
                           "{}: \"{}\" and \"{}\" have the same id", where, vocabulary[i - 1].piece,
                           vocabulary[i].piece);
    return vocabulary;
}

/// "a b", or ["a", "b"].
std::vector<Bpe::Merge> read_merges(const Value& json, const std::string& where) {
    std::vector<Bpe::Merge> merges;
    merges.reserve(json.size());
    for (const Value& row : json) {
        Bpe::Merge merge;
        bool good = false;
        if (row.is_string()) {
            const auto& text = row.get_ref<const std::string&>();
            const std::size_t blank = text.find(' ');
            good = blank != std::string::npos && text.find(' ', blank + 1) == std::string::npos;
            if (good) merge = {text.substr(0, blank), text.substr(blank + 1)};
        } else if (row.is_array() && row.size() == 2 && row[0].is_string() && row[1].is_string()) {
            good = true;
            merge = {row[0].get<std::string>(), row[1].get<std::string>()};
        }
        require<DataError>(good && !merge.left.empty() && !merge.right.empty(),
                           "{}: merges[{}] is not \"a b\" or [\"a\", \"b\"]", where, merges.size());
        merges.push_back(std::move(merge));
    }
    return merges;
}

/// The model of the file: its tables, and what is said beside them.
struct Model {
    std::vector<Bpe::Entry> vocabulary;
    std::vector<Bpe::Merge> merges;
    Bpe::Options options;
};

Model read_model(const Value& json, const std::string& where) {
    JsonFields fields(json, where);
    // GPT-2's own file names no type.
    const std::string type = fields.find("type") != nullptr ? fields.text("type") : "BPE";
    require<DataError>(type == "BPE", "{}: the type \"{}\" is not supported; known: BPE", where,
                       type);
    if (const Value* dropout = fields.find("dropout"))
        require<DataError>(*dropout == 0, "{}: dropout is not supported", where);
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (const Value* text = fields.find(affix))
            require<DataError>(*text == "", "{}: {} is not supported", where, affix);
    Model model{.vocabulary = read_vocabulary(fields.need("vocab"), where),
                .merges = read_merges(fields.list("merges"), where),
                .options = {.ignore_merges = fields.flag("ignore_merges", false),
                            .byte_fallback = fields.flag("byte_fallback", false),
                            .fuse_unk = fields.flag("fuse_unk", false)}};
    if (fields.find("unk_token") != nullptr) {
        const std::string unk = fields.text("unk_token");
        for (const Bpe::Entry& entry : model.vocabulary)
            if (entry.piece == unk) model.options.unk = entry.id;
        require<DataError>(model.options.unk >= 0,
                           "{}: the unk_token \"{}\" is not in the vocabulary", where, unk);
    }
    fields.finish();
    return model;
}

/// The vocabulary and merges with GPT-2's alphabet read as bytes. What has other characters cannot
/// come from a text, so it has no place in the tables.
void to_bytes(Model& model, const std::string& where) {
    std::vector<Bpe::Entry> entries;
    for (Bpe::Entry& entry : model.vocabulary)
        if (auto bytes = bytes_of_alphabet(entry.piece))
            entries.push_back({std::move(*bytes), entry.id});
    model.vocabulary = std::move(entries);
    for (std::size_t i = 0; i < model.merges.size(); ++i) {
        auto left = bytes_of_alphabet(model.merges[i].left),
             right = bytes_of_alphabet(model.merges[i].right);
        require<DataError>(left && right, "{}: merges[{}] has a character that stands for no byte",
                           where, i);
        model.merges[i] = {std::move(*left), std::move(*right)};
    }
}

/// Every token has one id, every id one token.
void check_added(const std::vector<AddedToken>& added, const std::vector<Bpe::Entry>& vocabulary,
                 const std::string& where) {
    std::unordered_map<std::string_view, TokenId> id_of;
    std::unordered_map<TokenId, std::string_view> text_of;
    const auto add = [&](std::string_view text, TokenId id) {
        const auto [a, new_text] = id_of.emplace(text, id);
        const auto [b, new_id] = text_of.emplace(id, text);
        require<DataError>(a->second == id, "{}: \"{}\" has the ids {} and {}", where, text,
                           a->second, id);
        require<DataError>(b->second == text, "{}: the id {} stands for \"{}\" and for \"{}\"",
                           where, id, b->second, text);
    };
    for (const Bpe::Entry& entry : vocabulary) add(entry.piece, entry.id);
    for (const AddedToken& token : added) add(token.content, token.id);
}

/// The single special token of `ids`, which stand at one end of a text; -1 if there is none.
void take_special(JsonFields& tokens, const std::string& name, TokenId& place) {
    JsonFields token(tokens.need(name), tokens.inside(name));
    const Value& ids = token.list("ids");
    require<DataError>(place < 0 && ids.size() == 1 && ids[0].is_number_unsigned() &&
                           ids[0].get<std::uint64_t>() < static_cast<std::uint64_t>(kMaxId),
                       "{}: more than one special token at an end of a text is not supported",
                       token.where());
    place = ids[0].get<TokenId>();
}

void read_post_processor(const Value& json, const std::string& where, TokenizerFile& file) {
    if (json.is_null()) return;
    JsonFields fields(json, where);
    const std::string type = fields.text("type");
    if (type == "ByteLevel") {
        for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"})
            fields.flag(key, true);
    } else if (type == "Sequence") {
        std::size_t i = 0;
        for (const Value& step : fields.list("processors")) {
            require<DataError>(!step.is_object() || step.value("type", Value()) != "Sequence",
                               "{}: a Sequence in a Sequence is not supported", where);
            read_post_processor(step, fmt::format("{}.processors[{}]", where, i++), file);
        }
    } else if (type == "TemplateProcessing") {
        const Value empty = Value::object();
        const Value* named = fields.find("special_tokens");
        JsonFields tokens(named == nullptr ? empty : *named, where + ".special_tokens");
        fields.find("pair");  // of two texts, which nobody encodes here
        bool text = false;
        for (const Value& part : fields.list("single")) {
            JsonFields one(part, where + ".single");
            if (const Value* special = one.find("SpecialToken")) {
                JsonFields token(*special, where + ".single.SpecialToken");
                take_special(tokens, token.text("id"), text ? file.appended : file.prepended);
            } else {
                JsonFields sequence(one.need("Sequence"), where + ".single.Sequence");
                require<DataError>(sequence.text("id") == "A" && !text,
                                   "{}: \"single\" has more than one text", where);
                text = true;
            }
            one.finish();
        }
        require<DataError>(text, "{}: \"single\" has no text", where);
    } else {
        throw DataError(fmt::format(
            "{}: the post-processor \"{}\" is not supported; known: TemplateProcessing, "
            "ByteLevel, Sequence",
            where, type));
    }
    fields.finish();
}

/// Hash of the tables and settings in one canonical form, whatever way the file writes them.
class Hasher {
  public:
    Hasher() { XXH3_64bits_reset(&state_); }
    void number(std::int64_t n) { XXH3_64bits_update(&state_, &n, sizeof n); }
    void text(std::string_view t) {
        number(static_cast<std::int64_t>(t.size()));
        XXH3_64bits_update(&state_, t.data(), t.size());
    }
    std::string digits() const { return fmt::format("{:016x}", XXH3_64bits_digest(&state_)); }

  private:
    XXH3_state_t state_;
};

std::string hash_of(const Model& model, const std::vector<AddedToken>& added, const Value& root) {
    Hasher hash;
    for (const Bpe::Entry& entry : model.vocabulary) {
        hash.number(entry.id);
        hash.text(entry.piece);
    }
    hash.number(static_cast<std::int64_t>(model.merges.size()));
    for (const Bpe::Merge& merge : model.merges) {
        hash.text(merge.left);
        hash.text(merge.right);
    }
    const Bpe::Options& o = model.options;
    for (const std::int64_t n : {std::int64_t{o.ignore_merges}, std::int64_t{o.byte_fallback},
                                 std::int64_t{o.fuse_unk}, std::int64_t{o.unk}})
        hash.number(n);
    for (const AddedToken& token : added) {
        for (const std::int64_t n :
             {std::int64_t{token.id}, std::int64_t{token.special}, std::int64_t{token.normalized},
              std::int64_t{token.single_word}, std::int64_t{token.lstrip},
              std::int64_t{token.rstrip}})
            hash.number(n);
        hash.text(token.content);
    }
    for (const char* part : {"normalizer", "pre_tokenizer"})
        hash.text(root.value(part, Value()).dump());
    return hash.digits();
}

}  // namespace

TokenizerFile read_tokenizer_file(std::string_view json, const std::string& name) {
    const Value root = parsed(json, name);
    JsonFields fields(root, name);
    if (const Value* version = fields.find("version"))
        require<DataError>(*version == "1.0", "{}: version {} is not supported; known: \"1.0\"",
                           name, version->dump());
    // How one call cuts and fills a batch; programs set these anew with every call.
    fields.find("truncation");
    fields.find("padding");
    std::vector<AddedToken> added = read_added(fields.find("added_tokens"), name);
    Model model = read_model(fields.need("model"), name + ": model");
    check_added(added, model.vocabulary, name);
    Normalizer normalizer(or_null(fields.find("normalizer")), name + ": normalizer");
    PreTokenizer pre_tokenizer(or_null(fields.find("pre_tokenizer")), name + ": pre_tokenizer");
    TokenDecoder decoder(or_null(fields.find("decoder")), name + ": decoder");
    const Value& post_processor = or_null(fields.find("post_processor"));
    fields.finish();
    require<DataError>(pre_tokenizer.byte_level() == decoder.byte_level(),
                       "{}: ByteLevel in only one of pre_tokenizer and decoder is not supported",
                       name);
    require<DataError>(!(pre_tokenizer.byte_level() && model.options.byte_fallback),
                       "{}: byte_fallback beside ByteLevel is not supported", name);
    std::vector<Bpe::Entry> vocabulary = model.vocabulary;
    std::string hash = hash_of(model, added, root);
    model.options.byte_level = pre_tokenizer.byte_level();
    if (model.options.byte_level) to_bytes(model, name + ": model");
    TokenizerFile file{
        .name = name,
        .normalizer = std::move(normalizer),
        .pre_tokenizer = std::move(pre_tokenizer),
        .decoder = std::move(decoder),
        .added = std::move(added),
        .vocabulary = std::move(vocabulary),
        .bpe = Bpe(std::move(model.vocabulary), model.merges, model.options, name + ": model"),
        .hash = std::move(hash)};
    read_post_processor(post_processor, name + ": post_processor", file);
    return file;
}

}  // namespace gradus
