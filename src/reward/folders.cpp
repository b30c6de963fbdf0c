// SPDX-License-Identifier: Apache-2.0
// Folders as programs leave them: unreadable, deeply nested, full of links.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "box.hpp"

namespace gradus {
namespace {

struct CloseFolder {
    void operator()(DIR* folder) const { ::closedir(folder); }
};
using Folder = std::unique_ptr<DIR, CloseFolder>;

/// Opens the folder `name` in `at` (no link), made readable first. Null where that fails.
Folder open_folder(int at, const char* name) {
    ::fchmodat(at, name, 0700, 0);
    const int descriptor = ::openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return Folder(descriptor < 0 ? nullptr : ::fdopendir(descriptor));
}

bool is_folder(int at, const char* name) {
    struct stat status = {};
    return ::fstatat(at, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode);
}

template <class Take>
void for_each_entry(DIR* folder, const Take& take) {
    ::rewinddir(folder);
    while (const dirent* entry = ::readdir(folder)) {
        const std::string name = entry->d_name;
        if (name != "." && name != "..") take(name);
    }
}

}  // namespace

void remove_tree(const std::string& path) {
    const Folder top = open_folder(AT_FDCWD, path.c_str());
    if (top) {
        const int at = ::dirfd(top.get());
        // A pass empties each folder of the top one and lifts what nests in it up to the top, so that nests get less
        // deep by one with each pass; a pass that changes nothing is the last.
        std::int64_t lifted = 0;
        for (bool changed = true; changed;) {
            changed = false;
            std::vector<std::string> names;
            for_each_entry(top.get(), [&](const std::string& name) { names.push_back(name); });
            for (const std::string& name : names) {
                if (is_folder(at, name.c_str())) {
                    if (const Folder inner = open_folder(at, name.c_str())) {
                        std::vector<std::string> inside;
                        for_each_entry(inner.get(), [&](const std::string& entry) { inside.push_back(entry); });
                        for (const std::string& entry : inside) {
                            const int from = ::dirfd(inner.get());
                            if (!is_folder(from, entry.c_str())) {
                                ::unlinkat(from, entry.c_str(), 0);
                                continue;
                            }
                            ::fchmodat(from, entry.c_str(), 0700, 0);
                            ::renameat(from, entry.c_str(), at, (".lifted" + std::to_string(lifted++)).c_str());
                        }
                    }
                    changed |= ::unlinkat(at, name.c_str(), AT_REMOVEDIR) == 0;
                } else {
                    changed |= ::unlinkat(at, name.c_str(), 0) == 0;
                }
            }
        }
    }
    ::rmdir(path.c_str());
}

std::int64_t folder_bytes(const std::string& path, std::int64_t bound) {
    std::vector<std::string> waiting = {path};
    std::int64_t bytes = 0;
    while (!waiting.empty() && bytes <= bound) {
        const std::string name = std::move(waiting.back());
        waiting.pop_back();
        const int descriptor = ::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        const Folder folder(descriptor < 0 ? nullptr : ::fdopendir(descriptor));
        if (!folder) continue;
        for_each_entry(folder.get(), [&](const std::string& entry) {
            struct stat status = {};
            if (::fstatat(::dirfd(folder.get()), entry.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return;
            bytes += status.st_blocks * 512 + 512;
            if (S_ISDIR(status.st_mode)) waiting.push_back(name + "/" + entry);
        });
    }
    return bytes;
}

}  // namespace gradus
