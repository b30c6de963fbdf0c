// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "gradus/base/json_lines.hpp"

namespace gradus {

/// `text` as a JSON string: names from files can hold anything, messages must not.
inline std::string json_text(const std::string& text) {
    return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace gradus
