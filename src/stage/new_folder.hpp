// SPDX-License-Identifier: Apache-2.0
// The Hugging Face folder of a model that never was one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "gradus/model/config.hpp"
#include "gradus/text/tokenizer.hpp"
#include "weight_map.hpp"

namespace gradus {

/// Its tensors, as other programs name and order them (by name), without types.
std::vector<FolderWeight> new_weights(const ModelConfig& model);

/// Which files a run does not carry.
struct NewFiles {
    bool config = true, tokenizer = true;
};
/// generation_config.json and, where wanted, config.json, and tokenizer.json and tokenizer_config.json
/// of the byte tokenizer. Throws DataError for a shape that no family has, and for another tokenizer,
/// whose file the run should have carried.
std::map<std::string, std::string> new_folder_files(const ModelConfig& model, const Tokenizer& tokenizer,
                                                    DType dtype, NewFiles wanted);

/// "bfloat16"
std::string torch_dtype(DType dtype);

}  // namespace gradus
