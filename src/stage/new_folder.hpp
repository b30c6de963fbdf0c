// SPDX-License-Identifier: Apache-2.0
// The Hugging Face folder of a model that never was one.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "gradus/model/config.hpp"
#include "gradus/text/tokenizer.hpp"
#include "weight_map.hpp"

namespace gradus {

/// Its tensors, as other programs name and order them (by name), without types.
std::vector<FolderWeight> new_weights(const ModelConfig& model);

/// Texts of its files by name, but for those in `carried`, the names of files that its run has:
/// config.json (always, from `config`, the text of the one that the model began with, where there
/// is one), generation_config.json, and tokenizer.json and tokenizer_config.json of the byte
/// tokenizer. Throws DataError for a shape that no family has, and for another tokenizer, whose
/// file the run should have.
std::map<std::string, std::string> new_folder_files(const ModelConfig& model,
                                                    const std::string& config,
                                                    const Tokenizer& tokenizer, DType dtype,
                                                    const std::set<std::string>& carried);

/// "bfloat16"
std::string torch_dtype(DType dtype);

}  // namespace gradus
