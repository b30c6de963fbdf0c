// SPDX-License-Identifier: Apache-2.0
// Files of a Hugging Face folder that a run carries along beside its weights, in RUN/huggingface:
// config.json, tokenizer.json, generation_config.json and what else stood there. Beside them two
// files of ours: tensors.json, the headers of the weight files, from which `export` makes the same
// ones again, and unused.safetensors, the few tensors that the model computes itself.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "gradus/store/safetensors.hpp"

namespace gradus {

/// A file of ours among the carried ones: says that the tokenizer was named by policy.tokenizer, thus
/// is not the one that config.json was made for, and of which model_type it is.
inline constexpr const char* kNamedTokenizer = "named_tokenizer.json";

/// The folder with the files of the model that `model_from` names: `huggingface` of a run
/// directory, also where `model_from` is a checkpoint folder inside one. "" where there is none:
/// the model was never a Hugging Face folder.
std::string hugging_face_folder(const std::string& model_from);

/// Copies `hugging_face_folder(model_from)` to `run_dir`/huggingface, in the place of one that
/// stands there; where the model has no such folder the one in `run_dir` goes. Throws DataError.
void carry_hugging_face(const std::string& model_from, const std::string& run_dir);

/// Keeps the config.json `file` of a model that begins here in `run_dir`/huggingface. Throws
/// DataError.
void carry_config(const std::string& file, const std::string& run_dir);

/// Copies what is not weights from the Hugging Face folder `folder` to `run_dir`/huggingface, and
/// writes there tensors.json and `unused` (tensors of `weights`, by name). `note` is told of each
/// file that is left out, and why: weights in other formats, more than 64 MiB, folders. Throws
/// DataError.
void carry_from_folder(const std::string& folder, const SafetensorsFolder& weights,
                       const std::vector<std::string>& unused, const std::string& run_dir,
                       const std::function<void(const std::string&)>& note);

/// The tensors of one file of a Hugging Face folder.
struct FolderFile {
    std::string name;
    SafetensorsHeader header;
};
/// The files that tensors.json of `carried` describes; none where it is not there. Throws
/// DataError.
std::vector<FolderFile> carried_files(const std::string& carried);
/// Where the tensors are that no parameter holds.
std::string unused_tensors(const std::string& carried);
/// Names of the files in `carried` that came from the folder.
std::set<std::string> carried_names(const std::string& carried);

}  // namespace gradus
