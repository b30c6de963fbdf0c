// SPDX-License-Identifier: Apache-2.0
// config.json: whatever it holds, it is a model whose sizes fit, or refused; and its description
// comes back from JSON as it was.
#include <cmath>
#include <cstdlib>
#include <string>

#include "gradus/base/error.hpp"
#include "gradus/model/hugging_face.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto json = gradus::Json::parse(data, data + size, nullptr, false);
    if (json.is_discarded()) return 0;
    try {
        const auto config = gradus::read_hugging_face_config(json, "config.json");
        config.model.check(1);
        if (!(gradus::ModelConfig::from_json(config.model.to_json()) == config.model)) std::abort();
        if (!(config.model.forward_flops(1) > 0)) std::abort();
    } catch (const gradus::DataError&) {
    }
    return 0;
}
