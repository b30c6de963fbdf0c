// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/carried.hpp"

#include <filesystem>

#include "gradus/base/error.hpp"

namespace gradus {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFolder = "huggingface";

}  // namespace

std::string hugging_face_folder(const std::string& model_from) {
    if (model_from.empty()) return "";
    fs::path where(model_from);
    if (!where.has_filename()) where = where.parent_path();
    std::error_code none;
    if (fs::exists(where / "index.h5", none)) {
        where = fs::absolute(where, none).lexically_normal();
        if (!where.has_filename()) where = where.parent_path();
        where = where.parent_path();
    }
    const fs::path folder = where / kFolder;
    return fs::is_directory(folder, none) ? folder.string() : "";
}

void carry_hugging_face(const std::string& model_from, const std::string& run_dir) {
    const std::string from = hugging_face_folder(model_from);
    const fs::path to = fs::path(run_dir) / kFolder, unfinished = to.string() + ".tmp";
    std::error_code problem;
    if (!from.empty() && fs::equivalent(from, to, problem)) return;
    const auto check = [&](const char* what) {
        require<DataError>(!problem, "{} to {}: {} failed: {}", from, to.string(), what,
                           problem.message());
    };
    problem.clear();
    fs::remove_all(unfinished, problem);
    check("removing an unfinished copy");
    if (!from.empty()) {
        fs::copy(from, unfinished, fs::copy_options::recursive, problem);
        check("copying");
    }
    fs::remove_all(to, problem);
    check("removing the old copy");
    if (from.empty()) return;
    fs::rename(unfinished, to, problem);
    check("renaming");
}

}  // namespace gradus
