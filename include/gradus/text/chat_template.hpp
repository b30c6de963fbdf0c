// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "gradus/text/tokenizer.hpp"

namespace gradus {

struct ChatMessage {
    std::string role;  ///< "system", "user", "assistant"
    std::string content;
};

/// A rendered conversation. `trained[i]` says whether token i is a target of the loss: the tokens
/// of assistant turns and the end token after them.
struct RenderedChat {
    std::vector<TokenId> tokens;
    std::vector<bool> trained;
};

/// Named chat templates. "demo": `<bos><user>{prompt}<assistant>` then the response and `<eos>`,
/// with the think and answer tags as special tokens. "r1-zero": the plain text of DeepSeek-R1's
/// Table 1 (arXiv 2501.12948). "plain": prompt, newline, response.
class ChatTemplate {
  public:
    /// Throws DeckError with the known names for an unknown one.
    ChatTemplate(std::string name, const Tokenizer& tokenizer);

    /// Everything up to where the model's response begins.
    std::vector<TokenId> render_prompt(const std::vector<ChatMessage>& messages) const;
    /// A whole conversation that ends with an assistant turn.
    RenderedChat render(const std::vector<ChatMessage>& messages) const;
    /// Tokens of a response followed by the end token (what `render` puts after the prompt).
    std::vector<TokenId> render_response(const std::string& response) const;
    /// The response text of sampled tokens: end token dropped, tags as text.
    std::string response_text(std::span<const TokenId> tokens) const;

    const std::string& name() const { return name_; }

  private:
    std::string name_;
    const Tokenizer& tokenizer_;
};

}  // namespace gradus
