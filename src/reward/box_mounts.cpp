// SPDX-License-Identifier: Apache-2.0
// The root file system of a box.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "box.hpp"
#include "gradus/base/error.hpp"

namespace gradus {
namespace {

/// The user and group that programs believe to be.
constexpr int kInside = 1000;

constexpr std::array kSystemFolders = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"};
constexpr std::array kSystemFiles = {"/etc/alternatives", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"};

[[noreturn]] void fail(const std::string& step) {
    throw InternalError(fmt::format("{}: {}", step, std::strerror(errno)));
}

void write_text(const std::string& path, const std::string& text) {
    const BoxFile file(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) fail(path);
}

void make_path(const std::string& path) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) throw InternalError(fmt::format("{}: {}", path, error.message()));
}

/// Something of the machine that a box shows, held open: the new root is mounted over a folder that may hide it.
struct Source {
    std::string path, link;
    BoxFile held;
    bool folder = false;
};

std::vector<Source> find_sources(const std::vector<std::string>& folders) {
    std::vector<Source> sources;
    const auto add = [&](const std::string& path, bool must) {
        struct stat status = {};
        if (::lstat(path.c_str(), &status) != 0) {
            if (must) fail(path);
            return;
        }
        Source source{.path = path, .link = "", .held = {}};
        if (S_ISLNK(status.st_mode) && !must) {
            source.link = std::filesystem::read_symlink(path).string();
        } else {
            source.held = BoxFile(::open(path.c_str(), O_PATH | O_CLOEXEC));
            if (!source.held || ::fstat(source.held.get(), &status) != 0) fail(path);
            source.folder = S_ISDIR(status.st_mode);
        }
        sources.push_back(std::move(source));
    };
    for (const char* path : kSystemFolders) add(path, false);
    for (const char* path : kSystemFiles) add(path, false);
    for (const std::string& path : folders) add(path, true);
    return sources;
}

/// Makes every mount below `root` but those of tmpfs of its own read-only, without set-user-id. Flags that the machine has
/// set cannot be taken back and are repeated.
void protect(const std::string& root) {
    std::ifstream mounts("/proc/self/mountinfo");
    std::string line;
    std::vector<std::string> points;
    while (std::getline(mounts, line)) {
        std::istringstream words(line);
        std::string word, point;
        for (int i = 0; i < 5; ++i) words >> word;
        // Spaces and the like are written as \ooo.
        for (std::size_t i = 0; i < word.size(); ++i) {
            if (word[i] == '\\' && i + 3 < word.size()) {
                point += static_cast<char>(std::stoi(word.substr(i + 1, 3), nullptr, 8));
                i += 3;
            } else {
                point += word[i];
            }
        }
        if (point.rfind(root + "/", 0) == 0) points.push_back(point);
    }
    for (const std::string& point : points) {
        struct statvfs status = {};
        if (::statvfs(point.c_str(), &status) != 0) {
            if (errno == EACCES) continue;  // what cannot be reached cannot be changed
            fail(point);
        }
        unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID;
        if (status.f_flag & ST_NODEV) flags |= MS_NODEV;
        if (status.f_flag & ST_NOEXEC) flags |= MS_NOEXEC;
        if (status.f_flag & ST_NOATIME) flags |= MS_NOATIME;
        if (status.f_flag & ST_NODIRATIME) flags |= MS_NODIRATIME;
        if (status.f_flag & ST_RELATIME) flags |= MS_RELATIME;
        if (::mount("none", point.c_str(), nullptr, flags, nullptr) != 0) fail("read-only " + point);
    }
}

void map_user(uid_t user, gid_t group) {
    write_text("/proc/self/setgroups", "deny");
    write_text("/proc/self/uid_map", fmt::format("{} {} 1", kInside, user));
    write_text("/proc/self/gid_map", fmt::format("{} {} 1", kInside, group));
}

void mount_memory(const std::string& path, std::int64_t bytes, unsigned long flags = 0) {
    const std::string options = fmt::format("size={},nr_inodes={},mode=755", bytes, bytes / 4096 + 64);
    if (::mount("tmpfs", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | flags, options.c_str()) != 0)
        fail("tmpfs on " + path);
}

}  // namespace

void enter_namespaces(const std::vector<std::string>& folders, std::int64_t disk) {
    const uid_t user = ::geteuid();
    const gid_t group = ::getegid();
    ::umask(022);
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) != 0)
        fail("namespaces of an unprivileged user");
    map_user(user, group);
    if (::sethostname("box", 3) != 0) fail("host name");
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) fail("private mounts");
    const std::vector<Source> sources = find_sources(folders);
    const std::string root = "/tmp";
    mount_memory(root, 1 << 20);
    for (const Source& source : sources) {
        const std::string path = root + source.path;
        make_path(std::filesystem::path(path).parent_path());
        if (!source.link.empty()) {
            if (::symlink(source.link.c_str(), path.c_str()) != 0) fail(path);
            continue;
        }
        if (source.folder)
            make_path(path);
        else
            write_text(path, "");
        const std::string from = fmt::format("/proc/self/fd/{}", source.held.get());
        if (::mount(from.c_str(), path.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0) fail("bind mount of " + source.path);
    }
    protect(root);
    make_path(root + "/etc");
    write_text(root + "/etc/passwd", fmt::format("user:x:{0}:{0}::/work:/bin/sh\n", kInside));
    write_text(root + "/etc/group", fmt::format("user:x:{}:\n", kInside));
    for (const char* path : {"/store", "/work"}) make_path(root + path);
    mount_memory(root + "/store", disk);
    if (::chdir(root.c_str()) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0) fail("pivot_root");
    if (::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0) fail("the old root");
    if (::mount("none", "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, nullptr) != 0)
        fail("read-only root");
}

std::string mount_work(const std::string& folder, std::int64_t disk) try {
    if (folder.empty())
        mount_memory("/work", disk);
    else if (::mount(folder.c_str(), "/work", nullptr, MS_BIND, nullptr) != 0)
        fail("bind mount of " + folder);
    mount_memory("/store", 4096, MS_RDONLY);
    return "";
} catch (const Error& e) {
    return e.what();
}

}  // namespace gradus
