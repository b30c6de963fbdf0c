// SPDX-License-Identifier: Apache-2.0
// What of a text is prose: models write Markdown with LaTeX.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gradus {

/// `text` with a blank in place of each part that is not prose:
///   code       between fences (CommonMark 4.5: three or more ` or ~ at the beginning of a line, to a fence as long
///              or to the end), and between backticks within a paragraph (6.1)
///   formulas   $$..$$, \(..\), \[..\], \begin{E}..\end{E} with E an environment of mathematics, and $..$ within a
///              paragraph where no blank follows the first $ and neither a blank stands before nor a digit behind the
///              second (Pandoc's rule: "$5 or $10" are prices)
///   commands   of LaTeX outside of formulas: \boxed{two} leaves "{two}"
///   addresses  http://, https://, ftp:// or www. and the ASCII characters from there to a blank, <, >, " or `
/// Marks without a partner stay. Takes any bytes; time and memory are linear in the text.
std::string prose(std::string_view text);

/// Whether a fenced block of code begins somewhere.
bool has_code_block(std::string_view text);

/// Words of the longest paragraph (text between blank lines), counted as word_hashes does (text/ngrams.hpp).
std::int64_t longest_paragraph(std::string_view text);

}  // namespace gradus
