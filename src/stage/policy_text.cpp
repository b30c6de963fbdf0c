// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/policy_text.hpp"

#include <fmt/ranges.h>

#include <filesystem>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/stage/carried.hpp"

namespace gradus {
namespace fs = std::filesystem;
namespace {

constexpr const char *kTokenizerConfig = "tokenizer_config.json",
                     *kGenerationConfig = "generation_config.json";

/// The JSON object in a file of the folder; an empty one where there is no such file.
Json read_object(const fs::path& file) {
    if (!fs::exists(file)) return Json::object();
    const std::string text = read_file(file.string());
    require<DataError>(!nests_too_deep(text), "{}: brackets nest too deep", file.string());
    Json json = Json::parse(text, nullptr, false);
    require<DataError>(json.is_object(), "{}: not a JSON object", file.string());
    return json;
}

/// A token as tokenizer_config.json writes it: its text, or an object with it.
std::string token_text(const Json& object, const char* key) {
    const auto value = object.find(key);
    if (value == object.end()) return "";
    if (value->is_string()) return value->get<std::string>();
    if (value->is_object() && value->contains("content") && (*value)["content"].is_string())
        return (*value)["content"].get<std::string>();
    return "";
}

std::vector<TokenId> end_ids(const Json& object, const fs::path& file) {
    const auto value = object.find("eos_token_id");
    if (value == object.end() || value->is_null()) return {};
    std::vector<TokenId> ids;
    for (const Json& id : value->is_array() ? *value : Json::array({*value})) {
        require<DataError>(id.is_number_integer() && id >= 0 && id <= 2147483647,
                           "{}: eos_token_id = {} is neither a token id nor a list of them", file.string(),
                           value->dump());
        ids.push_back(id.get<TokenId>());
    }
    return ids;
}

void read_options(TokenizerFiles& files, const fs::path& folder) {
    const Json generation = read_object(folder / "generation_config.json"),
               config = read_object(folder / "config.json"),
               tokens = read_object(folder / "tokenizer_config.json");
    TokenizerOptions& options = files.options;
    options.eos = end_ids(generation, folder / "generation_config.json");
    if (options.eos.empty()) options.eos = end_ids(config, folder / "config.json");
    const std::string end = token_text(tokens, "eos_token");
    if (options.eos.empty() && !end.empty()) options.eos_names = {end};
    const auto add_bos = tokens.find("add_bos_token");
    if (add_bos != tokens.end() && add_bos->is_boolean()) {
        if (add_bos->get<bool>())
            options.bos_name = token_text(tokens, "bos_token");
        else
            options.bos = -1;
    }
    if (const auto type = config.find("model_type"); type != config.end() && type->is_string())
        files.model_type = type->get<std::string>();
    files.chat_template = tokens.contains("chat_template") || fs::exists(folder / "chat_template.jinja") ||
                          fs::exists(folder / "chat_template.json");
}

/// The tokenizer.json that the run `run` carries; "": none.
fs::path carried_path(const std::string& run) {
    const std::string folder = hugging_face_folder(run);
    const fs::path path = fs::path(folder) / "tokenizer.json";
    return !folder.empty() && fs::is_regular_file(path) ? path : "";
}

/// The tokenizer.json that the deck means; "": none.
fs::path tokenizer_path(const Deck& deck) {
    const std::string& asked = deck.text("policy.tokenizer");
    if (asked == "bytes") return "";
    if (asked != "auto") {
        for (const fs::path& path : {fs::path(asked), fs::path(asked) / "tokenizer.json",
                                     fs::path(asked) / "huggingface" / "tokenizer.json"})
            if (fs::is_regular_file(path)) return path;
        throw DeckError(fmt::format("{}: policy.tokenizer = {}: there is no tokenizer.json; name the file, "
                                    "a folder that holds one, `auto` or `bytes`",
                                    deck.origin("policy.tokenizer"), asked));
    }
    std::vector<std::string> runs;
    const auto values = deck.values();
    if (const auto folder = values.find("import.path"); folder != values.end()) {
        const fs::path path = fs::path(folder->second) / "tokenizer.json";
        return fs::is_regular_file(path) ? path : "";
    }
    if (const auto from = values.find("model.from"); from != values.end()) runs.push_back(from->second);
    if (deck.text("restart") != "none") runs.push_back(deck.text("run.dir"));
    for (const std::string& run : runs)
        if (const fs::path path = carried_path(run); !path.empty()) return path;
    return "";
}

/// All but the text.
Json to_json(const TokenizerFiles& files) {
    return {{"path", files.path},
            {"eos_names", files.options.eos_names},
            {"eos", files.options.eos},
            {"bos", files.options.bos ? Json(*files.options.bos) : Json()},
            {"bos_name", files.options.bos_name},
            {"model_type", files.model_type},
            {"chat_template", files.chat_template}};
}

TokenizerFiles from_json(const Json& json) {
    TokenizerFiles files;
    json.at("path").get_to(files.path);
    json.at("eos_names").get_to(files.options.eos_names);
    json.at("eos").get_to(files.options.eos);
    if (!json.at("bos").is_null()) files.options.bos = json.at("bos").get<TokenId>();
    json.at("bos_name").get_to(files.options.bos_name);
    json.at("model_type").get_to(files.model_type);
    json.at("chat_template").get_to(files.chat_template);
    return files;
}

}  // namespace

namespace {

TokenizerFiles read_tokenizer(const fs::path& path) {
    TokenizerFiles files;
    if (path.empty()) return files;
    files.path = path.string();
    files.text = read_file(files.path);
    read_options(files, path.parent_path());
    // The config.json beside a tokenizer that was named by its path may be of another model: `auto`
    // must choose the same template in this stage and in those that carry the tokenizer on.
    if (const fs::path named = path.parent_path() / kNamedTokenizer; fs::exists(named))
        files.model_type = read_object(named).value("model_type", "");
    return files;
}

}  // namespace

TokenizerFiles find_tokenizer(const Deck& deck) { return read_tokenizer(tokenizer_path(deck)); }

TokenizerFiles carried_tokenizer(const std::string& run) { return read_tokenizer(carried_path(run)); }

TokenizerFiles share_tokenizer(const Deck& deck, Communicator& world) {
    TokenizerFiles files;
    std::string wrong_deck, wrong_data, packed;
    if (world.rank() == 0) {
        try {
            files = find_tokenizer(deck);
            packed = to_json(files).dump();
        } catch (const DeckError& e) {
            wrong_deck = e.what();
        } catch (const std::exception& e) {
            wrong_data = e.what();
        }
    }
    wrong_deck = world.broadcast(wrong_deck);
    require<DeckError>(wrong_deck.empty(), "{}", wrong_deck);
    wrong_data = world.broadcast(wrong_data);
    require<DataError>(wrong_data.empty(), "{}", wrong_data);
    packed = world.broadcast(packed);
    std::string text = world.broadcast(std::move(files.text));
    files = from_json(Json::parse(packed));
    files.text = std::move(text);
    return files;
}

std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerFiles& files) {
    return files.path.empty() ? make_byte_tokenizer()
                              : parse_tokenizer(files.text, files.path, files.options);
}

ChatTemplate make_chat_template(const Deck& deck, const TokenizerFiles& files,
                                const Tokenizer& tokenizer) {
    std::string name = deck.text("policy.template");
    if (name == "auto") name = choose_chat_template(tokenizer, files.model_type);
    return ChatTemplate(name, tokenizer, deck.flag("policy.thinking"));
}

std::vector<std::string> describe_policy_text(const Deck& deck, const TokenizerFiles& files,
                                              const Tokenizer& tokenizer, const ChatTemplate& chat) {
    std::vector<std::string> lines;
    std::vector<std::string> ends;
    if (!chat.can_end()) ends.push_back("no token that is known");
    for (const TokenId id : chat.can_end() ? chat.end_tokens() : std::vector<TokenId>{})
        ends.push_back(fmt::format("{} ({})", id < tokenizer.vocab_size() ? tokenizer.decode({&id, 1}) : "?",
                                   id));
    lines.push_back(fmt::format("tokenizer {} of {} tokens{}{}; chat template {}; responses end with {}",
                                tokenizer.identity(), tokenizer.vocab_size(),
                                files.path.empty() ? "" : " from ", files.path, chat.name(), fmt::join(ends, ", ")));
    if (files.chat_template)
        lines.push_back(fmt::format(
            "the folder's own chat template (Jinja) is carried along, not executed: conversations are "
            "written by policy.template = {}{}",
            chat.name(), deck.text("policy.template") == "auto" ? ", chosen by the special tokens" : ""));
    return lines;
}

void keep_tokenizer(const Deck& deck, const TokenizerFiles& files, const Tokenizer& tokenizer) {
    const std::string& asked = deck.text("policy.tokenizer");
    if (asked == "auto" || files.path.empty()) return;
    const fs::path from = fs::path(files.path).parent_path();
    const fs::path to = fs::path(deck.text("run.dir")) / "huggingface";
    std::error_code problem;
    if (fs::equivalent(from, to, problem)) return;
    fs::create_directories(to, problem);
    const auto write = [&](const char* name, const std::string& text) {
        write_file_atomically((to / name).string(), text);
    };
    write("tokenizer.json", files.text);
    if (fs::exists(from / kTokenizerConfig))
        write(kTokenizerConfig, read_file((from / kTokenizerConfig).string()));
    // The model's own generation_config.json, carried along, speaks of its old tokenizer's ids.
    Json generation = read_object(fs::exists(from / kGenerationConfig) ? from / kGenerationConfig
                                                                       : to / kGenerationConfig);
    if (!tokenizer.eos_ids().empty()) generation["eos_token_id"] = tokenizer.eos_ids();
    write(kGenerationConfig, generation.dump(2) + "\n");
    write(kNamedTokenizer, Json{{"tokenizer", files.path}, {"model_type", files.model_type}}.dump(2) + "\n");
}

}  // namespace gradus
