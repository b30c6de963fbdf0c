// SPDX-License-Identifier: Apache-2.0
// Where a deck's tokenizer comes from, and what the files beside it decide.
#include "gradus/stage/policy_text.hpp"

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>

#include "../text/tokenizer_json.hpp"
#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/stage/stack.hpp"

namespace gradus {
namespace {

namespace fs = std::filesystem;

/// A folder as Hugging Face ships it, less the weights: a byte-level tokenizer with ChatML's tokens.
struct Folder {
    fs::path root = fs::temp_directory_path() / ("gradus_policy_" + std::to_string(getpid()));
    Folder() {
        fs::remove_all(root);
        write("run/huggingface/tokenizer.json", tokenizer({"<|endoftext|>", "<|im_start|>", "<|im_end|>"}));
    }
    ~Folder() { fs::remove_all(root); }
    static std::string tokenizer(const std::vector<std::string>& names) {
        test::ByteFile file;
        for (TokenId id = 256; const std::string& name : names)
            file.json["added_tokens"].push_back(test::added(id++, name, true));
        return file.text();
    }
    std::string write(const std::string& name, const std::string& text) const {
        fs::create_directories((root / name).parent_path());
        std::ofstream(root / name) << text;
        return (root / name).string();
    }
    void beside(const std::string& name, const std::string& text) const { write("run/huggingface/" + name, text); }
    Deck deck(const std::string& lines) const {
        return resolve_deck_text("stage = sft\nrun.dir = " + (root / "own").string() +
                                     "\ndata.path = x\ntrain.steps = 1\n" + lines, "deck", {});
    }
    Deck from_run(const std::string& lines = "") const {
        return deck("model.from = " + (root / "run").string() + "\n" + lines);
    }
    std::vector<TokenId> ends(const Deck& d) const { return make_tokenizer(find_tokenizer(d))->eos_ids(); }
};

using Ids = std::vector<TokenId>;

}  // namespace

BOOST_AUTO_TEST_SUITE(policy_text)

BOOST_AUTO_TEST_CASE(end_tokens_come_from_the_first_file_that_names_them) {
    const Folder f;
    BOOST_TEST(f.ends(f.from_run()) == Ids{});
    f.beside("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
    BOOST_TEST(f.ends(f.from_run()) == Ids{258});
    f.beside("tokenizer_config.json", R"({"eos_token": {"content": "<|endoftext|>", "lstrip": false}})");
    BOOST_TEST(f.ends(f.from_run()) == Ids{256});
    f.beside("config.json", R"({"model_type": "qwen2", "eos_token_id": 257})");
    BOOST_TEST(f.ends(f.from_run()) == Ids{257});
    f.beside("generation_config.json", R"({"eos_token_id": [258, 256]})");
    BOOST_TEST((f.ends(f.from_run()) == Ids{258, 256}));
    f.beside("generation_config.json", R"({"eos_token_id": null})");
    BOOST_TEST(f.ends(f.from_run()) == Ids{257});
    for (const char* bad : {R"({"eos_token_id": "x"})", R"({"eos_token_id": [-1]})", R"({"eos_token_id": 1e99})", "[", "7"}) {
        f.beside("generation_config.json", bad);
        BOOST_CHECK_EXCEPTION(find_tokenizer(f.from_run()), DataError, [](const DataError& e) {
            return std::string(e.what()).find("generation_config.json") != std::string::npos;
        });
    }
}

BOOST_AUTO_TEST_CASE(begin_token_as_the_folder_says) {
    const Folder f;
    const auto bos = [&] { return make_tokenizer(find_tokenizer(f.from_run()))->bos(); };
    BOOST_TEST(bos() == -1);
    f.beside("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "<|endoftext|>"})");
    BOOST_TEST(bos() == 256);
    f.beside("tokenizer_config.json", R"({"add_bos_token": false, "bos_token": "<|endoftext|>"})");
    BOOST_TEST(bos() == -1);
    f.beside("tokenizer_config.json", R"({"bos_token": "<|endoftext|>"})");
    BOOST_TEST(bos() == -1);
}

BOOST_AUTO_TEST_CASE(where_the_tokenizer_comes_from) {
    const Folder f;
    const std::string carried = (f.root / "run/huggingface/tokenizer.json").string();
    BOOST_TEST(find_tokenizer(f.from_run()).path == carried);
    BOOST_TEST(make_tokenizer(find_tokenizer(f.from_run("policy.tokenizer = bytes\n")))->identity() == "bytes-v1");
    BOOST_TEST(find_tokenizer(f.deck("")).path == "");
    // By a path: the file, its folder, the run that carries it.
    for (const char* path : {"run/huggingface/tokenizer.json", "run/huggingface", "run"})
        BOOST_TEST(find_tokenizer(f.deck("policy.tokenizer = " + (f.root / path).string() + "\n")).path == carried);
    BOOST_CHECK_EXCEPTION(find_tokenizer(f.deck("policy.tokenizer = /nowhere\n")), DeckError, [](const DeckError& e) {
        return std::string(e.what()).find("deck:5: policy.tokenizer = /nowhere") == 0;
    });
    // A checkpoint's run, and this run's own folder after that.
    f.write("run/chk0000001/index.h5", "");
    BOOST_TEST(fs::equivalent(find_tokenizer(f.deck("model.from = " + (f.root / "run/chk0000001").string() + "\n")).path, carried));
    f.write("own/huggingface/tokenizer.json", Folder::tokenizer({"<own>"}));
    BOOST_TEST(find_tokenizer(f.from_run()).path == carried);
    BOOST_TEST(find_tokenizer(f.deck("")).path == (f.root / "own/huggingface/tokenizer.json").string());
    BOOST_TEST(find_tokenizer(f.deck("restart = none\n")).path == "");
    // deck.resolved finds the same again.
    const Deck again = resolve_deck_text(f.from_run().resolved(), "deck.resolved", {});
    BOOST_TEST(find_tokenizer(again).path == carried);
}

BOOST_AUTO_TEST_CASE(a_tokenizer_named_by_its_path_stays_with_the_run) {
    const Folder f;
    f.beside("generation_config.json", R"({"eos_token_id": 258})");
    f.beside("config.json", R"({"model_type": "llama", "hidden_size": 7})");
    const Deck deck = f.deck("policy.tokenizer = " + (f.root / "run/huggingface").string() + "\n");
    const TokenizerFiles files = find_tokenizer(deck);
    // The run's model has carried its own files along, of another tokenizer.
    f.write("own/huggingface/config.json", R"({"model_type": "qwen2", "eos_token_id": 1})");
    f.write("own/huggingface/generation_config.json", R"({"eos_token_id": 1})");
    keep_tokenizer(deck, files, *make_tokenizer(files));
    const TokenizerFiles kept = find_tokenizer(f.deck(""));
    BOOST_TEST(kept.text == files.text);
    BOOST_TEST(kept.options.eos == std::vector<TokenId>{258});
    BOOST_TEST(kept.model_type == files.model_type);
    BOOST_TEST(kept.model_type == "llama");
}

BOOST_AUTO_TEST_CASE(template_of_the_family_or_by_name) {
    const Folder f;
    const auto chosen = [&](const Deck& deck) {
        const TokenizerFiles files = find_tokenizer(deck);
        const auto tokenizer = make_tokenizer(files);
        return make_chat_template(deck, files, *tokenizer).name();
    };
    BOOST_TEST(chosen(f.from_run()) == "chatml");
    f.beside("config.json", R"({"model_type": "qwen2"})");
    BOOST_TEST(chosen(f.from_run()) == "qwen2.5");
    BOOST_TEST(chosen(f.from_run("policy.template = chatml\n")) == "chatml");
    BOOST_TEST(chosen(f.deck("")) == "r1-zero");
    f.beside("tokenizer_config.json", R"({"chat_template": "{{ x }}"})");
    const TokenizerFiles files = find_tokenizer(f.from_run());
    const auto tokenizer = make_tokenizer(files);
    const auto lines = describe_policy_text(f.from_run(), files, *tokenizer,
                                            make_chat_template(f.from_run(), files, *tokenizer));
    BOOST_REQUIRE(lines.size() == 2u);
    BOOST_TEST(lines[0].find("responses end with <|im_end|> (258)") != std::string::npos);
    BOOST_TEST(lines[1].find("carried along, not executed") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(vocabulary_of_the_model) {
    const Folder f;
    const auto bytes = make_byte_tokenizer();
    BOOST_TEST(model_from_keys(f.deck(""), *bytes).vocab_size == 264);
    BOOST_TEST(model_from_keys(f.deck("grid.tensor = 5\n"), *bytes).vocab_size == 280);
    BOOST_TEST(model_from_keys(f.deck("model.vocab_size = 1000\n"), *bytes).vocab_size == 1000);
    const auto bpe = make_tokenizer(find_tokenizer(f.from_run()));
    BOOST_TEST(bpe->vocab_size() == 259);
    BOOST_TEST(model_from_keys(f.deck(""), *bpe).vocab_size == 264);
    BOOST_CHECK_EXCEPTION(model_from_keys(f.deck("model.vocab_size = 263\n"), *bytes), DeckError, [](const DeckError& e) {
        return std::string(e.what()).find("model.vocab_size = 263, but the tokenizer (bytes-v1) has 264") != std::string::npos;
    });
    const Json state = {{"tokenizer", "bytes-v1"}, {"model", {{"vocab_size", 264}}}};
    require_same_tokenizer(state, *bytes, "chk");
    BOOST_CHECK_EXCEPTION(require_same_tokenizer(state, *bpe, "chk"), CheckpointError, [](const CheckpointError& e) {
        return std::string(e.what()).find("policy.tokenizer = bytes") != std::string::npos;
    });
    const Json small = {{"tokenizer", "bytes-v1"}, {"model", {{"vocab_size", 256}}}};
    BOOST_CHECK_EXCEPTION(require_same_tokenizer(small, *bytes, "chk"), CheckpointError, [](const CheckpointError& e) {
        return std::string(e.what()).find("has 256 rows") != std::string::npos;
    });
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
