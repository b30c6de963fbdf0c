// SPDX-License-Identifier: Apache-2.0
#include "pattern.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "gradus/base/error.hpp"
#include "gradus/base/handle.hpp"
#include "utf8.hpp"

namespace gradus {
namespace {

struct FreeCode {
    void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct FreeCompileContext {
    void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
};
struct FreeMatchContext {
    void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct FreeMatchData {
    void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
using Code = UniqueHandle<pcre2_code*, FreeCode>;
using CompileContext = UniqueHandle<pcre2_compile_context*, FreeCompileContext>;
using MatchContext = UniqueHandle<pcre2_match_context*, FreeMatchContext>;
using MatchData = UniqueHandle<pcre2_match_data*, FreeMatchData>;

constexpr std::size_t kMaxExpression = 16384;
constexpr std::uint32_t kHeapLimit = 65536;  // KiB

std::string message_of(int code) {
    PCRE2_UCHAR text[128];
    if (pcre2_get_error_message(code, text, sizeof text) < 0) return fmt::format("error {}", code);
    return reinterpret_cast<const char*>(text);
}

/// Steps that one match may take: in proportion to the text, which is all that a sane expression
/// needs.
std::uint32_t step_limit(std::size_t bytes) {
    return static_cast<std::uint32_t>(std::min<std::size_t>(10000 + 64 * bytes, 0xFFFFFFFF));
}

}  // namespace

struct Pattern::Impl {
    Code code;
    std::string expression;
};

Pattern::Pattern(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

Pattern::Pattern(const std::string& expression, const std::string& where)
    : impl_(std::make_unique<Impl>()) {
    require<DataError>(expression.size() <= kMaxExpression,
                       "{}: the expression has {} bytes; at most {} here", where, expression.size(),
                       kMaxExpression);
    const std::string pattern = translate_pattern(expression, where);
    const CompileContext context(pcre2_compile_context_create(nullptr));
    require(static_cast<bool>(context), "PCRE2 is out of memory");
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    impl_->expression = expression;
    impl_->code = Code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error,
                                     &offset, context.get()));
    require<DataError>(static_cast<bool>(impl_->code), "{}: the expression \"{}\": {}", where,
                       expression, message_of(error));
    // Without a compiler for this processor PCRE2 interprets: slower, the same matches.
    pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);
}

Pattern Pattern::literal(std::string_view text, const std::string& where) {
    std::string expression;
    for (const char c : text) {
        if (static_cast<unsigned char>(c) < 0x80 && std::ispunct(static_cast<unsigned char>(c)))
            expression += '\\';
        expression += c;
    }
    return Pattern(expression, where);
}

struct Pattern::Matches::Impl {
    const Pattern::Impl& pattern;
    std::string_view text;
    MatchContext context;
    MatchData data;
    std::size_t at = 0;    // where the next search begins
    std::size_t last = 0;  // end of the match before
    bool matched = false;  // there was one

    int search(std::uint32_t options) {
        return pcre2_match(pattern.code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                           text.size(), at, PCRE2_NO_UTF_CHECK | options, data.get(),
                           context.get());
    }
};

Pattern::Matches::Matches(const Pattern& pattern, std::string_view text)
    : impl_(new Impl{.pattern = *pattern.impl_,
                     .text = text,
                     .context = MatchContext(pcre2_match_context_create(nullptr)),
                     .data = MatchData(pcre2_match_data_create(1, nullptr))}) {
    require(impl_->context && impl_->data, "PCRE2 is out of memory");
    pcre2_set_match_limit(impl_->context.get(), step_limit(text.size()));
    pcre2_set_heap_limit(impl_->context.get(), kHeapLimit);
}
Pattern::Matches::~Matches() = default;

bool Pattern::Matches::next(std::size_t& begin, std::size_t& end) {
    Impl& m = *impl_;
    while (m.at <= m.text.size()) {
        int rc = m.search(0);
        // The compiled code's stack is small; the interpreter keeps its own on the heap.
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = m.search(PCRE2_NO_JIT);
        if (rc == PCRE2_ERROR_NOMATCH) return false;
        const PCRE2_SIZE* range = pcre2_get_ovector_pointer(m.data.get());
        require<DataError>(rc >= 0 && range[0] >= m.at && range[1] >= range[0],
                           "the expression \"{}\" cannot be matched in a text of {} bytes: {}",
                           m.pattern.expression, m.text.size(),
                           rc < 0 ? message_of(rc) : "it goes backwards");
        begin = range[0];
        end = range[1];
        const bool empty = begin == end, repeated = m.matched && end == m.last;
        m.at = !empty ? end : end < m.text.size() ? end + utf8_length(m.text[end]) : end + 1;
        if (empty && repeated) continue;
        m.matched = true;
        m.last = end;
        return true;
    }
    return false;
}

}  // namespace gradus
