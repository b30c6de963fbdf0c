// SPDX-License-Identifier: Apache-2.0
// Files of a Hugging Face folder that a run carries along beside its weights, in RUN/huggingface:
// config.json, tokenizer.json, generation_config.json and what else stood there.
#pragma once

#include <string>

namespace gradus {

/// The folder with the files of the model that `model_from` names: `huggingface` of a run directory,
/// also where `model_from` is a checkpoint folder inside one. "" where there is none: the model was
/// never a Hugging Face folder.
std::string hugging_face_folder(const std::string& model_from);

/// Copies `hugging_face_folder(model_from)` to `run_dir`/huggingface, in the place of one that stands
/// there; where the model has no such folder the one in `run_dir` goes. Throws DataError.
void carry_hugging_face(const std::string& model_from, const std::string& run_dir);

}  // namespace gradus
