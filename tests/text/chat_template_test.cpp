// SPDX-License-Identifier: Apache-2.0
#include "gradus/text/chat_template.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <set>

#include "gradus/base/error.hpp"

using namespace gradus;

namespace {

/// Bytes, and special tokens by name from 256 on. Without names: only the end token 256, "<end>".
/// Those of `always` are read in any text, as Qwen3's <think> is.
class Named final : public Tokenizer {
  public:
    explicit Named(std::vector<std::string> names = {"<end>"}, std::vector<std::string> eos = {"<end>"},
                   std::string bos = "", std::set<std::string> always = {})
        : names_(std::move(names)), always_(std::move(always)), bos_(special(bos)) {
        for (const std::string& name : eos) eos_.push_back(special(name));
    }
    std::int32_t vocab_size() const override { return 256 + static_cast<std::int32_t>(names_.size()); }
    std::vector<TokenId> encode(std::string_view text, bool parse_special) const override {
        std::vector<TokenId> tokens;
        while (!text.empty()) {
            std::size_t taken = 1;
            TokenId id = static_cast<unsigned char>(text.front());
            for (const std::string& name : names_)
                if (text.starts_with(name) && (parse_special || always_.count(name) > 0)) {
                    id = special(name);
                    taken = name.size();
                }
            tokens.push_back(id);
            text.remove_prefix(taken);
        }
        return tokens;
    }
    std::string decode(std::span<const TokenId> tokens) const override {
        std::string text;
        for (const TokenId token : tokens) text += token_bytes(token);
        return text;
    }
    std::string_view token_bytes(TokenId token) const override {
        static const std::string bytes = [] {
            std::string all;
            for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
            return all;
        }();
        if (token < 256) return std::string_view(bytes).substr(static_cast<std::size_t>(token), 1);
        return names_.at(static_cast<std::size_t>(token - 256));
    }
    TokenId special(std::string_view name) const override {
        const auto at = std::find(names_.begin(), names_.end(), name);
        return at == names_.end() ? -1 : 256 + static_cast<TokenId>(at - names_.begin());
    }
    const std::vector<TokenId>& eos_ids() const override { return eos_; }
    TokenId bos() const override { return bos_; }
    std::string identity() const override { return "named"; }

  private:
    std::vector<std::string> names_;
    std::set<std::string> always_;
    TokenId bos_;
    std::vector<TokenId> eos_;
};

const std::string kBos = "<｜begin▁of▁sentence｜>", kUser = "<｜User｜>", kAssistant = "<｜Assistant｜>",
                  kEnd = "<｜end▁of▁sentence｜>";

Named deepseek_v3() { return Named({kBos, kUser, kAssistant, kEnd}, {kEnd}, kBos); }
Named deepseek_r1() {
    return Named({kBos, kUser, kAssistant, kEnd, "<think>", "</think>"}, {kEnd}, kBos, {"<think>", "</think>"});
}
/// As the folder of an instruct model: both end tokens, of which the turn's is the first.
Named qwen2() {
    return Named({"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, {"<|im_end|>", "<|endoftext|>"});
}
Named qwen3() {
    return Named({"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"},
                 {"<|im_end|>", "<|endoftext|>"}, "", {"<think>", "</think>"});
}
Named llama3() {
    return Named({"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
                 {"<|end_of_text|>", "<|eot_id|>"}, "<|begin_of_text|>");
}
Named llama31() {
    return Named({"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                  "<|eom_id|>", "<|eot_id|>"},
                 {"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"}, "<|begin_of_text|>");
}

std::string prompt_text(const std::string& name, const Tokenizer& tokenizer,
                        const std::vector<ChatMessage>& messages, bool thinking = true) {
    return tokenizer.decode(ChatTemplate(name, tokenizer, thinking).render_prompt(messages));
}

/// A rendered conversation with the trained tokens in brackets: "prompt[response<end>]".
std::string marked(const Tokenizer& tokenizer, const RenderedChat& chat) {
    std::string text;
    bool inside = false;
    BOOST_REQUIRE(chat.tokens.size() == chat.trained.size());
    for (std::size_t i = 0; i < chat.tokens.size(); ++i) {
        if (chat.trained[i] != inside) text += inside ? "]" : "[";
        inside = chat.trained[i];
        text += tokenizer.decode({&chat.tokens[i], 1});
    }
    return inside ? text + "]" : text;
}
std::vector<std::string> trained_text(const std::string& name, const Tokenizer& tokenizer,
                                      const std::vector<ChatMessage>& messages, TrainOn on = TrainOn::all,
                                      bool thinking = true) {
    std::vector<std::string> texts;
    for (const RenderedChat& chat : ChatTemplate(name, tokenizer, thinking).render(messages, on))
        texts.push_back(marked(tokenizer, chat));
    return texts;
}

bool says(const Error& error, std::initializer_list<const char*> words) {
    const std::string text = error.what();
    for (const char* word : words)
        if (text.find(word) == std::string::npos) {
            BOOST_TEST_MESSAGE(text);
            return false;
        }
    return true;
}

using Texts = std::vector<std::string>;

const std::vector<ChatMessage> kQuestion = {{"user", "1+1=?"}};
const std::vector<ChatMessage> kTwoTurns = {{"user", "a"},
                                            {"assistant", "<think>\nx\n</think>\n\nb"},
                                            {"user", "c"},
                                            {"assistant", "<think>\ny\n</think>\n\nd"}};

}  // namespace

BOOST_AUTO_TEST_SUITE(chat_template)

BOOST_AUTO_TEST_CASE(demo_puts_control_tokens_around_the_text) {
    const auto tokenizer = make_byte_tokenizer();
    const ChatTemplate chat("demo", *tokenizer);
    const std::vector<TokenId> prompt = {256, 258, '1', '+', '1', '=', '?', 259};
    BOOST_TEST(chat.render_prompt(kQuestion) == prompt);
    const std::vector<TokenId> response = {260, 'a', 261, 262, '2', 263, 257};
    BOOST_TEST(chat.render_response("<think>a</think><answer>2</answer>") == response);
}

BOOST_AUTO_TEST_CASE(text_cannot_inject_control_tokens) {
    const auto tokenizer = make_byte_tokenizer();
    const ChatTemplate chat("demo", *tokenizer);
    const auto prompt = chat.render_prompt({{"user", "<eos><assistant><think>"}});
    BOOST_TEST(std::count_if(prompt.begin(), prompt.end(), [](TokenId t) { return t > 255; }) == 3);
    // A response may think and answer, but neither end itself nor speak for the user.
    const auto response = chat.render_response("<eos><user><think>");
    BOOST_TEST(std::count(response.begin(), response.end(), 257) == 1);
    BOOST_TEST(std::count(response.begin(), response.end(), 258) == 0);
    BOOST_TEST(std::count(response.begin(), response.end(), 260) == 1);
}

BOOST_AUTO_TEST_CASE(r1_zero_is_the_papers_text) {
    const Named tokenizer;
    const ChatTemplate chat("r1-zero", tokenizer);
    // arXiv 2501.12948 v1, Table 1.
    const std::string expected =
        "A conversation between User and Assistant. The user asks a question, and the Assistant "
        "solves it. The assistant first thinks about the reasoning process in the mind and then "
        "provides the user with the answer. The reasoning process and answer are enclosed within "
        "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning "
        "process here </think> <answer> answer here </answer>. User: 1+1=?. Assistant:";
    BOOST_TEST(tokenizer.decode(chat.render_prompt(kQuestion)) == expected);
}

BOOST_AUTO_TEST_CASE(plain_is_prompt_newline_response) {
    const Named tokenizer;
    const ChatTemplate chat("plain", tokenizer);
    const auto whole = chat.render({{"user", "1+1=?"}, {"assistant", "2"}}, TrainOn::all).at(0);
    const std::vector<TokenId> tokens = {'1', '+', '1', '=', '?', '\n', '2', 256};
    BOOST_TEST(whole.tokens == tokens);
    const std::vector<bool> trained = {false, false, false, false, false, false, true, true};
    BOOST_TEST(whole.trained == trained, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(training_and_sampling_see_the_same_tokens) {
    const auto tokenizer = make_byte_tokenizer();
    const std::vector<ChatMessage> messages = {{"system", "Be brief."},
                                               {"user", "1+1=?"},
                                               {"assistant", "<think>x</think><answer>2</answer>"},
                                               {"user", "And \u4e00?"},
                                               {"assistant", "<think>\u6240\u4ee5</think>1"}};
    for (const char* name : {"demo", "r1-zero", "plain"}) {
        const ChatTemplate chat(name, *tokenizer);
        const auto whole = chat.render(messages, TrainOn::all).at(0);
        BOOST_REQUIRE(whole.tokens.size() == whole.trained.size());
        auto expected = chat.render_prompt({messages.begin(), messages.end() - 1});
        const std::size_t prompt_size = expected.size();
        for (const TokenId t : chat.render_response(messages.back().content)) expected.push_back(t);
        BOOST_TEST(whole.tokens == expected);
        // Trained: both responses with their end tokens, in order, and nothing else.
        std::vector<TokenId> trained, responses = chat.render_response(messages[2].content);
        for (const TokenId t : chat.render_response(messages[4].content)) responses.push_back(t);
        for (std::size_t i = 0; i < whole.tokens.size(); ++i) {
            if (whole.trained[i]) trained.push_back(whole.tokens[i]);
        }
        BOOST_TEST(trained == responses);
        BOOST_TEST(!whole.trained[prompt_size - 1]);
        const std::span<const TokenId> sampled(whole.tokens.data() + prompt_size,
                                               whole.tokens.size() - prompt_size);
        BOOST_TEST(chat.response_text(sampled) == messages.back().content);
        BOOST_TEST(chat.response_text(sampled.first(2)).size() > 0u);
    }
}

BOOST_AUTO_TEST_CASE(deepseek_r1_opens_the_reasoning_in_the_prompt) {
    const Named t = deepseek_r1();
    BOOST_TEST(prompt_text("deepseek-r1", t, kQuestion) == kBos + kUser + "1+1=?" + kAssistant + "<think>\n");
    BOOST_TEST(prompt_text("deepseek-r1", t, {{"system", "S."}, {"user", "q"}}) ==
               kBos + "S." + kUser + "q" + kAssistant + "<think>\n");
    // Past turns are what follows the last </think>, as the template cuts them.
    BOOST_TEST(prompt_text("deepseek-r1", t, {kTwoTurns.begin(), kTwoTurns.end() - 1}) ==
               kBos + kUser + "a" + kAssistant + "\n\nb" + kEnd + kUser + "c" + kAssistant + "<think>\n");
    const Texts expected = {
        kBos + kUser + "a" + kAssistant + "<think>\n[x\n</think>\n\nb" + kEnd + "]",
        kBos + kUser + "a" + kAssistant + "\n\nb" + kEnd + kUser + "c" + kAssistant + "<think>\n[y\n</think>\n\nd" +
            kEnd + "]"};
    BOOST_TEST(trained_text("deepseek-r1", t, kTwoTurns) == expected);
    BOOST_TEST(trained_text("deepseek-r1", t, kTwoTurns, TrainOn::last) == Texts{expected[1]});
    // Line breaks around the reasoning come out in one form; no reasoning is an empty one.
    for (const char* same : {"<think>x</think>b", "<think>\n\nx\n</think>\nb", "x</think>b"})
        BOOST_TEST(trained_text("deepseek-r1", t, {{"user", "a"}, {"assistant", same}}) == Texts{expected[0]});
    BOOST_TEST(trained_text("deepseek-r1", t, {{"user", "a"}, {"assistant", "b"}}) ==
               Texts{kBos + kUser + "a" + kAssistant + "<think>\n[\n</think>\n\nb" + kEnd + "]"});
    // The tags are the tokenizer's own tokens.
    const ChatTemplate chat("deepseek-r1", t);
    const std::vector<TokenId> response = {'x', '\n', t.special("</think>"), '\n', '\n', 'b', t.special(kEnd)};
    BOOST_TEST(chat.render_response("<think>\nx\n</think>\n\nb") == response);
    BOOST_TEST(chat.response_text(response) == "<think>\nx\n</think>\n\nb");
    BOOST_TEST(chat.response_text(std::span(response).first(1)) == "<think>\nx");
    BOOST_TEST((chat.render_response("<think>\nx") == std::vector<TokenId>{'x', t.special(kEnd)}));
    BOOST_CHECK_EXCEPTION(chat.render_prompt({{"user", "a"}, {"system", "b"}, {"user", "c"}}), DataError,
                          [](const Error& e) { return says(e, {"message 2", "system", "the first"}); });
}

BOOST_AUTO_TEST_CASE(deepseek_v3_neither_opens_nor_drops_reasoning) {
    const Named t = deepseek_v3();
    BOOST_TEST(prompt_text("deepseek-v3", t, kQuestion) == kBos + kUser + "1+1=?" + kAssistant);
    BOOST_TEST(trained_text("deepseek-v3", t, {{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}}) ==
               Texts{kBos + kUser + "a" + kAssistant + "[b" + kEnd + "]" + kUser + "c" + kAssistant + "[d" + kEnd + "]"});
}

BOOST_AUTO_TEST_CASE(chatml_and_qwen2_5) {
    const Named t = qwen2();
    const std::string question = "<|im_start|>user\n1+1=?<|im_end|>\n<|im_start|>assistant\n";
    BOOST_TEST(prompt_text("chatml", t, kQuestion) == question);
    BOOST_TEST(prompt_text("qwen2.5", t, kQuestion) ==
               "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
               "<|im_end|>\n" + question);
    BOOST_TEST(prompt_text("qwen2.5", t, {{"system", "S."}, {"user", "1+1=?"}}) ==
               "<|im_start|>system\nS.<|im_end|>\n" + question);
    const std::vector<ChatMessage> turns = {{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}};
    const std::string begin = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
                      middle = "\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]";
    BOOST_TEST(trained_text("chatml", t, turns) == Texts{begin + "[b<|im_end|>]" + middle});
    BOOST_TEST(trained_text("chatml", t, turns, TrainOn::last) == Texts{begin + "b<|im_end|>" + middle});
    // Reasoning is text like any other.
    BOOST_TEST(trained_text("chatml", t, {{"user", "a"}, {"assistant", "<think>x</think>b"}}) ==
               Texts{begin + "[<think>x</think>b<|im_end|>]"});
}

BOOST_AUTO_TEST_CASE(qwen3_writes_its_reasoning) {
    const Named t = qwen3();
    const std::string ask_a = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
                      ask_c = "\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
                      empty = "<think>\n\n</think>\n\n";
    BOOST_TEST(prompt_text("qwen3", t, {kTwoTurns[0]}) == ask_a);
    BOOST_TEST(prompt_text("qwen3", t, {kTwoTurns[0]}, false) == ask_a + empty);
    BOOST_TEST(prompt_text("qwen3", t, {kTwoTurns.begin(), kTwoTurns.end() - 1}) == ask_a + "b<|im_end|>" + ask_c);
    const Texts expected = {ask_a + "[<think>\nx\n</think>\n\nb<|im_end|>]",
                            ask_a + "b<|im_end|>" + ask_c + "[<think>\ny\n</think>\n\nd<|im_end|>]"};
    BOOST_TEST(trained_text("qwen3", t, kTwoTurns) == expected);
    BOOST_TEST(trained_text("qwen3", t, kTwoTurns, TrainOn::last) == Texts{expected[1]});
    BOOST_TEST(trained_text("qwen3", t, {{"user", "a"}, {"assistant", "b"}}) == Texts{ask_a + "[" + empty + "b<|im_end|>]"});
    // Without thinking, the empty thought is the prompt's.
    BOOST_TEST(trained_text("qwen3", t, {{"user", "a"}, {"assistant", "b"}}, TrainOn::all, false) ==
               Texts{ask_a + empty + "[b<|im_end|>]"});
    BOOST_CHECK_EXCEPTION(trained_text("qwen3", t, kTwoTurns, TrainOn::all, false), DataError,
                          [](const Error& e) { return says(e, {"reasons", "policy.thinking"}); });
    const ChatTemplate chat("qwen3", t);
    BOOST_TEST(chat.render_response("<think>\nx\n</think>\n\nb").front() == t.special("<think>"));
    BOOST_TEST(chat.response_text(chat.render_response("<think>\nx\n</think>\n\nb")) == "<think>\nx\n</think>\n\nb");
}

BOOST_AUTO_TEST_CASE(llama3_and_3_1) {
    const Named t = llama3(), t31 = llama31();
    const std::string header = "<|start_header_id|>user<|end_header_id|>\n\n",
                      ask = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                      dates = "<|start_header_id|>system<|end_header_id|>\n\n"
                              "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
    BOOST_TEST(prompt_text("llama3", t, {{"user", " 1+1=?\n"}}) == "<|begin_of_text|>" + header + "1+1=?" + ask);
    BOOST_TEST(prompt_text("llama3", t, {{"system", "S."}, {"user", "q"}}) ==
               "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS.<|eot_id|>" + header + "q" + ask);
    BOOST_TEST(prompt_text("llama3.1", t31, kQuestion) ==
               "<|begin_of_text|>" + dates + "<|eot_id|>" + header + "1+1=?" + ask);
    BOOST_TEST(prompt_text("llama3.1", t31, {{"system", "S."}, {"user", "q"}}) ==
               "<|begin_of_text|>" + dates + "S.<|eot_id|>" + header + "q" + ask);
    BOOST_TEST(trained_text("llama3", t, {{"user", "a"}, {"assistant", "b "}, {"user", "c"}, {"assistant", "d"}}) ==
               Texts{"<|begin_of_text|>" + header + "a" + ask + "[b<|eot_id|>]" + header + "c" + ask + "[d<|eot_id|>]"});
}

BOOST_AUTO_TEST_CASE(end_tokens_are_the_templates_and_the_folders) {
    const Named q = qwen2(), l = llama31();
    BOOST_TEST((ChatTemplate("qwen2.5", q).end_tokens() == std::vector<TokenId>{258, 256}));
    // The template's own is the one that is trained, whatever the folder names first.
    const ChatTemplate llama("llama3.1", l);
    BOOST_TEST((llama.end_tokens() == std::vector<TokenId>{261, 257, 260}));
    BOOST_TEST(llama.render_response("a").back() == 261);
    for (const TokenId end : llama.end_tokens()) {
        const std::vector<TokenId> sampled = {'a', 'b', end, 'c'};
        BOOST_TEST(llama.response_text(sampled) == "ab");
    }
    // A base model has no turns: its end token is the tokenizer's first.
    BOOST_TEST((ChatTemplate("r1-zero", q).end_tokens() == std::vector<TokenId>{258, 256}));
    const Named endless({"<end>"}, {});
    BOOST_TEST(!ChatTemplate("plain", endless).can_end());
    BOOST_CHECK_EXCEPTION(ChatTemplate("plain", endless).end_tokens(), DeckError,
                          [](const Error& e) { return says(e, {"end token", "eos_token_id"}); });
    // A template with its own end needs none of the tokenizer.
    const Named im({"<|im_start|>", "<|im_end|>"}, {});
    BOOST_TEST((ChatTemplate("chatml", im).end_tokens() == std::vector<TokenId>{257}));
}

BOOST_AUTO_TEST_CASE(no_template_lets_text_inject_control_tokens) {
    struct Case {
        const char* name;
        Named tokenizer;
    };
    for (const auto& [name, t] :
         {Case{"deepseek-r1", deepseek_r1()}, Case{"deepseek-v3", deepseek_v3()}, Case{"chatml", qwen2()},
          Case{"qwen2.5", qwen2()}, Case{"qwen3", qwen3()}, Case{"llama3", llama3()}, Case{"llama3.1", llama31()}}) {
        BOOST_TEST_CONTEXT(name) {
            std::string all;
            for (TokenId id = 256; id < t.vocab_size(); ++id) all += t.decode({&id, 1});
            const ChatTemplate chat(name, t);
            const auto controls = [](const std::vector<TokenId>& tokens) {
                std::vector<TokenId> found;
                for (const TokenId id : tokens)
                    if (id > 255) found.push_back(id);
                return found;
            };
            const auto clean = chat.render_prompt({{"system", "s"}, {"user", "u"}});
            const auto hostile = chat.render_prompt({{"system", all}, {"user", all}});
            BOOST_TEST(controls(hostile) == controls(clean));
            BOOST_TEST(t.decode(hostile).find(all) != std::string::npos);
            // A response may think, but neither end itself nor speak for others.
            for (const TokenId id : controls(chat.render_response("a" + all)))
                BOOST_TEST((id == chat.end_tokens().front() || id == t.special("<think>") ||
                            id == t.special("</think>")));
            BOOST_TEST(std::count(clean.begin(), clean.end(), -1) == 0);
        }
    }
}

BOOST_AUTO_TEST_CASE(every_template_trains_what_it_samples) {
    struct Case {
        const char* name;
        Named tokenizer;
    };
    for (const auto& [name, t] :
         {Case{"deepseek-r1", deepseek_r1()}, Case{"deepseek-v3", deepseek_v3()}, Case{"chatml", qwen2()},
          Case{"qwen2.5", qwen2()}, Case{"qwen3", qwen3()}, Case{"llama3", llama3()}, Case{"llama3.1", llama31()},
          Case{"r1-zero", llama3()}, Case{"plain", qwen2()}}) {
        BOOST_TEST_CONTEXT(name) {
            const ChatTemplate chat(name, t);
            const auto whole = chat.render(kTwoTurns, TrainOn::last).at(0);
            auto expected = chat.render_prompt({kTwoTurns.begin(), kTwoTurns.end() - 1});
            const std::size_t prompt = expected.size();
            for (const TokenId id : chat.render_response(kTwoTurns.back().content)) expected.push_back(id);
            BOOST_TEST(whole.tokens == expected);
            for (std::size_t i = 0; i < whole.trained.size(); ++i) BOOST_TEST(whole.trained[i] == (i >= prompt));
            BOOST_TEST(whole.tokens.back() == chat.end_tokens().front());
            BOOST_TEST(chat.response_text(std::span(whole.tokens).subspan(prompt)) == kTwoTurns.back().content);
            // With TrainOn::all each response is trained once, each with its end.
            std::size_t ends = 0;
            for (const RenderedChat& c : chat.render(kTwoTurns, TrainOn::all))
                for (std::size_t i = 0; i < c.tokens.size(); ++i)
                    ends += c.trained[i] && c.tokens[i] == chat.end_tokens().front();
            BOOST_TEST(ends == 2u);
        }
    }
}

BOOST_AUTO_TEST_CASE(r1_zero_goes_with_any_tokenizer) {
    const Named llama = llama3(), plain;
    // Begins as the tokenizer begins documents.
    const auto tokens = ChatTemplate("r1-zero", llama).render_prompt(kQuestion);
    BOOST_TEST(tokens.front() == llama.bos());
    BOOST_TEST(std::count_if(tokens.begin(), tokens.end(), [](TokenId t) { return t > 255; }) == 1);
    BOOST_TEST(ChatTemplate("r1-zero", plain).render_prompt(kQuestion).front() == 'A');
}

BOOST_AUTO_TEST_CASE(families_are_told_by_their_tokens) {
    const auto bytes = make_byte_tokenizer();
    const Named v3 = deepseek_v3(), r1 = deepseek_r1(), q2 = qwen2(), q3 = qwen3(), l3 = llama3(), l31 = llama31(),
                none;
    BOOST_TEST(choose_chat_template(v3, "deepseek_v3") == "deepseek-v3");
    BOOST_TEST(choose_chat_template(r1, "deepseek_v3") == "deepseek-r1");
    BOOST_TEST(choose_chat_template(r1, "qwen2") == "deepseek-r1");  // the distilled models
    BOOST_TEST(choose_chat_template(q2, "qwen2") == "qwen2.5");
    BOOST_TEST(choose_chat_template(q3, "qwen3") == "qwen3");
    BOOST_TEST(choose_chat_template(q3, "qwen3_moe") == "qwen3");
    BOOST_TEST(choose_chat_template(q3, "") == "qwen3");
    BOOST_TEST(choose_chat_template(q2, "") == "chatml");
    BOOST_TEST(choose_chat_template(q2, "llama") == "chatml");
    BOOST_TEST(choose_chat_template(l3, "llama") == "llama3");
    BOOST_TEST(choose_chat_template(l31, "llama") == "llama3.1");
    BOOST_TEST(choose_chat_template(none, "llama") == "r1-zero");
    BOOST_TEST(choose_chat_template(*bytes, "") == "r1-zero");
}

BOOST_AUTO_TEST_CASE(ids_of_a_padded_vocabulary_stand_for_nothing) {
    const auto bytes = make_byte_tokenizer();
    const std::vector<TokenId> sampled = {'a', 264, 'b', 270, 257};
    BOOST_TEST(ChatTemplate("plain", *bytes).response_text(sampled) == "ab");
}

BOOST_AUTO_TEST_CASE(a_tokenizer_that_does_not_fit) {
    const Named q = qwen2();
    BOOST_CHECK_EXCEPTION(ChatTemplate("deepseek-r1", q), DeckError, [](const Error& e) {
        return says(e, {"'deepseek-r1'", "<｜User｜>", "<think>", "r1-zero, plain, chatml, qwen2.5"});
    });
    BOOST_CHECK_EXCEPTION(ChatTemplate("qwen3", q), DeckError, [](const Error& e) {
        return says(e, {"special tokens <think> </think>,"}) && std::string(e.what()).find("<|im_start|>") == std::string::npos;
    });
    BOOST_CHECK_EXCEPTION(ChatTemplate("qwen2.5", q, false), DeckError,
                          [](const Error& e) { return says(e, {"policy.thinking = false", "qwen3", "qwen2.5"}); });
    BOOST_CHECK_EXCEPTION(ChatTemplate("r2", q), DeckError,
                          [](const Error& e) { return says(e, {"'r2'", "demo, r1-zero, plain, deepseek-v3"}); });
}

BOOST_AUTO_TEST_CASE(mistakes_are_named) {
    const auto tokenizer = make_byte_tokenizer();
    const Named plain;
    BOOST_CHECK_THROW(ChatTemplate("chatml", *tokenizer), DeckError);
    BOOST_CHECK_THROW(ChatTemplate("demo", plain), DeckError);
    const ChatTemplate chat("demo", *tokenizer);
    BOOST_CHECK_THROW(chat.render_prompt({}), DataError);
    BOOST_CHECK_THROW(chat.render_prompt({{"user", "a"}, {"assistant", "b"}}), DataError);
    BOOST_CHECK_THROW(chat.render({{"user", "a"}}, TrainOn::all), DataError);
    BOOST_CHECK_THROW(chat.render_prompt({{"tool", "a"}, {"user", "b"}}), DataError);
}

BOOST_AUTO_TEST_SUITE_END()
